from .embed import Contents

__all__ = ["Contents"]
