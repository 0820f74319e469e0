from .hits import Hit
from .verbs import embed, evaluate, index, search

__all__ = ["Hit", "embed", "evaluate", "index", "search"]
