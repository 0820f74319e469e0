"""Time of an upsert into a center of which a little changed, and from an upsert to its being searchable.

    python benchmarks/upsert.py                                              20,000 products, and 50 a second for 300 s
    python benchmarks/upsert.py --size tiny --products 800 --seconds 10      shortened

The encoder is that of recipes/iter3.yaml with fresh weights; the products are those of a marketplace, repeated under
other ids and titles, as a table and a folder of their pictures. Of 1 % of them the title changes.

- Upsert: the changed rows alone, and the whole feed, beside `moonlib.embed` of all products. They take turns in one
  process, with as many workers each, so that nothing counts the start of Python.
- Searchable: products arrive at a steady rate; the writer takes all that have arrived, upserts them, and a view finds
  them. The bound does the same with encoding them and one write and fsync of their vectors alone. The two take turns,
  each with a clock of its own that stands still meanwhile and skips the waiting for the next product.

Ends with ``ratio``: the least of .02 over the share of the time that the changed rows take, .1 over that of the feed,
1.5 over the share of the bound's 99th percentile, and 5 s over the 99th percentile; 1 or more is the aim.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import torch
from embed_changed import catalogue, measured
from rich.console import Console
from rich.table import Table

from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import EXPORT
from moonlib.center.aliases import Alias, Target, write_aliases
from moonlib.center.layout import SPACES
from moonlib.center.record import make_record
from moonlib.center.space import Space, space_name
from moonlib.center.writing import make_center
from moonlib.config import recipe as recipes
from moonlib.data.content import Modalities, compose
from moonlib.data.dataset import Dataset
from moonlib.inference.catalogue import embed
from moonlib.inference.center import Center
from moonlib.sources.marketplace.source import Marketplace

FINGERPRINT = "fresh0fresh0fresh0"


def new_center(path: Path, run: Any, encoder: Any) -> Center:
    """A center with one space, of an encoder that no run has trained."""
    make_center(path)
    directory = path / SPACES / space_name(FINGERPRINT, encoder.dim, "int8")
    space = Space(directory, FINGERPRINT, encoder.dim, "int8", {"title": "text", "price": "float"})
    make_record(space.record)
    space.save()
    space.encoder.mkdir()
    # As `moonlib export` writes it; `publish` reads the width, and nothing opens the encoder.
    about = {"moonlib_export": 2, "encoder": {}, "fingerprint": FINGERPRINT, "reads": {}, "batch_size": 256}
    write_json(space.encoder / EXPORT, about | {"versions": {}, "dim": encoder.dim})
    write_aliases(path, {"live": Alias(Target(space.name, 0))})
    center = Center(path)
    center._exports[space.name], center._encoders[space.name] = run, encoder
    return center


class Queue:
    """Products that arrive at a steady rate, and one worker that takes all that have arrived.

    Args:
        rate: products per second.
        total: how many arrive.
        most: how many the worker takes at once.
    """

    def __init__(self, rate: float, total: int, most: int = 256) -> None:
        self.arrivals, self.most = np.arange(total) / rate, most
        self.now, self.done = 0.0, 0
        self.latencies: list[float] = []

    def step(self, prepare: Callable[[range], pl.DataFrame], work: Callable[[pl.DataFrame], None]) -> None:
        """Work on all products that have arrived; to prepare them takes no time."""
        self.now = max(self.now, float(self.arrivals[self.done]))
        end = min(int(np.searchsorted(self.arrivals, self.now, side="right")), self.done + self.most)
        part = prepare(range(self.done, end))
        start = time.perf_counter()
        work(part)
        self.now += time.perf_counter() - start
        self.latencies += (self.now - self.arrivals[self.done : end]).tolist()
        self.done = end

    @property
    def finished(self) -> bool:
        """Whether all were worked on."""
        return self.done == len(self.arrivals)

    def percentiles(self) -> tuple[float, float]:
        """Median and 99th percentile of the seconds from arrival to answer."""
        return float(np.percentile(self.latencies, 50)), float(np.percentile(self.latencies, 99))


def main() -> None:
    """Time all and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/.data"), help="where datasets are built")
    parser.add_argument("--size", default="small", help="of the marketplace that the products are taken from")
    parser.add_argument("--products", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rate", type=float, default=50, help="products per second (50)")
    parser.add_argument("--seconds", type=float, default=300, help="for which they arrive (300)")
    options = parser.parse_args()
    dataset = Dataset(Marketplace(options.size).prepare(options.data))
    encoder = recipes.load("iter3").encoder()
    assert encoder is not None
    both = Modalities.parse("rich+image")
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        torch.manual_seed(0)
        encoder.setup(dataset.splits.known(dataset.products), folder)
        encoder.eval()
        run = SimpleNamespace(
            encoder=lambda: encoder,
            fingerprint=FINGERPRINT,
            batch_size=256,
            views="main",
            text_ids=[],
            directory=folder / "run",
            modalities=lambda side: both,
        )
        frame = catalogue(folder, dataset, options.products, "price")
        changing = pl.int_range(pl.len()) % 100 == 7
        center = new_center(folder / "center", run, encoder)
        frame.write_parquet(folder / "feed.parquet")
        center.upsert(folder / "feed.parquet", folder / "photos", workers=options.workers)
        center.publish()
        taken: dict[str, list[tuple[float, float]]] = {
            "embed all": [],
            "upsert changed rows": [],
            "upsert the feed": [],
        }
        for number in range(options.rounds):
            with mock.patch("moonlib.inference.catalogue.opened", lambda _: run):
                taken["embed all"].append(
                    measured(
                        lambda: embed(
                            "run",
                            folder / "feed.parquet",
                            folder / f"whole{number}",  # noqa: B023
                            images=folder / "photos",
                            workers=options.workers,
                        )
                    )
                )
            for kind in ("upsert changed rows", "upsert the feed"):
                title = pl.when(changing).then(pl.format("{} {} {}", "title", pl.lit(kind), pl.lit(number)))
                frame = frame.with_columns(title=title.otherwise("title"))
                file = folder / "next.parquet"
                (frame if kind == "upsert the feed" else frame.filter(changing)).write_parquet(file)
                taken[kind].append(
                    measured(lambda: center.upsert(file, folder / "photos", workers=options.workers))  # noqa: B023
                )
        medians = {
            kind: tuple(statistics.median(each) for each in zip(*all_, strict=True)) for kind, all_ in taken.items()
        }
        table = Table("of " + f"{frame.height:,} products, 1 % changed", "seconds", "share", "CPU seconds", "share")
        whole = medians["embed all"]
        for kind, (seconds, cpu) in medians.items():
            table.add_row(kind, f"{seconds:.2f}", f"{seconds / whole[0]:.4f}", f"{cpu:.2f}", f"{cpu / whole[1]:.4f}")
        console.print(table)
        shares = [medians[kind][0] / whole[0] for kind in ("upsert changed rows", "upsert the feed")]

        rows = frame.with_row_index().sample(fraction=1, shuffle=True, seed=0).drop("index")
        photos = {name: (folder / "photos" / name).read_bytes() for name in rows["image"].drop_nulls().unique()}
        total = round(options.rate * options.seconds)
        live, bound = Queue(options.rate, total), Queue(options.rate, total)
        vectors = (folder / "vectors").open("ab", buffering=0)
        torch.set_num_threads(1)

        def products(numbers: range) -> pl.DataFrame:
            part = rows[[number % rows.height for number in numbers]].unique(
                "item_id", keep="last", maintain_order=True
            )
            title = pl.format("{} {}", "title", pl.lit(numbers.start))
            pictures = pl.Series("image", [photos.get(name or "") for name in part["image"]], dtype=pl.Binary)
            return part.with_columns(title, pictures)

        def upsert(part: pl.DataFrame) -> None:
            center.upsert(part)
            if not center.view.has(part["item_id"]).all():
                raise AssertionError("an upserted product is not there")

        def encode_and_sync(part: pl.DataFrame) -> None:
            # As Arrow has them, attributes included, which is how the center reads them too.
            given = part.to_arrow(compat_level=pl.CompatLevel.oldest()).to_pylist()
            for row in given:
                row["attributes"] = dict(row["attributes"] or ())
            contents = [compose(row, row["image"], both) for row in given]
            with torch.inference_mode():
                found = encoder(encoder.preprocessor(contents, "product")).numpy()
            vectors.write(found.tobytes())
            os.fsync(vectors.fileno())

        console.print(f"{total:,} products at {options.rate:g} a second")
        while not (live.finished and bound.finished):
            for queue, work in ((live, upsert), (bound, encode_and_sync)):
                if not queue.finished:
                    queue.step(products, work)
        vectors.close()
        table = Table("from arrival to answer", "median ms", "p99 ms")
        for name, queue in (("upsert, and found in a view", live), ("encode + fsync", bound)):
            middle, last = queue.percentiles()
            table.add_row(name, f"{1000 * middle:.1f}", f"{1000 * last:.1f}")
        console.print(table)
        last, limit = live.percentiles()[1], bound.percentiles()[1]
        print(f"ratio: {min(0.02 / shares[0], 0.1 / shares[1], 1.5 * limit / last, 5 / last):.2f}")


if __name__ == "__main__":
    main()
