"""The losses beside those of open_clip, pytorch-metric-learning and torch, in value and gradient.

    python benchmarks/oracles.py

Both sides get the same queries and pool, not normalised, and give the mean over queries and its gradient with respect
to queries, pool and whatever the loss learns. Queries and products scatter about the centres of classes. The pool draws
products with replacement, so that the same one stands in it several times.

- *pairs*: query i belongs to candidate i and to no other, all that open_clip knows. A copy of a query's product is
  contrasted with it, on both sides.
- *classes*: every candidate of the query's class is a positive; some queries have none in the pool.
- *classes, some ignored*: a quarter of the candidates is left out of each query's positives and negatives.

A loss that tells SPUs apart gets *pairs*, with the classes as SPUs.

The last rows compare us with ourselves: a full queue with one big batch, and two processes that gather with one.

A difference is relative: of the value to the value, of a gradient to the largest entry of that tensor's gradient. A row
holds the largest of five draws. Exits with 1 if a row is beyond its limit, 1e-6 in float64 and 1e-5 in float32.

Ends with ``ratio``: the smallest over all rows of limit / difference, so above 1 all are within theirs.
"""

from __future__ import annotations

import sys
from pathlib import Path

if sys.path[0] == str(Path(__file__).resolve().parent):
    # benchmarks/open_clip.py stands in the way of the package that it is named after.
    del sys.path[0]

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import torch
import torch.distributed as dist
from open_clip.loss import ClipLoss, SigLipLoss
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.miners import TripletMarginMiner
from pytorch_metric_learning.reducers import DoNothingReducer, MeanReducer
from rich.console import Console
from rich.table import Table
from torch import Tensor, multiprocessing
from torch.func import functional_call
from torch.nn import functional as F

from moonlib.data.ids import ShopIds
from moonlib.losses.circle import Circle
from moonlib.losses.info_nce import InfoNCE
from moonlib.losses.loss import Loss, LossData
from moonlib.losses.sigmoid import Sigmoid
from moonlib.losses.spu_margin import SpuMargin
from moonlib.losses.triplet import Triplet
from moonlib.negatives.gathered import Gathered
from moonlib.negatives.masks import positive_and_ignore
from moonlib.negatives.negative_sampler import Candidates, TrainingData
from moonlib.negatives.queue import Queue
from moonlib.pairs.catalogue import Catalogue
from moonlib.pairs.pairs import Pairs

LIMITS = {torch.float64: 1e-6, torch.float32: 1e-5}
DRAWS = 5
TEMPERATURE = 0.1


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        loss: ours.
        peer: theirs.
        data: what was compared on.
        dtype: of queries and pool.
        value: largest relative difference of the values.
        gradient: largest relative difference of the gradients.
    """

    loss: str
    peer: str
    data: str
    dtype: torch.dtype
    value: float
    gradient: float

    @property
    def share(self) -> float:
        """The larger difference as a share of its limit."""
        return max(self.value, self.gradient) / LIMITS[self.dtype]


@dataclass(frozen=True)
class Draw:
    """Queries and a pool.

    Attributes:
        queries: float [Q, D].
        pool: float [N, D].
        labels: int64 [Q], classes of the queries.
        pool_labels: int64 [N], classes of the candidates.
        positive: bool [Q, N].
        ignore: bool [Q, N].
    """

    queries: Tensor
    pool: Tensor
    labels: Tensor
    pool_labels: Tensor
    positive: Tensor
    ignore: Tensor


Side = Callable[[Draw, Loss], Tensor]
"""Gives the mean over queries as one of both computes it, from what is drawn and the parameters of our loss."""

CLASSES_DRAWN = 12


def draw(data: str, dtype: torch.dtype, seed: int) -> Draw:
    """Draw queries and a pool, see the top of this file."""
    g = torch.Generator().manual_seed(seed)
    classes, dim, queries, products, candidates = CLASSES_DRAWN, 32, 24, 40, 96
    centres = torch.randn(classes, dim, generator=g, dtype=torch.float64)
    product_labels = torch.randint(1, classes, (products,), generator=g)  # nothing of class 0 is on offer
    vectors = centres[product_labels] + torch.randn(products, dim, generator=g, dtype=torch.float64)
    places = torch.randint(products, (candidates,), generator=g)
    assert len(places.unique()) < candidates
    pool, pool_labels = vectors[places], product_labels[places]
    if data == "pairs":
        pool, pool_labels = pool[:queries], pool_labels[:queries]
        assert len(places[:queries].unique()) < queries
        labels, positive = pool_labels, torch.eye(queries, dtype=torch.bool)
    else:
        labels = torch.arange(queries) % classes
        positive = labels[:, None] == pool_labels
        assert (positive.sum(dim=1) > 1).any() and not positive[0].any()
    ignore = torch.zeros_like(positive)
    if data.endswith("ignored"):
        ignore = torch.rand(positive.shape, generator=g) < 0.25
    asked = centres[labels] + torch.randn(queries, dim, generator=g, dtype=torch.float64)
    return Draw(asked.to(dtype), pool.to(dtype), labels, pool_labels, positive & ~ignore, ignore)


def of_scores(drawn: Draw, loss: Loss) -> Tensor:
    """Compute our side of a loss that reads scores."""
    scores = F.normalize(drawn.queries, dim=1) @ F.normalize(drawn.pool, dim=1).T
    return loss(scores, drawn.positive, drawn.ignore).mean()


def compare(loss: Loss, peer: Side, names: tuple[str, str], data: str, ours: Side = of_scores) -> Iterator[Row]:
    """Compare a loss with a peer in every dtype.

    Args:
        loss: ours.
        peer: theirs.
        names: of both.
        data: "pairs", "classes" or "classes, some ignored".
        ours: how our loss is called.
    """
    for dtype in LIMITS:
        loss = loss.to(dtype)
        value = gradient = 0.0
        for seed in range(DRAWS):
            drawn = draw(data, dtype, seed)
            leaves = [drawn.queries.requires_grad_(), drawn.pool.requires_grad_()]
            leaves += [parameter for parameter in loss.parameters() if parameter.requires_grad]
            (a, of_a), (b, of_b) = (with_gradients(side(drawn, loss), leaves) for side in (ours, peer))
            value = max(value, difference(a, b))
            gradient = max(gradient, *map(difference, of_a, of_b))
        yield Row(*names, data, dtype, value, gradient)


def with_gradients(value: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The value and its gradients."""
    return value.detach(), torch.autograd.grad(value, leaves)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to their largest entry; infinite where there is nothing to compare."""
    largest = float(theirs.abs().max())
    found = float((ours - theirs).abs().max()) / largest if largest else math.inf
    return found if math.isfinite(found) else math.inf


# open_clip and torch ---------------------------------------------------------------------------------------------


def clip() -> Iterator[Row]:
    """CLIP's loss is the mean of both directions."""

    class BothDirections(InfoNCE):
        def forward(self, scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
            columns = super().forward(scores.T, positive.T, ignore.T)
            return (super().forward(scores, positive, ignore) + columns) / 2

    def peer(drawn: Draw, loss: Loss) -> Tensor:
        assert isinstance(loss, InfoNCE)
        queries, pool = F.normalize(drawn.queries, dim=1), F.normalize(drawn.pool, dim=1)
        return ClipLoss()(queries, pool, 1 / loss.temperature)

    for form in ("each", "supcon"):
        names = (f"InfoNCE {form}, both directions", "open_clip ClipLoss")
        yield from compare(BothDirections(TEMPERATURE, form=form), peer, names, "pairs")


def label_smoothing() -> Iterator[Row]:
    """Cross entropy over the candidates."""

    def peer(drawn: Draw, loss: Loss) -> Tensor:
        assert isinstance(loss, InfoNCE)
        scores = F.normalize(drawn.queries, dim=1) @ F.normalize(drawn.pool, dim=1).T
        return F.cross_entropy(scores / loss.temperature, torch.arange(len(scores)), label_smoothing=0.1)

    for form in ("each", "supcon"):
        loss = InfoNCE(TEMPERATURE, form=form, label_smoothing=0.1)
        yield from compare(loss, peer, (f"InfoNCE {form}, smoothing .1", "torch cross_entropy"), "pairs")


def siglip() -> Iterator[Row]:
    """Sum over all pairs, divided by the number of queries."""

    def peer(drawn: Draw, loss: Loss) -> Tensor:
        assert isinstance(loss, Sigmoid)
        queries, pool = F.normalize(drawn.queries, dim=1), F.normalize(drawn.pool, dim=1)
        return SigLipLoss()(queries, pool, loss.scale, loss.bias)

    yield from compare(Sigmoid(), peer, ("Sigmoid", "open_clip SigLipLoss"), "pairs")


# pytorch-metric-learning -----------------------------------------------------------------------------------------

CLASSES = ("classes", "classes, some ignored")


def arguments(drawn: Draw) -> dict[str, object]:
    """What every loss of pytorch-metric-learning is called with.

    Classes are told by labels. That it takes ``ref_labels`` that are the very tensor ``labels`` for a comparison with
    itself, and drops the diagonal, is why it gets a clone. What is ignored it does not know, but it can be told which
    pairs there are.
    """
    given: dict[str, object] = {"embeddings": drawn.queries, "ref_emb": drawn.pool}
    if not drawn.ignore.any():
        return given | {"labels": drawn.labels, "ref_labels": drawn.pool_labels.clone()}
    positives, negatives = drawn.positive, ~(drawn.positive | drawn.ignore)
    return given | {"indices_tuple": (*torch.where(positives), *torch.where(negatives))}


def mean_per_anchor(costs: Tensor, anchors: Tensor, queries: int) -> Tensor:
    """Mean over queries of the mean cost of each, 0 for a query that has none."""
    total = costs.new_zeros(queries).index_add(0, anchors, costs)
    return (total / anchors.bincount(minlength=queries).clamp(min=1)).mean()


def ntxent() -> Iterator[Row]:
    """One cost per positive pair, against the anchor's negatives: our "each". Its own mean is over pairs."""

    def peer(drawn: Draw, _: Loss) -> Tensor:
        found = pml.NTXentLoss(TEMPERATURE, reducer=DoNothingReducer())(**arguments(drawn))["loss"]
        return mean_per_anchor(found["losses"], found["indices"][0], len(drawn.queries))

    for data in CLASSES:
        loss = InfoNCE(TEMPERATURE, learnable=False)
        yield from compare(loss, peer, ("InfoNCE each", "pytorch-metric-learning NTXentLoss"), data)


def supcon() -> Iterator[Row]:
    """One cost per anchor, 0 for those without positives. Its own mean leaves zeros out."""

    def peer(drawn: Draw, _: Loss) -> Tensor:
        return pml.SupConLoss(TEMPERATURE, reducer=MeanReducer())(**arguments(drawn))

    for data in CLASSES:
        loss = InfoNCE(TEMPERATURE, learnable=False, form="supcon")
        yield from compare(loss, peer, ("InfoNCE supcon", "pytorch-metric-learning SupConLoss"), data)


def circle() -> Iterator[Row]:
    """One cost per anchor, 0 for those without positives. Its own mean leaves zeros out."""

    def peer(drawn: Draw, loss: Loss) -> Tensor:
        assert isinstance(loss, Circle)
        return pml.CircleLoss(loss.margin, loss.gamma, reducer=MeanReducer())(**arguments(drawn))

    for data in CLASSES:
        yield from compare(Circle(), peer, ("Circle", "pytorch-metric-learning CircleLoss"), data)


def triplet() -> Iterator[Row]:
    """One cost per triplet. Its own mean is over the triplets of all anchors that cost anything."""
    margin = 0.2
    of_triplets = pml.TripletMarginLoss(margin, distance=CosineSimilarity(), reducer=DoNothingReducer())

    def mean(found: dict[str, Tensor], drawn: Draw) -> Tensor:
        violated = found["losses"] > 0
        return mean_per_anchor(found["losses"][violated], found["indices"][0][violated], len(drawn.queries))

    def every(drawn: Draw, _: Loss) -> Tensor:
        return mean(of_triplets(**arguments(drawn))["loss"], drawn)

    def semi_hard(drawn: Draw, _: Loss) -> Tensor:
        given = arguments(drawn)
        mine = TripletMarginMiner(margin, type_of_triplets="semihard", distance=CosineSimilarity())
        return mean(of_triplets(**given, indices_tuple=mine(**given))["loss"], drawn)

    for data in CLASSES:
        yield from compare(Triplet(margin), every, ("Triplet all", "pytorch-metric-learning TripletMarginLoss"), data)
    names = ("Triplet semi_hard", "pytorch-metric-learning TripletMarginMiner")
    yield from compare(Triplet(margin, "semi_hard"), semi_hard, names, "classes")


def spu_margin() -> Iterator[Row]:
    """One cost per vector against all centres; ours is the mean of a query's and of its item's.

    Theirs learns centres of its own, in whose place it is given ours. Its margin is in degrees.
    """

    def ours(drawn: Draw, loss: Loss) -> Tensor:
        return loss(F.normalize(drawn.queries, dim=1), F.normalize(drawn.pool, dim=1), drawn.labels, seed=0).mean()

    def peer(drawn: Draw, loss: Loss) -> Tensor:
        assert isinstance(loss, SpuMargin)
        classes, dim = loss.centres.shape
        arc = pml.ArcFaceLoss(classes, dim, margin=math.degrees(loss.margin), scale=loss.scale)
        costs = [
            functional_call(arc, {"W": loss.centres.T}, (vectors, drawn.labels))
            for vectors in (drawn.queries, drawn.pool)
        ]
        return (costs[0] + costs[1]) / 2

    spus = np.arange(CLASSES_DRAWN)
    for margin in (0.3, 1.5):  # at 1.5, many angles come out beyond pi
        loss = SpuMargin(margin)
        torch.manual_seed(0)
        loss.setup(
            LossData(
                Catalogue(spus, spus, 0 * spus), ShopIds(), draw("pairs", torch.float64, 0).queries.shape[1], Path()
            )
        )
        names = (f"SpuMargin, margin {margin}", "pytorch-metric-learning ArcFaceLoss")
        yield from compare(loss, peer, names, "pairs", ours)


def full_queue() -> Iterator[Row]:
    """A batch before a queue that holds the batches before it, beside one batch of all of them."""
    for dtype in LIMITS:
        worst = [0.0, 0.0]
        for seed in range(DRAWS):
            drawn = draw("pairs", dtype, seed)
            more = draw("classes", dtype, seed).pool
            everything, size = torch.cat([drawn.pool, more]), len(drawn.pool)
            ids = torch.arange(len(everything))
            queue = Queue(len(more))
            queue.setup(training_data(everything.shape[1]))
            queue.to(dtype)
            for rows in torch.split(ids[size:], 17):
                queue.extend(Candidates(everything[rows], rows, rows, rows))
            loss = InfoNCE(TEMPERATURE, learnable=False)

            def with_queue(
                queries: Tensor, own: Tensor, queue: Queue = queue, loss: Loss = loss, ids: Tensor = ids, n: int = size
            ) -> Tensor:
                pool = queue.extend(Candidates(own, ids[:n], ids[:n], ids[:n]))
                return matched(queries, pool.representations, pool.item_id, ids[:n], loss)

            def one_batch(
                queries: Tensor, own: Tensor, more: Tensor = more, loss: Loss = loss, ids: Tensor = ids, n: int = size
            ) -> Tensor:
                return matched(queries, torch.cat([own, more]), ids, ids[:n], loss)

            found = [valued(of, drawn.queries, drawn.pool) for of in (with_queue, one_batch)]
            worst = [max(a, b) for a, b in zip(worst, differences(*found), strict=True)]
        yield Row("InfoNCE, full queue", "InfoNCE, one big batch", "pairs", dtype, *worst)


def two_processes() -> Iterator[Row]:
    """A batch that two processes share and gather, beside the same batch in one."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(share, args=(folder,), nprocs=2, start_method="fork")
        shared = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]
    for dtype in LIMITS:
        worst = [0.0, 0.0]
        for seed in range(DRAWS):
            drawn = draw("pairs", dtype, seed)
            ids = torch.arange(len(drawn.pool))
            loss = InfoNCE(TEMPERATURE, learnable=False)
            whole = valued(lambda q, p, ids=ids, loss=loss: matched(q, p, ids, ids, loss), drawn.queries, drawn.pool)
            together = [torch.zeros_like(tensor) for tensor in whole]
            for rank, parts in enumerate(shared):
                value, *gradients = parts[str(dtype), seed]
                together[0] += value / 2
                for gradient, rows in zip(together[1:], gradients, strict=True):
                    gradient[rank::2] = rows / 2
            worst = [max(a, b) for a, b in zip(worst, differences(together, whole), strict=True)]
        yield Row("InfoNCE, two processes", "InfoNCE, one process", "pairs", dtype, *worst)


def share(rank: int, folder: str) -> None:
    """One of two processes: every other query and candidate, all candidates gathered."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = {}
    for dtype in LIMITS:
        for seed in range(DRAWS):
            drawn = draw("pairs", dtype, seed)
            ids = torch.arange(len(drawn.pool))[rank::2]
            loss = InfoNCE(TEMPERATURE, learnable=False)

            def gathered(queries: Tensor, own: Tensor, ids: Tensor = ids, loss: Loss = loss) -> Tensor:
                pool = Gathered().extend(Candidates(own, ids, ids, ids))
                return matched(queries, pool.representations, pool.item_id, ids, loss)

            found[str(dtype), seed] = valued(gathered, drawn.queries[rank::2], drawn.pool[rank::2])
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def matched(queries: Tensor, pool: Tensor, item_id: Tensor, asked: Tensor, loss: Loss) -> Tensor:
    """Mean loss of queries whose positives are told by their ids."""
    scores = F.normalize(queries, dim=1) @ F.normalize(pool, dim=1).T
    return loss(scores, *positive_and_ignore(asked[:, None], asked[:, None], item_id, item_id)).mean()


def valued(of: Callable[[Tensor, Tensor], Tensor], *inputs: Tensor) -> list[Tensor]:
    """A value and its gradients."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    value = of(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def differences(found: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[float, float]:
    """Relative difference of the value, and the largest of the gradients."""
    value, *gradients = (float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))
    return value, max(gradients)


def training_data(dim: int) -> TrainingData:
    """Data without pairs: a queue only asks for the width."""
    none = np.empty(0, dtype=np.int64)
    return TrainingData(Pairs(none, none, none[:, None], "query"), Catalogue(none, none, none), pl.DataFrame(), dim)


COMPARISONS: list[Callable[[], Iterator[Row]]] = [
    clip,
    label_smoothing,
    siglip,
    ntxent,
    supcon,
    circle,
    triplet,
    spu_margin,
    full_queue,
    two_processes,
]


def main() -> None:
    """Compare and print the table."""
    torch.set_num_threads(1)
    rows = [row for comparison in COMPARISONS for row in comparison()]
    table = Table("loss", "peer", "data", "dtype", "value", "gradient", "limit", "ok")
    for row in rows:
        table.add_row(
            row.loss,
            row.peer,
            row.data,
            str(row.dtype).removeprefix("torch."),
            f"{row.value:.1e}",
            f"{row.gradient:.1e}",
            f"{LIMITS[row.dtype]:.0e}",
            "yes" if row.share <= 1 else "NO",
        )
    console = Console() if Console().is_terminal else Console(width=150)
    console.print(table)
    worst = max(row.share for row in rows)
    print(f"ratio: {1 / worst if worst else math.inf:.2f}")
    sys.exit(worst > 1)


if __name__ == "__main__":
    main()
