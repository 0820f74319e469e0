from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from moonlib.pairs import PairContext
from moonlib.templates.pairs import Template
from moonlib.testing import check_pairs, example_dataset


def test_it_keeps_the_promises_of_a_pair_source() -> None:
    check_pairs(Template)


def test_pairs_are_those_of_a_slow_loop(tmp_path: Path) -> None:
    dataset = example_dataset(tmp_path / "shop")
    context = PairContext(dataset, tmp_path, True, lambda *args: pytest.fail("nothing is compared"))
    pairs, searches = Template(actions=["order"]).pairs(context)
    expected = set()
    last: dict[int, int] = {}
    for row in searches.filter(pl.col("action") == "order").sort("ts").iter_rows(named=True):
        before = last.get(row["user_id"], row["item_id"])
        if before != row["item_id"]:
            expected.add((before, row["item_id"]))
        last[row["user_id"]] = row["item_id"]
    assert set(zip(pairs.query_id.tolist(), pairs.item_id.tolist(), strict=True)) == expected
    assert pairs.query_side == "product"
