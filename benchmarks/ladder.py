"""The iterations on several marketplaces: recall and clicks beside baselines and oracle, with paired intervals.

    python benchmarks/ladder.py --seeds 1 2 3 --runs runs

Each seed is another marketplace and another training. Finished stages are reused, so an interrupted study
continues. The share of the gap is (AUC - id only) / (oracle - id only), the oracle being the true latents through the
run's own adapter or another, whichever is better on validation days. Intervals are 95 % bootstrap intervals over the
shoppers of one seed. Ends with ``ratio``: the smallest gain in recall@10 of a recipe over the one before it, on any
seed, divided by .01.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from operator import or_
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from moonlib import fit
from moonlib.metrics.ctr import own_metrics
from moonlib.metrics.key import MetricKey
from moonlib.metrics.metric import name_of
from moonlib.runs.results import Legend, beside, legend_of_run, named_metrics
from moonlib.runs.run import Run
from moonlib.studies.paired import auc_gain, metric_gain, recall_gain, show

SEARCHES = ("image_search", "text_search")
SMALLEST_GAIN = 0.01
STANDARD = {f"ctr/{name_of(metric)}" for metric in own_metrics()}

Results = dict[str, float]


def keys_of(legend: Legend, results: Iterable[str]) -> list[MetricKey]:
    """Recall, and what is better when higher of clicks, those that a recipe names too; of all products."""
    own = legend.own(results).values()
    whole = [key for key in own if not key.segment and key.task in (*SEARCHES, "ctr")]
    # A recipe's own metrics also where less is better: it names them because it wants to see them.
    shown = [key for key in whole if legend.meaning(key).higher_is_better or key.measured not in STANDARD]
    return sorted(shown, key=lambda key: (key.task == "ctr", key))


def share(results: Results, key: str) -> float:
    """How much of the way from ids alone to the oracle a run goes."""
    own, ids, oracle = (results.get(beside(key, reference), np.nan) for reference in ("", "baseline", "oracle"))
    return (own - ids) / (oracle - ids)


def means(of_recipes: dict[str, list[Results]], legend: Legend) -> Table:
    """The mean over the seeds of every metric, a column per recipe."""
    table = Table("mean over the seeds, test days", *of_recipes)

    def add(name: str, value: str) -> None:
        found = [[results.get(value, np.nan) for results in of_seeds] for of_seeds in of_recipes.values()]
        if not np.isnan(found).all():
            table.add_row(name, *("" if np.isnan(values).any() else f"{np.mean(values):.4f}" for values in found))

    everything = dict.fromkeys(key for of_seeds in of_recipes.values() for results in of_seeds for key in results)
    for key in keys_of(legend, everything):
        clicks = key.task == "ctr"
        for each in (key, replace(key, segment="new")) if clicks else (key,):
            for reference in ("", *legend.references):
                add(beside(each, reference), beside(each, reference))
        if clicks:
            shares = ([share(results, str(key)) for results in of_seeds] for of_seeds in of_recipes.values())
            table.add_row(f"share of the gap, {key}", *(f"{np.mean(values):.3f}" for values in shares))
        else:
            add(f"{key}@new", f"{key}@new")
    return table


def main() -> None:
    """Run the recipes on every seed and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--recipes", nargs="+", default=[f"recipes/iter{number}.yaml" for number in range(1, 6)])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--size", default="small")
    arguments = parser.parse_args()

    runs: dict[str, dict[int, Path]] = {}
    for seed in arguments.seeds:
        same = ["--seed", str(seed), "--data.init_args.seed", str(seed), "--data.init_args.size", arguments.size]
        for recipe in arguments.recipes:
            stem = Path(recipe).stem
            run = fit(recipe, same, runs=arguments.runs, name=f"{stem}-{arguments.size}-{seed}")
            runs.setdefault(stem, {})[seed] = run
    of_recipes = {
        stem: [json.loads((run / "results.json").read_text()) for run in of_seeds.values()]
        for stem, of_seeds in runs.items()
    }

    console = Console(width=40 + 24 * max(3, len(runs)))
    opened = [Run(run) for of_seeds in runs.values() for run in of_seeds.values()]
    legend = reduce(or_, (legend_of_run(run.directory, run.config["stages"]) for run in opened))
    console.print(means(of_recipes, legend))
    for key in ("image_search/recall@10", "image_search/recall@1", "ctr/auc"):
        table = Table("seed", *runs, title=f"{key}, test days")
        for row, seed in enumerate(arguments.seeds):
            table.add_row(str(seed), *(f"{of_seeds[row][key]:.4f}" for of_seeds in of_recipes.values()))
        console.print(table)

    steps = list(pairwise(runs))
    recall = Table("seed", *(f"{after} - {before}" for before, after in steps), title="image_search/recall@10")
    clicks = Table("seed", *(f"{after} - {before}" for before, after in steps), title="ctr/auc")
    gains = []
    for seed in arguments.seeds:
        found = [recall_gain(runs[after][seed], runs[before][seed]) for before, after in steps]
        gains += [gain.estimate for gain in found]
        recall.add_row(str(seed), *map(show, found))
        pairs = ((runs[after][seed] / "application", runs[before][seed] / "application") for before, after in steps)
        clicks.add_row(str(seed), *(show(auc_gain(after, before)) for after, before in pairs))
    console.print(recall)
    console.print(clicks)
    named = {name_of(each): each for run in opened for each in named_metrics(run.config["stages"]["application"])}
    for name, metric in named.items():
        table = Table("seed", *(f"{after} - {before}" for before, after in steps), title=f"ctr/{name}")
        for seed in arguments.seeds:
            pairs = ((runs[after][seed] / "application", runs[before][seed] / "application") for before, after in steps)
            table.add_row(str(seed), *(show(metric_gain(after, before, metric)) for after, before in pairs))
        console.print(table)
    print(f"ratio: {min(gains) / SMALLEST_GAIN:.2f}")


if __name__ == "__main__":
    main()
