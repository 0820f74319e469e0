"""Two processes that share a batch have the loss and the gradient of one, for every loss and every pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from moonlib.batches.loading import PairBatch
from moonlib.data.ids import ShopIds
from moonlib.encoders.encoder import ContentBatch
from moonlib.losses.circle import Circle
from moonlib.losses.distill import Distill
from moonlib.losses.info_nce import InfoNCE
from moonlib.losses.loss import Loss, LossData
from moonlib.losses.relational import Relational
from moonlib.losses.sigmoid import Sigmoid
from moonlib.losses.spu_margin import SpuMargin
from moonlib.losses.triplet import Triplet
from moonlib.losses.words import Words
from moonlib.negatives.gathered import Gathered
from moonlib.negatives.negative_sampler import NegativeSampler, TrainingData
from moonlib.negatives.queue import Queue
from moonlib.pairs.catalogue import Catalogue
from moonlib.pairs.pairs import Pairs
from moonlib.predictors.activations import Dice
from moonlib.representations.store import Representations
from moonlib.stages.contrast import Compatibility, contrastive_loss
from moonlib.system.process_group import alone
from moonlib.testing.processes import process_group, run_processes

DIM = 6


def taught(loss: Loss) -> Loss:
    """A loss that is told of the products of a batch, by a teacher that knows most of them and by their titles."""
    products = np.arange(8, 26)
    vectors = np.random.default_rng(4).normal(size=(len(products), 3)).astype(np.float32)
    teacher = Representations(products[:-4], vectors[:-4])
    said = {
        "title": [f"product {n % 3} of {n // 2}" for n in products],
        "category": [f"kind {n % 4}" for n in products],
    }
    attributes = pl.Series([None] * len(products), dtype=pl.Map(pl.String, pl.String))
    table = pl.DataFrame({"item_id": products, **said, "attributes": attributes})
    loss.setup(LossData(Catalogue(products, products // 2, products * 0), ShopIds(), DIM, Path(), teacher, table))
    return loss


def seeded(loss: Loss) -> Loss:
    """A loss whose weights are equal in all processes, as a stage's seed makes them."""
    torch.manual_seed(0)
    return loss


LOSSES: dict[str, Callable[[], Loss]] = {
    "info_nce": lambda: InfoNCE(temperature=0.2),
    "supcon": lambda: InfoNCE(temperature=0.2, form="supcon"),
    "label smoothing": lambda: InfoNCE(temperature=0.2, label_smoothing=0.1),
    "sigmoid": Sigmoid,
    "circle": Circle,
    "triplet": Triplet,
    "distill": lambda: taught(Distill("teacher")),
    "distill queries": lambda: taught(Distill("teacher", between="queries")),
    "relational": lambda: taught(Relational("teacher")),
    "spu_margin": lambda: taught(seeded(SpuMargin(sampled=5))),
    "spu_margin, hashed": lambda: taught(seeded(SpuMargin(sampled=50, buckets=4))),
    "words": lambda: taught(seeded(Words(min_count=2))),
}
CHAINS: dict[str, Callable[[], list[NegativeSampler]]] = {
    "gathered": lambda: [Gathered()],
    "queue, gathered": lambda: [Queue(7), Gathered()],
    "gathered, queue": lambda: [Gathered(), Queue(50)],
}


def old_vectors(ids: Tensor) -> Tensor:
    """An earlier run's vectors, float64 [n, DIM]: a function of the id; of every fifth product it had none."""
    table = torch.randn(30, DIM, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    table[::5] = 0
    return table[ids]


COMPATIBLE = Compatibility(old_vectors, 0.7, torch.tensor([True]))
OPTIONS: dict[str, dict[str, Any]] = {
    "one direction": {"both_directions": False},
    "both directions": {"both_directions": True},
    "hardness": {"both_directions": False, "hardness": 2.0},
    "matryoshka": {"both_directions": True, "dims": {2: 0.5, 6: 1.0}},
    "cached, in parts": {"both_directions": True, "grad_cache": 2, "budget": 10},
    "compatible": {"both_directions": True, "compatibility": COMPATIBLE},
    "compatible, in parts": {"both_directions": False, "compatibility": COMPATIBLE, "grad_cache": 2, "budget": 10},
}


def _after_a_group(rank: int, directory: str) -> None:
    def trained() -> tuple[Tensor, Tensor]:
        dice = Dice(5)
        dice(batch(1, 6).query["x"].float())
        loss = contrastive_loss(Towers(), batch(0, 6), InfoNCE(temperature=0.2), [Gathered()], both_directions=True)
        return loss.detach(), dice.mean

    expected = trained()
    with process_group(rank, directory):
        if rank == 0:  # the other one takes no part
            with alone():
                found = trained()
            assert all(map(torch.equal, found, expected))


def test_a_stage_of_one_process_waits_for_no_other_after_a_stage_of_several(tmp_path: Path) -> None:
    """Whose process group is still there."""
    run_processes(_after_a_group, str(tmp_path))


class Towers(nn.Module):
    """An encoder of five numbers."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(5, DIM, generator=generator, dtype=torch.float64))

    def forward(self, content: ContentBatch) -> Tensor:
        return (content["x"] @ self.weight).tanh()


def batch(step: int, extras: int) -> PairBatch:
    """Seven pairs, several positives, items that stand twice, other SKUs of a positive's SPU, and extra negatives."""
    generator = torch.Generator().manual_seed(step)
    own = torch.tensor([10, 11, 12, 13, 10, 15, 11])
    more = torch.tensor([20, 12, 21, 13, 22, 10])[:extras]
    ids = torch.cat([own, more])
    positives = torch.stack([own, torch.tensor([12, 11, 10, 13, 12, 22, 13])], dim=1)
    x = torch.randn(len(own) + len(ids), 5, generator=generator, dtype=torch.float64)
    return PairBatch(
        query={"x": x[: len(own)]},
        item={"x": x[len(own) :]},
        item_id=ids,
        spu_id=ids // 2,
        category=ids % 3,
        positive_ids=positives,
        positive_spus=positives // 2,
        task=torch.zeros(len(own), dtype=torch.int64),
    )


def share(whole: PairBatch, rank: int) -> PairBatch:
    """What one of two processes loads: unequal parts."""
    own, rows = len(whole.task), torch.arange(len(whole.item_id))
    mine = (torch.arange(own) % 2 == rank).nonzero().squeeze(1)
    extras = rows[own:][2:] if rank else rows[own:][:2]
    items = torch.cat([mine, extras])
    parts = {"query": {"x": whole.query["x"][mine]}, "item": {"x": whole.item["x"][items]}}
    for field in fields(PairBatch):
        if field.name not in parts:
            of_item, found = field.name in ("item_id", "spu_id", "category"), getattr(whole, field.name)
            parts[field.name] = None if found is None else found[items if of_item else mine]
    return PairBatch(**parts)


def train(loss: str, chain: str, option: str, rank: int | None) -> dict[str, list[float]]:
    """Three steps' losses and gradients, of this process's part or, with rank None, of the whole batches."""
    encoder, objective, samplers = Towers(), LOSSES[loss]().double(), CHAINS[chain]()
    nothing = np.empty(0, dtype=np.int64)
    data = TrainingData(
        Pairs(nothing, nothing, nothing[:, None], "query"), Catalogue(*[nothing] * 3), pl.DataFrame(), DIM
    )
    for sampler in samplers:
        sampler.setup(data)
        sampler.double()
    found: dict[str, list[float]] = {"loss": [], "gradient": []}
    for step in range(3):
        whole = batch(step, extras=6)
        part = whole if rank is None else share(whole, rank)
        value = contrastive_loss(encoder, part, objective, samplers, seed=step, **OPTIONS[option])
        parameters = [encoder.weight, *objective.parameters()]
        gradients = torch.autograd.grad(value, parameters)
        gathered = [value.detach(), *gradients]
        for tensor in gathered:  # what DistributedDataParallel does with gradients
            if rank is not None:
                dist.all_reduce(tensor)
                tensor /= dist.get_world_size()
        found["loss"].append(gathered[0].item())
        found["gradient"] += [v for g in gathered[1:] for v in g.flatten().tolist()]
    return found


CASES = [
    *((loss, "queue, gathered", "one direction") for loss in LOSSES),
    *((loss, "gathered", "both directions") for loss in LOSSES),
    *((loss, "gathered", "compatible") for loss in LOSSES if loss != "info_nce"),
    *((loss, "queue, gathered", "cached, in parts") for loss in ("distill", "relational", "spu_margin", "words")),
    *(("info_nce", chain, option) for chain in CHAINS for option in OPTIONS),
]


def _process(rank: int, directory: str) -> None:
    with process_group(rank, directory):
        torch.save({case: train(*case, rank) for case in CASES}, f"{directory}/{rank}.pt")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str, str], dict[str, list[float]]]]:
    directory = tmp_path_factory.mktemp("processes")
    run_processes(_process, str(directory))
    return [torch.load(directory / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: " / ".join(case))
def test_two_processes_equal_one(
    case: tuple[str, str, str], two_processes: list[dict[tuple[str, str, str], dict[str, list[float]]]]
) -> None:
    expected = train(*case, None)
    assert any(expected["gradient"])
    for found in two_processes:
        assert found[case]["loss"] == pytest.approx(expected["loss"], rel=1e-9)
        assert found[case]["gradient"] == pytest.approx(expected["gradient"], rel=1e-7, abs=1e-10)


def test_without_gathering_a_process_sees_its_own_items_only() -> None:
    alone = contrastive_loss(Towers(), share(batch(0, 6), 0), InfoNCE(), [], both_directions=False)
    whole = contrastive_loss(Towers(), batch(0, 6), InfoNCE(), [], both_directions=False)
    assert alone.item() != pytest.approx(whole.item())
