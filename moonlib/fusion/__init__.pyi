from .common_space import CommonSpace
from .concat import Concat
from .fusion import Fusion
from .gated import Gated
from .sum import Sum

__all__ = ["CommonSpace", "Concat", "Fusion", "Gated", "Sum"]
