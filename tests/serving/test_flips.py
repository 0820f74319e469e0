"""A server under load, while products are written, two spaces are published in turn, and publishes are taken back."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from moonlib.center.aliases import Alias, Target, read_aliases, write_aliases
from moonlib.center.publishing import publish, rollback
from moonlib.center.space import find_space
from moonlib.encoders.encoder import Encoder
from moonlib.serving.address import bound
from moonlib.testing.processes import Program

from .conftest import PRODUCTS, append, make_space, title

SERVER = """
import sys, torch
from moonlib.serving.server import serve
from moonlib.serving.service import Service
from moonlib.serving.settings import ServeSettings
center, weights, port = sys.argv[1:]
encoder = torch.load(weights, weights_only=False)
class Mirrored(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.image_dim, self.text_dim, self.preprocessor = encoder.image_dim, encoder.text_dim, encoder.preprocessor
    def forward(self, batch):
        return encoder(batch).flip(1)
settings = ServeSettings(timeout_ms=60_000, refresh_ms=20)
encoders = {"a": encoder, "b": Mirrored()}
serve(Service(center, settings=settings, open_encoder=lambda folder: encoders[folder.parent.name[0]]), port=int(port))
"""


class Mirrored(torch.nn.Module):
    """The encoder of the second space: the first one's vectors, backwards. Its neighbours are the same."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.inner, self.preprocessor = encoder, encoder.preprocessor

    def forward(self, batch: Any) -> Any:
        return self.inner(batch).flip(1)


def ask(connection: http.client.HTTPConnection) -> tuple[int, str | None, Any]:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/v1/search", f"text={title(9).replace(' ', '+')}&k={PRODUCTS}", headers)
    answer = connection.getresponse()
    return answer.status, answer.headers.get("moonlib-snapshot"), json.loads(answer.read())


def load(port: int, stop: threading.Event, expected: list[int], seen: Counter[str]) -> list[Any]:
    """Ask until told to stop; returns answers that failed, or that are of more than one space and snapshot."""
    connection, wrong = http.client.HTTPConnection("127.0.0.1", port, timeout=60), []
    while not stop.is_set():
        status, name, body = ask(connection)
        # A query of the one encoder has other neighbours in the other's space; all products are written in one append.
        hits = body.get("hits", ())
        ids, prices = [hit["item_id"] for hit in hits], {hit["row"]["price"] for hit in hits}
        if status != 200 or name != body["snapshot"] or ids != expected or len(prices) != 1:
            wrong.append((status, name, body))
        seen[str(name)] += 1
    return wrong


def flip(center: Path, encoder: Encoder, clients: int, flips: int, weights: Path) -> Counter[str]:
    """Publish, take back and write while clients ask; returns how many answers each snapshot gave."""
    mirrored: Any = Mirrored(encoder)
    make_space(center, mirrored, "b" * 16, "b")
    aliases = read_aliases(center)
    first, second = find_space(center, "a"), find_space(center, "b")
    write_aliases(center, {**aliases, "a": Alias(Target(first.name, 0))})
    torch.save(encoder, weights)

    def write(generation: int) -> None:
        rows = [{"item_id": n, "title": title(n), "price": float(generation)} for n in range(PRODUCTS)]
        for alias, made in (("a", encoder), ("b", mirrored)):
            append(center, made, rows, alias)

    write(1)
    publish(center, first, kind="flat")
    with bound("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    server = Program(["-c", SERVER, center, weights, str(port)], env=dict(os.environ))
    stop, seen = threading.Event(), Counter[str]()
    try:
        for _ in range(600):
            try:
                _, _, body = ask(http.client.HTTPConnection("127.0.0.1", port, timeout=60))
                break
            except OSError:
                assert server.poll() is None, server.communicate()
                time.sleep(0.1)
        expected = [hit["item_id"] for hit in body["hits"]]
        assert len(expected) == PRODUCTS
        with ThreadPoolExecutor(clients) as pool:
            running = [pool.submit(load, port, stop, expected, seen) for _ in range(clients)]
            try:
                for number in range(flips):
                    write(2 + number)
                    if number % 3 == 2:
                        rollback(center)
                    else:
                        publish(center, second if number % 3 == 0 else first, kind="flat", keep=2)
                    until = sum(seen.values()) + clients  # however slow the machine, each state is asked
                    while sum(seen.values()) < until and not any(each.done() for each in running):
                        time.sleep(0.005)
            finally:
                stop.set()
            wrong = [answer for each in running for answer in each.result()]
        assert server.poll() is None
    finally:
        server.kill()
        _, problem = server.communicate()
    assert wrong == [], problem
    assert {name[0] for name in seen} == {"a", "b"}
    return seen


def test_no_answer_fails_or_mixes_snapshots(center: Path, encoder: Encoder, tmp_path: Path) -> None:
    assert len(flip(center, encoder, 3, 9, tmp_path / "encoder.pt")) > 1


@pytest.mark.slow
def test_no_answer_fails_or_mixes_snapshots_of_many(center: Path, encoder: Encoder, tmp_path: Path) -> None:
    seen = flip(center, encoder, 16, 300, tmp_path / "encoder.pt")
    print(f"{sum(seen.values()):,} answers from {len(seen)} snapshots")
    assert len(seen) > 100
