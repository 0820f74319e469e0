from .convnet import ConvNet
from .dual import DualEncoder
from .encoder import Encoder
from .exportable import Exportable
from .generative import GenerativeEncoder
from .hf_text import HFText
from .mllm.encoder import MLLM
from .thumbnail import Thumbnail
from .timm_tower import TimmTower
from .tower import ImageTower, TextTower
from .transformer import Transformer

__all__ = [
    "MLLM",
    "ConvNet",
    "DualEncoder",
    "Encoder",
    "Exportable",
    "GenerativeEncoder",
    "HFText",
    "ImageTower",
    "TextTower",
    "Thumbnail",
    "TimmTower",
    "Transformer",
]
