"""A run that ends below the weights that it started from says so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from moonlib.artifacts.layout import SEARCHES, RunLayout
from moonlib.runs.initial_weights import below_initial, recall_difference

RECIPE: Any = SimpleNamespace(stages={"posttrain": None, "represent": None})
RESULTS = {"image_search/recall@10": 0.6, "baseline/initial/image_search/recall@10": 0.9}


def searches(place: Path, ranks: list[int], ids: str = "integers") -> None:
    place.mkdir(parents=True)
    rows = pl.Series(np.arange(len(ranks)))
    if ids == "texts":
        rows = pl.select("U-" + rows.cast(pl.String)).to_series()
    pl.DataFrame({"search_id": rows, "item_id": rows, "user_id": rows, "rank": ranks}).with_columns(
        task=pl.lit("image_search"), split=pl.lit("test")
    ).write_parquet(place / SEARCHES)


@pytest.fixture
def run(tmp_path: Path) -> RunLayout:
    return RunLayout(tmp_path / "run", tmp_path)


@pytest.mark.parametrize("ids", ["integers", "texts"])
def test_it_names_a_recall_whose_interval_is_below_zero(ids: str, run: RunLayout) -> None:
    searches(run.link("represent"), [0] * 60 + [50] * 40, ids)
    searches(run.link("represent", "baseline/initial"), [0] * 90 + [50] * 10, ids)
    (sentence,) = below_initial(run, RECIPE, RESULTS)
    assert sentence.startswith("below the initial weights: image_search/recall@10 is 0.600 after training")
    assert "was 0.900 before (-0.300 [" in sentence and "recipes/small_catalogue.yaml" in sentence


def test_what_may_be_chance_is_not_named(run: RunLayout) -> None:
    searches(run.link("represent"), [0, 50, 50, 0])
    searches(run.link("represent", "baseline/initial"), [50, 0, 0, 0])
    assert below_initial(run, RECIPE, RESULTS) == []


def test_without_an_interval_the_value_decides(run: RunLayout) -> None:
    (sentence,) = below_initial(run, RECIPE, RESULTS)
    assert "is 0.600 after training, and was 0.900 before;" in sentence
    assert below_initial(run, RECIPE, dict.fromkeys(RESULTS, 0.9)) == []
    searches(run.link("represent"), [0, 1])
    searches(run.link("represent", "baseline/initial"), [0])
    places = run.link("represent"), run.link("represent", "baseline/initial")
    assert recall_difference(*places, "image_search", 10) is None  # not the same searches
