"""Peak memory of `moonlib data build`, `fit` and `embed` as the catalogue grows.

    python benchmarks/memory.py                      20,000 and 200,000 products

The catalogue is the tiny marketplace's products again and again under new ids; queries, searches and impressions stay.
Measured is RssAnon, what a process has taken and cannot give back, of the main process and of its largest worker
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
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from moonlib.data.dataset import Dataset
from moonlib.sources.marketplace.source import Marketplace
from moonlib.testing.data import write_pictures

FIT = [
    "--stages.pretrain.trainer.max_steps=30",
    "--stages.posttrain.trainer.max_steps=30",
]


def shop(folder: Path, size: int, tiny: Dataset) -> Path:
    """A folder of tables with ``size`` products, and the pictures that their rows name."""
    directory = folder / f"shop-{size}"
    tables = {name: tiny.table(name) for name in ("products", "queries", "users", "searches", "impressions")}
    for name in ("products", "queries"):
        tables[name] = write_pictures(tiny, name, tables[name], directory / "photos")
    products = tables["products"]
    first = int(products["item_id"].max()) + 1  # type: ignore[arg-type]
    more = pl.concat([products] * (-(-size // len(products)) - 1)).head(size - len(products)).with_row_index("new")
    new = pl.col("new").cast(pl.Int64) + first
    tables["products"] = pl.concat([products, more.with_columns(item_id=new, spu_id=new).drop("new")])
    for name, frame in tables.items():
        frame.write_parquet(directory / f"{name}.parquet")
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
    parser.add_argument("--sizes", type=int, nargs=2, default=[20_000, 200_000], help="of the catalogue, in products")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="moonlib-memory-"))
    tiny = Dataset(Marketplace("tiny").prepare(folder))
    table = Table("command", "products", "main MB", "largest worker MB", "seconds")
    own: dict[str, list[float]] = {"build": [], "fit": [], "embed": []}
    for size in arguments.sizes:
        tables, data = shop(folder, size, tiny), folder / f"{size}"
        runs = folder / f"runs-{size}"
        moonlib = [sys.executable, "-m", "moonlib"]
        source = f"--data={{class_path: shards, init_args: {{path: {data}}}}}"
        commands = {
            "build": [*moonlib, "data", "build", str(tables), "--images", str(tables / "photos"), "--out", str(data)],
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
