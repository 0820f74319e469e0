"""Encoders and their towers: the image and text of a product or a query to one representation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
