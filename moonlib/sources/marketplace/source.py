"""A simulated marketplace as a source: no download, no account, and the truth is known."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Literal

import polars as pl

from moonlib.data.reader import verify
from moonlib.data.shards import build_once, write_dataset
from moonlib.sources.marketplace.album import fill_album
from moonlib.sources.marketplace.records import SPLITS, Records
from moonlib.sources.marketplace.world import SIZES, VERSION, World
from moonlib.sources.source import Source


class Marketplace(Source):
    """A seeded simulation in which shoppers act on what products are, never on a representation of them.

    Its tables look like any shop's. The truth behind them stands in ``truth/``, which training never reads:

    - ``products.arrow``: item_id, spu_id, latent, quality, popularity, true box
    - ``queries.arrow``: query_id, latent of what the query tells, item_id and spu_id in mind, true box
    - ``impressions.arrow``: search_id, item_id, p_click, p_click_no_position, in the order of the impressions
    - ``duplicates.arrow``: item_id, and the original_id of the listing that it repeats with another photo and title
    - ``titles.arrow``: item_id, the attributes it has wrong, whether it is stuffed, its true category

    Latents have unit length and live in one space: the cosine of a query's and a product's is how well they match.

    Args:
        size: tiny (300 products, for tests), small (8,000) or medium (50,000).
        seed: everything is a function of the simulation's version, the size and the seed.

    Example:
        >>> Marketplace("tiny", seed=3)
        Marketplace(size='tiny', seed=3)
    """

    def __init__(self, size: Literal["tiny", "small", "medium"] = "small", seed: int = 0) -> None:
        if size not in SIZES:
            raise ValueError(f"marketplace: size {size!r} is none of {', '.join(SIZES)}")
        if seed < 0:
            raise ValueError(f"marketplace: seed {seed} is negative; take 0 or more")
        self.size, self.seed = size, seed

    def __repr__(self) -> str:
        return f"Marketplace(size={self.size!r}, seed={self.seed})"

    def prepare(self, cache: Path) -> Path:
        """Return the dataset's directory in `cache`, simulating it first where it is missing."""
        name = f"marketplace-v{VERSION}-{self.size}-{self.seed}"
        directory = build_once(cache / name, partial(_build, size=self.size, seed=self.seed))
        verify(directory)
        return directory


def _build(directory: Path, size: str, seed: int) -> None:
    world = World.simulate(size, seed)
    pictures = directory / "pictures"
    pictures.mkdir()
    album, boxes = fill_album(world.shots(), pictures)
    records = Records(world, boxes)
    (directory / "truth").mkdir()
    for name, frame in records.truth().items():
        # Plain Arrow types, which readers other than polars know.
        frame.write_ipc(directory / "truth" / f"{name}.arrow", compat_level=pl.CompatLevel.oldest())
    # The pictures lie ready, so that more processes would bring nothing.
    name = f"marketplace-{size}-{seed}"
    write_dataset(directory, records.tables(), album, SPLITS, name=name, version=str(VERSION), workers=1)
    shutil.rmtree(pictures)
