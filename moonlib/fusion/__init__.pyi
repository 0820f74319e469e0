from .concat import Concat
from .fusion import Fusion
from .gated import Gated
from .sum import Sum

__all__ = ["Concat", "Fusion", "Gated", "Sum"]
