"""A gate for every request: limits while it is received, an id, headers of its answer, metrics and a line of log."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from pydantic_core import to_json

from moonlib.serving.errors import Refused
from moonlib.serving.logs import ACCESS
from moonlib.serving.metrics import ServerMetrics

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)
access = logging.getLogger(ACCESS)

_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Gate:
    """Wraps an ASGI application.

    A body is counted while it comes in, whatever its ``Content-Length`` says, so that nothing larger than allowed is
    ever held. A client's request id is kept if it is a plain word, or one is made.

    Args:
        app: the application.
        metrics: where answers are counted.
        max_bytes: of a request's body, by ``METHOD path``; ``""`` for all others.
        receive_seconds: time that a client has to send its request.
    """

    def __init__(self, app: App, metrics: ServerMetrics, max_bytes: Mapping[str, int], receive_seconds: float) -> None:
        self.app, self.metrics, self.max_bytes, self.receive_seconds = app, metrics, max_bytes, receive_seconds
        self._ids = random.Random(secrets.randbits(64))  # they tell requests apart, and guard nothing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        given = next((value for name, value in headers if name == b"x-request-id"), b"")
        request_id = given.decode() if _ID.fullmatch(given) else f"{self._ids.getrandbits(64):016x}"
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"], state["started"] = request_id, started
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [(b"x-request-id", request_id.encode()), (b"x-content-type-options", b"nosniff")]
                if name := state.get("snapshot"):
                    extra.append((b"moonlib-snapshot", name.encode()))
                present = {name.lower() for name, _ in message.get("headers", ())}
                message["headers"] = [*message.get("headers", ()), *(each for each in extra if each[0] not in present)]
            await send(message)

        limit = self.max_bytes.get(f"{scope['method']} {scope['path']}", self.max_bytes[""])
        try:
            await self.app(scope, self._limited(receive, headers, limit, started, state), answer)
        except Refused as refused:
            if status == 0:
                await refuse(answer, refused, state)
            elif refused.status != 499:
                raise
        except Exception:
            log.exception("a request failed", extra={"fields": {"request_id": request_id}})
            if status == 0:
                await refuse(answer, Refused(500, "error", "the server failed; its log says why"), state)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.answered(route, status, seconds)
            if access.isEnabledFor(logging.INFO):
                fields = {
                    "request_id": request_id,
                    "method": scope["method"],
                    "route": route,
                    "status": status,
                    "ms": round(seconds * 1000, 2),
                    "snapshot": state.get("snapshot"),
                    **state.get("logged", {}),
                }
                access.info("answered", extra={"fields": fields})

    def _limited(
        self, receive: Receive, headers: list[tuple[bytes, bytes]], limit: int, started: float, state: dict[str, Any]
    ) -> Receive:
        """Receive a body up to a limit of bytes and of time."""
        received, done = 0, False
        until = started + self.receive_seconds
        length = next((value for name, value in headers if name == b"content-length"), b"0")
        too_large = Refused(413, "too_large", f"the request is larger than {limit:,} bytes")

        async def limited() -> Message:
            nonlocal received, done
            if done:  # what comes now is that the client has gone
                return await receive()
            if length.isdigit() and int(length[:20]) > limit:
                raise too_large
            try:
                async with asyncio.timeout(until - time.perf_counter()):
                    message = await receive()
            except TimeoutError:
                raise Refused(408, "too_slow", f"the request did not come in {self.receive_seconds:g} s") from None
            if message["type"] == "http.disconnect":
                raise Refused(499, "gone", "the client left before its request was complete")
            received += len(message.get("body", b""))
            if received > limit:
                raise too_large
            if not message.get("more_body"):
                done = True
                self.metrics.stage("receive", time.perf_counter() - started)
            return message

        return limited


async def refuse(send: Send, refused: Refused, state: Mapping[str, Any]) -> None:
    """Send a refusal."""
    body = error_body(refused, state)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refused.status in (429, 503):
        headers.append((b"retry-after", b"1"))
    if refused.status in (408, 413, 499):  # the rest of the request is not read
        headers.append((b"connection", b"close"))
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_body(refused: Refused, state: Mapping[str, Any]) -> bytes:
    """A refusal as JSON, see `moonlib.serving.answers.ErrorAnswer`."""
    error = {"code": refused.code, "message": refused.message, "field": refused.field}
    return to_json({"error": error, "snapshot": state.get("snapshot"), "request_id": state.get("request_id")})
