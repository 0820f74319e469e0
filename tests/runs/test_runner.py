"""A stage that reads what it has not declared is stopped, with who read what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml

import moonlib
from moonlib.artifacts.layout import RunLayout
from moonlib.config.recipe import load
from moonlib.data.dataset import Dataset
from moonlib.data.reader import SampleReader
from moonlib.data.reads import Reads
from moonlib.data.restricted import Undeclared
from moonlib.registry import registry
from moonlib.runs.lineage import Lineage
from moonlib.runs.runner import Runner
from moonlib.stages.stage import Need, Stage, StageContext
from moonlib.system.interruption import Interruption
from moonlib.testing.examples import example_dataset


@dataclass
class How:
    """How the price is read."""

    how: str = "table"


class Prices(Stage):
    """Declares titles and reads prices."""

    data_type: ClassVar[type] = How

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset()

    def reads(self, data: Any, validated: bool = False) -> Reads:
        return Reads.of(products=["title"])

    def run(self, context: StageContext) -> dict[str, float]:
        dataset = context.dataset
        if context.data.how == "table":
            dataset.table("products", ("price",))
        elif context.data.how == "frame":
            dataset.products.select("price")
        elif context.data.how == "sample":
            SampleReader(dataset, "products").read(np.array([1001]))[0].row["price"]
        return {"products": float(len(dataset.products))}


@pytest.mark.parametrize("how", ["table", "frame", "sample", "not at all"])
def test_a_stage_that_reads_more_than_it_declared(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    moonlib.register("stages", "prices")(Prices)
    dataset: Dataset = example_dataset(tmp_path / "shop")
    config = {
        "data": {"class_path": "shards", "init_args": {"path": str(dataset.directory)}},
        "stages": {"prices": {"module": "prices", "data": {"how": how}}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(config))
    recipe = load(tmp_path / "recipe.yaml")
    runner = Runner(recipe, dataset, RunLayout(tmp_path / "runs/run", tmp_path / "runs"), {}, Interruption())
    (tmp_path / "runs/run").mkdir(parents=True)
    step = runner.step(recipe.stages["prices"], Lineage(dataset.hash))
    if how == "not at all":
        assert runner.run_step(step) == {"products": 96.0}
        return
    with pytest.raises(
        Undeclared, match=r"^stage prices reads the column 'price' of products, and has not declared it"
    ):
        runner.run_step(step)
