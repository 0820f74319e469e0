"""Logs of a server: a JSON object per line, on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import IO

ACCESS = "moonlib.serving.access"
"""Name of the logger that notes each answer; what it notes is in the record's ``fields``."""


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object: time (UTC), level, logger, message, and the record's ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, object] = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def log_json(stream: IO[str] | None = None) -> logging.Handler:
    """Let what moonlib and uvicorn log from INFO on be written as JSON lines.

    Args:
        stream: where to; standard error by default.

    Returns:
        The handler, to be removed by who must.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("moonlib", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # which warns of each form that is none
    return handler
