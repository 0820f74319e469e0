"""A center and a click model behind HTTP, and the page that searches it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
