"""Real promotions: which of them does a household take up, and what do representations of texts add to ids?

    make real-ctr
    python benchmarks/real_ctr.py runs/completejourney

Reads a finished run of recipes/data/completejourney.yaml: the test weeks, for households whose earlier impressions the
models were trained on and for those that were held out of training. Two rows need no model: in how many earlier baskets
the household had the product, and in how many baskets anyone had it before the test weeks. Intervals are 95 %
bootstrap intervals over households, paired. Ends with ``ratio``: AUC - .5 of id + text over that of repeat purchases,
on all test impressions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.table import Table

from moonlib.data.dataset import Dataset
from moonlib.metrics.auc import auc
from moonlib.metrics.bootstrap import Interval, paired_auc_difference, paired_mean_difference
from moonlib.metrics.gauc import gauc, user_auc
from moonlib.runs.run import Run
from moonlib.studies.paired import show

STAGES = {
    "id only": "application.baseline",
    "id + shuffled": "application.baseline.shuffled",
    "id + text": "application",
}
ROWS = ("purchases by anyone", "repeat purchases", *STAGES)
GROUPS = {"all": pl.lit(True), "trained": ~pl.col("held_out"), "held out": pl.col("held_out")}


def scores(dataset: Dataset, run: Path) -> pl.DataFrame:
    """The test impressions: user_id, clicked, held_out, and a column of scores per row of the table."""
    keys = ["search_id", "item_id"]
    columns = dataset.impressions.select(*keys, "user_id", "clicked", "ts", "repeat_purchases")
    before = dataset.searches.filter(pl.col("ts") < dataset.splits.valid_until)
    demand = before.group_by("item_id").agg(pl.len().alias("purchases by anyone"))
    test = (
        dataset.splits.select(columns, "test")
        .rename({"repeat_purchases": "repeat purchases"})
        .join(dataset.users.select("user_id", "held_out"), on="user_id")
        .join(demand, on="item_id", how="left")
        .with_columns(pl.col("purchases by anyone").fill_null(0))
    )
    for title, stage in STAGES.items():
        predicted = pl.read_parquet(run / stage / "predictions.parquet").filter(pl.col("split") == "test")
        joined = test.join(predicted.select(*keys, pl.col("probability").alias(title)), on=keys)
        if len(joined) != len(test):
            raise ValueError(f"{run / stage} predicts {len(joined)} of the {len(test)} test impressions of {dataset}")
        test = joined
    return test.sort(keys)


def auc_and_gauc(test: pl.DataFrame, row: str) -> tuple[float, float]:
    """AUC and GAUC of one row of the table."""
    values, clicked, users = _arrays(test, row)
    return float(auc(values, clicked)), float(gauc(values, clicked, users))


def gain(test: pl.DataFrame, row: str, other: str) -> tuple[Interval, Interval]:
    """AUC and GAUC of one row minus those of another, over households."""
    a, clicked, users = _arrays(test, row)
    b, _, _ = _arrays(test, other)
    of_auc = paired_auc_difference(a, b, clicked, users)
    per_user = user_auc(a, clicked, users)
    other_auc = user_auc(b, clicked, users).auc
    of_gauc = paired_mean_difference(per_user.auc, other_auc, per_user.users, weights=per_user.impressions)
    return of_auc, of_gauc


def _arrays(test: pl.DataFrame, row: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scored = test[row].to_numpy().astype(np.float64)
    return tuple(torch.tensor(values) for values in (scored, test["clicked"].to_numpy(), test["user_id"].to_numpy()))


def main() -> None:
    """Print the table of one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/completejourney"))
    run: Path = parser.parse_args().run

    test = scores(Run(run).dataset(), run)
    parts = {name: test.filter(chosen) for name, chosen in GROUPS.items()}
    parts = {name: part for name, part in parts.items() if part["clicked"].n_unique() == 2}
    table = Table(
        "test weeks", title="households: " + ", ".join(f"{n} {p['user_id'].n_unique()}" for n, p in parts.items())
    )
    for name in parts:
        table.add_column(f"AUC, {name}", justify="right")
        table.add_column(f"GAUC, {name}", justify="right")
    for row in ROWS:
        table.add_row(row, *(f"{value:.4f}" for part in parts.values() for value in auc_and_gauc(part, row)))
    console = Console(width=120)
    console.print(table)
    for row, other in (("id + text", "id only"), ("id + text", "id + shuffled"), ("id + text", "repeat purchases")):
        for name, part in parts.items():
            of_auc, of_gauc = gain(part, row, other)
            line = f"{row} - {other}, {name}: AUC {show(of_auc)}, GAUC {show(of_gauc)}"
            console.print(line, highlight=False, soft_wrap=True)
    over_chance, baseline = (auc_and_gauc(test, row)[0] - 0.5 for row in ("id + text", "repeat purchases"))
    print(f"ratio: {over_chance / baseline:.2f}")


if __name__ == "__main__":
    main()
