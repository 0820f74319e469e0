from .iteration import fit, fit_seeds
from .listing import RunSummary, list_runs
from .parents import Parent
from .pruning import Prunable, Pruning, prune
from .results import Legend
from .run import Run, RunError

__all__ = [
    "Legend",
    "Parent",
    "Prunable",
    "Pruning",
    "Run",
    "RunError",
    "RunSummary",
    "fit",
    "fit_seeds",
    "list_runs",
    "prune",
]
