from .loading import PairBatch, PairDataset
from .planner import BatchPlanner

__all__ = ["BatchPlanner", "PairBatch", "PairDataset"]
