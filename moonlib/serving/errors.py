"""Refusals: answers that say what was wrong with a request, all of one shape."""

from __future__ import annotations


class Refused(Exception):
    """A request that is not answered with what it asked for.

    Attributes:
        status: of the HTTP answer.
        code: a word for programs.
        message: for people.
        field: of the request that is wrong, if it is one.

    Example: ``raise Refused(422, "unreadable_image", "image: it is empty", "image")``
    """

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field = status, code, message, field
