"""A run knows the dataset that its own was appended to."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

import moonlib
from moonlib.data.dataset import Dataset
from moonlib.runs.parents import parents_of, parents_record


def products(*ids: int) -> pl.DataFrame:
    listed = datetime(2025, 1, 1, tzinfo=UTC)
    return pl.DataFrame({"item_id": ids, "title": [f"lamp {id}" for id in ids], "listed_at": [listed] * len(ids)})


def test_the_dataset_before_is_a_parent_wherever_both_are_moved(tmp_path: Path) -> None:
    here = tmp_path / "here"
    moonlib.build(products=products(1, 2), out=here / "data/week1")
    moonlib.build(products=products(3), out=here / "data/week2", append=here / "data/week1")
    run = here / "runs/week2"
    run.mkdir(parents=True)
    assert parents_record({}, run, Dataset(here / "data/week1")) == {}
    noted = parents_record({}, run, Dataset(here / "data/week2"))
    assert noted == {"data": "../../data/week1"}
    there = here.rename(tmp_path / "there")
    (parent,) = parents_of({}, there / "runs/week2", noted)
    assert (parent.how, parent.place) == ("data", there / "data/week1")
    assert parents_record({}, there / "runs/week2", Dataset(there / "data/week2")) == noted
    shutil.rmtree(there / "data/week1")
    (parent,) = parents_of({}, there / "runs/week2", noted)
    assert parent.place is None
