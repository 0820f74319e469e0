from .folder import Export, export, load, opened
from .hub import pull, push

__all__ = ["Export", "export", "load", "opened", "pull", "push"]
