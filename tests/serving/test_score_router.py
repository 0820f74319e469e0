"""Click probabilities by HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from moonlib.data.dataset import Dataset
from moonlib.serving.app import create_app
from moonlib.serving.scoring import Scorer
from moonlib.serving.service import Service
from moonlib.serving.settings import ServeSettings

from .conftest import picture


@pytest.fixture(scope="module")
def scored(center_application: Path) -> Iterator[tuple[TestClient, Scorer]]:
    center = center_application.parent / "center"
    service = Service(center, settings=ServeSettings(timeout_ms=20_000, max_text=200, max_pixels=1_000_000))
    scorer = Scorer.open(center_application, center=center, encoders=service.encoders)
    with TestClient(create_app(service, scorer=scorer), raise_server_exceptions=False) as client:
        yield client, scorer


EVENT = {"item_id": 3, "ts": "2025-03-29T12:00:00+02:00", "search_id": 5, "query": "red mug", "action": "click"}
REQUEST: dict[str, Any] = {
    "candidates": [{"item_id": 1, "price": 3.5, "impression": {"position": 1}}, {"item_id": -7}],
    "user": {"user_id": 1, "age": None},
    "query": {"text": "red mug"},
    "history": [EVENT],
    "ts": "2025-03-30T00:00:00Z",
}


def test_it_answers_what_the_scorer_says(scored: tuple[TestClient, Scorer], tiny: Dataset) -> None:
    client, scorer = scored
    known = REQUEST["candidates"][0] | {"item_id": tiny.products["item_id"][0]}
    request = {**REQUEST, "candidates": [known, REQUEST["candidates"][1]]}
    answer = client.post("/v1/score", json={**request, "snapshot": scorer.snapshot})
    assert answer.status_code == 200, answer.text
    body, expected = answer.json(), scorer.score(request)
    assert body == {
        "model": scorer.run.name,
        "snapshot": scorer.snapshot,
        "probabilities": pytest.approx(expected.probabilities.tolist()),
        "missing": expected.missing,
    }
    assert answer.headers["moonlib-snapshot"] == scorer.snapshot
    assert body["missing"]["products.vector"] == 1
    photo = {"image": base64.b64encode(picture(3)).decode()}
    with_photo = client.post("/v1/score", json={**request, "query": photo}).json()
    assert not np.array_equal(with_photo["probabilities"], body["probabilities"])
    assert b'moonlib_stage_seconds_count{stage="score"} 2.0' in client.get("/metrics").content


def test_candidates_of_another_snapshot_are_refused(scored: tuple[TestClient, Scorer]) -> None:
    client, scorer = scored
    answer = client.post("/v1/score", json={**REQUEST, "snapshot": "3f2ab1c09d77-128-int8@000041"})
    assert answer.status_code == 409
    error = answer.json()["error"]
    assert error["field"] == "snapshot" and str(scorer.snapshot) in error["message"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"candidates": None}, "candidates"),
        ({"candidates": [{"item_id": "A"}]}, "candidates.0.item_id"),
        ({"candidates": [{"item_id": 1, "price": "x"}]}, "candidates.0.price"),
        ({"candidates": [{"item_id": 1, "price": float("inf")}]}, "candidates.0.price"),
        ({"candidates": [{"item_id": 1, "attributes": 7}]}, "candidates.0.attributes"),
        ({"candidates": [{"item_id": 1, "attributes": [[7]]}]}, "candidates.0.attributes"),
        ({"candidates": [{"item_id": 1, "impression": {"position": "first"}}]}, "candidates.impression.0.position"),
        ({"history": [EVENT | {"ts": "2025-03-29T12:00:00"}]}, "history.0.ts"),
        ({"history": [EVENT | {"query_id": 3}]}, "history.0.query"),
        ({"query": {"text": "x" * 201}}, "query.text"),
        ({"query": {"image": "?"}}, "query.image"),
        ({"query": {"image": base64.b64encode(b"<html>").decode()}}, "query.image"),
        ({"query": {}}, "query"),
        ({"user": {"agee": 1}}, "user.agee"),
        ({"more": 1}, "more"),
    ],
)
def test_a_wrong_field_is_named(scored: tuple[TestClient, Scorer], change: dict[str, Any], field: str) -> None:
    body = json.dumps(REQUEST | change)
    answer = scored[0].post("/v1/score", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["field"] == field, answer.text


def test_without_a_click_model_there_is_no_such_endpoint(client: TestClient) -> None:
    assert client.post("/v1/score", json=REQUEST).status_code == 404


def test_the_openapi_document_has_it(scored: tuple[TestClient, Scorer]) -> None:
    operation = scored[0].get("/openapi.json").json()["paths"]["/v1/score"]["post"]
    assert {"200", "409", "422", "429", "504"} <= operation["responses"].keys()
