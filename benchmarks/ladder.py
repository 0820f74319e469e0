"""The iterations on several marketplaces: recall and clicks beside baselines and oracle, with paired intervals.

    python benchmarks/ladder.py --seeds 1 2 3 --runs runs
    python benchmarks/ladder.py --seeds 4 --keep ladder   # on one machine; and on another:
    python benchmarks/ladder.py --seeds 5 --keep ladder

Each seed is another marketplace and another training. Finished stages are reused, so an interrupted study
continues. ``--keep`` writes the figures of a seed to a file, and reads them where the file exists: with the files of
several machines in one folder, the tables are of all of them. A file of other recipes, of another order, or of another
version of moonlib is refused.

The share of the gap is (AUC - id only) / (oracle - id only), the oracle being the true latents through the run's own
adapter or another, whichever is better on validation days. A box is right where its intersection with the true one is
at least half of their union. Intervals are 95 % bootstrap intervals over the shoppers of one seed; that of the mean
over the seeds, which are independent, has the half width sqrt(sum of squared half widths) / seeds. Ends with
``ratio``: the smallest gain in recall@10 of a recipe over the one before it, on any seed, divided by .01.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from operator import or_
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import moonlib
from moonlib import fit
from moonlib.artifacts.directories import write_json
from moonlib.config.fingerprint import material_recipe
from moonlib.config.recipe import fingerprint, load
from moonlib.data.dataset import Dataset
from moonlib.metrics.bootstrap import Interval, pooled
from moonlib.metrics.ctr import GAUC, own_metrics
from moonlib.metrics.key import MetricKey
from moonlib.metrics.metric import name_of
from moonlib.runs.results import Legend, beside, legend_of_run, named_metrics, read_legend, write_legend
from moonlib.runs.run import Run
from moonlib.studies.paired import auc_gain, metric_gain, recall_gain, searches, show

SEARCHES = ("image_search", "text_search")
SMALLEST_GAIN = 0.01
KEPT = "ladder.json"
STANDARD = {f"ctr/{name_of(metric)}" for metric in own_metrics()}
RIGHT_BOX = "image_search/recall@1@right_box"

Results = dict[str, float]


@dataclass(frozen=True)
class Seed:
    """What the recipes reached on one marketplace.

    Attributes:
        results: of each recipe, as in ``results.json``, and recall where boxes are right.
        gains: of each recipe over the one before, by ``"iter2 - iter1"`` and the name of the metric.
        right_boxes: how many image searches of the test days have a box that is right.
    """

    results: dict[str, Results]
    gains: dict[str, dict[str, Interval]]
    right_boxes: int

    def to_json(self, of: Mapping[str, str]) -> dict[str, object]:
        """What is kept: also which recipes it is ``of``, by their fingerprints."""
        gains = {
            # JSON has no NaN, which the ends of an interval are where a metric can't be resampled.
            step: {
                name: [None if math.isnan(value) else value for value in (gain.estimate, gain.low, gain.high)]
                for name, gain in found.items()
            }
            for step, found in self.gains.items()
        }
        return {"recipes": dict(of), "results": self.results, "gains": gains, "right_boxes": self.right_boxes}

    @classmethod
    def read(cls, file: Path, of: Mapping[str, str]) -> Seed:
        """Read a file that was kept.

        Raises:
            SystemExit: it is of other recipes, of their order, or of another version of moonlib.
        """
        kept = json.loads(file.read_text())
        if list(kept["recipes"].items()) != list(of.items()):
            changed = [name for name in {**kept["recipes"], **of} if kept["recipes"].get(name) != of.get(name)]
            what = f"{', '.join(changed)} changed" if changed else f"their order was {', '.join(kept['recipes'])}"
            raise SystemExit(f"{file} is of other recipes or versions ({what}): remove it to measure again")
        gains = {
            step: {
                name: Interval(*(math.nan if value is None else value for value in gain))
                for name, gain in found.items()
            }
            for step, found in kept["gains"].items()
        }
        return cls(kept["results"], gains, kept["right_boxes"])


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
            for segment in ("", "new", "searches", "feed"):
                of = str(replace(key, segment=segment))
                shares = ([share(results, of) for results in of_seeds] for of_seeds in of_recipes.values())
                table.add_row(f"share of the gap, {of}", *(f"{np.mean(values):.3f}" for values in shares))
        else:
            add(f"{key}@new", f"{key}@new")
    add(RIGHT_BOX, RIGHT_BOX)
    add(beside(RIGHT_BOX, "oracle"), beside(RIGHT_BOX, "oracle"))
    return table


def right_boxes(dataset: Dataset) -> NDArray[np.int64]:
    """Ids of the queries whose box agrees with the true one, int64 [Q]."""
    assert dataset.truth is not None
    true = pl.read_ipc(dataset.truth / "queries.arrow", columns=["query_id", "box"]).rename({"box": "true"})
    both = dataset.queries.select("query_id", "box").join(true, on="query_id").drop_nulls()
    a, b = (both[name].list.to_array(4).to_numpy() for name in ("box", "true"))

    def area(box: NDArray[np.floating]) -> NDArray[np.floating]:
        return (box[:, 2:] - box[:, :2]).clip(min=0).prod(axis=1)

    within = area(np.c_[np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])])
    return both["query_id"].to_numpy()[2 * within >= area(a) + area(b) - within]


def results_of(run: Path, right: NDArray[np.int64]) -> Results:
    """A run's results, with the recall of it and of the oracle for the queries whose boxes are ``right``, if any."""
    results: Results = json.loads((run / "results.json").read_text())
    for reference, stage in (("", "represent"), ("oracle", "represent.oracle")):
        if len(first := first_of(run / stage, right)):
            results[beside(RIGHT_BOX, reference)] = float(first.mean())
    return results


def first_of(stage: Path, queries: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether image searches of some queries found the product first, bool [n]."""
    found = searches(stage).filter(pl.col("query_id").is_in(pl.Series(queries).implode()))
    return (found["rank"] == 0).to_numpy()


def gains_of(run: Path, before: Path) -> dict[str, Interval]:
    """What a run brings over another, by the name of the metric."""
    clicks, earlier = run / "application", before / "application"
    named = {
        name_of(each): each for one in (run, before) for each in named_metrics(Run(one).config["stages"]["application"])
    }
    return {
        "image_search/recall@10": recall_gain(run, before),
        "image_search/recall@1": recall_gain(run, before, k=1),
        "text_search/recall@10": recall_gain(run, before, task="text_search"),
        "ctr/auc": auc_gain(clicks, earlier),
        "ctr/gauc": metric_gain(clicks, earlier, GAUC()),
        **{f"ctr/{name}": metric_gain(clicks, earlier, metric) for name, metric in named.items()},
    }


def measure(seed: int, recipes: Mapping[str, str], overrides: list[str], runs: Path, size: str) -> tuple[Seed, Legend]:
    """Run the recipes on one marketplace."""
    found = {stem: fit(recipe, overrides, runs=runs, name=f"{stem}-{size}-{seed}") for stem, recipe in recipes.items()}
    gains = {f"{after} - {before}": gains_of(found[after], found[before]) for before, after in pairwise(found)}
    legend = reduce(or_, (legend_of_run(run, Run(run).config["stages"]) for run in found.values()))
    # The marketplace of a seed is the same for all recipes.
    last = list(found.values())[-1]
    right = right_boxes(Run(last).dataset())
    results = {stem: results_of(run, right) for stem, run in found.items()}
    return Seed(results, gains, len(first_of(last / "represent", right))), legend


def main() -> None:
    """Run the recipes on every seed and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--recipes", nargs="+", default=[f"recipes/iter{number}.yaml" for number in range(1, 6)])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--size", default="small")
    parser.add_argument("--keep", type=Path, help="folder of figures of seeds (none are kept)")
    parser.add_argument("overrides", nargs="*", help="of every recipe, after --")
    arguments = parser.parse_args()
    recipes = {Path(recipe).stem: recipe for recipe in arguments.recipes}

    seeds: dict[str, Seed] = {}
    legends = []
    for seed in arguments.seeds:
        same = ["--seed", str(seed), "--data.init_args.seed", str(seed), "--data.init_args.size", arguments.size]
        same += arguments.overrides
        place = arguments.keep and arguments.keep / f"{arguments.size}-{seed}"
        configs = {stem: load(recipe, same).config for stem, recipe in recipes.items()}
        of = {stem: fingerprint([material_recipe(each), moonlib.__version__]) for stem, each in configs.items()}
        if place and (place / KEPT).exists():
            seeds[str(seed)], legend = Seed.read(place / KEPT, of), read_legend(place) or Legend()
        else:
            seeds[str(seed)], legend = measure(seed, recipes, same, arguments.runs, arguments.size)
            if place:
                place.mkdir(parents=True, exist_ok=True)
                write_legend(place, legend)
                write_json(place / KEPT, seeds[str(seed)].to_json(of))
        legends.append(legend)
    legend = reduce(or_, legends)

    console = Console(width=40 + 24 * max(3, len(recipes)))
    of_recipes = {stem: [each.results[stem] for each in seeds.values()] for stem in recipes}
    console.print(means(of_recipes, legend))
    for seed, each in seeds.items():
        console.print(f"seed {seed}: {each.right_boxes:,} image searches have a right box")
    for key in ("image_search/recall@10", "image_search/recall@1", "ctr/auc"):
        table = Table("seed", *recipes, title=f"{key}, test days")
        for seed, found in seeds.items():
            table.add_row(seed, *(f"{results[key]:.4f}" for results in found.results.values()))
        console.print(table)

    steps = [f"{after} - {before}" for before, after in pairwise(recipes)]
    measured = dict.fromkeys(name for each in seeds.values() for gains in each.gains.values() for name in gains)
    for name in measured if steps else ():
        table = Table("seed", *steps, title=name)
        for seed, each in seeds.items():
            table.add_row(seed, *(show(gains[name]) if name in gains else "" for gains in each.gains.values()))
        if len(seeds) > 1:
            of_steps = [[each.gains[step].get(name) for each in seeds.values()] for step in steps]
            table.add_row("mean", *("" if None in gains else show(pooled(gains)) for gains in of_steps))
        console.print(table)
    gains = [gain["image_search/recall@10"].estimate for each in seeds.values() for gain in each.gains.values()]
    print(f"ratio: {min(gains, default=math.nan) / SMALLEST_GAIN:.2f}")


if __name__ == "__main__":
    main()
