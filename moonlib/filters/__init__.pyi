from .category_rebalance import CategoryRebalance
from .entity_filter import EntityFilter
from .filter import Filter
from .similarity_dedup import SimilarityDedup
from .spu_merge import SpuMerge

__all__ = ["CategoryRebalance", "EntityFilter", "Filter", "SimilarityDedup", "SpuMerge"]
