from .catalogue import Catalogue
from .graded import GradedPairs
from .item_items import ItemItemPairs
from .pair_source import PairContext, PairSource
from .pairs import Pairs, product_pairs, search_pairs
from .products import ProductPairs
from .searches import SearchPairs

__all__ = [
    "Catalogue",
    "GradedPairs",
    "ItemItemPairs",
    "PairContext",
    "PairSource",
    "Pairs",
    "ProductPairs",
    "SearchPairs",
    "product_pairs",
    "search_pairs",
]
