"""Files that moonlib writes: where they are, whole or not at all, with checksums, and what to do about damage."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
