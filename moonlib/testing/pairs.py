"""The check of a pair source."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from moonlib.data.dataset import Dataset
from moonlib.data.tables import empty
from moonlib.pairs.pair_source import PairContext, PairSource
from moonlib.pairs.pairs import Pairs
from moonlib.representations.store import Representations
from moonlib.testing.examples import example_dataset, example_representations
from moonlib.testing.promises import directory_state, require

FIELDS = ("query_id", "item_id", "positives")


def check_pairs(make: Callable[[], PairSource]) -> None:
    """Check a pair source: shapes, known ids, nothing from after training, determinism, and several processes.

    Args:
        make: returns a fresh pair source that finds pairs in `moonlib.testing.example_dataset`.
    """
    with tempfile.TemporaryDirectory() as folder:
        dataset = example_dataset(Path(folder) / "dataset")
        before, generators = directory_state(dataset.directory), _global_generators()
        pairs, searches = _ask(make(), dataset, Path(folder) / "once")
        require(directory_state(dataset.directory) == before, "pairs: writes into the dataset's directory")
        require(_global_generators() == generators, "pairs: draws from a global generator")
        _check_shapes(pairs)
        _check_known(pairs, dataset)
        _check_searches(searches, dataset)
        again, _ = _ask(make(), dataset, Path(folder) / "again")
        require(_same(pairs, again), "pairs: a fresh source gives other pairs, or another order")
        other, _ = _ask(make(), dataset, Path(folder) / "once", first=False)
        require(_same(pairs, other), "pairs: another process than the first gives other pairs")
        resumed, _ = _ask(make(), dataset, Path(folder) / "once")
        require(_same(pairs, resumed), "pairs: asked again in its directory, it gives other pairs")


def _ask(source: PairSource, dataset: Dataset, directory: Path, first: bool = True) -> tuple[Pairs, pl.DataFrame]:
    """Ask a source for its pairs in one of several processes."""
    directory.mkdir(exist_ok=True)

    def represent(pairs: Pairs, item_ids: NDArray[np.int64], name: str) -> tuple[Representations, Representations]:
        require(first, "pairs: represents in another process than the first, which holds it up in all")
        asked = pl.Series(np.unique(pairs.query_id))
        products, queries = example_representations(pl.Series(np.sort(item_ids)), asked)["random"]
        products.save(directory, f"{name}.products")
        queries.save(directory, f"{name}.queries")
        return products, queries

    pairs, searches = source.pairs(PairContext(dataset, directory, first, represent))
    left = sorted(path.name for path in directory.glob("*.npy"))
    require(not left, f"pairs: leaves {', '.join(left)} behind; remove what represent made")
    return pairs, searches


def _check_shapes(pairs: Pairs) -> None:
    require(isinstance(pairs, Pairs), f"pairs: expected Pairs, got {type(pairs).__name__}")
    require(len(pairs) > 0, "pairs: there is none on the example dataset; raise a ValueError that says what to do")
    for name in FIELDS:
        require(getattr(pairs, name).dtype == np.int64, f"pairs: {name} is {getattr(pairs, name).dtype}, not int64")
    require(pairs.item_id.shape == pairs.query_id.shape, "pairs: item_id is not as long as query_id")
    whole = pairs.positives.ndim == 2 and len(pairs.positives) == len(pairs) and pairs.positives.shape[1] > 0
    require(whole, f"pairs: positives have shape {pairs.positives.shape}, not [P, K]")
    require(np.array_equal(pairs.positives[:, 0], pairs.item_id), "pairs: a pair's first positive is not its own item")
    require(pairs.query_side in ("product", "query"), f"pairs: query_side is {pairs.query_side!r}")
    if pairs.weight is not None:
        weight = pairs.weight
        fits = weight.dtype == np.float32 and weight.shape == pairs.query_id.shape
        require(fits, f"pairs: weight is {weight.dtype} {list(weight.shape)}, not float32 [P]")
        positive = bool(np.isfinite(weight).all() and (weight > 0).all())
        require(positive, "pairs: a weight is not a number above 0; leave the pair out")


def _check_known(pairs: Pairs, dataset: Dataset) -> None:
    """All ids are in the tables, and may be known before the end of training."""
    ends = dataset.splits.train_until
    events = pl.concat([table.select("query_id", "item_id", "ts") for table in (dataset.searches, dataset.impressions)])
    seen = events.filter(pl.col("ts") < ends)
    listed = dataset.splits.known(dataset.products)["item_id"]
    items = pl.concat([listed, seen["item_id"]]).unique()
    asked = items if pairs.query_side == "product" else seen["query_id"].unique()
    for name, ids, known in (("item_id", pairs.positives.ravel(), items), ("query_id", pairs.query_id, asked)):
        wrong = ids[~np.isin(ids, known.to_numpy())]
        require(not wrong.size, f"pairs: {name} {wrong[:1]} is not known before the end of training")
    if pairs.query_side == "query":
        found = pl.DataFrame({"query_id": pairs.query_id, "item_id": pairs.item_id})
        later = found.join(events, on=["query_id", "item_id"], how="semi").join(
            seen, on=["query_id", "item_id"], how="anti"
        )
        require(later.is_empty(), f"pairs: {later.rows()[:1]} is a pair of events from after the end of training alone")


def _check_searches(searches: pl.DataFrame, dataset: Dataset) -> None:
    lacks = [name for name in empty("searches").columns if name not in searches.columns]
    require(not lacks, f"pairs: the searches lack the columns {', '.join(lacks)}")
    late = searches.filter(pl.col("ts") >= dataset.splits.train_until)
    require(late.is_empty(), "pairs: the searches reach beyond the end of training")


def _same(one: Pairs, other: Pairs) -> bool:
    same = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in FIELDS)
    same = same and (one.weight is None) == (other.weight is None)
    if same and one.weight is not None and other.weight is not None:
        same = np.array_equal(one.weight, other.weight)
    return same and one.query_side == other.query_side


def _global_generators() -> str:
    """The state of the generators of Python, NumPy and torch, as text."""
    return f"{random.getstate()} {np.random.get_state()} {torch.get_rng_state().tolist()}"  # noqa: NPY002
