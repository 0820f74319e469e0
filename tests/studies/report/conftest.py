"""Three small runs on the example shop, whose titles and changes hold markup, and on another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from moonlib import fit
from moonlib.data.shards import build_once, write_dataset
from moonlib.testing.examples import EXAMPLE_SPLITS, example_picture, example_tables

MARKUP = "<script>alert(1)</script>"
CONTROLS = "\x1b[31m\0\x9b"

RECIPE = """
changes: {{training: "{training} <script>alert(2)</script> \\e[2J\\0"}}
seed: {seed}
data: {{class_path: shards, init_args: {{path: {dataset}}}}}
encoder:
  class_path: dual
  init_args:
    image: {{class_path: convnet, init_args: {{image_size: 16, width: 8}}}}
    text: {{class_path: transformer, init_args: {{vocab_size: 300, width: 16, depth: 1}}}}
    fusion: sum
    dim: 16
stages:
  posttrain:
    module: {{class_path: posttraining, init_args: {{loss: info_nce, negatives: [in_batch], filters: [spu_merge]}}}}
    data: {{tasks: {{image -> title+image: 1.0}}, batch_size: 8, workers: 0}}
    trainer: {{max_steps: {steps}, log_every_n_steps: 1}}
  represent:
    module: {{class_path: represent, init_args: {{dims: [8]}}}}
    data: {{workers: 0}}
  application:
    module: {{class_path: application, init_args: {{adapter: vector, predictor: mlp}}}}
    data: {{batch_size: 128}}
    trainer: {{max_epochs: 1, log_every_n_steps: 1}}
"""


@pytest.fixture(scope="session")
def lineage(once: Callable[[str, Callable[[Path], Path]], Path]) -> list[Path]:
    """Two iterations on one dataset, then one on another dataset; read them, and copy to change."""
    runs = once("lineage", fit_lineage)
    return [runs / name for name in ("first", "second", "third")]


def fit_lineage(place: Path) -> Path:
    tables = example_tables()
    titles = tables.products.with_columns(title=pl.col("title") + f" {MARKUP} {CONTROLS}")
    for name, rows in (("shop", titles), ("other", tables.products)):

        def build(draft: Path, name: str = name, rows: pl.DataFrame = rows) -> None:
            of = replace(tables, products=rows)
            write_dataset(draft, of, example_picture, EXAMPLE_SPLITS, name=name, version="1", workers=1)

        build_once(place / name, build)
    for name, dataset, steps, seed in (("first", "shop", 1, 0), ("second", "shop", 40, 0), ("third", "other", 1, 0)):
        recipe = place / f"{name}.yaml"
        words = {"training": f"{steps} steps", "seed": seed, "dataset": place / dataset, "steps": steps}
        recipe.write_text(RECIPE.format(**words))
        fit(recipe, runs=place / "runs")
    return place / "runs"
