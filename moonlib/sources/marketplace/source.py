"""A simulated marketplace as a source: no download, no account, and the truth is known."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import polars as pl
import pyarrow as pa

from moonlib.data.reader import verify
from moonlib.data.shards import build_once, write_dataset
from moonlib.sources.marketplace.album import fill_album
from moonlib.sources.marketplace.records import SPLITS, Records
from moonlib.sources.marketplace.world import SIZES, VERSION, World
from moonlib.sources.source import Source

IDS = ("int64", "text")

PICTURES, TRAFFIC = "pictures", "traffic"
"""Folders that only an unfinished dataset has."""


class Marketplace(Source):
    """A seeded simulation in which shoppers act on what products are, never on a representation of them.

    Its tables look like any shop's. The truth behind them stands in ``truth/``, which training never reads:

    - ``products.arrow``: item_id, spu_id, latent, quality, popularity, true box
    - ``queries.arrow``: query_id, latent of what the query tells, item_id and spu_id in mind, true box
    - ``impressions.arrow``: search_id, item_id, p_click, p_click_no_position, in the order of the impressions
    - ``duplicates.arrow``: item_id, and the original_id of the listing that it repeats with another photo and title
    - ``titles.arrow``: item_id, the attributes it has wrong, whether it is stuffed, its true category

    Latents have unit length and live in one space: the cosine of a query's and a product's is how well they match.

    A build goes on where a killed one of the same version, size and seed has stopped: it simulates again, and draws no
    picture twice.

    Args:
        size: tiny (300 products, for tests), small (8,000), medium (50,000) or large (200,000, six million
            impressions).
        seed: everything is a function of the simulation's version, the size and the seed.
        ids: ``int64``, or ``text`` for ids as many shops have them (``SKU-0A1B…``) of products, SPUs, users, queries,
            searches and merchants; the world is the same. The tables and ``truth/`` then hold their numbers, as those
            of every dataset with text ids do; `moonlib.data.dataset.Dataset.ids` knows the texts.

    Example:
        >>> Marketplace("tiny", seed=3)
        Marketplace(size='tiny', seed=3)
    """

    def __init__(
        self,
        size: Literal["tiny", "small", "medium", "large"] = "small",
        seed: int = 0,
        ids: Literal["int64", "text"] = "int64",
    ) -> None:
        if size not in SIZES:
            raise ValueError(f"marketplace: size {size!r} is none of {', '.join(SIZES)}")
        if seed < 0:
            raise ValueError(f"marketplace: seed {seed} is negative; take 0 or more")
        if ids not in IDS:
            raise ValueError(f"marketplace: ids {ids!r} is none of {', '.join(IDS)}")
        self.size, self.seed, self.ids = size, seed, ids

    def __repr__(self) -> str:
        ids = "" if self.ids == "int64" else f", ids={self.ids!r}"
        return f"Marketplace(size={self.size!r}, seed={self.seed}{ids})"

    def prepare(self, cache: Path, workers: int | None = None) -> Path:
        """Return the dataset's directory in `cache`, simulating it first where it is missing.

        Args:
            cache: where datasets may be built.
            workers: processes that draw and write; None takes one per CPU where there is enough to do. The result
                does not depend on it.
        """
        suffix = "" if self.ids == "int64" else f"-{self.ids}"
        directory = cache / f"marketplace-v{VERSION}-{self.size}-{self.seed}{suffix}"
        build = partial(_build, source=self, name=f"marketplace-{self.size}-{self.seed}{suffix}", workers=workers)
        build_once(directory, build, resume=True, scratch=(PICTURES, TRAFFIC))
        for name in (PICTURES, TRAFFIC):  # of a process that was killed when its dataset was complete
            shutil.rmtree(directory / name, ignore_errors=True)
        verify(directory)
        return directory


def _build(directory: Path, source: Marketplace, name: str, workers: int | None) -> None:
    traffic = directory / TRAFFIC
    shutil.rmtree(traffic, ignore_errors=True)
    traffic.mkdir()
    world = World.simulate(source.size, source.seed, text_ids=source.ids == "text", folder=traffic)
    version = f"{VERSION}-{source.size}-{source.seed}"
    album, boxes = fill_album(world.shots(), directory / PICTURES, version, workers)
    records = Records(world, boxes)
    truth = directory / "truth"
    truth.mkdir()
    for table, parts in records.truth().items():
        _write_parts(truth / f"{table}.arrow", parts)
    tables = records.tables()
    write_dataset(
        directory,
        tables,
        album,
        SPLITS,
        name=name,
        version=str(VERSION),
        workers=workers,
        resume=True,
        events=records.events(tables),
    )


def _write_parts(file: Path, parts: Iterator[pl.DataFrame]) -> None:
    """Write a table that comes in parts, in plain Arrow types, which readers other than polars know."""
    first = next(parts).to_arrow(compat_level=pl.CompatLevel.oldest())
    with pa.ipc.new_file(file, first.schema) as writer:
        writer.write_table(first)
        for part in parts:
            writer.write_table(part.to_arrow(compat_level=pl.CompatLevel.oldest()))
