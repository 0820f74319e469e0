"""Errors as the command line tells them."""

from __future__ import annotations


def is_users(error: Exception) -> bool:
    """Whether an error tells of something that the user can mend, and not of a bug.

    That is a file system's error, an error class of moonlib's own, or a `ValueError` that moonlib (or a plugin named
    moonlib_*) raised itself; one from inside another library is a bug until somebody has looked at it.
    """
    if isinstance(error, OSError) or type(error).__module__.startswith("moonlib"):
        return True
    last = error.__traceback__
    while last and last.tb_next:
        last = last.tb_next
    raised_by = last.tb_frame.f_globals.get("__name__", "") if last else ""
    return isinstance(error, ValueError) and raised_by.startswith("moonlib")


def message(error: Exception) -> str:
    """An error of the user's on one line; what was read from a URL is called by that."""
    from moonlib.system.download_cache import named_by_origin

    return named_by_origin(_message(error))


def _message(error: Exception) -> str:
    from moonlib.system.workers import shortage

    if isinstance(error, OSError) and (told := shortage(error)):
        return f"{error.filename or error}: {told}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = str(error)
    if "in DataLoader worker process" in text.partition("\n")[0]:
        # torch hands a worker's error on with the worker's whole traceback as its text, the error itself last.
        return text.rstrip().rpartition("\n")[2].partition(": ")[2]
    return text
