"""Vectors by id, on disk: the store, the index, and the most similar of long histories."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
