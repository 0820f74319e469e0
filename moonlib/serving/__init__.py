"""A center and a click model behind HTTP, and the page that searches it."""

from importlib.util import find_spec

import lazy_loader

_NEEDS = ("fastapi", "httptools", "prometheus_client", "python_multipart", "uvicorn", "uvloop")
if _missing := [name for name in _NEEDS if find_spec(name) is None]:
    raise ImportError(f"moonlib.serving needs {', '.join(_missing)}: pip install 'moonlib-embedding[serve]'")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
