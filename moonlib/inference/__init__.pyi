from .catalogue import embed
from .evaluation import Evaluation, evaluate
from .hits import Hit
from .searching import index, query_vector, search

__all__ = ["Evaluation", "Hit", "embed", "evaluate", "index", "query_vector", "search"]
