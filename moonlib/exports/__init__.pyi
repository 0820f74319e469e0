from .folder import Export, export, load, opened

__all__ = ["Export", "export", "load", "opened"]
