"""Image search in the marketplace by what learns nothing, beside the truth: is there room for a representation?

    python benchmarks/marketplace_pictures.py --seeds 21 22 23

Recall@10 of image search on test days, as every run of moonlib reports it: of the thumbnail of colours, of iter1's
encoder before it learns, and of the true latents. Then the thumbnail of what boxes show, those that a detector draws
and the true ones.

Exits with 1 if the thumbnail or the encoder finds .3 or more, or the latents .95 or less. Ends with ``ratio``: .3 by
the largest recall of the thumbnail, so above 1 there is room.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch
import yaml
from rich.console import Console
from rich.table import Table

from moonlib import fit
from moonlib.data.dataset import Dataset
from moonlib.data.evaluation import evaluation_searches
from moonlib.data.images import decode_image
from moonlib.data.reader import Sample, SampleReader
from moonlib.metrics.recall import recall_at
from moonlib.probes.probe import Represented
from moonlib.probes.search import ranks_of
from moonlib.representations.store import Representations
from moonlib.runs.run import Run

RECIPE = Path(__file__).parents[1] / "recipes/iter1.yaml"
MOST, LEAST = 0.3, 0.95
SIDE = 16
Shown = Literal["box", "true box"]


def results(seed: int, size: str, runs: Path) -> Path:
    """Run iter1 on a marketplace without letting it learn, and return the run."""
    stages = {"pretrain": {"trainer": {"max_steps": 1}}, "application": None}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as recipe:
        recipe.write(yaml.safe_dump({"extends": str(RECIPE), "stages": stages}))
        recipe.flush()
        same = ["--seed", str(seed), "--data.init_args.seed", str(seed), "--data.init_args.size", size]
        return fit(recipe.name, same, runs=runs, name=f"untrained-{size}-{seed}")


def thumbnails(samples: list[Sample], boxes: dict[int, list[float] | None]) -> Representations:
    """Thumbnails of what the boxes show, or of the whole picture without a box."""
    vectors = np.zeros((len(samples), 3 * SIDE * SIDE), dtype=np.float32)
    for row, sample in enumerate(samples):
        if sample.image is not None:
            pixels = decode_image(sample.image, boxes.get(sample.id), size=SIDE).numpy().ravel() / np.float32(255)
            vectors[row] = pixels - pixels.mean()
    return Representations(np.array([sample.id for sample in samples]), vectors)


def boxed(dataset: Dataset, shown: Shown) -> float:
    """Recall@10 of the thumbnail of what boxes show."""
    searches = evaluation_searches(dataset, "test", "image_search")
    wanted = {"products": dataset.products["item_id"].to_numpy(), "queries": searches["query_id"].unique().to_numpy()}
    stores = {}
    for table, key in (("products", "item_id"), ("queries", "query_id")):
        samples = SampleReader(dataset, table).read(wanted[table])
        boxes = {sample.id: sample.row["box"] for sample in samples}
        if shown == "true box":
            assert dataset.truth is not None
            boxes = dict(pl.read_ipc(dataset.truth / f"{table}.arrow").select(key, "box").iter_rows())
        stores[table] = thumbnails(samples, boxes)
    ranks = ranks_of(Represented(dataset, **stores, split="test"), searches)
    return float(recall_at(torch.from_numpy(ranks), 10, dataset.counts["products"]))


def main() -> int:
    """Build every marketplace, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23])
    parser.add_argument("--size", default="small")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()

    key = "image_search/recall@10"
    rows: dict[str, list[float]] = {}
    searches = []
    for seed in arguments.seeds:
        run = results(seed, arguments.size, arguments.runs)
        found, dataset = json.loads((run / "results.json").read_text()), Run(run).dataset()
        of = {
            "encoder before it learns": found[f"baseline/initial/{key}"],
            "thumbnail": found[f"baseline/thumbnail/{key}"],
            "thumbnail of detected boxes": boxed(dataset, "box"),
            "thumbnail of true boxes": boxed(dataset, "true box"),
            "true latents": found[f"oracle/{key}"],
        }
        for name, value in of.items():
            rows.setdefault(name, []).append(value)
        searches.append(len(evaluation_searches(dataset, "test", "image_search")))
    table = Table(f"{key}, test days", *(f"seed {seed}" for seed in arguments.seeds))
    for name, values in rows.items():
        table.add_row(name, *(f"{value:.4f}" for value in values))
    table.add_row("searches", *(f"{count:,}" for count in searches))
    Console(width=110).print(table)
    found_nothing = max(rows["encoder before it learns"] + rows["thumbnail"])
    print(f"ratio: {MOST / max(rows['thumbnail']):.2f}")
    return 0 if found_nothing < MOST and min(rows["true latents"]) > LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
