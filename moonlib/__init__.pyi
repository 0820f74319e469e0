from .data.frames import build
from .exports.folder import export, load
from .inference.catalogue import embed
from .inference.center import Center
from .inference.evaluation import evaluate
from .inference.searching import index, search
from .registry.registry import register
from .runs.iteration import fit
from .runs.run import Run
from .studies.report.page import report

__version__: str
__all__ = [
    "Center",
    "Run",
    "__version__",
    "build",
    "embed",
    "evaluate",
    "export",
    "fit",
    "index",
    "load",
    "register",
    "report",
    "search",
]
