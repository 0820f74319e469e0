"""A small catalogue of real pictures: does training keep what published weights know?

    make real-pretrained && python benchmarks/small_catalogue.py --runs runs/small_catalogue

Fits recipes/data/emoji_small.yaml on 100, 200, 400 and all 1381 concepts with three seeds, and recipes/data/
emoji_pretrained.yaml beside it with ``--beside`` (ten minutes of one core each). Finished stages are reused, so an
interrupted study continues. The weights as they came are the image tower's own vectors for pictures: the projections of
emoji_small begin as the identity. Intervals are 95 % bootstrap intervals over held-out concepts, paired. Ends with
``ratio``: the smallest image recall@10 of the recipe over that of the weights as they came, over sizes and seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from moonlib import fit
from moonlib.artifacts.layout import RESULTS, link_name
from moonlib.studies.paired import Interval, recall_gain, show

SIZES = (100, 200, 400, 1381)
RECIPE, BESIDE = "recipes/data/emoji_small.yaml", "recipes/data/emoji_pretrained.yaml"
INITIAL = "baseline/initial"
KEYS = tuple(f"{task}/recall@{k}" for task in ("image_search", "text_search") for k in (1, 10))


def fitted(recipe: str, size: int, seed: int, runs: Path) -> Path:
    """Fit a recipe on so many concepts, or reuse the run."""
    overrides = [f"--data.init_args.train={size}", f"--seed={seed}", "--stages.represent.data.queries=searched"]
    return fit(recipe, overrides, runs=runs, name=f"{Path(recipe).stem}-{size}-seed{seed}", replace=True)


def read(run: Path) -> dict[str, float]:
    """The results of a run."""
    found: dict[str, float] = json.loads((run / RESULTS).read_text())
    return found


def gain(run: Path, k: int) -> Interval:
    """Image recall@k of a run minus that of the weights as they came, on the same searches."""
    return recall_gain(run, run, link_name("represent", INITIAL), k=k)


def main() -> None:
    """Print a row per size: the mean over seeds of each recall, beside the weights as they came."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/small_catalogue"))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--beside", action="store_true", help="fit emoji_pretrained too, with the first seed")
    arguments = parser.parse_args()

    table = Table("concepts", "recipe", *KEYS)
    console, lines, ratios = Console(width=120), [], []
    for size in arguments.sizes:
        runs = [fitted(RECIPE, size, seed, arguments.runs) for seed in arguments.seeds]
        rows = {f"emoji_small, mean of {len(runs)}": [read(run) for run in runs]}
        if arguments.beside:
            rows["emoji_pretrained"] = [read(fitted(BESIDE, size, arguments.seeds[0], arguments.runs))]
        rows["as they came"] = [{key: found[f"{INITIAL}/{key}"] for key in KEYS} for found in rows[next(iter(rows))]]
        for name, found in rows.items():
            table.add_row(str(size), name, *(f"{np.mean([each[key] for each in found]):.3f}" for key in KEYS))
        for run in runs:
            gains = {k: gain(run, k) for k in (1, 10)}
            lines.append(f"{run.name} - as they came: " + ", ".join(f"@{k} {show(each)}" for k, each in gains.items()))
            key = "image_search/recall@10"
            ratios.append(read(run)[key] / read(run)[f"{INITIAL}/{key}"])
    console.print(table)
    for line in lines:
        console.print(line, highlight=False)
    print(f"ratio: {min(ratios):.3f}")


if __name__ == "__main__":
    main()
