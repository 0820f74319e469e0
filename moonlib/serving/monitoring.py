"""Monitoring of a server: how fresh and how complete its answers are, and what they are made from."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from moonlib.center.layout import SNAPSHOT, snapshot_of
from moonlib.center.view import View
from moonlib.center.where import Where

log = logging.getLogger(__name__)

K = 10
"""Of the recall that is measured."""
REMEMBERED = 1000
"""Queries whose recall is averaged."""
EQUAL = 1e-5
"""Difference of cosines within which two products are equally near."""

_SECONDS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class Freshness:
    """Measures the time from an upsert's reception until searches find its rows.

    Args:
        registry: where it is exposed.
        clock: seconds since 1970 UTC.
    """

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._seconds = Histogram(
            "moonlib_freshness_seconds",
            "Time from the reception of a product, a deletion or a canary until searches know of it.",
            ["alias"],
            buckets=_SECONDS,
            registry=registry,
        )

    def refreshed(self, alias: str, before: View, now: View) -> None:
        """Observe the rows that a newer view knows of.

        Args:
            alias: that they are served under.
            before: the view that was served.
            now: the one that is.
        """
        if now is before or now.space.name != before.space.name:
            return
        found = self._clock()
        observed = self._seconds.labels(alias)
        for received in now.arrived.tolist():
            # A clock that was put back meanwhile says nothing of how long it took.
            observed.observe(max(0.0, found - received / 1e6))


class RecallMonitor:
    """Answers a share of the live queries exactly as well, and compares.

    It works in a thread of its own, on one query at a time: what comes meanwhile is not looked at.

    Args:
        registry: where it is exposed.
        share: of the queries, from 0 to 1.
        seed: of the choice.
    """

    def __init__(self, registry: CollectorRegistry, share: float, seed: int = 0) -> None:
        self._share, self._random = share, random.Random(seed)
        self._recalls: deque[float] = deque(maxlen=REMEMBERED)
        self._working = ThreadPoolExecutor(1, "recall")
        self._busy = False
        self._recall = Gauge(
            f"moonlib_recall_at_{K}",
            f"Share of the {K} nearest products that live queries find, averaged over the last {REMEMBERED} measured.",
            registry=registry,
        )
        self._recall.set(float("nan"))
        self._measured = Counter("moonlib_recall_queries", "Live queries answered exactly as well.", registry=registry)

    def offer(self, view: View, vector: NDArray[np.float32], where: Where | None) -> None:
        """Measure a query, or pass it over.

        Args:
            view: that answers it.
            vector: float32 [D].
            where: its filter.
        """
        if not self._busy and self._random.random() < self._share:
            self._busy = True
            self._working.submit(self._measure, view, vector.copy(), where)

    def _measure(self, view: View, vector: NDArray[np.float32], where: Where | None) -> None:
        try:
            found = recall_of(view, vector, where)
            if found is not None:
                self._recalls.append(found)
                self._recall.set(sum(self._recalls) / len(self._recalls))
                self._measured.inc()
        except Exception:
            log.exception("the recall of a query could not be measured")
        finally:
            self._busy = False

    def close(self) -> None:
        """Finish the query that is being measured."""
        self._working.shutdown()


def recall_of(view: View, vector: NDArray[np.float32], where: Where | None = None, k: int = K) -> float | None:
    """Share of the k nearest products that a search finds; None where there is none to find.

    Of products that are equally near, any counts.

    Args:
        view: to search.
        vector: float32 [D].
        where: a filter.
        k: products.
    """
    nearest = view.search(vector[None], k, where, exact=True)
    there = np.isfinite(nearest.scores[0])
    if not there.any():
        return None
    found = view.search(vector[None], k, where)
    farthest = nearest.scores[0][there].min()
    return float((found.scores[0] >= farthest - EQUAL).sum() / there.sum())


class ViewGauges(Collector):
    """Sizes and ages of what is served, read whenever somebody asks for them.

    Args:
        registry: where they are exposed.
        views: what is served now, by alias.
        clock: seconds since 1970 UTC.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        views: Callable[[], Mapping[str, View]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._views, self._clock = views, clock
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges; one with the snapshot's name has the value 1."""
        labels = ["alias", "space"]
        vectors = GaugeMetricFamily("moonlib_vectors", "Products of the space that can be found.", labels=labels)
        delta = GaugeMetricFamily(
            "moonlib_delta_rows", "Rows and deletions that are newer than the snapshot.", labels=labels
        )
        age = GaugeMetricFamily("moonlib_snapshot_age_seconds", "Time since the snapshot was built.", labels=labels)
        number = GaugeMetricFamily("moonlib_snapshot_number", "Number of the snapshot.", labels=labels)
        for alias, view in self._views().items():
            values = (alias, view.space.name)
            vectors.add_metric(values, len(view))
            delta.add_metric(values, view.delta_rows)
            number.add_metric(values, view.snapshot)
            try:
                made = (snapshot_of(view.space.directory, view.snapshot) / SNAPSHOT).stat().st_mtime
            except FileNotFoundError:  # before the first, or one that was deleted while it is served
                continue
            age.add_metric(values, max(0.0, self._clock() - made))
        yield from (vectors, delta, age, number)
