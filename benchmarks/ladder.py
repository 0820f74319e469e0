"""Every iteration on several marketplaces: recall and AUC beside baselines, oracle and ceiling, with paired intervals.

    python benchmarks/ladder.py --seeds 1 2 3 --runs runs

Each seed is another marketplace and another training. Finished stages are taken over, so an interrupted study
continues. Intervals are 95 % bootstrap intervals over the shoppers of one seed. Ends with ``ratio``: the smallest gain
of the second recipe's recall@10 over the first's, divided by the .10 that post-training is expected to bring.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from moonlib import fit
from moonlib.studies.paired import auc_gain, recall_gain, show

EXPECTED_GAIN = 0.10
BASELINES = ("baseline/thumbnail", "baseline/untrained")


def main() -> None:
    """Run the recipes on every seed and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--recipes", nargs=2, default=["recipes/iter1.yaml", "recipes/iter2.yaml"])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--size", default="small")
    arguments = parser.parse_args()

    console = Console(width=150)
    recall = Table(title="image_search/recall@10, test days")
    for heading in (
        "seed",
        "thumbnail",
        "untrained",
        "first",
        "second",
        "oracle",
        "first - thumbnail",
        "second - first",
    ):
        recall.add_column(heading, justify="right")
    clicks = Table(title="ctr/auc, test days")
    for heading in ("seed", "id only", "shuffled", "first", "second", "oracle", "ceiling"):
        clicks.add_column(heading, justify="right")
    differences = Table(title="ctr/auc, differences")
    for heading in ("seed", "second - id only", "second - first", "oracle - second", "ceiling - oracle"):
        differences.add_column(heading, justify="right")
    gains = []
    for seed in arguments.seeds:
        overrides = ["--seed", str(seed), "--data.init_args.seed", str(seed), "--data.init_args.size", arguments.size]
        first, second = (
            fit(recipe, overrides, runs=arguments.runs, name=f"{Path(recipe).stem}-{arguments.size}-{seed}")
            for recipe in arguments.recipes
        )
        before, after = (json.loads((run / "results.json").read_text()) for run in (first, second))

        key = "image_search/recall@10"
        values = [before[f"{prefix}/{key}"] for prefix in BASELINES] + [before[key], after[key], after[f"oracle/{key}"]]
        gain = recall_gain(second, first)
        gains.append(gain.estimate)
        over_thumbnail = recall_gain(first, first, "represent.baseline.thumbnail")
        recall.add_row(str(seed), *(f"{value:.4f}" for value in values), show(over_thumbnail), show(gain))

        key = "ctr/auc"
        values = [after[f"baseline/{key}"], after[f"baseline/shuffled/{key}"], before[key], after[key]]
        values += [after[f"oracle/{key}"], after[f"ceiling/{key}"]]
        clicks.add_row(str(seed), *(f"{value:.4f}" for value in values))
        ours, oracle = second / "application", second / "application.oracle"
        pairs = [(ours, second / "application.baseline"), (ours, first / "application"), (oracle, ours)]
        pairs += [(second / "application.ceiling", oracle)]
        differences.add_row(str(seed), *(show(auc_gain(a, b)) for a, b in pairs))
    console.print(recall)
    console.print(clicks)
    console.print(differences)
    print(f"ratio: {min(gains) / EXPECTED_GAIN:.2f}")


if __name__ == "__main__":
    main()
