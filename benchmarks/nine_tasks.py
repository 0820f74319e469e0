"""Recall of each of MOON's nine tasks: what a query shows against what is known of the items.

    python benchmarks/nine_tasks.py runs/iter1 runs/iter2 runs/iter3

The searches of test days that ended in an order are encoded by the task's query modalities, the catalogue by its item
modalities, and the ordered product is ranked among all products listed by then. Ends with ``ratio``: the mean recall@10
of the last run, divided by that of the first.

Source: the nine pairs are those of MOON's Table 2 (arXiv 2511.11305).
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from moonlib.data.content import Modalities, Side
from moonlib.data.evaluation import evaluation_searches
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import SampleReader
from moonlib.embedding.embed import Contents, embed
from moonlib.metrics.recall import recall_at
from moonlib.probes.probe import Represented
from moonlib.probes.search import ranks_of
from moonlib.representations.store import Representations
from moonlib.runs.run import Run

TASKS = (
    ("text", "rich"),
    ("text", "image"),
    ("text", "title+image"),
    ("text", "rich+image"),
    ("image", "image"),
    ("image", "title+image"),
    ("image", "rich+image"),
    ("text+image", "title+image"),
    ("text+image", "rich+image"),
)


def recalls(place: Path, ks: list[int]) -> dict[tuple[str, str], list[float]]:
    """Recall@K of every task, for each K, on test days."""
    run = Run(place)
    encoder, dataset = run.encoder(), run.dataset()
    searches = evaluation_searches(dataset, "test").join(dataset.queries, on="query_id", how="left")
    products = dataset.table("products", ("item_id",))["item_id"].to_numpy()

    with TemporaryDirectory() as folder:

        @cache
        def vectors(side: Side, modalities: str) -> Representations:
            table = "products" if side == "product" else "queries"
            ids: NDArray[np.int64] = products if side == "product" else searches["query_id"].unique().to_numpy()
            quarantine = Quarantine(Path(folder) / "quarantine.jsonl", total=len(products) + len(searches))
            reader = SampleReader(dataset.directory, table)
            contents = Contents(reader, side, ids, Modalities.parse(modalities), quarantine, 64)
            name = f"{side}-{modalities.replace('+', '-')}"
            return embed(encoder, contents, Path(folder), name, workers=2)

        found = {}
        for query, item in track(TASKS, description=place.name):
            # A photo is asked of searches by photo, both of those by photo and text.
            asked = searches.filter(pl.col(modality).is_not_null() for modality in query.split("+"))
            represented = Represented(dataset, vectors("product", item), vectors("query", query), "test")
            rank = torch.from_numpy(ranks_of(represented, asked))
            found[query, item] = [float(recall_at(rank, k, len(products))) for k in ks]
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    arguments = parser.parse_args()

    ks = [1, 10]
    of_runs = {place.name: recalls(place, ks) for place in arguments.runs}
    table = Table("query → item", *(f"{name}, @{k}" for name in of_runs for k in ks), title="recall, test days")
    for task in TASKS:
        table.add_row(" → ".join(task), *(f"{value:.4f}" for found in of_runs.values() for value in found[task]))
    Console(width=160).print(table)
    means = [np.mean([values[1] for values in found.values()]) for found in of_runs.values()]
    print(f"ratio: {means[-1] / means[0]:.2f}")


if __name__ == "__main__":
    main()
