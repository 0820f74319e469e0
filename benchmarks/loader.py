"""Decoded samples per second of moonlib's loader, beside a webdataset pipeline with Pillow on the same shards.

    python benchmarks/loader.py                 the products of the small marketplace, two worker processes each

Both sides read the shards of one dataset in torch's DataLoader with equally many workers. Both parse each row from
JSON and hand over the same batches: pictures uint8 [B, 3, S, S], titles tokenised by the same tokenizer, item ids.

- moonlib: `BatchPlanner` and `PairDataset` as in pretraining on ``image -> title``, so that a pair is one product's
  picture and its title. Products are read by id, in an order that is random over the whole epoch; a batch also brings
  the SPUs, categories and positives that a loss needs.
- webdataset: ``WebDataset(shards).shuffle(1000).decode("pil")``, a resize with Pillow's bilinear filter where the size
  differs, ``batched`` with torch's collation. Products are read in the order of the tar and shuffled within a buffer.

The rows of the table: the marketplace at the size that iter1's image tower reads; the same products drawn at 224 px,
read at 224 px and at 64 px. Before anything is timed, both must give the same tokens, and pictures that differ by a few
levels at most on average. Rounds of both take turns in one process; a round is timed from its first batch on, so that
starting workers does not count. Medians of the rounds.

Ends with ``ratio``: samples/s of moonlib over samples/s of webdataset, on the marketplace as it is.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import numpy as np
import torch
import webdataset
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from moonlib.batches.loading import PairDataset
from moonlib.batches.planner import BatchPlanner
from moonlib.data.content import Task
from moonlib.data.dataset import Dataset
from moonlib.data.images import decode_image
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import SampleReader
from moonlib.data.shards import build_once, write_dataset
from moonlib.data.tables import Tables
from moonlib.encoders.dual import DualPreprocessor
from moonlib.encoders.tokenizer import BPETokenize, catalogue_texts, fit_tokenizer
from moonlib.pairs.catalogue import Catalogue
from moonlib.pairs.pairs import product_pairs
from moonlib.sources.marketplace.source import Marketplace
from moonlib.sources.marketplace.world import World

EPOCHS = 1000
"""More than a round needs: both sides go on until they are stopped."""


@dataclass(frozen=True)
class Loaders:
    """The two sides over one dataset.

    Attributes:
        dataset: what is read.
        size: side of the pictures that come out, pixels.
        tokenize: the tokenizer of both.
        batch: products in a batch.
        workers: loader processes of each side.
        scratch: a folder for what the loader writes down.
    """

    dataset: Dataset
    size: int
    tokenize: BPETokenize
    batch: int
    workers: int
    scratch: Path

    def moonlib(self, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield pictures, tokens and item ids, batch by batch."""
        products = self.dataset.products
        task, pairs = Task.parse("image -> title"), product_pairs(products)
        planner = BatchPlanner(
            pairs,
            {str(task): 1.0},
            np.ones((len(pairs), 1), dtype=bool),
            self.batch,
            seed=seed,
            steps=EPOCHS * len(pairs) // self.batch,
        )
        batches = PairDataset(
            self.dataset.directory,
            DualPreprocessor(partial(decode_image, size=self.size), self.size, self.tokenize),
            pairs,
            [task],
            Catalogue.of(products),
            Quarantine(self.scratch / "quarantine.jsonl", total=len(products)),
        )
        for pair in DataLoader(batches, sampler=planner, batch_size=None, num_workers=self.workers):
            yield pair.query["image"], pair.item["text"], pair.item_id

    def webdataset(self, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield pictures, tokens and item ids, batch by batch."""
        shards = sorted(map(str, (self.dataset.directory / "shards").glob("products-*.tar")))
        pipeline = (
            webdataset.WebDataset(shards, shardshuffle=len(shards), seed=seed)
            .repeat(EPOCHS)
            .shuffle(1000, seed=seed)
            .decode("pil")
            .map(self.prepare)
            .batched(self.batch, collation_fn=self.collate, partial=False)
        )
        yield from DataLoader(pipeline, batch_size=None, num_workers=self.workers)

    def prepare(self, sample: dict[str, Any]) -> tuple[Tensor, str, int]:
        """The picture uint8 [3, S, S], title and item id of a decoded sample."""
        picture, row = sample["jpg"], sample["json"]
        if picture.size != (self.size, self.size):
            picture = picture.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1), row["title"] or "", row["item_id"]

    def collate(self, samples: list[tuple[Tensor, str, int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures uint8 [B, 3, S, S], tokens int64 [B, T] and item ids int64 [B]."""
        pictures, titles, item_ids = zip(*samples, strict=True)
        return default_collate(pictures), self.tokenize(titles)[0], torch.tensor(item_ids)

    def check(self) -> float:
        """Compare a batch of webdataset's with the same products as moonlib reads them.

        Returns:
            Mean difference of the pictures, in levels of 255.
        """
        pictures, tokens, item_ids = next(iter(self.webdataset(0)))
        samples = SampleReader(self.dataset.directory, "products").read(item_ids.numpy())
        mine = torch.stack([decode_image(sample.image or b"", size=self.size) for sample in samples])
        text, _ = self.tokenize([sample.row["title"] or "" for sample in samples])
        assert torch.equal(text, tokens), "the tokens differ"
        assert mine.shape == pictures.shape and mine.dtype == pictures.dtype == torch.uint8, "other tensors"
        difference = float((mine.float() - pictures.float()).abs().mean())
        assert difference < 4, f"the pictures differ by {difference:.1f} of 255 levels on average"
        return difference


def samples_per_second(batches: Iterator[tuple[Tensor, Tensor, Tensor]], samples: int) -> float:
    """Of about so many samples after the first batch."""
    done, start = 0, 0.0
    for image, _, _ in batches:
        if not start:
            start = time.perf_counter()
            continue
        done += len(image)
        if done >= samples:
            break
    return done / (time.perf_counter() - start)


def drawn(dataset: Dataset, side: int, directory: Path, products: int) -> Dataset:
    """The first products of the small marketplace with their pictures drawn at another size, built once."""

    def build(draft: Path) -> None:
        shots = replace(World.simulate("small", 0).shots(), size=side)

        def read_image(_: str, name: str) -> bytes:
            return shots.take(int(name[1:]))[0]

        tables = Tables(products=dataset.products.head(products))
        name = f"marketplace-small-0-{side}px"
        write_dataset(
            draft, tables, read_image, dataset.splits, name=name, version=dataset.version, samples_per_shard=512
        )

    return Dataset(build_once(directory / f"marketplace-v{dataset.version}-small-0-{side}px-{products}", build))


def main() -> None:
    """Time both sides on each dataset and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/.data"), help="where datasets are built")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=20_000, help="of each side in a round of the first row")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    small = Dataset(Marketplace("small", seed=0).prepare(arguments.data))
    large = drawn(small, 224, arguments.data, products=2048)
    tokenize = BPETokenize(fit_tokenizer(catalogue_texts(small.products), 4096), 48)
    table = Table(
        "JPEGs", "KB each", "read at", "difference", "moonlib / s", "webdataset / s", "ratio", "of the rounds"
    )
    ratios = []
    for dataset, size, samples in (
        (small, 64, arguments.samples),
        (large, 224, arguments.samples // 8),
        (large, 64, arguments.samples // 4),
    ):
        ours, theirs = [], []
        with tempfile.TemporaryDirectory() as scratch:
            both = Loaders(dataset, size, tokenize, arguments.batch, arguments.workers, Path(scratch))
            difference = both.check()
            for seed in range(arguments.rounds):
                ours.append(samples_per_second(both.moonlib(seed), samples))
                theirs.append(samples_per_second(both.webdataset(seed), samples))
        reader = SampleReader(dataset.directory, "products")
        images = [sample.image or b"" for sample in reader.read(reader.ids[:256])]
        rounds = [mine / other for mine, other in zip(ours, theirs, strict=True)]
        ratios.append(statistics.median(ours) / statistics.median(theirs))
        table.add_row(
            f"{decode_image(images[0]).shape[1]} px",
            f"{statistics.mean(map(len, images)) / 1024:.1f}",
            f"{size} px",
            f"{difference:.2f} of 255",
            f"{statistics.median(ours):,.0f}",
            f"{statistics.median(theirs):,.0f}",
            f"{ratios[-1]:.2f}",
            f"{min(rounds):.2f} to {max(rounds):.2f}",
        )
    console = Console() if Console().is_terminal else Console(width=120)
    console.print(table)
    print(f"ratio: {ratios[0]:.2f}")


if __name__ == "__main__":
    main()
