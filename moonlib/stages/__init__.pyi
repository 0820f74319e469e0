from .application import Application
from .collaborative import ActionData, Collaborative
from .contrastive import Contrastive, PairData
from .generative_pretraining import GenerativePretraining
from .posttraining import Posttraining
from .pretraining import Pretraining
from .probing import Probing
from .quantise import Quantise
from .relevance import Relevance
from .represent import Represent
from .retrieval import Retrieval
from .stage import Need, Reference, Stage, StageContext
from .training import save_encoder, train
from .validation import Validation
from .validation_schedule import ValidationSchedule

__all__ = [
    "ActionData",
    "Application",
    "Collaborative",
    "Contrastive",
    "GenerativePretraining",
    "Need",
    "PairData",
    "Posttraining",
    "Pretraining",
    "Probing",
    "Quantise",
    "Reference",
    "Relevance",
    "Represent",
    "Retrieval",
    "Stage",
    "StageContext",
    "Validation",
    "ValidationSchedule",
    "save_encoder",
    "train",
]
