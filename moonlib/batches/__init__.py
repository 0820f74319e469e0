"""Pairs as batches of tensors: planned ahead, read, decoded and augmented."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
