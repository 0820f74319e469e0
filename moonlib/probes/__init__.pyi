from .alignment import Alignment
from .attributes import Attributes
from .categories import Categories
from .clusters import Clusters
from .contrastive import HeldOutLoss
from .probe import Probe, Represented
from .search import Search

__all__ = ["Alignment", "Attributes", "Categories", "Clusters", "HeldOutLoss", "Probe", "Represented", "Search"]
