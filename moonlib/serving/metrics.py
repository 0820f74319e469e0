"""Metrics of a server, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

STAGES = ("receive", "prepare", "queue", "encode", "search", "score")
"""Where the time of a query goes: its upload, decoding, waiting for a batch, and the batch's two steps; and the click
model's."""

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class ServerMetrics:
    """Metrics of one server, in a registry of their own.

    Attributes:
        registry: where other modules may add theirs.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "moonlib_requests", "Answers, by route and status.", ["route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "moonlib_request_seconds",
            "Time from a request's head to its answer's end.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        stages = Histogram(
            "moonlib_stage_seconds",
            "Time of a query by stage; of the steps of a batch, once per batch.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self._batch = Histogram(
            "moonlib_batch_size", "Queries of a batch.", buckets=(1, 2, 4, 8, 16, 32, 64, 128), registry=self.registry
        )
        self.queue = Gauge("moonlib_queue_size", "Queries in progress.", registry=self.registry)
        self.products = Gauge("moonlib_products", "Products that can be found.", ["alias"], registry=self.registry)
        self.sequence = Gauge(
            "moonlib_sequence", "Number of the newest row that can be found.", ["alias"], registry=self.registry
        )
        self.refresh_failures = Counter(
            "moonlib_refresh_failures", "Times a newer view could not be opened.", registry=self.registry
        )

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def stage(self, stage: str, seconds: float) -> None:
        """Observe the time of a stage, one of `STAGES`."""
        self._stages[stage].observe(seconds)

    def batch(self, waited: Sequence[float]) -> None:
        """Observe a batch by how long each of its queries has waited, in seconds."""
        self._batch.observe(len(waited))
        for seconds in waited:
            self._stages["queue"].observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
