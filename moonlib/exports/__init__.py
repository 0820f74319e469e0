"""A run's encoder as a folder or as a program of its own, its model card, the hub, and the way back."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
