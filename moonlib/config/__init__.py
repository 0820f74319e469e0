"""Recipes: how files merge, how they are typed, what runs are called, and fingerprints."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
