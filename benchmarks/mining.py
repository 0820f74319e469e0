"""Pairs mined per second, beside `mine_hard_negatives` of sentence-transformers on the same vectors.

    python benchmarks/mining.py                 20,000 pairs beside the peer, then 100,000 queries in a million items
    python benchmarks/mining.py --skip-large    the first part only

Beside the peer: clustered vectors that both are given, so that neither encodes anything; 20,000 queries of one positive
each, every item an SPU of its own, because the peer knows neither SPUs nor bounds that differ between a query's pairs;
both look equally deep. The peer searches through faiss or through torch, and its faster way counts; its result is the
n-tuple, which it is quickest to write, with texts of a few letters. Before anything is timed the outputs are compared:
for every pair the same negatives, where cosines within 1e-6 of one another may stand for each other, and nothing from
the peer where we find fewer than asked for. Rounds of all three take turns in one process; medians.

At large: each of ``mine`` approximately, with SPUs of three, and the exact search of a sample runs in a process of its
own, whose peak of resident memory includes the vectors, a memory map. Recall is the share of the exact search's
candidates that the approximate one finds for the same pair.

Needs sentence-transformers and datasets. Ends with ``ratio``: time of the peer over ours, with margins and a rank
window.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from moonlib.negatives.mining import mine
from moonlib.representations.store import unit

DIM = 128
MARGINS: dict[str, Any] = {"keep": 5, "skip": 10, "margin": 0.02, "relative_margin": 0.05}
SETTINGS: dict[str, dict[str, Any]] = {"nearest": {"keep": 5}, "margins, rank window": MARGINS}
LARGE: dict[str, Any] = {"keep": 10, "skip": 5, "relative_margin": 0.05}
TIE = 1e-6


def clustered(rng: np.random.Generator, centres: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """Unit vectors about centres, float32 [n, D]."""
    noise = rng.standard_normal((n, centres.shape[1]), dtype=np.float32)
    return unit(centres[rng.integers(len(centres), size=n)] + 0.7 * noise)


def near(rng: np.random.Generator, items: NDArray[np.float32]) -> NDArray[np.float32]:
    """A query near each item."""
    return unit(items + 0.05 * rng.standard_normal(items.shape, dtype=np.float32))


@dataclass
class Given:
    """What the peer takes for an encoder: the vectors are there already.

    Attributes:
        queries: float32 [Q, D] of unit length, in the order in which the peer asks for them.
        items: float32 [N, D], likewise.
    """

    queries: NDArray[np.float32]
    items: NDArray[np.float32]
    device = torch.device("cpu")

    def encode_query(self, texts: list[str], **_: Any) -> NDArray[np.float32]:
        assert len(texts) == len(self.queries)
        return self.queries

    def encode_document(self, texts: list[str], **_: Any) -> NDArray[np.float32]:
        assert len(texts) == len(self.items)
        return self.items

    def get_embedding_dimension(self) -> int:
        return self.items.shape[1]

    def similarity(self, queries: Any, items: Any) -> Tensor:
        return torch.as_tensor(queries) @ torch.as_tensor(items).T

    def similarity_pairwise(self, queries: Any, items: Any) -> Tensor:
        return (torch.as_tensor(queries) * torch.as_tensor(items)).sum(dim=1)


class Peer:
    """`mine_hard_negatives` on the same vectors, pair by pair query i and item i."""

    def __init__(self, queries: NDArray[np.float32], items: NDArray[np.float32]) -> None:
        from datasets import Dataset
        from sentence_transformers.util import mine_hard_negatives

        self.mine = mine_hard_negatives
        self.model = Given(queries, items)
        self.pairs = Dataset.from_dict(
            {"query": [f"q{i}" for i in range(len(queries))], "item": [f"{i}" for i in range(len(queries))]}
        )
        self.corpus = [f"{i}" for i in range(len(items))]

    def __call__(
        self,
        use_faiss: bool,
        keep: int,
        skip: int = 0,
        margin: float | None = None,
        relative_margin: float | None = None,
    ) -> Any:
        """The peer's data set of n-tuples."""
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars can't be turned off
            return self.mine(
                self.pairs,
                self.model,
                corpus=self.corpus,
                num_negatives=keep,
                range_min=skip,
                range_max=depth(keep, skip) - 1,
                absolute_margin=margin,
                relative_margin=relative_margin,
                output_format="n-tuple",
                use_faiss=use_faiss,
                verbose=False,
            )


def depth(keep: int, skip: int = 0, **_: Any) -> int:
    """Items that both look at per query: the peer's own choice with margins, and the positive."""
    return skip + 10 * keep + 2


def compare(
    ours: NDArray[np.int64], theirs: Any, queries: NDArray[np.float32], items: NDArray[np.float32]
) -> tuple[int, int]:
    """Require equal output.

    Returns:
        Pairs that have all negatives asked for, and pairs in which cosines that are equal but for rounding stand for
        each other.
    """
    rows = np.array([int(text) for text in theirs["item"]])
    columns = [name for name in theirs.column_names if name.startswith("negative")]
    found = np.stack([np.array(theirs[name]).astype(np.int64) for name in columns], axis=1)
    full = np.flatnonzero((ours >= 0).all(axis=1))
    assert np.array_equal(rows, full), "the pairs that have all their negatives are others"
    swapped = np.flatnonzero((np.sort(ours[full], axis=1) != np.sort(found, axis=1)).any(axis=1))
    for row in swapped:
        query = queries[full[row]]
        difference = np.sort(items[ours[full[row]]] @ query) - np.sort(items[found[row]] @ query)
        assert abs(difference).max() <= TIE, f"pair {full[row]}: ours {ours[full[row]]}, theirs {found[row]}"
    return len(full), len(swapped)


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def beside_the_peer(console: Console, pairs: int, rounds: int) -> float:
    """Time both and print the table.

    Returns:
        Time of the peer over ours in the last setting.
    """
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((pairs // 50, DIM), dtype=np.float32)
    items = clustered(rng, centres, pairs)
    queries, rows = near(rng, items), np.arange(pairs)
    peer = Peer(queries, items)
    table = Table("setting", "pairs", "complete", "ties", "moonlib s", "peer, faiss s", "peer, torch s", "ratio")
    ratio = float("nan")
    for name, setting in SETTINGS.items():

        def ours(setting: dict[str, Any] = setting) -> NDArray[np.int64]:
            return mine(queries, items, rows, rows, group=rows, depth=depth(**setting), **setting)

        full, ties = compare(ours(), peer(True, **setting), queries, items)
        assert compare(ours(), peer(False, **setting), queries, items)[0] == full
        sides = (ours, lambda s=setting: peer(True, **s), lambda s=setting: peer(False, **s))
        times = zip(*([seconds(side) for side in sides] for _ in range(rounds)), strict=True)
        mine_s, faiss_s, torch_s = (statistics.median(side) for side in times)
        ratio = min(faiss_s, torch_s) / mine_s
        table.add_row(
            name,
            f"{pairs:,}",
            f"{full:,}",
            f"{ties:,}",
            f"{mine_s:.2f}",
            f"{faiss_s:.2f}",
            f"{torch_s:.2f}",
            f"{ratio:.2f}",
        )
    console.print(table)
    return ratio


def make(folder: Path, n: int, asked: int) -> None:
    """Write items about n / 50 centres, queries near some, and these."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((n // 50, DIM), dtype=np.float32)
    items = np.lib.format.open_memmap(folder / "items.npy", mode="w+", dtype=np.float32, shape=(n, DIM))
    for start in range(0, n, 50_000):
        items[start : start + 50_000] = clustered(rng, centres, min(50_000, n - start))
    positive = rng.choice(n, asked, replace=False)
    np.save(folder / "positive.npy", positive)
    np.save(folder / "queries.npy", near(rng, items[positive]))


def search(folder: Path, sample: int | None) -> tuple[float, float, NDArray[np.int64]]:
    """Mine approximately for all queries, or exactly for the first few.

    Returns:
        Seconds, peak of resident memory in GB, and what was mined.
    """
    items = np.load(folder / "items.npy", mmap_mode="r")
    queries, positive = np.load(folder / "queries.npy")[:sample], np.load(folder / "positive.npy")[:sample]
    spus = np.arange(len(items)) // 3
    start = time.perf_counter()
    mined = mine(queries, items, np.arange(len(queries)), positive, group=spus, approximate=sample is None, **LARGE)
    took = time.perf_counter() - start
    return took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, mined


def at_large(console: Console, n: int, asked: int, sample: int) -> None:
    """Mine in a large catalogue and print the table."""
    # A fresh process each, while this one is still small: Linux counts the parent's memory to its child's peak.
    with (
        tempfile.TemporaryDirectory() as scratch,
        multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool,
    ):
        folder = Path(scratch)
        pool.apply(make, (folder, n, asked))
        took, peak, approximate = pool.apply(search, (folder, None))
        exact_took, exact_peak, exact = pool.apply(search, (folder, sample))
    hit = (exact[:, :, None] == approximate[: len(exact), None, :]).any(axis=2)
    table = Table("search", "items", "queries", "seconds", "queries / s", "peak GB", "recall")
    table.add_row(
        "approximate",
        f"{n:,}",
        f"{asked:,}",
        f"{took:.0f}",
        f"{asked / took:,.0f}",
        f"{peak:.2f}",
        f"{hit[exact >= 0].mean():.3f}",
    )
    table.add_row(
        "exact, a sample",
        f"{n:,}",
        f"{len(exact):,}",
        f"{exact_took:.0f}",
        f"{len(exact) / exact_took:,.0f}",
        f"{exact_peak:.2f}",
        "",
    )
    console.print(table)


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--skip-large", action="store_true")
    parser.add_argument("--items", type=int, default=1_000_000, help="at large")
    parser.add_argument("--queries", type=int, default=100_000, help="at large")
    parser.add_argument("--sample", type=int, default=2_000, help="queries that recall is measured on")
    arguments = parser.parse_args()

    console = Console() if Console().is_terminal else Console(width=120)
    if not arguments.skip_large:
        at_large(console, arguments.items, arguments.queries, arguments.sample)
    ratio = beside_the_peer(console, arguments.pairs, arguments.rounds)
    print(f"ratio: {ratio:.2f}")


if __name__ == "__main__":
    main()
