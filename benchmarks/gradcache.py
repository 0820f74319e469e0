"""Memory of a batch of 16384 pairs that is encoded in parts of 512, against a batch of 512 that is encoded at once.

    python benchmarks/gradcache.py

Both are one step of post-training's loss, forward and backward, with the encoder of recipes/iter2.yaml on random
pictures and texts, each in a process of its own. Memory is what the step adds at its peak to what was there before it,
the inputs included: these are held either way. Before, the gradient at batch 1024 in float64 is compared with that of
no cache at all. Ends with ``ratio``: memory of the small batch, plus 20 %, over that of the large one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import moonlib.compat  # noqa: F401
import polars as pl
import torch
from rich.console import Console
from rich.table import Table

from moonlib.batches.loading import PairBatch
from moonlib.config import recipe as recipes
from moonlib.data.tables import SCHEMAS
from moonlib.encoders.encoder import ContentBatch, Encoder
from moonlib.losses.info_nce import InfoNCE
from moonlib.stages.contrast import contrastive_loss

LARGE, SMALL, EXACT = 16384, 512, 1024


def make_encoder() -> Encoder:
    """The encoder of the recipe, its tokenizer fitted on a few words."""
    encoder = recipes.load("iter2").encoder()
    assert encoder is not None
    words = [f"red mug {n}" for n in range(200)]
    products = pl.DataFrame(
        {"item_id": range(200), "title": words, "category": ["a/b"] * 200, "attributes": [None] * 200},
        schema_overrides={"attributes": pl.from_arrow(SCHEMAS["products"].empty_table())["attributes"].dtype},  # type: ignore[index]
    )
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        encoder.setup(products, Path(folder))
    return encoder


def make_batch(encoder: Encoder, size: int) -> PairBatch:
    """Random photos as queries, random pictures and texts as items."""
    generator = torch.Generator().manual_seed(size)
    blank = encoder.preprocessor([], "product")

    def content(text: bool) -> ContentBatch:
        side, length = blank["image"].shape[-1], 24
        return {
            "image": torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=generator),
            "has_image": torch.ones(size, dtype=torch.bool),
            "text": torch.randint(1, 20, (size, length), generator=generator),
            "text_mask": torch.full((size, length), text),
        }

    ids = torch.arange(size)
    return PairBatch(content(False), content(True), ids, ids, ids % 50, ids[:, None], ids[:, None], ids * 0)


def peak_of_step(size: int, rows: int | None) -> tuple[float, float]:
    """Megabytes that a step adds at its peak, and its seconds."""
    encoder = make_encoder()
    loss = InfoNCE()
    contrastive_loss(
        encoder, make_batch(encoder, 8), loss, [], both_directions=True
    ).backward()  # what torch loads lazily
    encoder.zero_grad(set_to_none=False)
    batch = make_batch(encoder, size)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = resident("VmRSS"), time.perf_counter()
    contrastive_loss(encoder, batch, loss, [], both_directions=True, grad_cache=rows).backward()
    return resident("VmHWM") - before, time.perf_counter() - start


def resident(key: str) -> float:
    """Resident memory of this process in megabytes, now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def in_own_process(size: int, rows: int | None) -> tuple[float, float]:
    words = [sys.executable, __file__, "--step", str(size), *([str(rows)] if rows else [])]
    printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    megabytes, seconds = map(float, printed.split()[-2:])
    return megabytes, seconds


def largest_difference(size: int) -> float:
    """Largest relative difference between gradients with and without the cache, in float64."""
    encoder, loss = make_encoder().double(), InfoNCE().double()
    batch = make_batch(encoder, size)
    gradients = []
    for rows in (None, 100):
        encoder.zero_grad()
        contrastive_loss(encoder, batch, loss, [], both_directions=True, grad_cache=rows, budget=2**16).backward()
        gradients.append([parameter.grad for parameter in encoder.parameters()])
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-300)) for a, b in zip(*gradients, strict=True))  # type: ignore[operator, union-attr]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", type=int, default=LARGE)
    parser.add_argument(
        "--step", type=int, nargs="+", metavar=("SIZE", "ROWS"), help="measure one step, in this process"
    )
    arguments = parser.parse_args()
    if arguments.step:
        size, *rows = arguments.step
        print(*peak_of_step(size, rows[0] if rows else None))
        return
    difference = largest_difference(EXACT)
    print(f"gradient at batch {EXACT}, float64, with and without: largest relative difference {difference:.1e}")
    table = Table("batch", "encoded at once", "memory of the step, MB", "seconds", "pairs/s")
    memory = {}
    for size, rows in ((SMALL, None), (arguments.large, SMALL)):
        memory[size], seconds = in_own_process(size, rows)
        table.add_row(str(size), str(rows or size), f"{memory[size]:.0f}", f"{seconds:.1f}", f"{size / seconds:.0f}")
    Console().print(table)
    print(f"ratio: {1.2 * memory[SMALL] / memory[arguments.large]:.2f}")
    if difference > 1e-6:
        sys.exit("the gradients differ")


if __name__ == "__main__":
    main()
