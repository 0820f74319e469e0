"""Samples per second, memory and utilisation of one GPU in bf16: training and embedding, beside a bare loop of torch.

    python benchmarks/gpu.py                   about 7 minutes on one H200; without a GPU it says so and ends
    python benchmarks/gpu.py --smoke           the same on a CPU with tiny models: does it run?

Two encoders with random weights; nothing is downloaded:

- siglip2: the architecture of google/siglip2-base-patch16-224 (two towers of 12 layers, 768 wide; patches of 16 pixels
  in pictures of 224; 256,000 tokens, texts of 64) as a dual encoder whose heads are two linear maps
- iter5: the encoder of recipes/iter5.yaml

A training step is the loss of post-training, image → text with negatives within the batch, backward, and AdamW;
embedding reads picture and text of each product. Batches lie on the device already: loading has a benchmark of its own.
The bare loop makes the same steps with transformers' own model, or the same towers, and `cross_entropy`; it has no
missing modalities, no masks of products that are positives of each other, and no GradCache.

Memory is torch's peak. ``MFU`` is the floating-point operations of a step that torch counts, over those that a large
matrix product of bf16 reaches on this device in the same time; the second forward pass of GradCache counts as work.

Ends with ``ratio``: samples/s of training siglip2 over those of the bare loop, at the largest batch that both can do.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import polars as pl
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from moonlib.batches.loading import PairBatch
from moonlib.config import recipe as recipes
from moonlib.data.images import decode_image
from moonlib.data.tables import SCHEMAS
from moonlib.encoders.dual import DualEncoder
from moonlib.encoders.encoder import ContentBatch
from moonlib.encoders.tower import ImageTower, TextTower
from moonlib.fusion.sum import Sum
from moonlib.losses.info_nce import InfoNCE
from moonlib.stages.contrast import contrastive_loss

BATCHES = {"siglip2": (64, 256, 1024, 4096), "iter5": (256, 1024, 4096, 16384)}
CACHE = {"siglip2": 256, "iter5": 1024}
"""Rows that GradCache encodes at once."""

TEMPERATURE = 0.07


@dataclass
class Cell:
    """One line of the table.

    Attributes:
        encoder: which.
        work: ``train``, ``train, GradCache`` or ``embed``.
        by: ``moonlib`` or ``bare``.
        batch: samples of a step.
        samples: per second, None where there was no memory or no time.
        memory: GiB at the peak.
        mfu: see above.
        note: why there is no number.
    """

    encoder: str
    work: str
    by: str
    batch: int
    samples: float | None = None
    memory: float | None = None
    mfu: float | None = None
    note: str = ""
    seconds: list[float] = field(default_factory=list)


# The towers that the wheel has for SigLIP can take the place of these two; the architecture is that of the checkpoint.
class SiglipImage(ImageTower):
    """The vision half of a SigLIP model, with random weights."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.out_features, self.image_size = config.hidden_size, config.image_size

    def setup(self) -> None:
        from transformers import SiglipVisionModel

        self.body = SiglipVisionModel(self.config)
        self.load_image = partial(decode_image, size=self.image_size)

    def forward(self, image: Tensor) -> Tensor:
        return self.body(pixel_values=scaled(image)).pooler_output


class SiglipText(TextTower):
    """The text half."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.out_features = config.hidden_size

    def setup(self, products: pl.DataFrame, directory: Path) -> None:
        from transformers import SiglipTextModel

        self.body = SiglipTextModel(self.config)
        self.tokenize = lambda texts: (torch.zeros(len(texts), 1), torch.zeros(len(texts), 1))  # not used here

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        return self.body(input_ids=text).pooler_output


def scaled(image: Tensor) -> Tensor:
    """Pixels as SigLIP reads them, from -1 to 1."""
    return image.to(torch.float32) / 127.5 - 1


def siglip_config(smoke: bool) -> Any:
    """That of google/siglip2-base-patch16-224, or a tiny one."""
    from transformers import SiglipConfig

    wide = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    narrow = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    size = narrow if smoke else wide
    text = {"vocab_size": 100 if smoke else 256_000, "max_position_embeddings": 64, "pad_token_id": 1}
    text |= {"bos_token_id": 2, "eos_token_id": 1}  # in any vocabulary; nothing here depends on them
    vision = {"image_size": 32 if smoke else 224, "patch_size": 16}
    return SiglipConfig(text_config={**size, **text}, vision_config={**size, **vision})


def siglip_encoder(config: Any) -> DualEncoder:
    width = config.vision_config.hidden_size
    encoder = DualEncoder(Sum(), SiglipImage(config.vision_config), SiglipText(config.text_config), dim=width)
    encoder.setup(pl.DataFrame(), Path())
    return encoder


def iter5_encoder() -> DualEncoder:
    """The encoder of the recipe, its tokenizer fitted on a few words."""
    encoder = recipes.load("iter5").encoder()
    assert isinstance(encoder, DualEncoder)
    words = [f"red mug {n}" for n in range(200)]
    attributes = pl.from_arrow(SCHEMAS["products"].empty_table())["attributes"].dtype  # type: ignore[index]
    products = pl.DataFrame(
        {"item_id": range(200), "title": words, "category": ["a/b"] * 200, "attributes": [None] * 200},
        schema_overrides={"attributes": attributes},
    )
    with tempfile.TemporaryDirectory() as folder:
        encoder.setup(products, Path(folder))
    return encoder


class BareSiglip(nn.Module):
    """transformers' own model."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        from transformers import SiglipModel

        self.body = SiglipModel(config)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        pixels = self.body.vision_model(pixel_values=scaled(image)).pooler_output
        return pixels, self.body.text_model(input_ids=text).pooler_output


class BareTowers(nn.Module):
    """The towers of a dual encoder and two linear maps, without anything that may be missing."""

    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        assert encoder.image is not None and encoder.text is not None
        self.image, self.text = encoder.image, encoder.text
        self.of_image = nn.Linear(encoder.image_dim, encoder.dim)
        self.of_text = nn.Linear(encoder.text_dim, encoder.dim)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.ones_like(text, dtype=torch.bool)
        return self.of_image(self.image(image)), self.of_text(self.text(text, mask))


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        encoder: makes it, with random weights.
        bare: makes the plain model of the same size.
        side: of its pictures, in pixels.
        length: of its texts, in tokens.
    """

    encoder: Callable[[], DualEncoder]
    bare: Callable[[], nn.Module]
    side: int
    length: int


@dataclass(frozen=True)
class Bench:
    """What all cells share.

    Attributes:
        device: of models and batches.
        peak: operations per second of a large matrix product.
        console: to print to.
    """

    device: torch.device
    peak: float
    console: Console

    def contents(self, subject: Subject, size: int) -> tuple[Tensor, Tensor]:
        """Pictures uint8 [size, 3, S, S] and token ids int64 [size, T]."""
        pictures = torch.randint(0, 256, (size, 3, subject.side, subject.side), device=self.device).to(torch.uint8)
        return pictures, torch.randint(1, 60, (size, subject.length), device=self.device)

    def made(self, make: Callable[[], Any]) -> Any:
        """A model whose weights are drawn on the device."""
        with self.device:
            return make().to(self.device)

    def measure(self, cell: Cell, prepare: Callable[[], Callable[[], Any]], until: float) -> None:
        """Time the steps that ``prepare`` returns until a moment, three at least; fill the cell."""
        if time.perf_counter() >= until:
            cell.note = "no time left"
            return
        try:
            with self.clean():
                step = prepare()
                step()  # what is loaded lazily
                with FlopCounterMode(display=False) as counter:
                    step()
                self.wait()
                if self.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                while len(cell.seconds) < 3 or (time.perf_counter() < until and len(cell.seconds) < 200):
                    start = time.perf_counter()
                    step()
                    self.wait()
                    cell.seconds.append(time.perf_counter() - start)
                seconds = statistics.median(cell.seconds)
                cell.samples = cell.batch / seconds
                cell.mfu = counter.get_total_flops() / seconds / self.peak
                if self.device.type == "cuda":
                    cell.memory = torch.cuda.max_memory_allocated() / 2**30
        except torch.OutOfMemoryError:
            cell.note = "out of memory"

    @contextmanager
    def clean(self) -> Iterator[None]:
        """Give memory back afterwards, so that cells do not see each other."""
        try:
            yield
        finally:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def matrix_product(device: torch.device, side: int) -> float:
    """Operations per second of a product of two matrices of bf16, the best of ten."""
    left = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        left @ left
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def pair_batch(image: Tensor, text: Tensor) -> PairBatch:
    """Queries that are pictures, items that are texts."""
    size = len(image)
    some = torch.ones(size, dtype=torch.bool, device=image.device)
    mask = torch.ones_like(text, dtype=torch.bool)
    queries: ContentBatch = {"image": image, "has_image": some, "text": text, "text_mask": torch.zeros_like(mask)}
    items: ContentBatch = {"image": image, "has_image": ~some, "text": text, "text_mask": mask}
    ids = torch.arange(size, device=image.device)
    return PairBatch(queries, items, ids, ids, ids % 50, ids[:, None], ids[:, None], ids * 0)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)


def ours(bench: Bench, subject: Subject, batch: int, rows: int | None) -> Callable[[], None]:
    """A training step of moonlib."""
    encoder = bench.made(subject.encoder).train()
    optimizer, loss = optimizer_of(encoder), InfoNCE(temperature=TEMPERATURE)
    pairs = pair_batch(*bench.contents(subject, batch))

    def step() -> None:
        with bench.autocast():
            value = contrastive_loss(encoder, pairs, loss, [], both_directions=True, grad_cache=rows)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def bare(bench: Bench, subject: Subject, batch: int) -> Callable[[], None]:
    """A training step of a plain loop."""
    image, text = bench.contents(subject, batch)
    network = bench.made(subject.bare).train()
    optimizer, labels = optimizer_of(network), torch.arange(batch, device=bench.device)

    def step() -> None:
        with bench.autocast():
            pictures, texts = network(image, text)
        scores = F.normalize(pictures.float(), dim=1) @ F.normalize(texts.float(), dim=1).T / TEMPERATURE
        value = (F.cross_entropy(scores, labels) + F.cross_entropy(scores.T, labels)) / 2
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def embedding(bench: Bench, subject: Subject, batch: int) -> Callable[[], None]:
    """Pictures and texts to representations."""
    encoder = bench.made(subject.encoder).eval()
    image, text = bench.contents(subject, batch)
    some = torch.ones(batch, dtype=torch.bool, device=bench.device)
    content = {"image": image, "has_image": some, "text": text, "text_mask": torch.ones_like(text, dtype=torch.bool)}

    def step() -> None:
        with torch.inference_mode(), bench.autocast():
            encoder(content)

    return step


def bare_embedding(bench: Bench, subject: Subject, batch: int) -> Callable[[], None]:
    """The same of the plain model."""
    image, text = bench.contents(subject, batch)
    network = bench.made(subject.bare).eval()

    def step() -> None:
        with torch.inference_mode(), bench.autocast():
            pictures, texts = network(image, text)
            F.normalize(pictures, dim=1) + F.normalize(texts, dim=1)

    return step


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=400, help="budget, the making of models included (400)")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.json"), help="JSON of the table (runs/gpu.json)")
    parser.add_argument("--smoke", action="store_true", help="tiny models on the CPU, three steps each")
    options = parser.parse_args()
    if not options.smoke and not torch.cuda.is_available():
        print(f"no GPU: torch {torch.__version__} finds none here, and this measures one; --smoke tries it on the CPU")
        return
    console, device = Console(), torch.device("cpu" if options.smoke else "cuda")
    if not options.smoke:
        torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    machine = "CPU" if options.smoke else torch.cuda.get_device_name()
    peak = matrix_product(device, 64 if options.smoke else 8192)
    bench, config = Bench(device, peak, console), siglip_config(options.smoke)
    console.print(f"{machine}, torch {torch.__version__}; a matrix product of bf16: {peak / 1e12:.0f} TFLOP/s")
    side = config.vision_config.image_size
    subjects = {
        "siglip2": Subject(lambda: siglip_encoder(config), lambda: BareSiglip(config), side, 64),
        "iter5": Subject(iter5_encoder, lambda: BareTowers(iter5_encoder()), 64, 24),
    }
    jobs: list[tuple[Cell, Callable[[], Callable[[], Any]]]] = []
    for name, subject in subjects.items():
        rows = 4 if options.smoke else CACHE[name]
        for batch in (8,) if options.smoke else BATCHES[name]:
            jobs.append((Cell(name, "train", "moonlib", batch), partial(ours, bench, subject, batch, None)))
            jobs.append((Cell(name, "train", "bare", batch), partial(bare, bench, subject, batch)))
            if batch > rows:
                cached = partial(ours, bench, subject, batch, rows)
                jobs.append((Cell(name, "train, GradCache", "moonlib", batch), cached))
            jobs.append((Cell(name, "embed", "moonlib", batch), partial(embedding, bench, subject, batch)))
            jobs.append((Cell(name, "embed", "bare", batch), partial(bare_embedding, bench, subject, batch)))
    start = time.perf_counter()
    for index, (cell, prepare) in enumerate(jobs):
        # Each may take what is left, shared among those to come.
        left = start + options.seconds - time.perf_counter()
        bench.measure(cell, prepare, time.perf_counter() + (0.05 if options.smoke else left / (len(jobs) - index)))
    cells = [cell for cell, _ in jobs]
    show(console, cells)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    about = {"device": machine, "torch": torch.__version__, "matrix_product": peak, "cells": [*map(asdict, cells)]}
    options.out.write_text(json.dumps(about, indent=1))
    print(options.out)
    ratio(cells)


def show(console: Console, cells: list[Cell]) -> None:
    table = Table("encoder", "work", "by", "batch", "samples/s", "GiB", "MFU")
    for cell in cells:
        speed = cell.note if cell.samples is None else f"{cell.samples:,.0f}"
        memory = "" if cell.memory is None else f"{cell.memory:.1f}"
        mfu = "" if cell.mfu is None else f"{cell.mfu:.0%}"
        table.add_row(cell.encoder, cell.work, cell.by, f"{cell.batch:,}", speed, memory, mfu)
    console.print(table)


def ratio(cells: list[Cell]) -> None:
    speeds = {(c.by, c.batch): c.samples for c in cells if c.encoder == "siglip2" and c.work == "train" and c.samples}
    both = [batch for by, batch in speeds if by == "bare" and ("moonlib", batch) in speeds]
    if not both:
        print("ratio: none, no batch of siglip2 was trained on by both")
        return
    print(f"ratio: {speeds['moonlib', max(both)] / speeds['bare', max(both)]:.2f}")


if __name__ == "__main__":
    main()
