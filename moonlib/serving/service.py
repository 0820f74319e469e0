"""A service over a center: what it serves, kept fresh, and how its requests are answered. It knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from moonlib.center.where import Where
from moonlib.center.writing import Busy
from moonlib.data.content import Box
from moonlib.serving.batcher import Batcher, QueueFull, TimedOut
from moonlib.serving.errors import Refused
from moonlib.serving.metrics import ServerMetrics
from moonlib.serving.monitoring import Freshness, RecallMonitor, ViewGauges
from moonlib.serving.queries import Hits, Query, answer_queries
from moonlib.serving.served import OpenEncoder, Served, open_encoder
from moonlib.serving.settings import ServeSettings

if TYPE_CHECKING:
    from moonlib.encoders.encoder import Encoder
    from moonlib.inference.upserting import Upserted

log = logging.getLogger(__name__)

_INTEGER = re.compile(r"-?[0-9]{1,19}")


class Writer(Protocol):
    """Writes products: `moonlib.serving.writer.CenterWriter`."""

    def upsert(self, products: Sequence[Mapping[str, Any]]) -> Upserted:
        """Add products, or replace them by their id."""
        ...

    def delete(self, ids: Sequence[int | str]) -> Upserted:
        """Delete products."""
        ...

    def send_canary(self) -> int:
        """Write a row that no search finds; return its sequence."""
        ...


class Service:
    """Answers queries from a center.

    Args:
        center: its folder.
        aliases: that are served; a request that names none is answered from the first.
        settings: limits.
        metrics: where times are observed.
        open_encoder: opens a space's encoder.
        writer: writes products; None where nothing may be written.

    Attributes:
        draining: whether no new request is to come any more.

    Raises:
        ValueError: an alias is not there.
    """

    def __init__(
        self,
        center: str | Path,
        aliases: Sequence[str] = ("live",),
        settings: ServeSettings | None = None,
        *,
        metrics: ServerMetrics | None = None,
        open_encoder: OpenEncoder = open_encoder,
        writer: Writer | None = None,
    ) -> None:
        self.settings = settings or ServeSettings()
        self.metrics = metrics or ServerMetrics()
        self.writer = writer
        self.draining = False
        self.default = aliases[0]
        self._opened_by = open_encoder
        self._served: dict[str, Served] = {}
        for alias in aliases:
            self._served[alias] = Served.open(Path(center), alias, self._open_encoder)
        self.freshness = Freshness(self.metrics.registry)
        self.recall = RecallMonitor(self.metrics.registry, self.settings.recall_share)
        ViewGauges(self.metrics.registry, lambda: {alias: each.view for alias, each in self._served.items()})
        self._batcher: Batcher[Query, Hits] = Batcher(
            lambda queries: answer_queries(queries, self.metrics.stage, self.recall.offer),
            threads=_cpus(),
            batch=self.settings.batch,
            wait_ms=self.settings.wait_ms,
            queue=self.settings.queue,
            seen=self.metrics.batch,
        )
        self.metrics.queue.set_function(lambda: self._batcher.in_progress)
        self._writing = ThreadPoolExecutor(1, "write")
        self._refreshing = asyncio.Lock()
        self._failed: dict[str, str] = {}
        self._note()

    def served(self, alias: str | None = None) -> Served:
        """The view and the encoder that are served under an alias now.

        Raises:
            Refused: it is not served.
        """
        found = self._served.get(alias or self.default)
        if found is None:
            raise Refused(422, "unknown_alias", f"alias: expected one of {', '.join(self._served)}", "alias")
        return found

    def _open_encoder(self, folder: Path) -> Encoder:
        """The encoder of a space, once for all aliases that lead to the space."""
        is_open = (each.encoder for each in self._served.values() if each.view.space.encoder == folder)
        return next(is_open, None) or self._opened_by(folder)

    @property
    def aliases(self) -> Mapping[str, Served]:
        """All that is served, by alias."""
        return self._served

    @property
    def encoders(self) -> dict[str, Encoder]:
        """The encoders that are open, by the fingerprint of what they encode."""
        return {each.view.space.fingerprint: each.encoder for each in self._served.values()}

    async def search(
        self,
        served: Served,
        k: int,
        image: bytes | None = None,
        text: str | None = None,
        crop: Box | None = None,
        where: Where | None = None,
        like: str | None = None,
    ) -> Hits:
        """Find the products nearest to a picture, a text or both, or to another product.

        Raises:
            Refused: see its status: 422 for a field that is wrong, 429 where too many queries are in progress, 504
                where it took too long.
        """

        def prepare() -> Query:
            if like is not None:
                return _like(served, like, k, where)
            started = time.perf_counter()
            content = served.prepared(image, text, crop, self.settings.max_pixels)
            self.metrics.stage("prepare", time.perf_counter() - started)
            return Query(served, k, content, where=where)

        try:
            return await self._batcher.submit(prepare, self.settings.timeout_ms / 1000)
        except QueueFull as error:
            raise Refused(429, "queue_full", str(error)) from None
        except TimedOut:
            raise Refused(504, "timeout", f"no answer within {self.settings.timeout_ms:g} ms") from None

    async def lookup(self, served: Served, ids: Sequence[int | str]) -> bytes:
        """Vectors of products as an Arrow IPC stream.

        Returns:
            A stream of one batch: ``item_id`` (int64 or text), ``vector`` (fixed_size_list<float32>[D]; null where
            there is no such product), in the order of the ids; ``moonlib-snapshot`` is in the schema's metadata.

        Raises:
            Refused: ids are of another type than the center's, or too many.
        """
        if len(ids) > self.settings.max_ids:
            raise Refused(422, "too_many", f"ids: at most {self.settings.max_ids:,} at once, got {len(ids):,}", "ids")
        return await asyncio.to_thread(_looked_up, served, ids)

    async def write(self, products: Sequence[Mapping[str, Any]]) -> Upserted:
        """Add products; returns once they are on disk and can be found.

        Raises:
            Refused: 422 where a row is wrong, 503 where another process is writing, 403 where nothing may be written.
        """
        writer = self._writer()
        return await self._written(lambda: writer.upsert(products), "products")

    async def delete(self, ids: Sequence[int | str]) -> Upserted:
        """Delete products; returns once that is on disk and they can't be found any more.

        Raises:
            Refused: see `write`.
        """
        writer = self._writer()
        return await self._written(lambda: writer.delete(list(ids)), "ids")

    def _writer(self) -> Writer:
        if self.writer is None:
            raise Refused(
                403,
                "read_only",
                "this server takes no products: it has no writer",
            )
        return self.writer

    async def _written(self, write: Callable[[], Upserted], field: str) -> Upserted:
        try:
            done = await asyncio.get_running_loop().run_in_executor(self._writing, write)
        except Busy as error:
            raise Refused(503, "writer_busy", str(error)) from None
        except (ValueError, TypeError, pl.exceptions.PolarsError) as error:
            message = str(error)
            message = message if message.startswith(f"{field}: ") else f"{field}: {message}"
            raise Refused(422, "bad_rows", message, field) from None
        await self.refresh()
        return done

    async def refresh(self) -> None:
        """Take up newer products and snapshots; requests in progress stay with what they began with."""
        async with self._refreshing:
            for alias, served in list(self._served.items()):
                try:
                    newer = await asyncio.to_thread(served.refreshed, self._open_encoder)
                    self._served[alias] = newer
                    self.freshness.refreshed(alias, served.view, newer.view)
                    self._failed.pop(alias, None)
                except Exception as error:
                    self.metrics.refresh_failures.inc()
                    if self._failed.get(alias) != repr(error):  # the same twice a second would fill the log
                        log.exception(
                            "alias %s: what it leads to can't be opened; %s is still served", alias, served.view.name
                        )
                    self._failed[alias] = repr(error)
            self._note()

    async def keep_fresh(self) -> None:
        """Call `refresh` again and again."""
        while True:
            await asyncio.sleep(self.settings.refresh_ms / 1000)
            await self.refresh()

    async def send_canaries(self) -> None:
        """Write a canary again and again, if this server may write; see `moonlib.center.canary`."""
        if self.writer is None or not self.settings.canary_seconds:
            return
        while True:
            await asyncio.sleep(self.settings.canary_seconds)
            try:
                await asyncio.get_running_loop().run_in_executor(self._writing, self.writer.send_canary)
            except Busy as error:  # whoever writes gives searches something to find
                log.info("no canary was written: %s", error)
            except Exception:
                log.exception("no canary could be written")

    def close(self) -> None:
        """End the threads, once no request is in progress."""
        self.recall.close()
        self._batcher.close()
        self._writing.shutdown()

    def _note(self) -> None:
        for alias, served in self._served.items():
            self.metrics.products.labels(alias).set(len(served.view))
            self.metrics.sequence.labels(alias).set(served.view.sequence)


def item_id(served: Served, given: str, field: str) -> int | str:
    """An id of a form or a path, of the type that the space's ids have.

    Raises:
        Refused: it is none.
    """
    if served.view.space.ids == "text":
        return given
    if _INTEGER.fullmatch(given) and -(2**63) <= int(given) < 2**63:
        return int(given)
    raise Refused(422, "bad_id", f"{field}: expected an integer, as the products' ids are", field)


def _like(served: Served, like: str, k: int, where: Where | None) -> Query:
    known = item_id(served, like, "like")
    vector = served.view.lookup([known])[0]
    if not vector.any():
        raise Refused(422, "unknown_product", "like: there is no such product, or nothing of it to compare", "like")
    return Query(served, k, vector=vector, where=where, like=known)


def _looked_up(served: Served, ids: Sequence[int | str]) -> bytes:
    view = served.view
    wanted = str if view.space.ids == "text" else int
    wrong = next((i for i, each in enumerate(ids) if type(each) is not wanted), None)
    if wrong is not None:
        kind = "text" if wanted is str else "an integer"
        raise Refused(422, "bad_id", f"ids[{wrong}]: expected {kind}, as the products' ids are", "ids")
    try:
        names = pl.Series(ids, dtype=pl.String if wanted is str else pl.Int64)
    except (ValueError, OverflowError, pl.exceptions.PolarsError):  # a lone surrogate, for one
        raise Refused(422, "bad_id", "ids: one of them is no valid id", "ids") from None
    vectors, there = view.lookup(names), view.has(names)
    width = vectors.shape[1]
    values = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.reshape(-1)), width, mask=pa.array(~np.asarray(there, dtype=bool))
    )
    schema = pa.schema(
        [("item_id", pa.string() if wanted is str else pa.int64()), ("vector", pa.list_(pa.float32(), width))],
        metadata={"moonlib-snapshot": view.name},
    )
    column = names.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema.field(0).type)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        stream.write_batch(pa.record_batch([column, values], schema=schema))
    return sink.getvalue().to_pybytes()


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
