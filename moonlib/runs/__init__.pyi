from .iteration import fit, fit_seeds
from .run import Run, RunError

__all__ = ["Run", "RunError", "fit", "fit_seeds"]
