from .adam import AdamFactory, LazyAdamFactory
from .adamw import AdamWFactory
from .lazy_adam import LazyAdam
from .optimizer_factory import OptimizerContext, OptimizerFactory, TrainedParameter, matrices, trained_parameters
from .torch_optimizer import TorchFactory

__all__ = [
    "AdamFactory",
    "AdamWFactory",
    "LazyAdam",
    "LazyAdamFactory",
    "OptimizerContext",
    "OptimizerFactory",
    "TorchFactory",
    "TrainedParameter",
    "matrices",
    "trained_parameters",
]
