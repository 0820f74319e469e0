"""Why a run's clicks are predicted less well than can be: the way from ids alone to the true probability, in AUC.

    python benchmarks/gap.py                              # iter5 on one marketplace, trained first
    python benchmarks/gap.py runs/iter5-small-21 runs/iter5-small-22

The run's own click model, its adapter and its training included, is trained on other representations of the same
products and queries:

- *true products, what it finds*: the true latents of all products; of each query, those of the product that the run's
  encoder finds first among the products listed by then.
- *true products and texts, photos it finds*: the same, but true latents of queries without a photo, too. What is left
  to the true latents is to find what a photo shows, and what is between the two, what a text asks for.
- *without what only texts tell*: the true latents without their brand, composition and function.
- *true latents*: the run's oracle with its own adapter.

"Share" is of the way from ids alone to the true latents. Intervals are 95 % bootstrap intervals over the shoppers of
one marketplace; that of the mean of several runs is over all of theirs. What is trained is kept beside the runs. Ends
with ``ratio``: the smallest share of a run.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import torch
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from moonlib import fit
from moonlib.data.dataset import Dataset
from moonlib.data.shards import build_once, write_dataset
from moonlib.data.tables import Tables, validate
from moonlib.metrics.auc import auc
from moonlib.metrics.bootstrap import pooled
from moonlib.representations.store import Representations
from moonlib.runs.run import Run
from moonlib.sources.marketplace.latents import LatentSpace
from moonlib.studies.paired import auc_gain, predictions, show

AT_ONCE = 1024
"""Queries compared with all products at a time."""

IDS, RUN, FOUND, PHOTOS, SEEN, TRUE, CEILING = (
    "ids alone",
    "the run",
    "true products, what it finds",
    "true products and texts, photos it finds",
    "true latents without what only texts tell",
    "true latents",
    "true probability",
)
SHORT = {FOUND: "found", PHOTOS: "photos", SEEN: "seen"}
"""In names of runs."""

STEPS = {
    "to know products by their content": (RUN, IDS),
    "to know how alike products are": (FOUND, RUN),
    "to find what a text asks for": (PHOTOS, FOUND),
    "to find what a photo shows": (TRUE, PHOTOS),
    "(of all, what only texts tell)": (TRUE, SEEN),
    "what no content tells": (CEILING, TRUE),
}
"""What is between two of them: the second is what it is counted from."""

Vectors = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Of the products and of the queries, in the order of their ids."""


def latents(dataset: Dataset, table: str, key: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """True latents of products or queries, with their ids in ascending order."""
    if dataset.truth is None:
        raise SystemExit(f"{dataset.directory} knows no truth: only a marketplace does")
    found = pl.read_ipc(dataset.truth / f"{table}.arrow", columns=[key, "latent"]).sort(key)
    return found[key].to_numpy(), np.stack(found["latent"].to_numpy())


def found_first(run: Run, item_id: NDArray[np.int64], query_id: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each query, the row of the nearest product among those that were listed by then; -1 of one that is nowhere."""
    dataset = run.dataset()
    products, queries = run.representations()
    items = products.gather(item_id)
    items /= np.maximum(np.linalg.norm(items, axis=1, keepdims=True), 1e-12)
    listed = dataset.products.select("item_id", "listed_at").sort("item_id")["listed_at"].to_numpy()
    times = pl.concat([dataset.searches.select("query_id", "ts"), dataset.impressions.select("query_id", "ts")])
    asked = pl.DataFrame({"query_id": query_id}).join(
        times.drop_nulls().group_by("query_id").agg(pl.col("ts").min()),
        on="query_id",
        how="left",
        maintain_order="left",
    )["ts"]
    when = asked.fill_null(dataset.searches["ts"].max()).to_numpy()
    first = np.empty(len(query_id), np.int64)
    for start in range(0, len(query_id), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        vectors = queries.gather(query_id[rows])
        scores = np.where(listed[None] <= when[rows, None], vectors @ items.T, -np.inf)
        first[rows] = np.where(vectors.any(axis=1), scores.argmax(axis=1), -1)
    return first


def variants(run: Run) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, Vectors]]:
    """Ids of products and of queries, and what the click model is given in place of the run's vectors."""
    dataset = run.dataset()
    item_id, items = latents(dataset, "products", "item_id")
    query_id, queries = latents(dataset, "queries", "query_id")
    first = found_first(run, item_id, query_id)
    space = LatentSpace(np.random.default_rng(0))  # where the columns of a block are does not depend on the draws
    found = np.where(first[:, None] < 0, 0, items[first]).astype(np.float32)
    asked = dataset.queries.sort("query_id")
    assert np.array_equal(asked["query_id"].to_numpy(), query_id)
    photo = asked["image"].is_not_null().to_numpy()
    return (
        item_id,
        query_id,
        {
            FOUND: (items, found),
            PHOTOS: (items, np.where(photo[:, None], found, queries)),
            SEEN: (space.without_told(items), space.without_told(queries)),
        },
    )


def with_vectors(dataset: Dataset, place: Path, ids: tuple[NDArray[np.int64], NDArray[np.int64]], of: Vectors) -> Path:
    """A dataset of the same events, without pictures, that comes with representations."""
    names = ("products", "queries", "users", "searches", "impressions")
    tables = Tables(**{name: dataset.table(name).drop("image", "images", "box", strict=False) for name in names})
    given = {name: Representations(*each) for name, *each in zip(names[:2], ids, of, strict=True)}

    def build(directory: Path) -> None:
        write_dataset(
            directory, validate(tables), no_image, dataset.splits, name="gap", version="1", representations=given
        )

    return build_once(place, build)


def no_image(table: str, name: str) -> bytes:
    """Refuse: no row names a picture."""
    raise ValueError(f"{table}: {name} has no picture here")


def measure(run: Run) -> dict[str, Path]:
    """Train the click model on each of the variants; return the application stages by what they read."""
    stage = run.config["stages"]["application"]
    init = stage["module"]["init_args"] | {"oracle_adapters": []}
    stage = stage | {"module": stage["module"] | {"init_args": init}}
    own = run.directory / "application.oracle.0"
    stages = {
        IDS: run.directory / "application.baseline",
        RUN: run.directory / "application",
        TRUE: own if own.exists() else run.directory / "application.oracle",
        CEILING: run.directory / "application.ceiling",
    }
    item_id, query_id, given = variants(run)
    for name, vectors in given.items():
        # Two runs of one name may differ, and a run may be trained again.
        told = hashlib.sha256(b"".join(each.tobytes() for each in vectors)).hexdigest()[:16]
        place = with_vectors(
            run.dataset(), run.directory.parent / ".data" / f"gap-{told}", (item_id, query_id), vectors
        )
        recipe = place.with_suffix(".yaml")
        data = {"class_path": "shards", "init_args": {"path": str(place.resolve())}}
        recipe.write_text(yaml.safe_dump({"seed": run.config["seed"], "data": data, "stages": {"application": stage}}))
        title = f"gap-{SHORT[name]}-{run.name}"
        stages[name] = fit(recipe, runs=run.directory.parent, name=title) / "application"
    return stages


def auc_of(stage: Path) -> float:
    """AUC of an application stage on the test days."""
    rows = predictions(stage)
    return auc(torch.tensor(rows["probability"].to_numpy()), torch.tensor(rows["clicked"].to_numpy())).item()


def main() -> None:
    """Measure the runs and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="*", help="finished runs on a marketplace (iter5 is trained)")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--size", default="small")
    arguments = parser.parse_args()
    paths = arguments.run or [fit("iter5", ["--data.init_args.size", arguments.size], runs=arguments.runs)]

    runs = [Run(path) for path in paths]
    measured = [measure(run) for run in runs]
    found = [{name: auc_of(stage) for name, stage in stages.items()} for stages in measured]
    table = Table("ctr/auc, test days", *(run.name for run in runs), "mean")
    for name in (IDS, RUN, FOUND, PHOTOS, SEEN, TRUE, CEILING):
        values = [each[name] for each in found]
        table.add_row(name, *(f"{value:.4f}" for value in values), f"{np.mean(values):.4f}")
    shares = [(each[RUN] - each[IDS]) / (each[TRUE] - each[IDS]) for each in found]
    table.add_row("share of the run", *(f"{share:.3f}" for share in shares), f"{np.mean(shares):.3f}")
    steps = Table("what is between them", *(run.name for run in runs), "mean")
    for step, (name, base) in STEPS.items():
        gains = [auc_gain(stages[name], stages[base]) for stages in measured]
        steps.add_row(step, *map(show, gains), show(pooled(gains)))
    console = Console(width=60 + 30 * (len(runs) + 1))
    console.print(table)
    console.print(steps)
    print(f"ratio: {min(shares):.2f}")


if __name__ == "__main__":
    main()
