from .circle import Circle
from .info_nce import InfoNCE
from .loss import Loss
from .sigmoid import Sigmoid
from .triplet import Triplet

__all__ = ["Circle", "InfoNCE", "Loss", "Sigmoid", "Triplet"]
