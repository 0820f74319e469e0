from .content import Content, Modalities, Side
from .dataset import Dataset
from .reader import SampleReader
from .splits import Split, Splits
from .tables import Tables

__all__ = [
    "Content",
    "Dataset",
    "Modalities",
    "SampleReader",
    "Side",
    "Split",
    "Splits",
    "Tables",
]
