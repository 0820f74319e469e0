from .catalogue import Catalogue
from .pair_source import PairContext, PairSource
from .pairs import Pairs, product_pairs, search_pairs
from .products import ProductPairs
from .searches import SearchPairs

__all__ = [
    "Catalogue",
    "PairContext",
    "PairSource",
    "Pairs",
    "ProductPairs",
    "SearchPairs",
    "product_pairs",
    "search_pairs",
]
