"""The conformance checks of losses, negatives, adapters, predictors and metrics.

They pass what moonlib ships and say what is wrong with what is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import moonlib.compat  # noqa: F401
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.adapters.behaviour_transformer import BehaviourTransformer
from moonlib.adapters.concat import Concat
from moonlib.adapters.cube import Cube
from moonlib.adapters.din import Din
from moonlib.adapters.id_features import id_features
from moonlib.adapters.id_only import IdOnly
from moonlib.adapters.interaction import Interaction
from moonlib.adapters.learned_metric import LearnedMetric
from moonlib.adapters.make import Make
from moonlib.adapters.sa_ta import SATA
from moonlib.adapters.semantic_id import SemanticId
from moonlib.adapters.similarity import Similarity
from moonlib.adapters.simtier import SimTier
from moonlib.adapters.vector import Vector
from moonlib.losses.info_nce import InfoNCE
from moonlib.losses.loss import Loss, LossData
from moonlib.metrics.auc import AUC
from moonlib.metrics.ece import ECE
from moonlib.metrics.gauc import GAUC
from moonlib.metrics.log_loss import LogLoss
from moonlib.metrics.ne import NE
from moonlib.metrics.pcoc import PCOC
from moonlib.metrics.rce import RCE
from moonlib.metrics.recall import Recall
from moonlib.negatives.in_batch import InBatch
from moonlib.negatives.negative_sampler import Candidates, NegativeSampler, TrainingData
from moonlib.pairs.pairs import Pairs
from moonlib.predictors.dcnv2 import DCNv2
from moonlib.predictors.mlp import MLP
from moonlib.predictors.predictor import Predictor
from moonlib.representations.store import Representations
from moonlib.testing import check_adapter, check_loss, check_metric, check_negative_sampler, check_predictor

SCORES, LABELS = torch.linspace(0.05, 0.95, 30), torch.arange(30) % 3 == 0


@pytest.mark.parametrize("make", [InfoNCE, partial(InfoNCE, 0.05, learnable=False)])
def test_our_losses_pass(make: Callable[[], Loss]) -> None:
    check_loss(make)


def test_our_negative_samplers_pass() -> None:
    check_negative_sampler(InBatch)


@pytest.mark.parametrize(
    "make",
    [
        IdOnly,
        Vector,
        Similarity,
        partial(Similarity, 2),
        SimTier,
        partial(SimTier, 10, "equal", log=False),
        Cube,
        partial(Cube, "raw", length=2, query_length=6),
        SATA,
        Make,
        partial(Make, 1, 2, [3]),
        SemanticId,
        Interaction,
        partial(Interaction, 3),
        Din,
        LearnedMetric,
        BehaviourTransformer,
        partial(BehaviourTransformer, 8, 2, 2, 3, 2),
        partial(SemanticId, 2, 5),
        lambda: Concat([SATA(), SimTier()]),
        lambda: Concat([Make(), Cube()]),
    ],
)
def test_our_adapters_pass(make: Callable[[], Any]) -> None:
    check_adapter(make)


@pytest.mark.parametrize(
    "make",
    [
        MLP,
        partial(MLP, [], 0.0),
        partial(MLP, [8], 0.5),
        partial(MLP, activation="prelu"),
        partial(MLP, activation="dice"),
        DCNv2,
        partial(DCNv2, 1, 2, "parallel", [], activation="dice"),
    ],
)
def test_our_predictors_pass(make: Callable[[], Predictor]) -> None:
    check_predictor(make)


@pytest.mark.parametrize("make", [AUC, LogLoss, NE, RCE, PCOC, ECE])
def test_our_click_metrics_pass(make: Callable[[], Metric]) -> None:
    check_metric(make, SCORES, LABELS)


def test_our_other_metrics_pass() -> None:
    check_metric(GAUC, SCORES, LABELS, torch.arange(30) % 4)
    check_metric(partial(GAUC, "unweighted", "counted"), SCORES, LABELS, torch.arange(30) % 12)
    check_metric(Recall, torch.arange(30), gallery=50)


class Averaged(InfoNCE):
    def forward(self, scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
        return super().forward(scores, positive, ignore).mean()


class Pulling(InfoNCE):
    def forward(self, scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
        return super().forward(-scores, positive, ignore)


class Unignoring(InfoNCE):
    def forward(self, scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
        return super().forward(scores, positive, torch.zeros_like(ignore))


class Diagonal(Loss):
    """Takes the q-th candidate for the positive of query q, whatever the mask says."""

    def forward(self, scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
        return F.cross_entropy(scores.masked_fill(ignore, -1e9), torch.arange(len(scores)), reduction="none")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Averaged, r"is not \[Q\]"),
        (Pulling, "a positive is pushed away"),
        (Unignoring, "an ignored candidate has a gradient"),
        (Diagonal, "a query without positives does not cost 0"),
    ],
)
def test_broken_losses_are_found(make: Callable[[], Loss], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_loss(make)


class Near(Loss):
    """How far the vectors of a query and of its item are from each other."""

    def forward(self, queries: Tensor, items: Tensor) -> Tensor:
        return 1 - (queries * items).sum(dim=1)


class Centred(Near):
    """Compares the queries of a batch with each other."""

    def forward(self, queries: Tensor, items: Tensor) -> Tensor:
        return super().forward(queries - queries.mean(dim=0), items)


class First(Loss):
    """Takes the first candidate for something else than the others."""

    def forward(self, queries: Tensor, candidates: Tensor) -> Tensor:
        return 1 - queries @ candidates[0]


class Noisy(Near):
    """Draws without the seed that it is given."""

    def forward(self, queries: Tensor, items: Tensor) -> Tensor:
        return super().forward(queries + torch.randn_like(queries), items)


class Divided(Near):
    """Takes for granted that vectors are not zeros."""

    def forward(self, queries: Tensor, items: Tensor) -> Tensor:
        return super().forward(queries / queries.norm(dim=1, keepdim=True), items)


class Forgetful(Near):
    """Learns what no state has."""

    def setup(self, data: LossData) -> None:
        self.scale = torch.rand(data.dim)

    def forward(self, queries: Tensor, items: Tensor) -> Tensor:
        return super().forward(queries * self.scale, items)


class Unnamed(Loss):
    def forward(self, vectors: Tensor) -> Tensor:
        return vectors


def test_a_loss_that_reads_vectors_passes() -> None:
    check_loss(Near)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Centred, "a query depends on others"),
        (First, "a query depends on the order of candidates"),
        (Noisy, "draws from a global generator"),
        (Divided, "a value is not finite; vectors may be zeros"),
        (Forgetful, "weights read back give another output"),
        (Unnamed, "forward: Unnamed.forward takes 'vectors', which no loss is given"),
    ],
)
def test_broken_losses_of_vectors_are_found(make: Callable[[], Loss], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_loss(make)


class Catalogued(NegativeSampler):
    """Knows the items that may be asked for."""

    def setup(self, data: TrainingData) -> None:
        self.items = data.catalogue.item_id


class Unseeded(Catalogued):
    """Draws from a generator of its own, which goes on and is not the one it is given."""

    own = np.random.default_rng(0)

    def propose(self, pairs: Pairs, step: int, rng: np.random.Generator) -> Any:
        return self.own.choice(self.items, (len(pairs), 2))


class Counting(Catalogued):
    """Goes through the items, however often and for whatever step it is asked."""

    calls = 0

    def propose(self, pairs: Pairs, step: int, rng: np.random.Generator) -> Any:
        self.calls += 1
        return self.items[(self.calls // 4 + np.arange(len(pairs)))[:, None] % len(self.items)]


class Inventing(NegativeSampler):
    def propose(self, pairs: Pairs, step: int, rng: np.random.Generator) -> Any:
        return pairs.item_id[:, None] // 2 + 7


class Hasty(Catalogued):
    """Makes use of the vectors at once."""

    refresh_every = 64

    def setup(self, data: TrainingData) -> None:
        super().setup(data)
        self.register_buffer("first", torch.tensor(0))

    def refresh(self, products: Representations, queries: Representations, step: int) -> None:
        self.first = torch.tensor(int(products.vectors[:, 0].argmax()))

    def propose(self, pairs: Pairs, step: int, rng: np.random.Generator) -> Any:
        return np.full((len(pairs), 1), self.items[int(self.first)])


class Restless(NegativeSampler):
    refresh_every = 1


class Prepending(NegativeSampler):
    def extend(self, pool: Candidates) -> Candidates:
        return replace(pool, item_id=pool.item_id.flip(0))


class Detaching(NegativeSampler):
    def extend(self, pool: Candidates) -> Candidates:
        return replace(pool, representations=pool.representations.detach())


class Forgetful(NegativeSampler):
    """A queue of one batch, which it keeps where a checkpoint does not look."""

    last: Candidates | None = None

    def extend(self, pool: Candidates) -> Candidates:
        last, self.last = self.last, replace(pool, representations=pool.representations.detach())
        if last is None:
            return pool
        return pool.extended(last.representations, last.item_id, last.spu_id, last.category)


class Claiming(NegativeSampler):
    """Takes strangers for items of this batch."""

    def extend(self, pool: Candidates) -> Candidates:
        return replace(
            pool.extended(pool.representations.detach(), -pool.item_id, pool.spu_id, pool.category), own=None
        )


class Clinging(NegativeSampler):
    """Stores a batch with all that it was computed from."""

    def setup(self, data: TrainingData) -> None:
        self.register_buffer("last", torch.zeros(8, data.dim))

    def extend(self, pool: Candidates) -> Candidates:
        mine = pool.mine()
        self.last = mine.representations.float() * 2
        return pool


class HalfGradient(NegativeSampler):
    def extend(self, pool: Candidates) -> Candidates:
        mixed = (pool.representations + pool.representations.detach()) / 2
        return replace(pool, representations=mixed)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Unseeded, "the same generator state gives other items"),
        (Counting, "depends on the steps asked for before"),
        (Inventing, "is not in the catalogue"),
        (Hasty, "changes what is proposed for a batch before the one it is made for"),
        (Restless, "refresh_every: 1 is less than the 64 batches planned ahead"),
        (Prepending, "item_id of the pool's own candidates changed"),
        (Detaching, "lost their gradient"),
        (HalfGradient, "lost their gradient"),
        (Claiming, "16 candidates count as this batch's, not 8"),
        (Clinging, "last keeps the graph of past batches alive"),
        (Forgetful, "a restored sampler extends the pool otherwise"),
    ],
)
def test_broken_samplers_are_found(make: Callable[[], NegativeSampler], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_negative_sampler(make)


class Ids(Adapter):
    """Keeps all promises."""

    reads_content = False

    def setup(self, id_dim: int, dim: int) -> None:
        self.out_features = 3 * id_dim

    def forward(self, batch: BehaviourBatch) -> Tensor:
        return id_features(batch.target_id, batch.item_ids, batch.item_mask)


class CountsPadding(Ids):
    def forward(self, batch: BehaviourBatch) -> Tensor:
        return super().forward(replace(batch, item_mask=torch.ones_like(batch.item_mask)))


class MultipliesPadding(Ids):
    """Zero times NaN is NaN."""

    def forward(self, batch: BehaviourBatch) -> Tensor:
        mean = (batch.item_ids * batch.item_mask.unsqueeze(2)).mean(dim=1)
        return torch.cat([batch.target_id, mean, batch.target_id * mean], dim=1)


class DependsOnLength(Ids):
    def forward(self, batch: BehaviourBatch) -> Tensor:
        return super().forward(batch) * batch.item_mask.shape[1]


class Peeks(Ids):
    def forward(self, batch: BehaviourBatch) -> Tensor:
        return super().forward(batch) + batch.target.sum(dim=1, keepdim=True)


class PeeksAtQueries(Ids):
    def forward(self, batch: BehaviourBatch) -> Tensor:
        return super().forward(batch) + batch.query_id.sum(dim=1, keepdim=True)


class JoinsMoreThanItHas(Ids):
    matching = (8, 2, 1)


class JoinsWithoutALogit(Ids):
    matching = (4, 2)


class PretrainsAColumn(Make):
    def pretraining_logits(self, batch: BehaviourBatch) -> Tensor:
        return super().pretraining_logits(batch).unsqueeze(1)


class FitsAnyway(SemanticId):
    def fit(self, vectors: Tensor) -> None:
        self.given = None
        super().fit(vectors)


class TakesNothing(SemanticId):
    def take_codebooks(self, codebooks: Tensor) -> None:
        pass


class Wider(Ids):
    def setup(self, id_dim: int, dim: int) -> None:
        self.out_features = 4 * id_dim


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (CountsPadding, "1000.0 in padding changes the features"),
        (MultipliesPadding, "nan in padding changes the features"),
        (DependsOnLength, "more padding changes the features"),
        (Peeks, "reads_content: is False, but representations matter"),
        (PeeksAtQueries, "reads_query_ids: is False, but queries' ids matter"),
        (JoinsMoreThanItHas, "11 outputs are more than 9 features"),
        (JoinsWithoutALogit, "does not end with a logit's width"),
        (PretrainsAColumn, r"pretraining_logits: shape \(8, 1\) is not \[B\]"),
        (FitsAnyway, "fit: changes what comes of codebooks that were taken"),
        (TakesNothing, "changes what comes of codebooks|other codebooks make no difference"),
        (Wider, r"is not \[B, out_features\]"),
    ],
)
def test_broken_adapters_are_found(make: Callable[[], Adapter], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_adapter(make)


class Column(MLP):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).unsqueeze(1)


class Centred(MLP):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features - features.mean(dim=0))


class Idle(MLP):
    def setup(self, in_features: int) -> None:
        super().setup(in_features)
        self.unused = nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize(
    ("make", "message"),
    [(Column, r"is not \[B\]"), (Centred, "a row alone differs"), (Idle, "'unused' has no gradient")],
)
def test_broken_predictors_are_found(make: Callable[[], MLP], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_predictor(make)


class NotJoining(MLP):
    """Promises what its methods do not take."""

    def setup(self, in_features: int) -> None:  # type: ignore[override]
        super().setup(in_features)


class Deaf(MLP):
    def forward(self, features: Tensor, matched: Sequence[Tensor] = ()) -> Tensor:
        return super().forward(features, [*(tensor * 0 for tensor in matched[:-1]), *matched[-1:]])


class Doubling(MLP):
    def forward(self, features: Tensor, matched: Sequence[Tensor] = ()) -> Tensor:
        return super().forward(features, [*matched[:-1], *(2 * tensor for tensor in matched[-1:])])


class AnyWidth(MLP):
    def setup(self, in_features: int, matching: Sequence[int] = ()) -> None:
        super().setup(in_features, [*matching[:-1], *([1] if matching else [])])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Deaf, "hidden output 0 is joined but not read"),
        (Doubling, "a joined logit is not added with weight 1 at first"),
        (AnyWidth, "a last matching point of width 3 is not refused"),
        (NotJoining, "joins: is True, but setup takes no matching points"),
    ],
)
def test_predictors_that_do_not_join_as_they_promise_are_found(make: Callable[[], MLP], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_predictor(make)


class PerBatch(AUC):
    """The mean of the batches' AUCs."""

    def compute(self) -> Tensor:
        parts = [AUC() for _ in self.scores]
        for part, scores, labels in zip(parts, self.scores, self.labels, strict=True):
            part.update(scores, labels)
        return torch.stack([part.compute() for part in parts]).mean()


class Unreset(LogLoss):
    def reset(self) -> None:
        pass


@pytest.mark.parametrize(("make", "message"), [(PerBatch, "two batches differ"), (Unreset, "rows from before")])
def test_broken_metrics_are_found(make: Callable[[], Metric], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_metric(make, SCORES.flip(0), LABELS)


class Unsaved(nn.Module):
    """Counts its calls where a checkpoint does not look."""

    calls = 0

    def count(self) -> int:
        if self.training:
            self.calls += 1
        return self.calls


class CoarseLoss(InfoNCE):
    """Computes in whatever precision the scores have."""

    def forward(self, scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
        return super().forward(scores, positive, ignore).to(scores.dtype)


class ViewingLoss(InfoNCE):
    """Takes for granted that memory is in order."""

    def forward(self, scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
        flat = torch.as_strided(scores, scores.shape, (scores.shape[1], 1))
        return super().forward(flat, positive, ignore)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (CoarseLoss, "bfloat16 scores lose precision"),
        (ViewingLoss, "a transposed view gives another result"),
    ],
)
def test_losses_of_the_wrong_type_or_layout_are_found(make: Callable[[], Loss], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_loss(make)


class GrowingQueue(NegativeSampler):
    """Its state changes shape, so that a fresh one cannot take it over."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ids", torch.zeros(0, dtype=torch.int64))

    def extend(self, pool: Candidates) -> Candidates:
        self.ids = torch.cat([self.ids, pool.item_id])
        return pool


class GloballyRandom(Catalogued):
    def propose(self, pairs: Pairs, step: int, rng: np.random.Generator) -> Any:
        torch.rand(1)
        return rng.choice(self.items, (len(pairs), 2))


class Meddling(NegativeSampler):
    def propose(self, pairs: Pairs, step: int, rng: np.random.Generator) -> Any:
        pairs.item_id[:] += 1
        return pairs.item_id[:, None]


class Forgotten(Catalogued):
    """Makes use of vectors that a checkpoint does not hold."""

    refresh_every, found = 64, 0

    def refresh(self, products: Representations, queries: Representations, step: int) -> None:
        self.found = 1 + step

    def propose(self, pairs: Pairs, step: int, rng: np.random.Generator) -> Any:
        return np.full((len(pairs), 1), self.items[min(self.found, 1 + step // 64)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (GrowingQueue, "state_dict: does not fit a fresh sampler"),
        (GloballyRandom, "draws from a global generator"),
        (Meddling, "changes the pairs it is given"),
        (Forgotten, "a restored sampler proposes other items"),
    ],
)
def test_samplers_with_state_in_the_wrong_place_are_found(make: Callable[[], NegativeSampler], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_negative_sampler(make)


class ForgetfulAdapter(Unsaved, Ids):
    def forward(self, batch: BehaviourBatch) -> Tensor:
        return Ids.forward(self, batch) + self.count()


class CountingAdapter(Ids):
    def forward(self, batch: BehaviourBatch) -> Tensor:
        return super().forward(batch).sign().long()


class NoisyAdapter(Ids):
    def forward(self, batch: BehaviourBatch) -> Tensor:
        return super().forward(batch) + torch.rand(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (ForgetfulAdapter, "state_dict: weights read back give another output"),
        (CountingAdapter, "is not a float"),
        (NoisyAdapter, "a second call in eval mode gives another result"),
    ],
)
def test_adapters_with_other_faults_are_found(make: Callable[[], Adapter], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_adapter(make)


class ForgetfulPredictor(MLP):
    """Keeps a running mean of its input, and keeps it to itself."""

    mean: Tensor | float = 0.0

    def forward(self, features: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * features.mean(dim=0).detach()
        return super().forward(features - self.mean)


class HalfPredictor(MLP):
    """Overflows in half precision only."""

    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        return logits if logits.dtype == torch.float32 else logits / 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (ForgetfulPredictor, "state_dict: weights read back give another output"),
        (HalfPredictor, "autocast to bfloat16: not finite"),
    ],
)
def test_predictors_with_other_faults_are_found(make: Callable[[], MLP], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_predictor(make)


class Overwriting(AUC):
    """Its own forward forgets what was seen."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.reset()
        self.update(*args, **kwargs)
        return self.compute()


class Nameless(AUC):
    """Its name cannot stand in a key."""

    name = "area under/the curve"


class Sideways(AUC):
    """Neither up nor down."""

    higher_is_better = "sideways"  # type: ignore[assignment]


class Unread(AUC):
    """No stage has what it reads."""

    def update(self, margins: Tensor, labels: Tensor) -> None:
        super().update(margins, labels)


class OfAnotherTask(AUC):
    """The task that it names lacks what it reads."""

    task = "search"


class OffByHalf(LogLoss):
    """Its sums are those of something else."""

    def of_sums(self, sums: Tensor) -> Tensor:
        return super().of_sums(sums) / 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Nameless, "name: 'area under/the curve'"),
        (Sideways, "higher_is_better: 'sideways' is neither True, False nor None"),
        (Unread, "update: no task has all of labels, margins .*ctr has probabilities"),
        (OfAnotherTask, "update: task search has ranks, gallery, users, and no labels, scores"),
        (OffByHalf, "of_sums: the sums of all rows give another value than compute"),
    ],
)
def test_a_metric_that_says_what_is_not_so_is_found(make: Callable[[], AUC], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_metric(make, SCORES, LABELS)


class OfMyStage(Unread):
    """Its task is that of a stage that moonlib does not know."""

    task = "my_stage"


def test_a_metric_for_a_stage_of_ones_own_may_read_what_that_has() -> None:
    check_metric(OfMyStage, SCORES, LABELS)


def test_a_metric_that_cannot_be_logged_is_found() -> None:
    with pytest.raises(AssertionError, match="calling the metric, as Lightning's log does"):
        check_metric(Overwriting, SCORES, LABELS)
