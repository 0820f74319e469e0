"""Rows per second of GAUC: in memory, streaming and by external sort, beside FuxiCTR's ``gAUC``.

    python benchmarks/gauc.py                  100,000 rows beside the peer, then 10 million rows in bounded memory
    python benchmarks/gauc.py --skip-peer      the second part only
    python benchmarks/gauc.py --skip-large --peer-rows 20000    quick: the peer's 100,000 take half a minute a round

Rows of users of about ten impressions, one in ten clicked, scores rounded to six digits, so that some tie. Beside the
peer: the same arrays to both, of which the values must agree (its convention is ours: impressions, single-class users
dropped); rounds take turns, medians. It evaluates user by user in half as many processes as there are cores. Needs
fuxictr; only its ``fuxictr.metrics`` is imported.

At large: the rows lie in files, in random order and sorted by user, and are read in chunks; each way runs in a process
of its own, whose peak of resident memory includes Python and torch themselves (the row ``nothing``). All must agree to
1e-12. ``gauc`` and ``auc`` read the rows whole.

Ends with ``ratio``: time of the peer over ours, in memory.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import moonlib.compat  # noqa: F401
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from moonlib.metrics.auc import auc
from moonlib.metrics.gauc import gauc
from moonlib.metrics.streaming import external_auc, external_gauc, streaming_gauc

ROWS_OF_A_USER = 10
CHUNK = 1_000_000
COLUMNS = ("scores", "labels", "users")


def make(n: int) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Scores, labels and users of so many rows, in random order."""
    rng = np.random.default_rng(0)
    labels = rng.random(n) < 0.1
    scores = (rng.random(n) + 0.2 * labels).round(6)
    return scores, labels, rng.integers(max(1, n // ROWS_OF_A_USER), size=n)


def peer() -> Callable[[tuple[NDArray, ...]], float]:
    """FuxiCTR's gAUC of scores, labels and users."""
    try:
        from fuxictr.metrics import evaluate_metrics
    except ImportError as error:
        raise SystemExit(
            f"the peer cannot be imported ({error}): pip install --no-deps fuxictr scikit-learn, or pass --skip-peer"
        ) from error
    return lambda rows: float(evaluate_metrics(rows[1].astype(int), rows[0], ["gAUC"], group_id=rows[2])["gAUC"])


def seconds(work: Callable[[], float]) -> tuple[float, float]:
    """How long it took, and its value."""
    start = time.perf_counter()
    value = work()
    return time.perf_counter() - start, value


def beside_the_peer(console: Console, n: int, rounds: int) -> float:
    """Time both and print the table.

    Returns:
        Time of the peer over ours.
    """
    rows, theirs = make(n), peer()
    tensors = tuple(torch.from_numpy(column) for column in rows)
    sides: dict[str, Callable[[], float]] = {
        "moonlib": lambda: gauc(*tensors).item(),
        "FuxiCTR": lambda: theirs(rows),
    }
    found = {name: [seconds(side)] for name, side in sides.items()}
    for _ in range(rounds - 1):
        for name, side in sides.items():
            found[name].append(seconds(side))
    table = Table("GAUC in memory", "rows", "value", "seconds", "rows / s")
    times = {name: statistics.median(took for took, _ in results) for name, results in found.items()}
    for name, took in times.items():
        table.add_row(name, f"{n:,}", f"{found[name][0][1]:.12f}", f"{took:.3f}", f"{n / took:,.0f}")
    console.print(table)
    assert math.isclose(found["moonlib"][0][1], found["FuxiCTR"][0][1], rel_tol=1e-9), "the two values differ"
    return times["FuxiCTR"] / times["moonlib"]


def write(folder: Path, n: int) -> None:
    """Write the rows in random order and sorted by user."""
    rows = make(n)
    order = np.argsort(rows[2], kind="stable")
    for name, column in zip(COLUMNS, rows, strict=True):
        np.save(folder / f"{name}.npy", column)
        np.save(folder / f"sorted_{name}.npy", column[order])


def read(folder: Path, prefix: str, chunk: int, *names: str) -> Iterator[tuple[Tensor, ...]]:
    """The rows of files, in chunks that are read as they are asked for."""
    n = len(np.load(folder / f"{prefix}{names[0]}.npy", mmap_mode="r"))
    for start in range(0, n, chunk):
        # Opened anew for each chunk: the pages of a map count as resident for as long as it stands.
        parts = (np.load(folder / f"{prefix}{name}.npy", mmap_mode="r")[start : start + chunk] for name in names)
        yield tuple(torch.from_numpy(np.array(part)) for part in parts)


def measure(way: str, folder: Path, n: int) -> tuple[float, float, float]:
    """Run one way.

    Returns:
        Seconds, peak of resident memory in GB, and the value.
    """
    ways: dict[str, Callable[[], float]] = {
        "nothing": lambda: math.nan,
        "gauc": lambda: gauc(*next(read(folder, "", n, *COLUMNS))).item(),
        "streaming_gauc": lambda: streaming_gauc(read(folder, "sorted_", CHUNK, *COLUMNS)).item(),  # type: ignore[arg-type]
        "external_gauc": lambda: external_gauc(read(folder, "", CHUNK, *COLUMNS), directory=folder).item(),  # type: ignore[arg-type]
        "auc": lambda: auc(*next(read(folder, "", n, *COLUMNS[:2]))).item(),
        "external_auc": lambda: external_auc(read(folder, "", CHUNK, *COLUMNS[:2]), directory=folder).item(),  # type: ignore[arg-type]
    }
    took, value = seconds(ways[way])
    return took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, value


def at_large(console: Console, n: int, directory: Path | None) -> None:
    """Run all ways on many rows and print the table."""
    # A fresh process each, while this one is still small: Linux counts the parent's memory to its child's peak.
    with (
        tempfile.TemporaryDirectory(dir=directory) as scratch,
        multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool,
    ):
        folder = Path(scratch)
        pool.apply(write, (folder, n))
        groups = (("nothing",), ("gauc", "streaming_gauc", "external_gauc"), ("auc", "external_auc"))
        found = {way: pool.apply(measure, (way, folder, n)) for group in groups for way in group}
    table = Table("way", "rows", "value", "seconds", "rows / s", "peak GB")
    for way, (took, peak, value) in found.items():
        if way == "nothing":
            table.add_row(way, "", "", "", "", f"{peak:.2f}")
        else:
            table.add_row(way, f"{n:,}", f"{value:.12f}", f"{took:.1f}", f"{n / took:,.0f}", f"{peak:.2f}")
    console.print(table)
    for group in groups[1:]:
        values = [found[way][2] for way in group]
        assert max(values) - min(values) < 1e-12, f"{', '.join(group)} differ: {values}"


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip-peer", action="store_true")
    parser.add_argument("--rows", type=int, default=10_000_000, help="at large")
    parser.add_argument("--skip-large", action="store_true")
    parser.add_argument("--directory", type=Path, help="for files, of about 60 bytes per row at large")
    arguments = parser.parse_args()

    console = Console() if Console().is_terminal else Console(width=120)
    if not arguments.skip_large:
        at_large(console, arguments.rows, arguments.directory)
    if not arguments.skip_peer:
        print(f"ratio: {beside_the_peer(console, arguments.peer_rows, arguments.rounds):.2f}")


if __name__ == "__main__":
    main()
