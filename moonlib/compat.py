"""Makes torchvision importable beside a torch that it was not built for.

Symptom: ``import torchvision``, and with it lightning, torchmetrics, timm and much of transformers, fails with
``RuntimeError: operator torchvision::nms does not exist`` (from 0.28 on, also ``torchvision::qnms``).

Reason: where torchvision's compiled operators cannot be loaded (a CPU build of torch beside a CUDA build of
torchvision, or versions that do not belong together), torchvision means to go on without them, but still registers fake
kernels for these two operators, whose schemas only the compiled library defines.

Remedy: define the schemas first. moonlib never calls the operators. Nothing happens where the compiled operators load
or where torchvision is absent. Import this module before any of the libraries named above::

    import moonlib.compat  # noqa: F401
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from pathlib import Path

import torch


def _operators_missing() -> bool:
    """Whether torchvision is installed, not imported yet, and cannot load its compiled operators."""
    if "torchvision" in sys.modules:
        return False
    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        return False
    # torchvision's own way of finding and loading them, without importing torchvision.
    finder = FileFinder(str(Path(package.origin).parent), (ExtensionFileLoader, EXTENSION_SUFFIXES))
    extension = finder.find_spec("_C")
    if extension is None or extension.origin is None:
        return True
    try:
        torch.ops.load_library(extension.origin)
    except (ImportError, OSError):
        return True
    return False


def _define_operators() -> torch.library.Library | None:
    """Define the missing schemas; they last as long as the returned library."""
    if not _operators_missing():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


_operators = _define_operators()
