from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moonlib.batches.loading import PairBatch
from moonlib.encoders.encoder import ContentBatch
from moonlib.filters.spu_merge import SpuMerge
from moonlib.losses.info_nce import InfoNCE
from moonlib.negatives.in_batch import InBatch
from moonlib.negatives.negative_sampler import Candidates, NegativeSampler
from moonlib.optimizers.adamw import warmup_cosine
from moonlib.pairs.products import ProductPairs
from moonlib.pairs.searches import SearchPairs
from moonlib.stages.contrast import contrastive_loss, hardness_weights
from moonlib.stages.contrastive import Contrastive, PairData
from moonlib.stages.posttraining import Posttraining, SearchData
from moonlib.stages.pretraining import Pretraining
from moonlib.stages.stage import Stage, StageContext
from moonlib.testing.stages import Bench, small_encoder


class Table(nn.Module):
    """An encoder whose representation of row i is row i of a table."""

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(rows, dim).double()

    def forward(self, batch: ContentBatch) -> Tensor:
        return self.table(batch["row"])


def batch() -> PairBatch:
    # Queries 0..3; query 0 led to items 10 and 12, item 13 is another SKU of item 10's SPU, item 14 is an extra.
    return PairBatch(
        query={"row": torch.arange(4)},
        item={"row": torch.arange(4, 9)},
        item_id=torch.tensor([10, 11, 12, 13, 14]),
        spu_id=torch.tensor([1, 2, 3, 1, 4]),
        category=torch.zeros(5, dtype=torch.int64),
        positive_ids=torch.tensor([[10, 12], [11, 11], [12, 12], [13, 13]]),
        positive_spus=torch.tensor([[1, 3], [2, 2], [3, 3], [1, 1]]),
        task=torch.zeros(4, dtype=torch.int64),
    )


def naive(encoder: Table, temperature: float, queries: list[int], pool: list[int], leads: dict, ignores: dict) -> float:
    """InfoNCE as a loop over queries, their positives and their negatives."""
    total = 0.0
    for q, row in enumerate(queries):
        score = {
            n: math.exp(
                torch.cosine_similarity(encoder.table.weight[row], encoder.table.weight[p], dim=0).item() / temperature
            )
            for n, p in enumerate(pool)
        }
        negatives = sum(s for n, s in score.items() if n not in leads[q] and n not in ignores[q])
        total += sum(-math.log(score[p] / (score[p] + negatives)) for p in leads[q]) / len(leads[q])
    return total / len(queries)


def test_loss_equals_a_loop_over_queries_positives_and_negatives() -> None:
    encoder = Table(9, 8)
    found = contrastive_loss(encoder, batch(), InfoNCE(temperature=0.2).double(), [InBatch()], both_directions=False)
    leads = {0: [0, 2], 1: [1], 2: [2], 3: [3]}
    ignores = {0: [3], 1: [], 2: [], 3: [0]}
    expected = naive(encoder, 0.2, [0, 1, 2, 3], [4, 5, 6, 7, 8], leads, ignores)
    assert math.isclose(found.item(), expected, rel_tol=1e-6)


def test_autocast_leaves_the_scores_in_full_precision() -> None:
    encoder, loss = Table(9, 8).float(), InfoNCE(temperature=0.02)
    exact = contrastive_loss(encoder, batch(), loss, [], both_directions=True)
    with torch.autocast("cpu", torch.bfloat16):
        cast = contrastive_loss(encoder, batch(), loss, [], both_directions=True)
    assert cast.item() == exact.item()


def test_both_directions_averages_with_the_reverse_over_the_batch_only() -> None:
    encoder, loss = Table(9, 8), InfoNCE(temperature=0.2)
    forward = contrastive_loss(encoder, batch(), loss, [], both_directions=False)
    both = contrastive_loss(encoder, batch(), loss, [], both_directions=True)
    leads = {0: [0], 1: [1], 2: [0, 2], 3: [3]}
    ignores = {0: [3], 1: [], 2: [], 3: [0]}
    reverse = naive(encoder, 0.2, [4, 5, 6, 7], [0, 1, 2, 3], leads, ignores)
    assert math.isclose(both.item(), (forward.item() + reverse) / 2, rel_tol=1e-5)


def test_what_a_sampler_appends_is_contrasted_too() -> None:
    class Harder(NegativeSampler):
        def extend(self, pool: Candidates) -> Candidates:
            return replace(
                pool,
                representations=torch.cat([pool.representations, pool.representations[1:2]]),
                item_id=torch.cat([pool.item_id, torch.tensor([99])]),
                spu_id=torch.cat([pool.spu_id, torch.tensor([99])]),
                category=torch.cat([pool.category, torch.tensor([0])]),
            )

    encoder, loss = Table(9, 8), InfoNCE(temperature=0.2)
    without = contrastive_loss(encoder, batch(), loss, [], both_directions=True)
    with_it = contrastive_loss(encoder, batch(), loss, [Harder()], both_directions=True)
    assert with_it > without


def test_learning_rate_rises_and_falls() -> None:
    shares = [warmup_cosine(step, warmup=10, total=100) for step in range(101)]
    assert shares[0] == 0.1
    assert max(shares) == shares[9] == shares[10] == 1
    assert shares[100] < 1e-9
    assert all(a >= b for a, b in itertools.pairwise(shares[10:]))


def test_matryoshka_is_the_weighted_mean_over_leading_dimensions() -> None:
    encoder, loss = Table(9, 8), InfoNCE(temperature=0.2).double()
    dims = {2: 1.0, 8: 3.0}
    found = contrastive_loss(encoder, batch(), loss, [], both_directions=False, dims=dims)
    expected = 0.0
    for dim, weight in dims.items():
        narrow = Table(9, 8)
        narrow.table = nn.Embedding.from_pretrained(encoder.table.weight.detach()[:, :dim])
        expected += weight / 4 * contrastive_loss(narrow, batch(), loss, [], both_directions=False).item()
    assert math.isclose(found.item(), expected, rel_tol=1e-12)
    # Another scale of the trailing dimensions changes the full representation and not the short one.
    with torch.no_grad():
        encoder.table.weight[:, 2:] *= 3
    short = contrastive_loss(encoder, batch(), loss, [], both_directions=False, dims={2: 1.0})
    narrow = contrastive_loss(encoder, batch(), loss, [], both_directions=False, dims={2: 1.0, 8: 0.0})
    assert math.isclose(short.item(), narrow.item(), rel_tol=1e-12)


def test_hard_queries_count_more() -> None:
    scores = torch.tensor([[0.9, 0.8, -0.5], [0.9, -0.2, 0.1], [0.3, 0.3, 0.3], [0.1, 0.2, 0.3]])
    positive = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]], dtype=torch.bool)
    ignore = torch.tensor([[0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]], dtype=torch.bool)
    found = hardness_weights(scores, positive, ignore, 2.0)
    # hardest negative - furthest positive: -.5 - .9; .1 - (-.2); none; none
    torch.testing.assert_close(found, torch.tensor([math.exp(-2.8), math.exp(0.6), 1.0, 1.0]))
    # Weighted mean: with all weight on one query, its loss alone.
    encoder, loss = Table(9, 8), InfoNCE(temperature=0.2).double()
    plain = contrastive_loss(encoder, batch(), loss, [], both_directions=False)
    gentle = contrastive_loss(encoder, batch(), loss, [], both_directions=False, hardness=1e-9)
    assert math.isclose(plain.item(), gentle.item(), rel_tol=1e-6)


class Small(nn.Module):
    """An encoder of 8 dimensions with batch statistics."""

    dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)


class Renewed(NegativeSampler):
    refresh_every = 64


@pytest.mark.parametrize(
    ("arguments", "workers", "message"),
    [
        ({"matryoshka": {16: 1.0}}, 0, "matryoshka: 16 dimensions of an encoder of 8; expected 1 to 8"),
        ({"grad_cache": 4}, 0, "grad_cache: the encoder's norm is a BatchNorm1d"),
        ({"negatives": [Renewed()]}, 32, "data.workers: at most 31 with negatives that are mined, got 32"),
    ],
)
def test_arguments_that_do_not_fit_the_encoder_or_the_loader_are_named(
    arguments: dict[str, Any], workers: int, message: str
) -> None:
    stage = Pretraining(**{"loss": InfoNCE(), "negatives": [], **arguments})
    stage.encoder = Small()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=message):
        stage.check_arguments(SimpleNamespace(data=PairData(tasks={}, workers=workers)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("named", "general", "named_data", "data"),
    [
        (
            lambda: Pretraining(InfoNCE(), [InBatch()], hardness=0.5),
            lambda: Contrastive(InfoNCE(), [InBatch()], ProductPairs(), hardness=0.5),
            PairData({"image -> title": 1.0}, 16, augment=0.5, workers=0),
            PairData({"image -> title": 1.0}, 16, augment=0.5, workers=0),
        ),
        (
            lambda: Posttraining(InfoNCE(), [InBatch()], filters=[SpuMerge()]),
            lambda: Contrastive(InfoNCE(), [InBatch()], SearchPairs(["order"], "train", [SpuMerge()])),
            SearchData({"image -> title+image": 1.0}, 16, workers=0, actions=["order"], until="train"),
            PairData({"image -> title+image": 1.0}, 16, workers=0),
        ),
    ],
    ids=["pretraining", "posttraining"],
)
def test_named_stages_are_the_general_one_with_their_pairs(
    named: Callable[[], Stage], general: Callable[[], Stage], named_data: PairData, data: PairData, tmp_path: Path
) -> None:
    weights = []
    for name, make, section in (("named", named, named_data), ("general", general, data)):
        (tmp_path / name).mkdir()
        Bench(tmp_path / name, section, {"max_steps": 3}, small_encoder).run(make(), "run")
        weights.append((tmp_path / name / "run/weights.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.parametrize("wrong", [{"grad_cache": 0}, {"matryoshka": {}}, {"matryoshka": {4: -1.0, 8: 1.0}}])
def test_arguments_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Pretraining(InfoNCE(), [], **wrong)


def test_a_stage_that_chooses_pairs_as_before_is_refused_and_not_ignored() -> None:
    with pytest.raises(TypeError, match=r"Old has a method pairs\(context\): since moonlib 0.5 .*PairSource"):

        class Old(Pretraining):
            def pairs(self, context: StageContext) -> None:  # type: ignore[override,assignment]
                """Choose them as plugins did."""

    with pytest.raises(
        TypeError, match=r"OneWay\.both_directions: since moonlib 0\.5 it is an attribute of the PairSource"
    ):

        class OneWay(Pretraining):
            both_directions = False
