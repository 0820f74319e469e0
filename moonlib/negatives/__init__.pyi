from .clicked_not_bought import ClickedNotBought
from .gathered import Gathered
from .in_batch import InBatch
from .mined import Mined
from .negative_sampler import Candidates, NegativeSampler, TrainingData
from .queue import Queue
from .same_category import SameCategory

__all__ = [
    "Candidates",
    "ClickedNotBought",
    "Gathered",
    "InBatch",
    "Mined",
    "NegativeSampler",
    "Queue",
    "SameCategory",
    "TrainingData",
]
