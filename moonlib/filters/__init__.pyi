from .category_rebalance import CategoryRebalance
from .consistent import Consistent
from .entity_filter import EntityFilter
from .filter import Encoded, Filter, Filtered, without_products, without_searches
from .similarity_dedup import SimilarityDedup
from .spu_merge import SpuMerge

__all__ = [
    "CategoryRebalance",
    "Consistent",
    "Encoded",
    "EntityFilter",
    "Filter",
    "Filtered",
    "SimilarityDedup",
    "SpuMerge",
    "without_products",
    "without_searches",
]
