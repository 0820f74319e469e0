"""The training step beside open_clip's own: samples/s of both loops on the same model, pictures, titles and optimizer.

    python benchmarks/open_clip.py

Both train one open_clip model in float32 on the CPU: a ViT of width 192 that reads patches of 16 pixels, and a small
text transformer. moonlib runs `pretraining` (image ↔ title) with the `openclip` towers as `fit` does: shards, loader
processes, Lightning, logs and checkpoints at their defaults. open_clip 3.3 runs the `train_one_epoch` of
`open_clip_train` on its own webdataset pipeline, with the loss, schedule and AdamW that its `main` makes, at moonlib's
settings; its transform is the one without random crops, and it writes no logs, so that neither costs it anything. The
pictures and titles are those of the `small` marketplace, one product per SPU, because open_clip's loss knows no SPUs.

Beside each loop stands its bare loop: loss, backward and step of the same model on batches in memory, which no loop
around them can exceed. moonlib's bare loop over open_clip's loop is the bound of the ratio.

Turns of all four alternate in one process; the first round and the first steps of a turn are not counted. Medians of
the rounds. Before that, both loops are started from equal weights on one and the same batch: the losses of step one
must agree to 1e-4 of their value, or the exit code is 1.

Ends with ``ratio``: samples/s of moonlib's loop over samples/s of open_clip's.
"""

from __future__ import annotations

import sys
from pathlib import Path

if sys.path[0] == str(Path(__file__).resolve().parent):
    # This file bears the name of what it measures, and its folder comes first where modules are looked for.
    del sys.path[0]

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import moonlib.compat  # noqa: F401
import open_clip
import open_clip_train.data
import polars as pl
import torch
import webdataset
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from open_clip_train.distributed import init_distributed_device
from open_clip_train.params import parse_args
from open_clip_train.scheduler import cosine_lr
from open_clip_train.train import train_one_epoch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import AdamW, Optimizer

from moonlib.batches.loading import PairBatch
from moonlib.data.content import Modalities
from moonlib.data.dataset import Dataset
from moonlib.data.reader import SampleReader
from moonlib.data.tables import empty
from moonlib.encoders.dual import DualEncoder
from moonlib.encoders.openclip.image_tower import OpenClipImage
from moonlib.encoders.openclip.text_tower import OpenClipText
from moonlib.fusion.fusion import Fusion
from moonlib.losses.info_nce import InfoNCE
from moonlib.negatives.in_batch import InBatch
from moonlib.pairs.pair_source import PairContext, PairSource
from moonlib.pairs.pairs import Pairs, product_pairs
from moonlib.runs.runner import quiet
from moonlib.sources.marketplace.source import Marketplace
from moonlib.stages.contrast import contrastive_loss
from moonlib.stages.contrastive import Contrastive, PairData
from moonlib.stages.stage import StageContext

# webdataset marks the ends of shards by now, which this version of open_clip stumbles over (its issue 935).
open_clip_train.data.tar_file_expander = partial(open_clip_train.data.tar_file_expander, eof_value=None)

NAME = "moonlib-benchmark-vit-192"
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": 6, "width": 192, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 192, "heads": 3, "layers": 2},
}
LEARNING_RATE, WEIGHT_DECAY, WARMUP = 5e-4, 0.2, 0.05

TOLERANCE = 1e-4
"""By which the losses of step one may differ, as a share of open_clip's."""

WARM = 3
"""Steps at the start of a turn that are not counted: they warm caches and loader processes up."""

IN_MEMORY = 8
"""Batches of a bare loop, taken in turn."""

SHARDS = 8
"""Of open_clip's shards, for each of its loader processes."""


@dataclass
class Turn:
    """What was noted while a loop ran.

    Attributes:
        moments: one of each step, s.
        losses: one of each step.
    """

    moments: list[float] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    def note(self, loss: Tensor) -> None:
        self.moments.append(time.perf_counter())
        self.losses.append(loss.detach())

    def steps_per_second(self) -> float:
        return (len(self.moments) - 1 - WARM) / (self.moments[-1] - self.moments[WARM])


@dataclass(frozen=True)
class Work:
    """What both sides train on.

    Attributes:
        dataset: where moonlib reads the products.
        products: rows of its products table, one of an SPU, each with an image and a title.
        folder: for the architecture, the weights, open_clip's shards and what the loops write.
        batch_size: products in a batch.
        workers: loader processes of each side.
    """

    dataset: Dataset
    products: pl.DataFrame
    folder: Path
    batch_size: int
    workers: int

    @property
    def weights(self) -> str:
        return str(self.folder / "weights.safetensors")

    @property
    def architecture(self) -> str:
        return str(self.folder / f"{NAME}.json")

    def write(self) -> None:
        """Write the architecture, weights as open_clip draws them, and open_clip's shards."""
        Path(self.architecture).write_text(json.dumps(ARCHITECTURE), encoding="utf-8")
        torch.manual_seed(0)
        open_clip.add_model_config(self.architecture)
        weights = open_clip.CLIP(**ARCHITECTURE).state_dict()
        save_file({name: value.contiguous() for name, value in weights.items()}, self.weights)
        samples = SampleReader(self.dataset.directory, "products").read(self.products["item_id"].to_numpy())
        shards = self.workers * SHARDS
        for shard in range(shards):
            with webdataset.TarWriter(str(self.folder / f"{shard:03d}.tar")) as tar:
                for sample in samples[shard::shards]:
                    key = str(sample.row["item_id"])
                    tar.write({"__key__": key, "jpg": sample.image, "txt": sample.row["title"]})


class Unfused(Fusion):
    """The vector of the one modality that a row has, as CLIP takes it."""

    def setup(self, image_dim: int, text_dim: int, dim: int) -> None:
        assert image_dim == text_dim == dim

    def forward(self, image: Tensor, text: Tensor, has_image: Tensor, has_text: Tensor) -> Tensor:
        return torch.where(has_image.unsqueeze(1), image, text)


class GivenProducts(PairSource):
    """Given products, each paired with itself."""

    both_directions = True

    def __init__(self, products: pl.DataFrame) -> None:
        self.products = products

    def pairs(self, context: PairContext) -> tuple[Pairs, pl.DataFrame]:
        return product_pairs(self.products), empty("searches")


class NotedPretraining(Contrastive):
    """Pretraining on given products, which notes its steps and keeps its first batches."""

    def __init__(self, products: pl.DataFrame) -> None:
        super().__init__(
            # CLIP bounds its scale by clamping it, far from where so few steps lead.
            InfoNCE(temperature=0.07, min_temperature=0.0),
            [InBatch()],
            GivenProducts(products),
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            warmup=WARMUP,
        )
        self.turn = Turn()
        self.batches: list[PairBatch] = []

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.turn.note(outputs["loss"])
        if batch_idx < IN_MEMORY:
            self.batches.append(batch)


def moonlib_turns(work: Work, steps: int) -> tuple[Turn, Turn]:
    """Run moonlib's stage as `fit` does, then its bare loop."""
    folder = Path(tempfile.mkdtemp(dir=work.folder))
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=[CSVLogger(folder, name="", version="csv"), TensorBoardLogger(folder, name="", version="logs")],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        max_steps=steps,
        use_distributed_sampler=False,
    )
    towers = OpenClipImage(work.architecture, work.weights), OpenClipText(work.architecture, work.weights)
    encoder = DualEncoder(Unfused(), *towers, dim=ARCHITECTURE["embed_dim"])
    encoder.setup(work.products, folder)
    data = PairData({"image -> title": 1.0}, work.batch_size, workers=work.workers)
    stage = NotedPretraining(work.products)
    stage.run(StageContext(work.dataset, data, trainer, folder, seed=0, encoder=encoder))

    def loss(batch: PairBatch) -> Tensor:
        return contrastive_loss(encoder, batch, stage.loss, stage.samplers, both_directions=stage.pairs.both_directions)

    optimizer: Any = stage.configure_optimizers()
    return stage.turn, bare(loss, optimizer["optimizer"], stage.batches, steps)


def open_clip_turns(work: Work, steps: int) -> tuple[Turn, Turn]:
    """Run an epoch of open_clip's loop with what its `main` makes for it, then its bare loop."""
    options = {
        "model": NAME,
        "train-data": f"{work.folder}/{{000..{work.workers * SHARDS - 1:03d}}}.tar",
        "train-num-samples": steps * work.batch_size,
        "dataset-type": "webdataset",
        "batch-size": work.batch_size,
        "workers": work.workers,
        "precision": "fp32",
        "device": "cpu",
    }
    arguments = parse_args([f"--{name}={value}" for name, value in options.items()])
    arguments.distill = arguments.wandb = False
    init_distributed_device(arguments)
    model, _, transform = open_clip.create_model_and_transforms(NAME, work.weights, output_dict=True)
    parameters = list(model.parameters())
    optimizer = AdamW(
        [
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        ],
        lr=LEARNING_RATE,
    )
    schedule = cosine_lr(optimizer, LEARNING_RATE, max(1, round(WARMUP * steps)), steps)
    data = open_clip_train.data.get_data(arguments, (transform, transform), tokenizer=open_clip.get_tokenizer(NAME))
    criterion, turn = open_clip.create_loss(arguments), Turn()

    def noted(**outputs: Any) -> dict[str, Tensor]:
        found: dict[str, Tensor] = criterion(**outputs)
        turn.note(found["contrastive_loss"])
        return found

    train_one_epoch(model, data, noted, 0, optimizer, None, schedule, None, arguments)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        found: Tensor = criterion(**model(*batch))
        return found

    return turn, bare(loss, optimizer, itertools.islice(data["train"].dataloader, IN_MEMORY), steps)


def bare(loss: Callable[[Any], Tensor], optimizer: Optimizer, batches: Iterable[Any], steps: int) -> Turn:
    """Loss, backward and step on batches in memory."""
    turn = Turn()
    for batch in itertools.islice(itertools.cycle(list(batches)), steps):
        optimizer.zero_grad()
        value = loss(batch)
        value.backward()
        optimizer.step()
        turn.note(value)
    return turn


SIDES = {"moonlib": moonlib_turns, "open_clip": open_clip_turns}


def first_losses(work: Work) -> dict[str, float]:
    """The loss of each side's first step."""
    return {name: float(turns(work, 1)[0].losses[0]) for name, turns in SIDES.items()}


def main() -> None:
    """Compare the losses of step one, time the loops, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=14, help=f"of each turn, the first {WARM} not counted (14)")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each loop, the first not counted (4)")
    parser.add_argument("--batch-size", type=int, default=128, help="products in a batch (128)")
    parser.add_argument("--workers", type=int, default=2, help="loader processes of each side (2)")
    parser.add_argument("--data", type=Path, default=Path("runs/.data"), help="where datasets are (runs/.data)")
    parser.add_argument("--size", default="small", help="of the marketplace (small)")
    arguments = parser.parse_args()
    if arguments.steps < WARM + 2 or arguments.rounds < 2:
        parser.error(f"at least --steps {WARM + 2} and --rounds 2, else nothing is counted")
    quiet()
    dataset = Dataset(Marketplace(arguments.size, seed=0).prepare(arguments.data))
    products = dataset.splits.known(dataset.products)
    products = products.filter(Modalities.parse("title+image").available(products))
    products = products.unique("spu_id", keep="first", maintain_order=True)
    if len(products) < arguments.workers * arguments.batch_size:
        # Each of open_clip's loader processes reads shards of its own, and drops what fills no batch.
        parser.error(f"{len(products)} SPUs do not fill a batch for each loader process; take a smaller --batch-size")

    with tempfile.TemporaryDirectory() as folder:
        # There are no other products and there is one loader process: both sides see the same batch.
        one_batch = Work(dataset, products.head(arguments.batch_size), Path(folder), arguments.batch_size, workers=1)
        one_batch.write()
        losses = first_losses(one_batch)
    difference = abs(losses["moonlib"] / losses["open_clip"] - 1)

    loop: dict[str, list[float]] = {name: [] for name in SIDES}
    alone: dict[str, list[float]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        work = Work(dataset, products, Path(folder), arguments.batch_size, arguments.workers)
        work.write()
        for _ in range(arguments.rounds):
            for name, turns in SIDES.items():
                for rates, turn in zip((loop, alone), turns(work, arguments.steps), strict=True):
                    rates[name].append(arguments.batch_size * turn.steps_per_second())

    rate, alone_rate = ({name: statistics.median(rates[name][1:]) for name in SIDES} for rates in (loop, alone))
    table = Table("", "loop, samples/s", "bare loop, samples/s", "loop / bare", "loss of step one")
    for name in SIDES:
        share = rate[name] / alone_rate[name]
        table.add_row(name, f"{rate[name]:.0f}", f"{alone_rate[name]:.0f}", f"{share:.2f}", f"{losses[name]:.6f}")
    console = Console() if Console().is_terminal else Console(width=120)
    console.print(table)
    of_rounds = [one / other for one, other in zip(loop["moonlib"][1:], loop["open_clip"][1:], strict=True)]
    print(f"losses of step one: {difference:.1e} apart, {TOLERANCE:.0e} allowed")
    print(f"ratio of the rounds: {min(of_rounds):.2f} to {max(of_rounds):.2f}")
    print(f"bound, moonlib's bare loop over open_clip's loop: {alone_rate['moonlib'] / rate['open_clip']:.2f}")
    print(f"ratio: {rate['moonlib'] / rate['open_clip']:.2f}")
    if difference > TOLERANCE:
        sys.exit(1)


if __name__ == "__main__":
    main()
