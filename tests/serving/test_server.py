"""A server on a socket: slow and hostile clients, and its end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from moonlib.encoders.encoder import Encoder
from moonlib.serving import protocol
from moonlib.testing.processes import Program

SERVER = """
import sys, torch
from pathlib import Path
from moonlib.serving import protocol
from moonlib.serving.logs import log_json
from moonlib.serving.server import serve
from moonlib.serving.service import Service
from moonlib.serving.settings import ServeSettings
center, weights, port = sys.argv[1:]
protocol.HEAD_SECONDS = 1.0
encoder = torch.load(weights, weights_only=False)
class Slow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = encoder
        self.image_dim, self.text_dim, self.preprocessor = encoder.image_dim, encoder.text_dim, encoder.preprocessor
    def forward(self, batch):
        import time; time.sleep(0.3)
        return self.inner(batch)
log_json()
settings = ServeSettings(timeout_ms=20_000, receive_seconds=2.0, max_bytes=100_000, drain_seconds=20.0)
serve(Service(center, settings=settings, open_encoder=lambda _: Slow()), port=int(port))
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def server(center: Path, encoder: Encoder, tmp_path: Path) -> Iterator[tuple[Program, int]]:
    """A server in a process of its own, and its port."""
    torch.save(encoder, tmp_path / "encoder.pt")
    port = free_port()
    program = Program(["-c", SERVER, center, tmp_path / "encoder.pt", str(port)], env=dict(os.environ))
    for _ in range(600):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/ready")
            assert connection.getresponse().status == 200
            break
        except OSError:
            assert program.poll() is None, program.communicate()
            time.sleep(0.1)
    yield program, port
    if program.poll() is None:
        program.kill()


def ask(port: int, method: str, path: str, **more: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"content-type": "application/x-www-form-urlencoded"} if "body" in more else {}
    connection.request(method, path, headers=headers, **more)
    answer = connection.getresponse()
    return answer.status, answer.read()


def until_closed(sent: bytes, port: int) -> bytes:
    """Send something, and nothing more; return what comes until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            connection.sendall(sent)
            found = b""
            while part := connection.recv(65_536):
                found += part
            return found
        except (ConnectionResetError, BrokenPipeError):
            return b""


def test_slow_and_hostile_clients_are_ended_and_hold_nobody_up(server: tuple[Program, int]) -> None:
    program, port = server
    assert until_closed(b"", port) == b""  # connects, and says nothing
    assert until_closed(b"POST /v1/search HTTP/1.1\r\nHost: a\r\nX-Half: ", port) == b""
    half = b"POST /v1/lookup HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"
    answer = until_closed(half, port)
    assert answer.startswith(b"HTTP/1.1 408 ") and b'"too_slow"' in answer
    for flood in (b"X-A: " + b"a" * 9_000_000, b"".join(b"X-%d: a\r\n" % n for n in range(500_000))):
        answer = until_closed(b"GET /ready HTTP/1.1\r\nHost: a\r\n" + flood, port)
        assert not answer or answer.startswith(b"HTTP/1.1 400 ")
    for junk in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"A" * 100_000):
        assert until_closed(junk, port)[:13] in (b"", b"HTTP/1.1 400 ")
    large = b"POST /v1/search HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    assert until_closed(large + b"Content-Length: 999999999\r\n\r\n", port).startswith(b"HTTP/1.1 413 ")
    assert ask(port, "GET", "/ready")[0] == 200
    assert program.poll() is None


def test_sigterm_answers_what_is_in_progress_and_exits_with_zero(server: tuple[Program, int]) -> None:
    program, port = server
    answers: list[tuple[int, bytes]] = []
    asking = [
        threading.Thread(target=lambda: answers.append(ask(port, "POST", "/v1/search", body="text=mug&k=2")))
        for _ in range(6)
    ]
    for thread in asking:
        thread.start()
    time.sleep(0.15)
    program.send_signal(signal.SIGTERM)
    for thread in asking:
        thread.join()
    assert [status for status, _ in answers] == [200] * 6
    assert all(len(json.loads(body)["hits"]) == 2 for _, body in answers)
    _, err = program.communicate(timeout=60)
    assert program.returncode == 0, err
    with pytest.raises(OSError):
        ask(port, "GET", "/live")
    lines = [json.loads(line) for line in err.splitlines()]
    assert sum(line.get("route") == "/v1/search" and line["status"] == 200 for line in lines) == 6
    assert all("request_id" in line for line in lines if line["logger"] == "moonlib.serving.access")


def test_heads_are_bounded_by_default() -> None:
    assert protocol.HEAD_BYTES <= 100_000 and protocol.HEAD_SECONDS <= 30
