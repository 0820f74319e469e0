"""Peak memory of `moonlib fit` and `moonlib embed` as the catalogue grows.

    python benchmarks/memory.py                      10,000 and 100,000 products

The catalogue is the tiny marketplace's products again and again under new ids; queries, searches and impressions stay.
Measured is RssAnon, what a process has taken and cannot give back, of the main process and of its largest loader
process, fifty times a second: pages of mapped files are the system's, which drops them where memory is short.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from moonlib.data.dataset import Dataset
from moonlib.data.reader import SampleReader
from moonlib.data.shards import write_dataset
from moonlib.data.tables import Tables
from moonlib.sources.marketplace.source import Marketplace

FIT = [
    "--stages.pretrain.trainer.max_steps=30",
    "--stages.posttrain.trainer.max_steps=30",
]


@dataclass
class Repeated:
    """Reads the picture that a repeated product shares with the one it repeats; picklable."""

    directory: Path
    readers: dict[str, SampleReader] = field(default_factory=dict)

    def __call__(self, table: str, image: str) -> bytes:
        if table not in self.readers:
            self.readers[table] = SampleReader(self.directory, table)
        found = self.readers[table].read(np.array([int(image)]))[0].image
        assert found is not None
        return found


def catalogue(folder: Path, size: int, tiny: Dataset) -> Path:
    """A dataset of ``size`` products."""
    directory = folder / f"{size}"
    if directory.exists():
        return directory
    tables = {name: tiny.table(name) for name in ("products", "queries", "users", "searches", "impressions")}
    for name, key in (("products", "item_id"), ("queries", "query_id")):
        there = pl.col("image").is_not_null()
        tables[name] = tables[name].with_columns(image=pl.when(there).then(pl.col(key).cast(pl.String)))
    products = tables["products"]
    first = int(products["item_id"].max()) + 1  # type: ignore[arg-type]
    more = pl.concat([products] * (-(-size // len(products)) - 1)).head(size - len(products)).with_row_index("new")
    shifted = more.with_columns(
        item_id=pl.col("new").cast(pl.Int64) + first, spu_id=pl.col("new").cast(pl.Int64) + first
    )
    tables["products"] = pl.concat([products, shifted.drop("new")])
    partial = folder / f"{size}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    write_dataset(
        partial, Tables(**tables), Repeated(tiny.directory), tiny.splits, name=f"repeated-{size}", version="1"
    )
    partial.rename(directory)
    return directory


def anonymous(pid: str) -> float:
    """RssAnon of a process in MB, 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0.0)


def peaks(command: list[str]) -> tuple[float, float, float]:
    """Run a command; return the peak of its process and of its largest child in MB, and its seconds."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    own = largest = 0.0
    over = threading.Event()

    def watch() -> None:
        nonlocal own, largest
        while not over.wait(0.02):
            own = max(own, anonymous(str(process.pid)))
            try:
                tasks = list(Path(f"/proc/{process.pid}/task").iterdir())
                children = [child for task in tasks for child in (task / "children").read_text().split()]
            except OSError:
                children = []
            largest = max([largest, *map(anonymous, children)])

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    over.set()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return own, largest, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs=2, default=[10_000, 100_000], help="of the catalogue, in products")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="moonlib-memory-"))
    tiny = Dataset(Marketplace("tiny").prepare(folder))
    table = Table("command", "products", "main MB", "largest loader MB", "seconds")
    own: dict[str, list[float]] = {"fit": [], "embed": []}
    for size in arguments.sizes:
        data = catalogue(folder, size, tiny)
        runs = folder / f"runs-{size}"
        moonlib = [sys.executable, "-m", "moonlib"]
        source = f"--data={{class_path: shards, init_args: {{path: {data}}}}}"
        commands = {
            "fit": [*moonlib, "fit", "--config", "iter2", "--runs", str(runs), source, *FIT],
            "embed": [
                *moonlib,
                "embed",
                str(runs / "iter2"),
                "--products",
                str(data),
                "--out",
                str(folder / f"out-{size}"),
            ],
        }
        for name, command in commands.items():
            main_process, loader, seconds = peaks(command)
            own[name].append(main_process)
            table.add_row(name, f"{size:,}", f"{main_process:.0f}", f"{loader:.0f}", f"{seconds:.0f}")
    Console(width=100).print(table)
    shutil.rmtree(folder)
    for name, (small, large) in own.items():
        print(f"{name}: {large - small:+.0f} MB for {arguments.sizes[1] - arguments.sizes[0]:,} products more")
    print(f"ratio: {max(large / small for small, large in own.values()):.2f}")


if __name__ == "__main__":
    main()
