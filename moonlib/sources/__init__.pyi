from .completejourney.source import CompleteJourney
from .marketplace.source import Marketplace
from .shards import Shards
from .source import Source
from .taobao_mm.source import TaobaoMM

__all__ = ["CompleteJourney", "Marketplace", "Shards", "Source", "TaobaoMM"]
