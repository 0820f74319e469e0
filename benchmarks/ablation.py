"""What each part of training brings, one line each, with paired intervals.

    python benchmarks/ablation.py --seeds 1 2 3
    python benchmarks/ablation.py --folder mllm_ablation --base quarter

Every recipe of a folder of recipes/studies/ differs from one of them in one thing and is compared with it on the same
image searches of the test days, each seed another marketplace and another training. Without arguments, it is the second
phase of post-training, and iter2, which has none, stands beside. Finished stages are reused, so an interrupted
study continues. Intervals are 95 % bootstrap intervals over the shoppers of all seeds; that of AUC, which recipes with
an application have, is of the mean over the seeds. Ends with ``ratio``: the
best gain over the smallest that would count, .01.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from moonlib import fit
from moonlib.metrics.bootstrap import Interval, paired_mean_difference, pooled
from moonlib.runs.run import Run
from moonlib.studies.paired import auc_gain, hits, show

STUDIES = Path(__file__).parents[1] / "recipes/studies"
SMALLEST = 0.01


def gain(runs: list[Path], bases: list[Path], k: int = 10, task: str = "image_search") -> Interval:
    """Recall@k of some runs minus that of others, seed by seed the same searches, over all shoppers."""
    both = [
        hits(run, k=k, task=task)
        .join(hits(base, k=k, task=task), on=["search_id", "item_id"], suffix="_base")
        .with_columns(seed=pl.lit(seed))
        for seed, (run, base) in enumerate(zip(runs, bases, strict=True))
    ]
    table = pl.concat(both)
    # A shopper of one marketplace is another person than the shopper of that number in the next.
    _, user = np.unique(table.select("seed", "user_id").to_numpy(), axis=0, return_inverse=True)
    return paired_mean_difference(table["hit"].to_numpy(), table["hit_base"].to_numpy(), user.astype(np.int64))


def clicks(runs: list[Path], bases: list[Path], results: list[dict[str, float]]) -> tuple[str, str]:
    """AUC of some runs, and what it is above that of others; blank where any has no application."""
    stages = [[run / "application" for run in of] for of in (runs, bases)]
    if not all(stage.is_dir() for of in stages for stage in of):
        return "", ""
    mean = f"{np.mean([values['ctr/auc'] for values in results]):.4f}"
    return mean, "" if runs == bases else show(pooled(map(auc_gain, *stages)))


def seconds(run: Path) -> float:
    """What training a run's encoder took, all its stages together."""
    return sum(json.loads((run / stage / "cost.json").read_text())["seconds"] for stage in Run(run).trained_by)


def main() -> None:
    """Run the recipes on every seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--folder", default="posttraining", help="of recipes/studies (posttraining)")
    parser.add_argument("--base", default="in_batch", help="recipe that the others are compared with (in_batch)")
    parser.add_argument("--studies", nargs="*", help="recipes of the folder (all)")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--size", default="small")
    parser.add_argument("overrides", nargs="*", help="of every recipe, after --")
    arguments = parser.parse_args()
    folder, base = STUDIES / arguments.folder, arguments.base
    studies = arguments.studies or sorted(path.stem for path in folder.glob("*.yaml"))

    runs: dict[str, list[Path]] = {}
    for seed in arguments.seeds:
        same = ["--seed", str(seed), "--data.init_args.seed", str(seed), "--data.init_args.size", arguments.size]
        same += arguments.overrides
        without = ["--stages.represent.data.queries", "searched", "--stages.application", "null"]
        if arguments.folder == "posttraining":
            runs.setdefault("iter2", []).append(
                fit("iter2", [*same, *without], runs=arguments.runs, name=f"study-iter2-{arguments.size}-{seed}")
            )
        for study in dict.fromkeys([base, *studies]):
            name = f"study-{study}-{arguments.size}-{seed}"
            runs.setdefault(study, []).append(fit(folder / f"{study}.yaml", same, runs=arguments.runs, name=name))

    of_seeds = (f"seed {seed}" for seed in arguments.seeds)
    table = Table("study", *of_seeds, f"- {base}", "recall@1", "text", f"- {base}", "auc", f"- {base}", "seconds")
    gains = []
    for study, of_study in runs.items():
        results = [json.loads((run / "results.json").read_text()) for run in of_study]
        bases = runs[base]
        image, first = gain(of_study, bases), gain(of_study, bases, k=1)
        text = gain(of_study, bases, task="text_search")
        compared = study != base
        gains += [image.estimate] * compared
        table.add_row(
            study,
            *(f"{values['image_search/recall@10']:.4f}" for values in results),
            show(image) if compared else "",
            show(first) if compared else "",
            f"{np.mean([values['text_search/recall@10'] for values in results]):.4f}",
            show(text) if compared else "",
            *clicks(of_study, bases, results),
            f"{np.mean([seconds(run) for run in of_study]):.0f}",
        )
    Console(width=240).print(table)
    print(f"ratio: {max(gains) / SMALLEST:.2f}")


if __name__ == "__main__":
    main()
