from .view import Found, View

__all__ = ["Found", "View"]
