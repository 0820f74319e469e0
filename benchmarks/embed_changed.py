"""Time of `moonlib embed` on a catalogue of which a little changed, beside that of embedding all of it.

    python benchmarks/embed_changed.py            20,000 products, of which 3 % changed and 2 % are new

The encoder is that of recipes/iter3.yaml with fresh weights, fitted on the products themselves. They are those of the
small marketplace, repeated under other ids and titles until there are enough, as a table and a folder of their
pictures, and as a dataset to which the second week is appended. Of a changed product the title, the picture or both
are another's. Both sides are calls of `moonlib.embed` with the encoder at hand, so that neither counts the start of
Python; they take turns. The sides differ in what they find: nothing, or the embedding of the week before.

Ends with ``ratio``: .08 over the share of the time that the changed catalogue takes, appended to a dataset; 1 or more
is the aim.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.table import Table

from moonlib.config import recipe as recipes
from moonlib.data.build import build
from moonlib.data.content import Modalities
from moonlib.data.dataset import Dataset
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import SampleReader
from moonlib.embedding.embed import Contents, hash_contents
from moonlib.embedding.tables import TableReader
from moonlib.inference.catalogue import embed
from moonlib.sources.marketplace.source import Marketplace

LIMIT = 0.08


def catalogue(folder: Path, dataset: Dataset, rows: int, *more: str) -> pl.DataFrame:
    """Products in a table, with more columns than are read, and their pictures in a folder."""
    (folder / "photos").mkdir()
    source = dataset.products.select("item_id", "title", "category", "attributes", "box", *more)
    reader = SampleReader(dataset.directory, "products")
    pictured = set()
    for sample in reader.read(source["item_id"].to_numpy()):
        if sample.image is not None:
            pictured.add(sample.id)
            for copy in range(-(-rows // source.height)):
                # Bytes after the end of a JPEG are not read: equal pictures of different content.
                (folder / "photos" / f"{sample.id}-{copy}.jpg").write_bytes(sample.image + bytes([copy]))
    copies = []
    for copy in range(-(-rows // source.height)):
        name = pl.format("{}-{}.jpg", "item_id", pl.lit(copy))
        image = pl.when(pl.col("item_id").is_in(list(pictured))).then(name)
        title = pl.format("{} {}", "title", pl.lit(copy))
        copies.append(source.with_columns(title=title, image=image, item_id=pl.int_range(pl.len()) + copy * 10_000_000))
    return pl.concat(copies).head(rows)


def next_week(frame: pl.DataFrame, rows: int) -> pl.DataFrame:
    """The first rows of the catalogue with 3 % of them changed; what follows them is new."""
    row = pl.int_range(pl.len())
    known, kind = row < rows, (row * 7919) % 300  # 3 of 300 each
    title = pl.when(known & (kind < 6)).then(pl.format("{} now", "title")).otherwise("title")
    image = pl.when(known & (kind >= 3) & (kind < 9)).then(pl.col("image").shift(-1)).otherwise("image")
    return frame.with_columns(title=title, image=image)


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of the CPUs, worker processes included."""

    def cpu() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in used)

    start, before = time.perf_counter(), cpu()
    work()
    return time.perf_counter() - start, cpu() - before


def main() -> None:
    """Time both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("runs/.data"), help="where datasets are built")
    parser.add_argument("--size", default="small", help="of the marketplace that the products are taken from")
    parser.add_argument("--products", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    dataset = Dataset(Marketplace(options.size).prepare(options.data))
    encoder = recipes.load("iter3").encoder()
    assert encoder is not None
    both = Modalities.parse("rich+image")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        torch.manual_seed(0)
        encoder.setup(dataset.splits.known(dataset.products), folder)
        run = SimpleNamespace(
            encoder=lambda: encoder,
            fingerprint="fresh",
            batch_size=256,
            views="main",
            text_ids=[],
            directory=folder / "run",
            modalities=lambda side: both,
        )
        known = round(options.products * 0.98)
        frame = catalogue(folder, dataset, options.products)
        before, after = frame.head(known), next_week(frame, known)
        changed = after.join(before, on=before.columns, how="anti", nulls_equal=True, maintain_order="left")
        tables = {"week1": before, "week2": after, "news": changed}
        for name, rows in tables.items():
            (folder / name).mkdir()
            rows.write_parquet(folder / name / "products.parquet")

        def embedded(week: str, out: str) -> Path:
            return embed(
                "run",
                folder / week / "products.parquet",
                folder / out,
                images=folder / "photos",
                workers=options.workers,
            )

        def hashed() -> None:
            copy = folder / f"{time.perf_counter_ns()}.arrow"
            quarantine = folder / "quarantine.jsonl"
            rows = TableReader(
                folder / "week2" / "products.parquet", "products", folder / "photos", both, quarantine, copy
            )
            contents = Contents(rows, "product", rows.ids, both, Quarantine(quarantine, len(rows.ids)), 1024)
            hash_contents(contents, copy.with_suffix(".npy"), workers=options.workers)

        datasets = {week: folder / f"{week}.dataset" for week in ("week1", "week2")}
        build(folder / "week1", folder / "photos", datasets["week1"], workers=options.workers)
        build(
            folder / "news",
            folder / "photos",
            datasets["week2"],
            workers=options.workers,
            append=datasets["week1"],
        )

        def appended(week: str, out: str) -> Path:
            return embed("run", datasets[week], folder / out, workers=options.workers)

        ways = {"a table and photos": embedded, "a dataset": appended}
        with mock.patch("moonlib.inference.catalogue.opened", lambda _: run):
            for name, way in ways.items():
                way("week1", f"week1 {name}")
            taken: dict[str, list[tuple[float, float]]] = {}
            for round_ in range(options.rounds):
                for name, way in ways.items():
                    whole, changed = folder / f"whole{round_} {name}", folder / f"changed{round_} {name}"
                    shutil.copytree(folder / f"week1 {name}", changed)
                    for kind, out in (("all", whole), ("what changed", changed)):
                        seconds = measured(lambda: way("week2", out.name))  # noqa: B023
                        taken.setdefault(f"{kind}, from {name}", []).append(seconds)
                    difference = float(
                        np.abs(np.load(whole / "products.npy") - np.load(changed / "products.npy")).max()
                    )
                    shutil.rmtree(whole)
                    shutil.rmtree(changed)
                taken.setdefault("hash all, from a table and photos", []).append(measured(hashed))
    table = Table("embed", "seconds", "CPU seconds", *(f"round {n + 1}" for n in range(options.rounds)))
    for name, values in taken.items():
        seconds, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        table.add_row(name, f"{seconds:.2f}", f"{cpu:.2f}", *(f"{clock:.2f}" for clock, _ in values))
    Console(width=120).print(table)
    print(f"{options.products:,} products of marketplace-{options.size}, {options.workers} workers")
    for name in ways:
        pairs = list(zip(taken[f"what changed, from {name}"], taken[f"all, from {name}"], strict=True))
        shares = [statistics.median(part[i] / whole[i] for part, whole in pairs) for i in (0, 1)]
        print(f"share of embedding all, from {name}: {shares[0]:.3f} of the time, {shares[1]:.3f} of the CPU seconds")
    print(f"largest difference of a value from embedding all: {difference:.1e}")
    print(f"ratio: {LIMIT / shares[0]:.2f}")


if __name__ == "__main__":
    main()
