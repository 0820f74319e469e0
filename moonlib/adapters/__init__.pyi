from .adapter import Adapter, BehaviourBatch
from .behaviour_transformer import BehaviourTransformer
from .concat import Concat
from .cosine import cosines
from .cube import Cube
from .din import Din
from .id_only import IdOnly
from .interaction import Interaction
from .learned_metric import LearnedMetric
from .make import Make
from .sa_ta import SATA
from .semantic_id import SemanticId
from .similarity import Similarity
from .simtier import SimTier
from .target_attention import TargetAttention
from .vector import Vector

__all__ = [
    "SATA",
    "Adapter",
    "BehaviourBatch",
    "BehaviourTransformer",
    "Concat",
    "Cube",
    "Din",
    "IdOnly",
    "Interaction",
    "LearnedMetric",
    "Make",
    "SemanticId",
    "SimTier",
    "Similarity",
    "TargetAttention",
    "Vector",
    "cosines",
]
