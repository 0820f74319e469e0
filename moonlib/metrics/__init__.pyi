from .auc import AUC
from .calibration_curve import CalibrationCurve
from .ece import ECE
from .gauc import GAUC
from .key import MetricKey
from .log_loss import LogLoss
from .metric import Additive, Meaning
from .ndcg import NDCG
from .ne import NE
from .pcoc import PCOC
from .rce import RCE
from .recall import Recall
from .rows import RowMetric, check_scores

__all__ = [
    "AUC",
    "ECE",
    "GAUC",
    "NDCG",
    "NE",
    "PCOC",
    "RCE",
    "Additive",
    "CalibrationCurve",
    "LogLoss",
    "Meaning",
    "MetricKey",
    "Recall",
    "RowMetric",
    "check_scores",
]
