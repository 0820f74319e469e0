from .circle import Circle
from .info_nce import InfoNCE
from .loss import ARGUMENTS, Loss, LossData
from .sigmoid import Sigmoid
from .triplet import Triplet
from .weighted import WeightedLoss

__all__ = ["ARGUMENTS", "Circle", "InfoNCE", "Loss", "LossData", "Sigmoid", "Triplet", "WeightedLoss"]
