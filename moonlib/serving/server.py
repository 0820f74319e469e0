"""A service behind a socket, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from moonlib.serving.address import bound
from moonlib.serving.app import create_app
from moonlib.serving.process import frozen_heap
from moonlib.serving.protocol import BoundedProtocol
from moonlib.serving.service import Service

if TYPE_CHECKING:
    from moonlib.serving.scoring import Scorer

log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """Uvicorn's server, which logs where it listens, and is not ready any more from the moment of a signal on."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            log.info("listening at http://%s:%d/", f"[{host}]" if ":" in host else host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.draining = True
        super().handle_exit(sig, frame)


def serve(
    service: Service,
    token: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    scorer: Scorer | None = None,
    listener: socket.socket | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; requests in progress are answered, then this returns.

    Args:
        service: what answers.
        token: that requests which write must bear; None where nothing may be written.
        host: address to listen on; ``0.0.0.0`` for all.
        port: 0 for a free one, which the log names.
        scorer: a click model for ``POST /v1/score``; None for no such endpoint.
        listener: a socket to listen on, in place of host and port; see `moonlib.serving.address.bound`.

    Raises:
        OSError: the address is in use, or not this machine's.
        ValueError: there is no such port.
    """
    config = uvicorn.Config(
        create_app(service, token, scorer),
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=max(1000, 4 * service.settings.queue),
        timeout_graceful_shutdown=max(1, round(service.settings.drain_seconds)),
    )
    with listener or bound(host, port) as listening, frozen_heap():
        # Uvicorn raises the signal that ended it once more, when it has done; the process is to end with 0.
        before = {}
        if threading.current_thread() is threading.main_thread():
            before = {each: signal.signal(each, _ignore) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            _Server(config, service).run(sockets=[listening])
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def _ignore(signum: int, frame: FrameType | None) -> None:
    """Do nothing: the signal was heard."""
