"""Time of a training step on a memory of past batches, beside pytorch-metric-learning's CrossBatchMemory.

    python benchmarks/cross_batch.py            batches of 256 queries and items, a memory of 4096, width 128

Both sides get the same vectors, with gradient, and do what a step adds to the encoder's work: contrast each query with
the items of its batch and of the memory at temperature 0.07, go back to the vectors, and update the memory.

- moonlib: `Queue.extend`, `positive_and_ignore` and `InfoNCE` as in post-training. The items of the batch have a
  gradient, too. The queue holds the batches before this one.
- pytorch-metric-learning: ``CrossBatchMemory(NTXentLoss(0.07))`` with the items as ``enqueue_mask``. Its memory holds
  this batch as well, and no item has a gradient.

So a queue of 3840 beside a batch of 256 is its memory of 4096: there losses and the queries' gradients must be equal,
which is checked on every batch. Every item is new, so that each query has one positive: the fewest pairs that the other
side can have, whose work and memory grow with positives x negatives. Memories are filled first, by batches that are not
timed; then all take turns on the same batches in one process, the first turn of each not counted. Medians.

Ends with ``ratio``: time of a step there over time of a step here with the larger queue, of 4096 beside the batch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import moonlib.compat  # noqa: F401
import numpy as np
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import CrossBatchMemory, NTXentLoss
from rich.console import Console
from rich.table import Table
from torch import Tensor

from moonlib.data.tables import empty
from moonlib.losses.info_nce import InfoNCE
from moonlib.negatives.masks import positive_and_ignore
from moonlib.negatives.negative_sampler import Candidates, TrainingData
from moonlib.negatives.queue import Queue
from moonlib.pairs.catalogue import Catalogue
from moonlib.pairs.pairs import Pairs

TEMPERATURE = 0.07


class Side(Protocol):
    """A memory and the loss on it."""

    def remember(self, items: Tensor, ids: Tensor) -> None:
        """Put items float [B, D] of ids int64 [B] into the memory."""

    def step(self, queries: Tensor, items: Tensor, ids: Tensor) -> Tensor:
        """Compute the loss of queries float [B, D] and their items, go back to the vectors, and remember the items."""


@dataclass(frozen=True)
class Batches:
    """Random vectors of queries and of items that are somewhat like them, every item a new one.

    Attributes:
        size: of a batch, B.
        dim: width, D.
    """

    size: int
    dim: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        generator, first = torch.Generator().manual_seed(0), 0
        while True:
            queries, noise = (torch.randn(self.size, self.dim, generator=generator) for _ in range(2))
            yield queries, queries + 2 * noise, torch.arange(first, first + self.size)
            first += self.size


class Ours:
    """A queue of this size and width."""

    def __init__(self, size: int, dim: int) -> None:
        self.queue, self.loss = Queue(size), InfoNCE(TEMPERATURE, learnable=False)
        none = np.empty(0, dtype=np.int64)
        pairs, catalogue = Pairs(none, none, none[:, None], "query"), Catalogue(none, none, none)
        self.queue.setup(TrainingData(pairs, catalogue, empty("searches"), dim))

    def remember(self, items: Tensor, ids: Tensor) -> None:
        self.queue.extend(Candidates(items, ids, ids, torch.zeros_like(ids)))

    def step(self, queries: Tensor, items: Tensor, ids: Tensor) -> Tensor:
        pool = self.queue.extend(Candidates(items, ids, ids, torch.zeros_like(ids)))
        positive, ignore = positive_and_ignore(ids[:, None], ids[:, None], pool.item_id, pool.spu_id)
        scores = F.normalize(queries, dim=1) @ F.normalize(pool.representations, dim=1).T
        mean = self.loss(scores, positive, ignore).mean()
        mean.backward()
        return mean.detach()


class Theirs:
    """A CrossBatchMemory of this size and width."""

    def __init__(self, size: int, dim: int) -> None:
        self.memory = CrossBatchMemory(NTXentLoss(TEMPERATURE), embedding_size=dim, memory_size=size)

    def remember(self, items: Tensor, ids: Tensor) -> None:
        self.memory.add_to_memory(items, ids, len(ids))

    def step(self, queries: Tensor, items: Tensor, ids: Tensor) -> Tensor:
        is_item = torch.arange(2 * len(ids)) >= len(ids)
        mean: Tensor = self.memory(torch.cat([queries, items]), ids.repeat(2), enqueue_mask=is_item)
        mean.backward()
        return mean.detach()


def fresh(batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The batch as an encoder would hand it over: its vectors want a gradient and have none yet."""
    queries, items, ids = batch
    return queries.clone().requires_grad_(), items.clone().requires_grad_(), ids


def main() -> None:
    """Check that losses are equal, time the sides in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--memory", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    batch, memory, dim = arguments.batch, arguments.memory, arguments.dim

    equal = f"moonlib, Queue({memory - batch}) and the batch"
    larger = f"moonlib, Queue({memory}) and the batch"
    peer = f"CrossBatchMemory(memory_size={memory})"
    sides: dict[str, Side] = {
        equal: Ours(memory - batch, dim),
        larger: Ours(memory, dim),
        peer: Theirs(memory, dim),
    }
    batches = iter(Batches(batch, dim))
    for _, items, ids in islice(batches, -(-memory // batch)):
        for side in sides.values():
            side.remember(items, ids)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, float] = {}
    for _ in range(1 + arguments.rounds):
        given = next(batches)
        gradients = {}
        for name, side in sides.items():
            vectors = fresh(given)
            start = time.perf_counter()
            losses[name] = float(side.step(*vectors))
            seconds[name].append(time.perf_counter() - start)
            gradients[name] = vectors[0].grad
        torch.testing.assert_close(losses[equal], losses[peer], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradients[equal], gradients[peer], rtol=1e-4, atol=1e-7)

    table = Table("side", "candidates", "loss", "median step, ms", "fastest", "slowest")
    medians = {}
    for name in sides:
        timed = seconds[name][1:]
        medians[name] = statistics.median(timed)
        table.add_row(
            name,
            f"{memory + batch if name == larger else memory}",
            f"{losses[name]:.6f}",
            *(f"{1e3 * value:,.1f}" for value in (medians[name], min(timed), max(timed))),
        )
    console = Console() if Console().is_terminal else Console(width=120)
    console.print(table)
    print(f"ratio: {medians[peer] / medians[larger]:.1f}")


if __name__ == "__main__":
    main()
