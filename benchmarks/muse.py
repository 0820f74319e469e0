"""MUSE's published configurations on a marketplace in TAOBAO-MM's layout: the last 50 behaviours or the top 50 of 1000.

    python benchmarks/muse.py --runs runs --recipe iter3 --seeds 1 2 3

Takes finished runs of ``benchmarks/ladder.py``, writes their marketplace and product representations as TAOBAO-MM's
files and fits recipes/data/taobao_mm*.yaml on all users, and DIN (attention over ids) on the last 50. Training and test
see a shopper's history as of the first training day and the first test day, as published, not as of each impression.
Intervals are 95 % bootstrap intervals over the shoppers of one seed, against the last 50. Ends with ``ratio``: the mean
GAUC gain of the top 50 over DIN, divided by the .0072 that MUSE published on TAOBAO-MM.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from moonlib import fit
from moonlib.data.dataset import Dataset
from moonlib.metrics.ctr import ctr_metrics
from moonlib.representations.store import Representations
from moonlib.runs.run import Run
from moonlib.studies.paired import auc_gain, show
from moonlib.testing.taobao_mm import write_layout

RECIPES = Path(__file__).parents[1] / "recipes/data"
PUBLISHED = 0.6154 - 0.6082
DIN = '{"class_path": "target_attention", "init_args": {"over": "id"}}'
ARMS = {
    "DIN, last 50": ("taobao_mm_last50", ["--stages.application.module.init_args.adapter", DIN]),
    "SA-TA + SimTier, last 50": ("taobao_mm_last50", []),
    "SA-TA + SimTier, top 50 of 1000": ("taobao_mm", []),
}


def long(run: Path, dataset: Dataset, behaviours: int = 50) -> pl.DataFrame:
    """Test predictions of shoppers who have more behaviours than that as of the test days."""
    counts = dataset.table("histories").sort("ts").group_by("user_id", maintain_order=True).last()
    many = counts.filter(pl.col("item_ids").list.len() > behaviours)["user_id"]
    predictions = pl.read_parquet(run / "application/predictions.parquet").filter(pl.col("split") == "test")
    return predictions.filter(pl.col("user_id").is_in(many.implode()))


def main() -> None:
    """Write the layouts, fit the recipes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--recipe", default="iter3")
    parser.add_argument("--size", default="small")
    parser.add_argument("overrides", nargs="*", help="of every recipe, after --")
    arguments = parser.parse_args()

    table = Table(
        "seed", "configuration", "auc", "gauc", "- last 50", "auc, > 50 behaviours", "gauc", "rows", "seconds"
    )
    gains = []
    for seed in arguments.seeds:
        made = arguments.runs / f"{arguments.recipe}-{arguments.size}-{seed}"
        market = Run(made).dataset()
        with tempfile.TemporaryDirectory() as folder:
            write_layout(market, Representations.open(made / "represent", "products"), Path(folder), "raw")
            same = ["--seed", str(seed), "--data.init_args.directory", folder, "--data.init_args.users", "1.0"]
            runs = {
                arm: fit(
                    RECIPES / f"{recipe}.yaml",
                    [*same, *changes, *arguments.overrides],
                    runs=Path(folder) / "runs",
                    name=f"arm{i}",
                )
                for i, (arm, (recipe, changes)) in enumerate(ARMS.items())
            }
            (built,) = (Path(folder) / "runs/.data").glob("taobao*")
            dataset = Dataset(built)
            values = {}
            for arm, run in runs.items():
                results = json.loads((run / "results.json").read_text())
                part = long(run, dataset)
                of_long = ctr_metrics(part)
                values[arm] = results["ctr/gauc"]
                difference = auc_gain(run / "application", runs["SA-TA + SimTier, last 50"] / "application")
                table.add_row(
                    str(seed),
                    arm,
                    f"{results['ctr/auc']:.4f}",
                    f"{results['ctr/gauc']:.4f}",
                    "" if arm == "SA-TA + SimTier, last 50" else show(difference),
                    f"{of_long['auc']:.4f}",
                    f"{of_long['gauc']:.4f}",
                    str(len(part)),
                    f"{json.loads((run / 'costs.json').read_text())['application']['seconds']:.0f}",
                )
            gains.append(values["SA-TA + SimTier, top 50 of 1000"] - values["DIN, last 50"])
    Console(width=150).print(table)
    print(f"ratio: {np.mean(gains) / PUBLISHED:.2f}")


if __name__ == "__main__":
    main()
