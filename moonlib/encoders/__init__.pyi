from .clip.encoder import CLIP
from .clip.image_tower import CLIPImage
from .clip.text_tower import CLIPText
from .convnet import ConvNet
from .dual import DualEncoder
from .encoder import ContentBatch, Encoder, Preprocessor
from .exportable import Exportable
from .generative import GenerativeEncoder
from .hf_image import HFImage
from .hf_text import HFText
from .mllm.encoder import MLLM
from .ngrams import Ngrams, NgramTokenize
from .openclip.image_tower import OpenClipImage
from .openclip.text_tower import OpenClipText
from .thumbnail import Thumbnail
from .timm_tower import TimmTower
from .tokenizer import BPETokenize, load_or_fit_tokenizer
from .tower import ImageTower, TextTower
from .transformer import Transformer

__all__ = [
    "CLIP",
    "MLLM",
    "BPETokenize",
    "CLIPImage",
    "CLIPText",
    "ContentBatch",
    "ConvNet",
    "DualEncoder",
    "Encoder",
    "Exportable",
    "GenerativeEncoder",
    "HFImage",
    "HFText",
    "ImageTower",
    "NgramTokenize",
    "Ngrams",
    "OpenClipImage",
    "OpenClipText",
    "Preprocessor",
    "TextTower",
    "Thumbnail",
    "TimmTower",
    "Transformer",
    "load_or_fit_tokenizer",
]
