from .content import Box, Content, Modalities, Side
from .dataset import Dataset
from .ids import IdMap, ShopIds
from .images import UnreadableImage, decode_image
from .reader import SampleReader
from .reads import Reads
from .restricted import Undeclared
from .shards import build_once, write_dataset
from .splits import Split, Splits
from .tables import Tables, validate

__all__ = [
    "Box",
    "Content",
    "Dataset",
    "IdMap",
    "Modalities",
    "Reads",
    "SampleReader",
    "ShopIds",
    "Side",
    "Split",
    "Splits",
    "Tables",
    "Undeclared",
    "UnreadableImage",
    "build_once",
    "decode_image",
    "validate",
    "write_dataset",
]
