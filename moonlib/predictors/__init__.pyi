from .dcnv2 import DCNv2
from .feature_encoder import FeatureEncoder
from .mlp import MLP
from .predictor import Predictor

__all__ = ["MLP", "DCNv2", "FeatureEncoder", "Predictor"]
