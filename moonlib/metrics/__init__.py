"""Keys of results, and metrics, exact and mergeable; each a function and a torchmetrics class."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
