from .features import Features
from .histories import Histories
from .impressions import ImpressionBatch, Impressions
from .vocabulary import Vocabulary

__all__ = ["Features", "Histories", "ImpressionBatch", "Impressions", "Vocabulary"]
