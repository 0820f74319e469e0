"""Every adapter on the same representations: AUC and GAUC, for all, new and tail products, with paired intervals.

    python benchmarks/adapters.py --seeds 1 2 3

Every recipe of recipes/studies/adapters/ is iter3 with another adapter; ids are trained for one epoch and all else for
three. Each seed is another marketplace and another training; finished stages are reused, so an interrupted study
continues. Each adapter also reads the true latents, and of a seed the best of these on validation days is the oracle of
all: the share of the gap is (AUC - id-only) / (oracle - id-only). "Own latents" is AUC of the latents through the same
adapter. Intervals are 95 % bootstrap intervals over the shoppers of one seed. Ends with ``ratio``: the best adapter's
mean AUC gain over id-only, divided by .01.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from moonlib import fit
from moonlib.studies.paired import auc_gain, show

STUDIES = Path(__file__).parents[1] / "recipes/studies/adapters"
SMALLEST = 0.01
OWN_ORACLE = ["--stages.application.module.init_args.oracle_adapters", "[]"]
"""The other adapters read the latents in recipes of their own."""
KEYS = ("auc", "gauc", "auc@new", "gauc@new", "auc@tail", "gauc@tail")


def main() -> None:
    """Run the recipes on every seed and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--studies", nargs="*", default=sorted(path.stem for path in STUDIES.glob("*.yaml")))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--size", default="small")
    parser.add_argument("overrides", nargs="*", help="of every recipe, after --")
    arguments = parser.parse_args()

    runs: dict[str, list[Path]] = {}
    for seed in arguments.seeds:
        same = ["--seed", str(seed), "--data.init_args.seed", str(seed), "--data.init_args.size", arguments.size]
        for study in arguments.studies:
            name = f"adapter-{study}-{arguments.size}-{seed}"
            recipe = STUDIES / f"{study}.yaml"
            runs.setdefault(study, []).append(
                fit(recipe, [*same, *OWN_ORACLE, *arguments.overrides], runs=arguments.runs, name=name)
            )

    measured = {study: [json.loads((run / "results.json").read_text()) for run in of] for study, of in runs.items()}
    best_of = [
        max(measured, key=lambda study: measured[study][i]["oracle/valid/ctr/auc"]) for i in range(len(arguments.seeds))
    ]
    oracle = np.array([measured[study][i]["oracle/ctr/auc"] for i, study in enumerate(best_of)])
    headings = (*KEYS, "share of gap", "own latents", "shuffled")
    table = Table("adapter", *headings, title="means over the seeds, test days")
    gains = Table("adapter", *(f"seed {seed}" for seed in arguments.seeds), title="ctr/auc - id only, test days")
    best = 0.0
    for study, of_study in runs.items():
        results = measured[study]
        ours, ids, latents, shuffled = (
            np.array([values[f"{prefix}ctr/auc"] for values in results])
            for prefix in ("", "baseline/", "oracle/", "baseline/shuffled/")
        )
        # Where the oracle itself gains next to nothing, a share of it says nothing.
        share = f"{np.mean((ours - ids) / (oracle - ids)):.3f}" if np.all(oracle - ids >= SMALLEST) else ""
        means = [np.mean([values[f"ctr/{key}"] for values in results]) for key in KEYS]
        table.add_row(
            study, *(f"{mean:.4f}" for mean in means), share, *(f"{np.mean(of):.4f}" for of in (latents, shuffled))
        )
        gains.add_row(study, *(show(auc_gain(run / "application", run / "application.baseline")) for run in of_study))
        best = max(best, float(np.mean(ours - ids)))
    console = Console(width=150)
    console.print(table)
    console.print(gains)
    told = (
        f"{study} of seed {seed} ({auc:.4f})" for study, seed, auc in zip(best_of, arguments.seeds, oracle, strict=True)
    )
    console.print(f"oracle, chosen on validation days: {', '.join(told)}")
    print(f"ratio: {best / SMALLEST:.2f}")


if __name__ == "__main__":
    main()
