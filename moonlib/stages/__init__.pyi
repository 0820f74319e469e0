from .application import Application
from .contrastive import Contrastive
from .generative_pretraining import GenerativePretraining
from .posttraining import Posttraining
from .pretraining import Pretraining
from .probing import Probing
from .relevance import Relevance
from .represent import Represent
from .retrieval import Retrieval
from .stage import Reference, Stage, StageContext

__all__ = [
    "Application",
    "Contrastive",
    "GenerativePretraining",
    "Posttraining",
    "Pretraining",
    "Probing",
    "Reference",
    "Relevance",
    "Represent",
    "Retrieval",
    "Stage",
    "StageContext",
]
