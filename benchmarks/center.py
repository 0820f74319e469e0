"""Time of a search in a center, beside that of plain faiss and of LanceDB.

    python benchmarks/center.py                     100,000 vectors of 128 dimensions, one query at a time
    python benchmarks/center.py --rows 1000000      takes minutes to build

The vectors are made up: 2,000 clusters, and noise. Plain faiss searches the very index of the center's snapshot, and
takes the ids of what it finds. LanceDB has an index of its own (IVF_HNSW_SQ) over the same vectors, with a scalar index
on the column that is filtered by. All are asked the same queries in turns, in one process; the table has the medians.

Ends with ``ratio``: the time of plain faiss over that of the center with an empty delta; .91 or more is the aim.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from moonlib.center.aliases import Alias, Target, write_aliases
from moonlib.center.base import write_base
from moonlib.center.layout import base_of, log_of
from moonlib.center.publishing import publish
from moonlib.center.record import Current, Record, make_record
from moonlib.center.rows import Dtype, Rows
from moonlib.center.space import Space, space_name
from moonlib.center.view import View
from moonlib.center.where import Where
from moonlib.center.writing import make_center, writing_to
from moonlib.representations.index import Index, IndexKind
from moonlib.representations.store import Representations, unit

FINGERPRINT = "0" * 32
BLOCK = 65_536


def clustered(rows: int, dim: int, seed: int) -> NDArray[np.float32]:
    """Unit vectors around 2,000 centres, the same for every seed."""
    centres = np.random.default_rng(0).standard_normal((2000, dim), dtype=np.float32)
    rng = np.random.default_rng(seed)
    return unit(centres[rng.integers(0, len(centres), rows)] + rng.standard_normal((rows, dim), dtype=np.float32))


def columns_of(rows: int, seed: int) -> pl.DataFrame:
    """A price between 0 and 100, and one of 20 categories."""
    rng = np.random.default_rng(seed)
    category = pl.Series([f"Top/{number}" for number in range(20)]).gather(rng.integers(0, 20, rows))
    return pl.DataFrame({"price": rng.uniform(0, 100, rows), "category": category})


def rows_of(ids: NDArray[np.int64], vectors: NDArray[Any], columns: pl.DataFrame) -> Rows:
    """Rows of a record."""
    n = len(ids)
    content = np.zeros((n, 16), np.uint8)
    nothing = pl.repeat(None, n, dtype=pl.Binary, eager=True)
    return Rows(pl.Series("id", ids), vectors, content, np.zeros(n, np.int64), np.zeros(n, np.bool_), columns, nothing)


def made_center(
    path: Path,
    ids: NDArray[np.int64],
    vectors: NDArray[np.float32],
    columns: pl.DataFrame,
    kind: IndexKind,
    dtype: Dtype,
) -> Space:
    """A center with a published snapshot of these products, by ascending id."""
    make_center(path)
    dim = vectors.shape[1]
    directory = path / "spaces" / space_name(FINGERPRINT, dim, dtype)
    types = {"price": "float", "category": "text"}
    space = Space(directory, FINGERPRINT, dim, dtype, {name: types[name] for name in columns.columns}, ids="int64")  # type: ignore[misc]
    directory.mkdir(parents=True)
    make_record(space.record)
    space.save()
    kept = Representations(ids, vectors).as_type(dtype).vectors
    blocks = (kept[start : start + BLOCK] for start in range(0, len(ids), BLOCK))
    zeros = np.zeros(len(ids), np.int64)
    write_base(
        base_of(space.record, 1),
        pl.Series("id", ids),
        blocks,
        dim,
        dtype,
        np.zeros((len(ids), 16), np.uint8),
        np.arange(1, len(ids) + 1),
        zeros,
        columns,
        None,
    )
    log_of(space.record, 1).touch()
    Current(1, [1], len(ids)).write(space.record)
    write_aliases(path, {"live": Alias(Target(space.name, 0))})
    publish(path, space, kind=kind)
    return space


def in_turns(ways: dict[str, Callable[[int], object]], turns: int) -> dict[str, float]:
    """Median milliseconds of each way, called with the number of a turn.

    The ways take turns, in another order each time; none finds in the caches what the one before it has just read.
    """
    took: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(-3, turns):
        for place in range(len(names)):
            number = (place + turn) % len(names)
            asked = (turn + number * turns // len(names)) % turns
            start = time.perf_counter()
            ways[names[number]](asked)
            if turn >= 0:
                took[names[number]].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(times)) for name, times in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--delta", type=int, default=10_000, help="rows that are newer than the snapshot")
    parser.add_argument("--turns", type=int, default=400)
    parser.add_argument("--batch", type=int, default=1, help="queries at once")
    parser.add_argument("--kind", choices=["hnsw", "ivf", "flat"], default="hnsw")
    parser.add_argument("--dtype", choices=["float32", "float16", "int8"], default="float32")
    parser.add_argument("--without-lance", action="store_true")
    wanted = parser.parse_args()
    import lancedb  # of the extra `bench`
    from lancedb.index import BTree, HnswSq

    rng = np.random.default_rng(1)
    ids = np.unique(rng.integers(0, 2**62, wanted.rows + 100))[: wanted.rows]
    vectors, columns = clustered(wanted.rows, wanted.dim, 2), columns_of(wanted.rows, 3)
    queries = clustered(wanted.turns * wanted.batch, wanted.dim, 4).reshape(wanted.turns, wanted.batch, -1)
    where = Where({"price": {"lt": 1}})
    with tempfile.TemporaryDirectory(prefix="moonlib-center-") as name:
        folder = Path(name)
        start = time.perf_counter()
        space = made_center(folder / "center", ids, vectors, columns, wanted.kind, wanted.dtype)
        print(f"published {wanted.rows:,} products in {time.perf_counter() - start:.0f} s")
        empty = View.open(folder / "center")
        # As many new products as changed ones.
        half = wanted.delta // 2
        changed = np.concatenate([rng.choice(ids, half, replace=False), 2**62 + np.arange(wanted.delta - half)])
        newer = clustered(len(changed), wanted.dim, 5)
        kept = Representations(np.arange(len(changed)), newer).as_type(wanted.dtype).vectors
        with writing_to(folder / "center"):
            Record(space, write=True).append(rows_of(changed, kept, columns_of(len(changed), 6)))
        full = View.open(folder / "center")
        (file,) = (space.directory / "snapshots" / "000001").glob("*.faiss")
        index = Index.open(file)

        def plain(turn: int) -> list[list[int]]:
            found: list[list[int]] = index.ids[index.faiss.search(queries[turn], 10)[1]].tolist()
            return found

        ways: dict[str, Callable[[int], object]] = {
            "plain faiss": plain,
            "center, empty delta": lambda turn: empty.search(queries[turn], 10).ids,
            f"center, {wanted.delta:,} rows in the delta": lambda turn: full.search(queries[turn], 10).ids,
            "center, 1 % by a filter": lambda turn: empty.search(queries[turn], 10, where).ids,
            "center, 1 % by a filter, and the delta": lambda turn: full.search(queries[turn], 10, where).ids,
        }
        exact = empty.search(queries[: min(200, wanted.turns), 0], 10, exact=True)
        filtered = empty.search(queries[: min(200, wanted.turns), 0], 10, where, exact=True)
        if not wanted.without_lance:
            start = time.perf_counter()
            flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), wanted.dim)
            price = columns["price"].to_arrow()
            table = lancedb.connect(str(folder / "lance")).create_table(
                "products", pa.table({"id": ids, "vector": flat, "price": price})
            )
            table.create_index("vector", config=HnswSq(distance_type="cosine"))
            table.create_index("price", config=BTree())
            print(f"LanceDB: {time.perf_counter() - start:.0f} s")

            def lance(turn: int, condition: str | None = None) -> NDArray[np.int64]:
                asked = queries[turn] if wanted.batch > 1 else queries[turn][0]
                search = table.search(asked).distance_type("cosine").limit(10).select(["id", "_distance"])
                found = (search if condition is None else search.where(condition)).to_arrow()
                column: NDArray[np.int64] = found.column("id").to_numpy()
                return column

            ways["LanceDB"] = lance
            ways["LanceDB, 1 % by a filter"] = lambda turn: lance(turn, "price < 1")
        took = in_turns(ways, wanted.turns)

        def recall(name: str) -> str:
            if wanted.batch > 1 or ("delta" in name and "empty" not in name):
                return ""
            truth = (filtered if "filter" in name else exact).ids
            found = [np.asarray(ways[name](turn)) for turn in range(len(truth))]
            return f"{np.mean([np.isin(row, each).mean() for row, each in zip(truth, found, strict=True)]):.3f}"

        shown = Table("search", "ms", "of plain faiss", "recall@10")
        for name, ms in took.items():
            shown.add_row(name, f"{ms:.3f}", f"{ms / took['plain faiss']:.2f}", recall(name))
        Console().print(shown)
        added = took[f"center, {wanted.delta:,} rows in the delta"] - took["center, empty delta"]
        print(f"the delta adds {added:.3f} ms")
        if not wanted.without_lance:
            print(f"LanceDB takes {took['LanceDB'] / took['center, empty delta']:.1f} times as long as the center")
        print(f"ratio: {took['plain faiss'] / took['center, empty delta']:.3f}")


if __name__ == "__main__":
    main()
