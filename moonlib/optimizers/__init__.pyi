from .lazy_adam import LazyAdam

__all__ = ["LazyAdam"]
