from .index import Index, build_index, nearest
from .store import Representations

__all__ = ["Index", "Representations", "build_index", "nearest"]
