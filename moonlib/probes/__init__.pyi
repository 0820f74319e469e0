from .alignment import Alignment
from .attributes import Attributes
from .categories import Categories
from .clusters import Clusters
from .contrastive import Contrastive
from .probe import Probe, Represented
from .search import Search

__all__ = ["Alignment", "Attributes", "Categories", "Clusters", "Contrastive", "Probe", "Represented", "Search"]
