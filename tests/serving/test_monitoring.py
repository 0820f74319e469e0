"""Freshness, recall and sizes of what is served."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from moonlib.center.canary import append_canary
from moonlib.center.view import View
from moonlib.center.where import Where
from moonlib.encoders.encoder import Encoder
from moonlib.serving.app import create_app
from moonlib.serving.monitoring import Freshness, RecallMonitor, ViewGauges, recall_of
from moonlib.serving.service import Service
from moonlib.serving.settings import ServeSettings

from .conftest import PRODUCTS, StandInWriter, append, open_record, title

SPACE = "aaaaaaaaaaaa-16-float32"


class CanaryWriter(StandInWriter):
    def send_canary(self) -> int:
        return append_canary(open_record(self.center, write=True), 1)


class Forgetful:
    """A view whose searches through the index miss the nearest product."""

    def __init__(self, view: View) -> None:
        self.view = view

    def search(self, vectors: Any, k: int, where: Any = None, exact: bool = False) -> Any:
        found = self.view.search(vectors, k + 1, where)
        start = 0 if exact else 1
        found.scores, found.rows = found.scores[:, start : start + k], found.rows[:, start : start + k]
        return found


def test_freshness_is_the_time_from_reception_to_a_view_that_knows(center: Path, encoder: Encoder) -> None:
    registry = CollectorRegistry()
    freshness = Freshness(registry, clock=lambda: 100.0)
    before = View.open(center)
    record = open_record(center, write=True)
    for received in (98_600_000, 99_800_000, 500_000_000):  # the last one by a clock that was put back since
        append_canary(record, received)
        now = before.refreshed()
        freshness.refreshed("live", before, now)
        freshness.refreshed("live", now, now)
        before = now

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"moonlib_freshness_seconds_{name}", {"alias": "live", **labels})

    assert value("count") == 3 and value("sum") == pytest.approx(1.4 + 0.2)
    assert value("bucket", le="0.25") == 2 and value("bucket", le="1.5") == 3


def test_a_canary_is_measured_and_nobody_finds_it(center: Path, encoder: Encoder) -> None:
    settings = ServeSettings(timeout_ms=20_000, refresh_ms=10, canary_seconds=0.01, recall_share=0)
    service = Service(center, settings=settings, open_encoder=lambda _: encoder, writer=CanaryWriter(center, encoder))

    def count() -> float:
        found = service.metrics.registry.get_sample_value("moonlib_freshness_seconds_count", {"alias": "live"})
        return found or 0.0

    async def wait() -> None:
        while count() < 3:
            await asyncio.sleep(0.01)

    with TestClient(create_app(service, "token")) as client:
        assert client.portal is not None
        client.portal.call(wait)
        hits = client.post("/v1/search", data={"text": "mug", "k": 100}).json()["hits"]
        assert len(hits) == PRODUCTS and -(2**63) not in [hit["item_id"] for hit in hits]
        assert client.get("/v1/about").json()["products"] == PRODUCTS


def test_recall_is_what_live_queries_find_of_the_exact_answer(center: Path) -> None:
    view = View.open(center)
    vector = view.lookup([3])[0]
    assert recall_of(view, vector) == 1.0
    assert recall_of(Forgetful(view), vector) == pytest.approx(0.9)  # type: ignore[arg-type]
    assert recall_of(view, vector, Where({"price": {"lt": 3}})) == 1.0
    assert recall_of(view, vector, Where({"price": {"lt": -1}})) is None
    registry = CollectorRegistry()
    monitor = RecallMonitor(registry, share=1.0)
    monitor.offer(Forgetful(view), vector, None)  # type: ignore[arg-type]
    monitor.close()
    assert registry.get_sample_value("moonlib_recall_at_10") == pytest.approx(0.9)
    assert registry.get_sample_value("moonlib_recall_queries_total") == 1
    none = RecallMonitor(CollectorRegistry(), share=0.0)
    none.offer(view, vector, None)
    none.close()


def test_a_measurement_that_fails_is_logged_and_the_next_one_works(
    center: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    monitor = RecallMonitor(registry, share=1.0)
    monitor._measure(View.open(center), np.zeros(3, np.float32), None)  # of another width
    assert "the recall of a query could not be measured" in caplog.text
    monitor._measure(View.open(center), np.ones(16, np.float32), None)
    monitor.close()
    assert registry.get_sample_value("moonlib_recall_queries_total") == 1


def test_live_queries_are_measured_and_all_is_exposed(center: Path, encoder: Encoder) -> None:
    settings = ServeSettings(timeout_ms=20_000, recall_share=1.0)
    service = Service(center, settings=settings, open_encoder=lambda _: encoder)
    with TestClient(create_app(service)) as client:
        assert client.post("/v1/search", data={"text": title(3)}).status_code == 200
        service.recall._working.submit(lambda: None).result()
        text = client.get("/metrics").text
    assert "moonlib_recall_at_10 1.0" in text and "moonlib_recall_queries_total 1.0" in text
    assert f'moonlib_vectors{{alias="live",space="{SPACE}"}} {float(PRODUCTS)}' in text
    assert f'moonlib_delta_rows{{alias="live",space="{SPACE}"}} {float(PRODUCTS)}' in text
    assert "moonlib_snapshot_age_seconds{" not in text  # nothing was published yet
    for stage in ("receive", "prepare", "queue", "encode", "search"):
        assert f'moonlib_stage_seconds_bucket{{le="0.0005",stage="{stage}"}}' in text


def test_the_age_of_a_snapshot_is_exposed(center: Path, encoder: Encoder) -> None:
    from moonlib.center.publishing import publish

    publish(center, View.open(center).space, kind="flat")
    append(center, encoder, [{"item_id": 99, "title": "lamp"}])
    view, registry = View.open(center), CollectorRegistry()
    made = (view.space.directory / "snapshots" / "000001" / "snapshot.json").stat().st_mtime
    ViewGauges(registry, lambda: {"live": view}, clock=lambda: made + 60)
    labels = {"alias": "live", "space": SPACE}
    assert registry.get_sample_value("moonlib_snapshot_age_seconds", labels) == pytest.approx(60)
    assert registry.get_sample_value("moonlib_snapshot_number", labels) == 1
    assert registry.get_sample_value("moonlib_delta_rows", labels) == 1
    assert registry.get_sample_value("moonlib_vectors", labels) == PRODUCTS + 1


@pytest.mark.parametrize(
    ("given", "problem"), [({"recall_share": 1.5}, "a share from 0 to 1"), ({"canary_seconds": -1}, "positive")]
)
def test_settings_are_checked(given: dict[str, float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ServeSettings(**given)  # type: ignore[arg-type]
