"""Time to look up the vectors of 1,000 products of 1,000,000 by their ids, beside LanceDB and `numpy.take`.

    python benchmarks/lookup.py
    python benchmarks/lookup.py --ids text

Vectors are float32 of 128 dimensions, on disk and in the page cache; ids are spread over all of int64. LanceDB has a
scalar index on the ids. `numpy.take` is given the rows, which is what remains when ids need no search: the bound. The
second of the center's views has 1,000 products in its delta, of which none is asked for. All take turns on the same
ids, in one process.

Ends with ``ratio``: the time of LanceDB over that of the center; 20 or more is the aim.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from center import in_turns, made_center, rows_of
from rich.console import Console
from rich.table import Table

from moonlib.center.record import Record
from moonlib.center.view import View
from moonlib.center.writing import writing_to
from moonlib.representations.lookup import TextLookup
from moonlib.representations.store import Representations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--asked", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--ids", choices=["int64", "text"], default="int64")
    wanted = parser.parse_args()
    import lancedb  # of the extra `bench`
    from lancedb.index import BTree

    rng = np.random.default_rng(0)
    ids = np.unique(rng.integers(-(2**63), 2**63 - 1, wanted.rows + 100))[: wanted.rows]
    vectors = rng.standard_normal((len(ids), wanted.dim), dtype=np.float32)
    rows = [rng.choice(len(ids), wanted.asked, replace=False) for _ in range(wanted.turns)]
    asked = [ids[each] for each in rows]
    ways: dict[str, Callable[[int], object]] = {}
    with tempfile.TemporaryDirectory(prefix="moonlib-lookup-") as name:
        folder = Path(name)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), wanted.dim)
        key = ids if wanted.ids == "int64" else [f"SKU{each}" for each in ids.tolist()]
        table = lancedb.connect(str(folder / "lance")).create_table("products", pa.table({"id": key, "vector": flat}))
        table.create_index("id", config=BTree())

        def lance(turn: int) -> object:
            listed = ", ".join(f"'SKU{each}'" if wanted.ids == "text" else str(each) for each in asked[turn].tolist())
            found = table.search().where(f"id IN ({listed})").limit(wanted.asked).select(["id", "vector"]).to_arrow()
            assert len(found) == wanted.asked
            return found.column("vector").combine_chunks().flatten().to_numpy()

        ways["LanceDB"] = lance
        Representations(ids, vectors).save(folder, "products")
        store = Representations.open(folder, "products")
        mapped = np.asarray(store.vectors)
        ways["numpy.take"] = lambda turn: np.take(mapped, rows[turn], axis=0)
        start = time.perf_counter()
        if wanted.ids == "int64":
            store.rows(ids)  # asked for so many, it makes a faster search
            ways["store"] = lambda turn: store.gather(asked[turn])
            space = made_center(folder / "center", ids, vectors, pl.DataFrame(), "flat", "float32")
            view = View.open(folder / "center")
            view.lookup(ids[:1])
            ways["center"] = lambda turn: view.lookup(asked[turn])
            new = np.setdiff1d(rng.integers(0, 2**62, 1000), ids)
            with writing_to(folder / "center"):
                Record(space, write=True).append(rows_of(new, vectors[: len(new)], pl.DataFrame()))
            newer = view.refreshed()
            ways["center, with a delta"] = lambda turn: newer.lookup(asked[turn])
        else:
            names = pl.Series(key)
            lookup = TextLookup(names)
            texts = [names.gather(each) for each in rows]
            ways["center"] = lambda turn: store.at(lookup.rows(texts[turn]))
        print(f"ready in {time.perf_counter() - start:.1f} s")
        for way in ("numpy.take", "center"):
            np.testing.assert_array_equal(ways[way](0), vectors[rows[0]])  # type: ignore[arg-type]
        took = in_turns(ways, wanted.turns)
    shown = Table("look-up", "ms", "speed of numpy.take", "times LanceDB")
    for name, ms in took.items():
        shown.add_row(name, f"{ms:.3f}", f"{took['numpy.take'] / ms:.2f}", f"{took['LanceDB'] / ms:.0f}")
    Console().print(shown)
    print(f"ratio: {took['LanceDB'] / took['center']:.1f}")


if __name__ == "__main__":
    main()
