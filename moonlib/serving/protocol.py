"""HTTP/1.1 connections of strangers: a request's head is bounded in bytes and in time."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 65_536
"""Of a request's line and headers, and of what frames the chunks of its body."""
HEAD_SECONDS = 10.0
"""Time that a client has to send a request's line and headers."""


class BoundedProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, which ends a connection whose client floods it with headers, or never completes them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pending = 0  # bytes since a head was complete, or a part of a body came
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_SECONDS, self._end_if_waiting)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._pending += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._pending > HEAD_BYTES:
            self.send_400_response(f"Headers larger than {HEAD_BYTES} bytes.")
        elif self._pending and self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._end_if_waiting)

    def on_headers_complete(self) -> None:
        self._progress()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._progress()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._progress()
        super().on_message_complete()

    def _progress(self) -> None:
        self._pending = 0
        self._stop()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_if_waiting(self) -> None:
        """End the connection unless a request is being answered."""
        self._timer = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()
