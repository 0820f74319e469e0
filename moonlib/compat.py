"""Makes torchvision importable beside a torch that it was not built for.

Symptom: ``import torchvision``, and with it lightning, torchmetrics, timm and much of transformers, fails with
``RuntimeError: operator torchvision::nms does not exist`` (from 0.28 on, also ``torchvision::qnms``).

Reason: where torchvision's compiled operators cannot be loaded (a CPU build of torch beside a CUDA build of
torchvision, or versions that do not belong together), torchvision means to go on without them, but still registers fake
kernels for some operators, whose schemas only the compiled library defines.

Remedy: torchvision is imported first. Only where it fails so, and has thereby shown that it defines no operators
itself, are the schemas that it misses defined, and it is imported again. An operator that torchvision might still
define is never touched: to define one twice aborts the interpreter. moonlib never calls these operators.

Nothing happens where torchvision is absent, imported already, or fails in another way. Import this module before any
of the libraries named above::

    import moonlib.compat  # noqa: F401
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
"""Of non-maximum suppression. A fake kernel is registered by its operator's name, whatever the arguments are."""


def _mend() -> torch.library.Library | None:
    """Import torchvision; return the definitions that this took, which last as long as the returned library."""
    if "torchvision" in sys.modules:
        return None
    names = _missing()
    if not names:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in sorted(names):
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + _SCHEMA)
    _missing()  # What fails now fails again, with its own message, where torchvision is needed.
    return library


def _missing() -> set[str]:
    """Import torchvision; return the operators that it misses, empty where it can be imported or fails otherwise."""
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        # A second import begins anew, and not with the modules that the first one left.
        for module in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        if found := re.search(r"operator torchvision::(\w+) does not exist", str(error)):
            return {found[1]} | _registered()
    return set()


def _registered() -> set[str]:
    """Names of all operators that the installed torchvision registers fake kernels for, read without importing it."""
    package = importlib.util.find_spec("torchvision")
    assert package is not None and package.origin is not None
    source = Path(package.origin).with_name("_meta_registrations.py")
    code = source.read_text(encoding="utf-8") if source.is_file() else ""
    return set(re.findall(r"register_fake\(\s*[\"']torchvision::(\w+)", code))


_definitions = _mend()
