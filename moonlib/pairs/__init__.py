"""Training examples of an encoder: pairs of a query and a product, and questions about products."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
