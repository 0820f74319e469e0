"""Products per second of `embed`, from shards to vectors on disk, beside the bare forward pass of the same encoder.

    python benchmarks/embed.py                 the small marketplace, 8,000 products

The encoder is that of recipes/iter1.yaml with fresh weights, the products are those of the small marketplace. The bare
side runs the forward pass over the very same chunks, already read, decoded and tokenised and held in memory as tensors,
with all of torch's threads; `embed` reads, decodes, tokenises, encodes and writes, and starts its worker processes
anew each round. The two take turns in one process.

Ends with ``ratio``: products/s of embed over products/s of the bare forward pass, medians of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import moonlib.compat  # noqa: F401
import torch
from rich.console import Console
from rich.table import Table

from moonlib.config import recipe as recipes
from moonlib.data.content import Modalities
from moonlib.data.dataset import Dataset
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import SampleReader
from moonlib.embedding.embed import Contents, embed
from moonlib.representations.store import Representations
from moonlib.sources.marketplace.source import Marketplace


def main() -> None:
    """Time both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("runs/.data"), help="where datasets are built")
    parser.add_argument("--products", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    dataset = Dataset(Marketplace("small").prepare(options.data))
    ids = dataset.products["item_id"].to_numpy()[: options.products]
    encoder = recipes.load("iter1").encoder()
    assert encoder is not None
    with tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(0)
        encoder.setup(dataset.splits.known(dataset.products), Path(scratch))
        encoder.eval()
        quarantine = Quarantine(Path(scratch) / "quarantine.jsonl", len(ids))
        reader, both = SampleReader(dataset.directory, "products"), Modalities.parse("title+image")
        contents = Contents(reader, "product", ids, both, quarantine, options.batch_size)
        prepared = [contents.preprocessed(encoder, chunk) for chunk in range(len(contents))]

        def bare() -> None:
            with torch.inference_mode():
                for batch in prepared:
                    encoder(batch)

        def whole() -> None:
            Representations.remove(Path(scratch), "products")
            embed(encoder, contents, Path(scratch), "products", workers=options.workers)

        bare()
        rates: dict[str, list[float]] = {"bare forward": [], "embed": []}
        for _ in range(options.rounds):
            for name, work in (("bare forward", bare), ("embed", whole)):
                start = time.perf_counter()
                work()
                rates[name].append(len(ids) / (time.perf_counter() - start))
    table = Table("products/s", "median", *(str(round + 1) for round in range(options.rounds)))
    for name, values in rates.items():
        table.add_row(name, f"{statistics.median(values):.0f}", *(f"{value:.0f}" for value in values))
    Console().print(table)
    chunks = f"{len(ids)} products in chunks of {options.batch_size}"
    print(f"{chunks}; bare: {torch.get_num_threads()} threads, embed: {options.workers} workers")
    print(f"ratio: {statistics.median(rates['embed']) / statistics.median(rates['bare forward']):.2f}")


if __name__ == "__main__":
    main()
