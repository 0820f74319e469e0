"""The search unit: the top 50 of 10,000 behaviours per row, beside gather, float and matmul.

    python benchmarks/long_sequence.py
    python benchmarks/long_sequence.py --batch 32 --rounds 1      quick

A batch of 256 targets, each with behaviours drawn at random from a million int8 vectors of 128 dimensions in a memory
map, as they stand after training. The other side is what one writes in torch: gather all vectors, make floats of them,
multiply, divide by the lengths, topk. Both choose the same behaviours; rounds take turns, medians.

Then the same for 1,000 to 100,000 behaviours, alone. The floor is the time in which this machine copies the chosen
int8 rows block by block and does nothing else: random reads of 128 bytes, with numpy's `take`, the fastest found. Peak
memory is what the call adds to the resident memory of a process of its own, over the bytes of the gathered int8
vectors, B * L * D. Ends with ``ratio``: the other side's time over ours at 10,000.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from moonlib.representations.similarity_topk import BEHAVIOURS_AT_ONCE, similarity_topk
from moonlib.representations.store import Representations

DIM, KEPT = 128, 50
LENGTHS = (1_000, 3_000, 10_000, 30_000, 100_000)
Rows = NDArray[np.int64]


def write_store(directory: Path, n: int) -> None:
    """Write n int8 vectors, in blocks."""
    rng = np.random.default_rng(0)
    np.save(directory / "store.ids.npy", np.arange(n))
    vectors = np.lib.format.open_memmap(directory / "store.npy", mode="w+", dtype=np.int8, shape=(n, DIM))
    for start in range(0, n, 65_536):
        vectors[start : start + 65_536] = rng.integers(-127, 128, vectors[start : start + 65_536].shape, dtype=np.int8)
    vectors.flush()


def open_store(directory: Path) -> Representations:
    """The store; copied on write, since torch wants no memory that cannot be written."""
    return Representations(np.load(directory / "store.ids.npy"), np.load(directory / "store.npy", mmap_mode="c"))


def batch_of(n: int, batch: int, length: int) -> tuple[Rows, Rows]:
    """Rows of the targets [B] and of their behaviours [B, L]."""
    rng = np.random.default_rng(length)
    return rng.integers(0, n, batch), rng.integers(0, n, (batch, length))


def ours(store: Representations, target: Rows, behaviours: Rows) -> Rows:
    """The search unit."""
    return similarity_topk(store, target, behaviours, np.ones(behaviours.shape, dtype=bool), KEPT)


def plain(store: Representations, target: Rows, behaviours: Rows) -> Rows:
    """Gather, float, matmul, topk."""
    all_vectors = torch.from_numpy(store.vectors)
    vectors = all_vectors[torch.from_numpy(behaviours)].float()
    wanted = torch.nn.functional.normalize(all_vectors[torch.from_numpy(target)].float(), dim=1)
    cosines = torch.bmm(vectors, wanted.unsqueeze(2)).squeeze(2) / vectors.norm(dim=2)
    return cosines.topk(min(KEPT, behaviours.shape[1]), dim=1).indices.sort(dim=1).values.numpy()


def floor(store: Representations, target: Rows, behaviours: Rows) -> None:
    """Copy the rows that have to be read, block by block."""
    stored = np.empty((BEHAVIOURS_AT_ONCE, DIM), dtype=np.int8)
    places = behaviours.ravel()
    for start in range(0, len(places), BEHAVIOURS_AT_ONCE):
        part = places[start : start + BEHAVIOURS_AT_ONCE]
        np.take(store.vectors, part, axis=0, out=stored[: len(part)], mode="clip")


def seconds(work: Callable[..., object], *args: object) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work(*args)
    return time.perf_counter() - start


def peak(directory: Path, batch: int, length: int, side: str) -> float:
    """Bytes that a call adds to a process's peak of resident memory, the store itself not counted."""
    store = open_store(directory)
    store.vectors.max()  # every page of the map is resident from here on
    target, behaviours = batch_of(len(store.ids), batch, length)
    work = {"moonlib": ours, "plain": plain}[side]
    work(store, target[:1], behaviours[:1, :KEPT])  # what the libraries allocate once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work(store, target, behaviours)
    return 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def main() -> None:
    """Time both sides and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    console = Console() if Console().is_terminal else Console(width=120)
    n, batch = arguments.vectors, arguments.batch

    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        write_store(directory, n)
        # Fresh processes, and now: Linux counts the parent's memory to its child's peak.
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            peaks = {side: pool.apply(peak, (directory, batch, 10_000, side)) for side in ("moonlib", "plain")}
        store = open_store(directory)
        target, behaviours = batch_of(n, batch, 10_000)
        np.testing.assert_array_equal(ours(store, target, behaviours), plain(store, target, behaviours))
        times: dict[Callable[..., object], list[float]] = {plain: [], ours: []}
        for _ in range(arguments.rounds):
            for work in times:
                times[work].append(seconds(work, store, target, behaviours))
        medians = {work: statistics.median(found) for work, found in times.items()}
        table = Table(f"top {KEPT} of 10,000, batch {batch}", "seconds", "behaviours / s", "peak / int8 bytes")
        for name, side, work in (("gather, float, matmul", "plain", plain), ("similarity_topk", "moonlib", ours)):
            share = peaks[side] / behaviours.size / DIM
            table.add_row(name, f"{medians[work]:.3f}", f"{behaviours.size / medians[work]:,.0f}", f"{share:.2f}")
        console.print(table)

        table = Table("behaviours", "seconds", "behaviours / s", "GB / s of int8", "share of the floor")
        for length in LENGTHS:
            of_length = batch_of(n, max(1, batch * 10_000 // max(length, 10_000)), length)
            found = [
                (seconds(ours, store, *of_length), seconds(floor, store, *of_length)) for _ in range(arguments.rounds)
            ]
            took, least = (statistics.median(column) for column in zip(*found, strict=True))
            rows = of_length[1].size
            cells = (f"{took:.3f}", f"{rows / took:,.0f}", f"{rows * DIM / took / 1e9:.2f}", f"{least / took:.2f}")
            table.add_row(f"{len(of_length[0])} x {length:,}", *cells)
        console.print(table)
    print(f"ratio: {medians[plain] / medians[ours]:.2f}")


if __name__ == "__main__":
    main()
