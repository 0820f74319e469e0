"""The representation center: spaces, the record of every product, snapshots, aliases, and a view to search."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
