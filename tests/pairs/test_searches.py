"""Search pairs: filters run once, in the first process, and the others wait for what it wrote."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from moonlib.data.dataset import Dataset
from moonlib.data.tables import Tables
from moonlib.filters.filter import Encoded, Filter, Filtered, without_searches
from moonlib.pairs.pair_source import PairContext
from moonlib.pairs.pairs import Pairs
from moonlib.pairs.products import ProductPairs
from moonlib.pairs.searches import SearchPairs
from moonlib.representations.store import Representations
from moonlib.testing import check_pairs, example_dataset, example_representations


class Known(Filter):
    """Removes searches whose query has no representation; counts how often it runs."""

    reads_representations = True
    runs = 0

    def __call__(self, tables: Tables, encoded: Encoded | None = None) -> Filtered:
        assert encoded is not None
        type(self).runs += 1
        known = encoded.queries.ids[np.any(encoded.queries.vectors != 0, axis=1)]
        gone = ~tables.searches["query_id"].is_in(known.tolist())
        return without_searches(tables, pl.Series(["no representation" if each else None for each in gone]))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return example_dataset(tmp_path_factory.mktemp("shop") / "dataset")


def context(dataset: Dataset, directory: Path, first: bool = True) -> PairContext:
    def represent(pairs: Pairs, item_ids: NDArray[np.int64], name: str) -> tuple[Representations, Representations]:
        assert first
        return example_representations(pl.Series(item_ids), pl.Series(np.unique(pairs.query_id)))["random"]

    return PairContext(dataset, directory, first, represent)


@pytest.mark.parametrize(
    "make",
    [
        ProductPairs,
        SearchPairs,
        lambda: SearchPairs(["order"], "train", [Known()]),
    ],
    ids=["products", "searches", "filtered"],
)
def test_ours_keep_the_promises_of_a_pair_source(make: type) -> None:
    check_pairs(make)


def test_actions_and_days_choose_the_searches(shop: Dataset, tmp_path: Path) -> None:
    pairs, searches = SearchPairs(["order"]).pairs(context(shop, tmp_path))
    ordered = shop.searches.filter(pl.col("action") == "order", pl.col("ts") < shop.splits.behaviour_until)
    assert set(zip(pairs.query_id.tolist(), pairs.item_id.tolist(), strict=True)) == set(
        ordered.select("query_id", "item_id").rows()
    )
    assert set(searches["action"]) == {"click", "cart", "order"}  # samplers look at what was only clicked, too
    longer, _ = SearchPairs(["order"], until="train").pairs(context(shop, tmp_path))
    assert len(longer) > len(pairs)


def test_filters_run_in_the_first_process_alone_and_the_others_wait(shop: Dataset, tmp_path: Path) -> None:
    Known.runs = 0
    found: list[Pairs] = []
    waiting = threading.Thread(
        target=lambda: found.append(SearchPairs(filters=[Known()]).pairs(context(shop, tmp_path, first=False))[0])
    )
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive() and not found
    pairs, _ = SearchPairs(filters=[Known()]).pairs(context(shop, tmp_path))
    waiting.join(60)
    assert np.array_equal(found[0].query_id, pairs.query_id) and np.array_equal(found[0].item_id, pairs.item_id)
    assert Known.runs == 1
    (report,) = json.loads((tmp_path / "filters.json").read_text())
    assert report["tables"]["searches"]["removed"]["no representation"] > 0
    whole, _ = SearchPairs().pairs(context(shop, tmp_path))
    assert len(pairs) < len(whole)
