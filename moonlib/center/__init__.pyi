from .status import Status, read_status
from .view import Found, View
from .where import BadFilter, Where

__all__ = ["BadFilter", "Found", "Status", "View", "Where", "read_status"]
