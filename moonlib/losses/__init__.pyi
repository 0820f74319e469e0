from .circle import Circle
from .distill import Distill
from .info_nce import InfoNCE
from .loss import ARGUMENTS, Loss, LossData
from .relational import Relational
from .sigmoid import Sigmoid
from .spu_margin import SpuMargin
from .triplet import Triplet
from .weighted import WeightedLoss
from .words import Words

__all__ = [
    "ARGUMENTS",
    "Circle",
    "Distill",
    "InfoNCE",
    "Loss",
    "LossData",
    "Relational",
    "Sigmoid",
    "SpuMargin",
    "Triplet",
    "WeightedLoss",
    "Words",
]
