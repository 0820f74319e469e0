from .catalogue import embed
from .center import Center
from .evaluation import Evaluation, evaluate
from .hits import Hit
from .searching import index, query_vector, search
from .upserting import Upserted

__all__ = ["Center", "Evaluation", "Hit", "Upserted", "embed", "evaluate", "index", "query_vector", "search"]
