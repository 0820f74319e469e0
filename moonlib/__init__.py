"""moonlib: learn product representations from images and text, and measure what they are worth downstream."""

import lazy_loader

from moonlib.registry import moved

__version__ = "0.5.0"

# Nothing is imported before it is used: `import moonlib` itself stays free of torch.
__getattr__, _, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*_names, "__version__"]


def __dir__() -> list[str]:
    return sorted(__all__)


moved.install()
