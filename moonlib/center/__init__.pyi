from .view import Found, View
from .where import BadFilter, Where

__all__ = ["BadFilter", "Found", "View", "Where"]
