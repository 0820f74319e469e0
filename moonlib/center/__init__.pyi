from .status import Status, read_status
from .view import Found, View

__all__ = ["Found", "Status", "View", "read_status"]
