"""Aliases that move, and rows that come, while queries are answered."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from moonlib.center.aliases import read_aliases, write_aliases
from moonlib.encoders.encoder import Encoder
from moonlib.inference.center import Upserted
from moonlib.serving.app import create_app
from moonlib.serving.service import Service
from moonlib.serving.settings import ServeSettings

from .conftest import TOKEN, append, make_space, picture, title


class Mirrored(torch.nn.Module):
    """An encoder of another space: the first one's vectors, backwards."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.inner = encoder
        self.image_dim, self.text_dim, self.preprocessor = encoder.image_dim, encoder.text_dim, encoder.preprocessor

    def forward(self, batch: Any) -> Any:
        return self.inner(batch).flip(1)


@pytest.fixture
def two(center: Path, encoder: Encoder) -> dict[str, Any]:
    """The encoders of the center's two spaces, of the aliases live and v2, by fingerprint."""
    encoders = {"a" * 12: encoder, "b" * 12: Mirrored(encoder)}
    make_space(center, encoders["b" * 12], "b" * 16, "v2")  # type: ignore[arg-type]
    return encoders


def open_of(encoders: dict[str, Any]) -> Any:
    return lambda folder: encoders[folder.parent.name[:12]]


def test_new_rows_are_found_and_a_broken_center_is_not_served_instead(
    center: Path, encoder: Encoder, settings: ServeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(settings, refresh_ms=1e9)  # only when this test says so
    service = Service(center, settings=settings, open_encoder=lambda _: encoder)
    with TestClient(create_app(service)) as client:

        def first() -> int:
            return int(client.post("/v1/search", data={"text": "violet teapot", "k": 1}).json()["hits"][0]["item_id"])

        assert first() != 77
        append(center, encoder, [{"item_id": 77, "title": "violet teapot"}])
        client.portal.call(service.refresh)  # type: ignore[union-attr]
        assert first() == 77
        (center / "aliases.json").write_text("{")
        for _ in range(2):
            client.portal.call(service.refresh)  # type: ignore[union-attr]
        assert first() == 77
        assert b"moonlib_refresh_failures_total 2.0" in client.get("/metrics").content
        assert sum("can't be opened" in message for message in caplog.messages) == 1  # a log is not to be filled


def test_two_aliases_side_by_side(center: Path, two: dict[str, Any], settings: ServeSettings) -> None:
    service = Service(center, ["live", "v2"], settings, open_encoder=open_of(two))
    with TestClient(create_app(service)) as client:
        answers = {
            alias: client.post("/v1/search", data={"text": title(5), "alias": alias, "k": 3}).json()
            for alias in ("live", "v2")
        }
        assert answers["live"]["snapshot"].startswith("a" * 12)
        assert answers["v2"]["snapshot"].startswith("b" * 12)
        ids = [[hit["item_id"] for hit in answers[alias]["hits"]] for alias in ("live", "v2")]
        assert ids[0] == ids[1]  # both spaces have the same neighbours, each with its own encoder
        assert client.get(answers["v2"]["hits"][0]["picture"]).content == picture(ids[1][0])
        assert {each["name"] for each in client.get("/v1/about").json()["aliases"]} == {"live", "v2"}


def test_an_alias_moves_under_load_and_no_answer_mixes_spaces(
    center: Path, two: dict[str, Any], settings: ServeSettings
) -> None:
    """Vectors of the one space have other neighbours in the other: a mixed answer would show."""
    service = Service(center, settings=settings, open_encoder=open_of(two))
    with TestClient(create_app(service)) as client:
        expected = [hit["item_id"] for hit in client.post("/v1/search", data={"text": title(9), "k": 5}).json()["hits"]]
        aliases = read_aliases(center)
        stop = threading.Event()
        seen: set[str] = set()

        def load() -> list[Any]:
            wrong = []
            while not stop.is_set():
                answer = client.post("/v1/search", data={"text": title(9), "k": 5})
                body = answer.json()
                seen.add(body.get("snapshot"))
                ids = [hit["item_id"] for hit in body.get("hits", ())]
                if ids != expected or body["snapshot"] != answer.headers["moonlib-snapshot"]:
                    wrong.append(body)
            return wrong

        with ThreadPoolExecutor(4) as pool:
            loads = [pool.submit(load) for _ in range(4)]
            for flip in range(12):
                write_aliases(center, {**aliases, "live": aliases["v2" if flip % 2 == 0 else "live"]})
                client.portal.call(service.refresh)  # type: ignore[union-attr]
            stop.set()
            assert [wrong for each in loads for wrong in each.result()] == []
        assert {name[:12] for name in seen} == {"a" * 12, "b" * 12}


def test_a_write_names_the_snapshot_that_it_can_be_found_in(
    center: Path, two: dict[str, Any], settings: ServeSettings
) -> None:
    class Moving:
        """Somebody moves the alias while products are written."""

        def delete(self, ids: Any) -> Upserted:
            aliases = read_aliases(center)
            write_aliases(center, {**aliases, "live": aliases["v2"]})
            return Upserted(deleted=len(ids))

    writer: Any = Moving()
    service = Service(center, settings=settings, open_encoder=open_of(two), writer=writer)
    with TestClient(create_app(service, TOKEN)) as client:
        headers = {"authorization": f"Bearer {TOKEN}"}
        answer = client.request("DELETE", "/v1/products", json={"ids": [1]}, headers=headers)
        assert answer.json()["snapshot"] == answer.headers["moonlib-snapshot"]
        assert answer.json()["snapshot"].startswith("b" * 12)


def test_aliases_of_one_space_share_an_encoder(center: Path, two: dict[str, Any], settings: ServeSettings) -> None:
    aliases = read_aliases(center)
    write_aliases(center, {**aliases, "canary": aliases["live"]})
    opened: list[Path] = []

    def opening(folder: Path) -> Any:
        opened.append(folder)
        return open_of(two)(folder)

    service = Service(center, ["live", "canary", "v2"], settings, open_encoder=opening)
    assert [folder.parent.name[0] for folder in opened] == ["a", "b"]
    write_aliases(center, {**read_aliases(center), "canary": aliases["v2"]})
    with ThreadPoolExecutor(1) as thread:  # a browser that another test opened has a running loop in this one
        thread.submit(asyncio.run, service.refresh()).result()
    assert service.served("canary").encoder is service.served("v2").encoder
    assert len(opened) == 2
    service.close()


def test_an_alias_that_is_not_there_is_an_error_at_start(center: Path, encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="no alias 'dev'"):
        Service(center, ["dev"], open_encoder=lambda _: encoder)
