"""The loss of a batch of pairs, as a function of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from moonlib.batches.loading import PairBatch
from moonlib.encoders.encoder import Encoder
from moonlib.losses.compatibility import movement
from moonlib.losses.loss import Loss
from moonlib.losses.weighted import WeightedLoss
from moonlib.negatives.gathered import gather
from moonlib.negatives.masks import positive_and_ignore
from moonlib.negatives.negative_sampler import Candidates, NegativeSampler
from moonlib.stages.grad_cache import encode
from moonlib.system.process_group import together

Masks = Callable[[slice], tuple[Tensor, Tensor]]
"""Rows of a score matrix → their ``positive`` and ``ignore``, bool [rows, N]."""

BUDGET = 10_000_000
"""Scores that are held at once; a larger matrix is computed in parts.

A part of 40 MB: blocks above 32 MiB are what glibc gives back to the system as soon as they are free, where smaller
ones leave holes in its heap, 4 GB of them at batch 16384.
"""

STAY = 30.0
"""How much 1 - cosine counts beside the contrastive part of `Compatibility`, at any weight.

A product that has moved by little costs little: at .05 a quarter of its neighbours are others already, and a
contrastive loss is 50 times as much. Losses multiply cosines with an inverse temperature of ten and more, too.
"""


@dataclass(frozen=True)
class Compatibility:
    """The term that keeps new vectors comparable with those that an earlier encoder made of the products.

    Attributes:
        vectors: item ids int64 [n] → the old vectors, float [n, D] on the same device; zeros for a product that has
            none, which contributes nothing.
        weight: of the term, beside the stage's own loss.
        alike: bool [tasks], whether a task reads its items as the old vectors did. Only these are pulled to them.
    """

    vectors: Callable[[Tensor], Tensor]
    weight: float
    alike: Tensor


def contrastive_loss(
    encoder: Encoder, batch: PairBatch, loss: Loss, negatives: Sequence[NegativeSampler], **options: Any
) -> Tensor:
    """`contrastive_losses` of one loss: the scalar that is minimised.

    Args:
        encoder: see there; so are the others.
        batch: see there.
        loss: the only one.
        negatives: see there.
        options: see there.
    """
    return contrastive_losses(encoder, batch, {"loss": WeightedLoss(loss)}, negatives, **options)[0]


def contrastive_losses(
    encoder: Encoder,
    batch: PairBatch,
    losses: Mapping[str, WeightedLoss],
    negatives: Sequence[NegativeSampler],
    *,
    both_directions: bool,
    dims: Mapping[int, float] | None = None,
    hardness: float = 0.0,
    grad_cache: int | None = None,
    budget: int = BUDGET,
    compatibility: Compatibility | None = None,
    heads: Mapping[str, slice] = MappingProxyType({}),
    seed: int = 0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Contrast every query of a batch with its items and with whatever the samplers add.

    Args:
        encoder: encodes queries and items alike.
        batch: Q queries and N >= Q items, the first Q being the queries' own.
        losses: the losses, by name; each maps what it names to one value per query. A loss that reads vectors is
            computed once: of all dimensions, without ``hardness``, in one direction, and not with old vectors.
        negatives: extend the pool of candidates in turn.
        both_directions: also contrast each of the Q items with the queries, at equal weight.
        dims: Matryoshka: weight of a loss on each number of leading dimensions; None for all dimensions alone.
        hardness: how much more a query counts whose hardest negative comes close to its positive, see `ScoreLoss`; 0
            for all alike.
        grad_cache: rows encoded at once, see `moonlib.stages.grad_cache.encode`.
        budget: scores held at once. A larger matrix is computed in parts, twice.
        compatibility: adds, with its weight, the same losses with the old vectors of the products in place of the new
            ones, and `STAY` times the mean `movement` of the batch's items from their old vectors; None for neither.
        heads: dimensions of the encoder's heads, which a loss may be restricted to.
        seed: for losses that draw; equal in all processes.

    Returns:
        The weighted sum, a scalar, and each of its parts by name, without their weights. Means are over the queries,
        each as its ``batch.weight`` and ``hardness`` say. Of R processes each returns its share times R, so that their
        mean, and that of their gradients, is the loss of the global batch.

    Source: Kusupati et al., "Matryoshka representation learning" (2022), for ``dims``; Shen et al., "Towards
    backward-compatible representation learning" (CVPR 2020), for ``compatibility``.
    """
    queries = _wide(encode(encoder, batch.query, grad_cache))
    pool = Candidates(
        _wide(encode(encoder, batch.item, grad_cache)), batch.item_id, batch.spu_id, batch.category, len(batch.item_id)
    )
    own = len(queries)
    own_items = pool.representations[:own]
    for sampler in negatives:
        pool = sampler.extend(pool)
    weights = dict(dims) if dims else {queries.shape[1]: 1.0}
    counts = torch.ones_like(queries[:, 0]) if batch.weight is None else batch.weight.to(queries)

    @cache
    def every_query() -> tuple[Tensor, Tensor, Tensor]:
        """The queries that items are contrasted with, and the ids and SPUs of their positives."""
        found = (queries, batch.positive_ids, batch.positive_spus)
        if not any(sampler.spatial for sampler in negatives):
            return found
        gathered, ids, spus = (torch.cat(gather(tensor)) for tensor in found)
        return gathered, ids, spus

    def of_queries(rows: slice) -> tuple[Tensor, Tensor]:
        return positive_and_ignore(batch.positive_ids[rows], batch.positive_spus[rows], pool.item_id, pool.spu_id)

    def contrast(weighted: WeightedLoss, candidates: Tensor, items: Tensor, known: Tensor | None = None) -> Tensor:
        """The loss with vectors of the pool and of the queries' items; ``known`` bool [N], which of them there are."""

        def of_known(rows: slice) -> tuple[Tensor, Tensor]:
            positive, ignore = of_queries(rows)
            return (positive, ignore) if known is None else (positive & known, ignore | ~known)

        def of_items(rows: slice) -> tuple[Tensor, Tensor]:
            _, ids, spus = every_query()
            positive, ignore = positive_and_ignore(ids, spus, batch.item_id[:own][rows], batch.spu_id[:own][rows])
            return positive.T, ignore.T

        part = weighted.part(heads, queries.shape[1])
        own_dims = weights if weighted.dims is None else {part.stop - part.start: 1.0}
        scored = ScoreLoss(weighted.loss, own_dims, hardness, seed)
        values, shares = row_losses(queries[:, part], candidates[:, part], of_known, scored, budget)
        shares = shares * counts
        if known is not None:
            shares = shares * torch.isin(batch.positive_ids, pool.item_id[known]).any(dim=1)
        forward = _mean(values, shares)
        if not both_directions:
            return forward
        values, shares = row_losses(items[:, part], every_query()[0][:, part], of_items, scored, budget)
        shares = shares * counts
        reverse = _mean(values, shares if known is None else shares * known[:own])
        return (forward + reverse) / 2

    def of_vectors(weighted: WeightedLoss) -> Tensor:
        """A loss that reads vectors."""
        part = weighted.part(heads, queries.shape[1])
        named = {
            "queries": F.normalize(queries[:, part], dim=1),
            "items": F.normalize(own_items[:, part], dim=1),
            "item_id": batch.item_id[:own],
            "spu_id": batch.spu_id[:own],
        }
        of_all = {
            "candidates": F.normalize(pool.representations[:, part], dim=1),
            "candidate_id": pool.item_id,
            "candidate_spu": pool.spu_id,
            "seed": seed,
        }
        return _mean(vector_losses(weighted.loss, named, of_all, of_queries, budget), counts)

    parts: dict[str, Tensor] = {}
    total = queries.new_zeros(())
    for name, weighted in losses.items():
        if weighted.loss.reads_representations:
            parts[name] = of_vectors(weighted)
        else:
            parts[name] = contrast(weighted, pool.representations, own_items)
        total = total + weighted.weight * parts[name]
    if compatibility is None:
        return total, parts
    old = compatibility.vectors(pool.item_id).to(queries.dtype)
    known, loaded = old.any(dim=1), len(batch.item_id)
    # An item that came along for another pair is read as that one's task says, which the batch does not tell.
    every = compatibility.alike.to(batch.task.device)
    alike = torch.cat([every[batch.task], every.all().expand(loaded - own)])
    moved = movement(pool.representations[:loaded], old[:loaded])
    kept = STAY * _mean(moved, (known[:loaded] & alike).to(moved.dtype))
    for weighted in losses.values():
        if not weighted.loss.reads_representations:
            kept = kept + weighted.weight * contrast(weighted, old, old[:own], known)
    parts["compatibility"] = kept
    return total + compatibility.weight * kept, parts


@dataclass(frozen=True)
class ScoreLoss:
    """A loss of scores, on some numbers of leading dimensions.

    Attributes:
        loss: maps scores and masks to one value per row.
        dims: weight of each number of leading dimensions.
        hardness: a row's weight is exp(hardness · (its highest negative cosine − its lowest positive cosine)), over all
            dimensions and without gradient: easy rows fade.
        seed: for a loss that draws.

    Source: weighting samples by how much harder the negative is than the positive is MOON2.0's (arXiv 2511.12449); its
    form is not public to us, this one is our choice.
    """

    loss: Loss
    dims: Mapping[int, float]
    hardness: float = 0.0
    seed: int = 0


def row_losses(
    rows: Tensor, columns: Tensor, masks: Masks, scored: ScoreLoss, budget: int = BUDGET
) -> tuple[Tensor, Tensor]:
    """The loss of each row against all columns, and the weight of each row.

    Args:
        rows: float [Q, D], not normalised.
        columns: float [N, D], not normalised.
        masks: gives the masks of some rows.
        scored: the loss.
        budget: scores held at once.

    Returns:
        Losses and weights, float [Q] each.
    """
    dims = scored.dims
    truncated = [(F.normalize(rows[:, :d], dim=1), F.normalize(columns[:, :d], dim=1)) for d in dims]
    total = sum(dims.values())
    widest = max(range(len(dims)), key=lambda i: list(dims)[i])
    names = scored.loss.arguments

    def of(part: slice) -> tuple[Tensor, Tensor]:
        positive, ignore = masks(part)
        values = rows.new_zeros(len(positive))
        weights = torch.ones_like(values)
        for i, ((left, right), share) in enumerate(zip(truncated, dims.values(), strict=True)):
            scores = _cosines(left[part], right)
            given = {"scores": scores, "positive": positive, "ignore": ignore, "seed": scored.seed}
            values = values + share / total * scored.loss(**{name: given[name] for name in names})
            if scored.hardness and i == widest:
                weights = hardness_weights(scores.detach(), positive, ignore, scored.hardness)
        return values, weights

    values, weights = _in_parts(of, len(rows), len(columns), budget)
    return values, weights


def vector_losses(
    loss: Loss, rows: Mapping[str, Tensor], of_all: Mapping[str, Any], masks: Masks, budget: int = BUDGET
) -> Tensor:
    """The loss of each row of a loss that reads vectors.

    Args:
        loss: see `Loss`.
        rows: what there is of each row, by the name of the argument.
        of_all: what is the same for all rows, likewise.
        masks: gives the masks of some rows.
        budget: scores held at once.

    Returns:
        float [Q].
    """
    names = loss.arguments

    def of(part: slice) -> tuple[Tensor]:
        given = {**of_all, **{name: rows[name][part] for name in names if name in rows}}
        if not {"positive", "ignore"}.isdisjoint(names):
            given["positive"], given["ignore"] = masks(part)
        if "scores" in names:
            given["scores"] = _cosines(rows["queries"][part], of_all["candidates"])
        value: Tensor = loss(**{name: given[name] for name in names})
        return (value,)

    (values,) = _in_parts(of, len(rows["queries"]), len(of_all["candidates"]), budget)
    return values


def _cosines(left: Tensor, right: Tensor) -> Tensor:
    """Products of unit vectors; under autocast they would be of half precision, too coarse for cosines."""
    with torch.autocast(left.device.type, enabled=False):
        return left @ right.T


def _in_parts(of: Callable[[slice], tuple[Tensor, ...]], rows: int, columns: int, budget: int) -> tuple[Tensor, ...]:
    """Compute a function of some rows for all of them, so many at a time as the budget of scores allows."""
    at_once = max(1, budget // max(1, columns))
    if rows <= at_once:
        return of(slice(None))
    parts = [slice(start, start + at_once) for start in range(0, rows, at_once)]
    # Recomputed in backward: what is kept of a part is its losses.
    found = [checkpoint(of, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return tuple(torch.cat(each) for each in zip(*found, strict=True))


def hardness_weights(scores: Tensor, positive: Tensor, ignore: Tensor, hardness: float) -> Tensor:
    """Weight of each row, see `ScoreLoss`; 1 for a row without positives or without negatives.

    Args:
        scores: float [Q, N], cosines.
        positive: bool [Q, N].
        ignore: bool [Q, N].
        hardness: 0 for weights of 1.

    Returns:
        float [Q].

    Example:
        >>> scores, none = torch.tensor([[0.9, 0.1], [0.5, 0.5]]), torch.zeros(2, 2, dtype=torch.bool)
        >>> hardness_weights(scores, torch.tensor([[True, False], [True, False]]), none, 1.0)
        tensor([0.4493, 1.0000])
    """
    hardest = scores.masked_fill(positive | ignore, -torch.inf).amax(dim=1)
    furthest = scores.masked_fill(~positive, torch.inf).amin(dim=1)
    return torch.nan_to_num(hardness * (hardest - furthest), neginf=0.0, posinf=0.0).exp()


def _wide(vectors: Tensor) -> Tensor:
    """At least float32: half precision resolves cosines too coarsely."""
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32))


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over all processes, of which this one returns its part times their number; 0 if nothing weighs."""
    total = weights.sum()
    distributed = together()
    if distributed:
        dist.all_reduce(total)
    total = torch.where(total > 0, total, 1)
    weighted = (values * weights).sum()
    return weighted * (dist.get_world_size() / total) if distributed else weighted / total
