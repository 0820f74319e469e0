from .iteration import fit, fit_seeds
from .results import Legend
from .run import Run, RunError

__all__ = ["Legend", "Run", "RunError", "fit", "fit_seeds"]
