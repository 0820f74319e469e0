from .exports.folder import export, load
from .inference.verbs import embed, evaluate, index, search
from .registry.registry import register
from .runs.iteration import fit
from .runs.run import Run
from .studies.report.page import report

__version__: str
__all__ = ["Run", "__version__", "embed", "evaluate", "export", "fit", "index", "load", "register", "report", "search"]
