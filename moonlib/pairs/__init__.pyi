from .catalogue import Catalogue
from .pairs import Pairs

__all__ = ["Catalogue", "Pairs"]
