"""Checks of what an encoder is trained with: losses and negative samplers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from moonlib.data.ids import ShopIds
from moonlib.losses.loss import Loss, LossData
from moonlib.negatives.masks import positive_and_ignore
from moonlib.negatives.negative_sampler import PLANNED_AHEAD, Candidates, NegativeSampler, TrainingData
from moonlib.pairs.catalogue import Catalogue
from moonlib.pairs.pairs import search_pairs
from moonlib.representations.store import Representations
from moonlib.testing.examples import EXAMPLE_SPLITS, example_representations, example_tables
from moonlib.testing.promises import check_gradients, check_restored, close, require

TENSORS = ("representations", "item_id", "spu_id", "category")
"""Of `Candidates`."""


def check_loss(make: Callable[[], Loss]) -> None:
    """Check a loss: one value per query, masks, direction of the gradient, finite at every edge, dtype, weights.

    Of a loss that reads vectors: one value per query that depends on no other query, finite also for vectors of zeros,
    the same for the same seed, and weights that are there after `setup`. Its teacher, if it names one, has vectors of
    `example_loss_data`'s products.

    Args:
        make: returns a fresh loss.
    """
    loss = make()
    try:
        reads = loss.arguments
    except ValueError as error:
        raise AssertionError(f"forward: {error}") from error
    if loss.reads_representations:
        _check_vector_loss(make)
        return
    loss.setup(example_loss_data(loss))

    def called(loss: Loss, scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
        given = {"scores": scores, "positive": positive, "ignore": ignore, "seed": 3}
        value: Tensor = loss(**{name: given[name] for name in reads})
        return value

    rng = torch.Generator().manual_seed(0)
    scores = (torch.rand(6, 9, generator=rng) * 2 - 1).requires_grad_()
    positive = torch.eye(6, 9, dtype=torch.bool)
    positive[:3, 6] = True  # several positives
    ignore = torch.zeros_like(positive)
    ignore[1:5, 7] = True
    positive[4], ignore[4] = False, False  # no positive
    ignore[5] = ~positive[5]  # no negative
    values = called(loss, scores, positive, ignore)
    require(values.shape == (6,), f"forward: shape {tuple(values.shape)} is not [Q]")
    require(bool(values.isfinite().all()), "forward: a query without positives or negatives is not finite")
    require(values[4].item() == 0, "forward: a query without positives does not cost 0")
    (gradient,) = torch.autograd.grad(values.sum(), scores)
    require(bool(gradient.isfinite().all()), "backward: a query without positives or negatives is not finite")
    require(not gradient[4].any(), "backward: a query without positives has a gradient")
    require(not gradient[ignore].any(), "backward: an ignored candidate has a gradient")
    one = positive.sum(dim=1) == 1
    require(bool((gradient[positive & one.unsqueeze(1)] <= 0).all()), "backward: a positive is pushed away")
    require(bool((gradient[~positive & ~ignore] >= 0).all()), "backward: a negative is pulled closer")
    with torch.no_grad():
        require(
            close(values[:1], called(loss, scores[:1], positive[:1], ignore[:1])), "forward: a query depends on others"
        )
        flipped = called(loss, scores.flip(1), positive.flip(1), ignore.flip(1))
        require(close(values, flipped), "forward: a query depends on the order of candidates")
        far = called(loss, scores.masked_fill(ignore, 1.0), positive, ignore)
        require(close(values, far), "forward: the score of an ignored candidate matters")
        require(close(values, called(loss, scores, positive, ignore)), "forward: a second call gives another result")
        # The reverse direction of a batch comes as a transposed view.
        columns = called(loss, scores[:, :6].T, positive[:, :6].T, ignore[:, :6].T)
        copied = [tensor[:, :6].T.contiguous() for tensor in (scores, positive, ignore)]
        require(close(columns, called(loss, *copied)), "forward: a transposed view gives another result than its copy")
        coarse = scores.to(torch.bfloat16)  # what a product of matrices is under trainer.precision bf16-mixed
        low, high = called(loss, coarse, positive, ignore), called(loss, coarse.float(), positive, ignore)
        require(
            low.is_floating_point() and bool(low.isfinite().all()), "forward: bfloat16 scores give no finite floats"
        )
        exact = torch.allclose(low.float(), high, rtol=1e-3, atol=1e-3)
        require(exact, "forward: bfloat16 scores lose precision: convert them to float32 first")
    check_gradients(loss, lambda: called(loss, scores, positive, ignore))
    other = make()
    other.setup(example_loss_data(other))
    check_restored(loss, other, lambda module: called(module, scores, positive, ignore))


def example_loss_data(loss: Loss, dim: int = 8) -> LossData:
    """Training data that a stage would give a loss: the products of `example_training_data`.

    Args:
        loss: if it names a teacher, this has a vector of every other product, of width ``dim``.
        dim: width of the vectors that the loss reads.
    """
    catalogue = example_training_data(dim).catalogue
    teacher = None
    if loss.teacher is not None:
        known = catalogue.item_id[::2]
        teacher = Representations(known, np.random.default_rng(0).normal(size=(len(known), dim)).astype(np.float32))
    read = loss.reads().table("products")
    products = None
    if read is not None:
        products = EXAMPLE_SPLITS.known(example_tables().products).sort("item_id")
        products = products.select(name for name in products.columns if read.columns is None or name in read.columns)
    return LossData(catalogue, ShopIds(), dim, Path(), teacher, products)


def _check_vector_loss(make: Callable[[], Loss]) -> None:
    """Check what `check_loss` promises of a loss that reads vectors."""

    def ready(seed: int) -> Loss:
        torch.manual_seed(seed)
        loss = make()
        loss.setup(example_loss_data(loss))
        return loss

    with torch.random.fork_rng(devices=[]):
        loss, other = ready(0), ready(1)
    given = _example_vectors()

    def value(module: Loss, given: Mapping[str, Any]) -> Tensor:
        found: Tensor = module(**{name: given[name] for name in module.arguments})
        return found

    generators = _global_generators()
    values = value(loss, given)
    require(_global_generators() == generators, "forward: draws from a global generator; draw by the seed it is given")
    require(values.shape == (6,), f"forward: shape {tuple(values.shape)} is not [Q]")
    require(bool(values.isfinite().all()), "forward: a value is not finite; vectors may be zeros")
    leaves = [each for each in given.values() if isinstance(each, Tensor) and each.requires_grad]
    gradients = torch.autograd.grad(values.sum(), leaves, allow_unused=True)
    found = [each for each in gradients if each is not None]
    require(bool(found) and any(bool(each.any()) for each in found), "backward: no vector has a gradient")
    require(all(bool(each.isfinite().all()) for each in found), "backward: a gradient is not finite")
    with torch.no_grad():
        require(close(values, value(loss, given)), "forward: a second call with the same seed gives another result")
        rows = {name: given[name][2:4] for name in OF_QUERIES}
        require(close(values[2:4], value(loss, {**given, **rows})), "forward: a query depends on others")
        turned = {name: given[name].flip(0) for name in ("candidates", "candidate_id", "candidate_spu")}
        turned |= {name: given[name].flip(1) for name in ("scores", "positive", "ignore")}
        require(close(values, value(loss, {**given, **turned})), "forward: a query depends on the order of candidates")
    check_gradients(loss, lambda: value(loss, given))
    check_restored(loss, other, lambda module: value(module, given))


OF_QUERIES = ("scores", "positive", "ignore", "queries", "items", "item_id", "spu_id")
"""What a loss is given row by row of its queries."""


def _example_vectors() -> dict[str, Any]:
    """Six queries and nine candidates, the first six being their own items; one query and one candidate are zeros."""
    catalogue = example_training_data(dim=8).catalogue
    rng = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(15, 8, generator=rng), dim=1)
    vectors[[5, 14]] = 0
    queries, candidates = vectors[:6].clone().requires_grad_(), vectors[6:].clone().requires_grad_()
    item_id, spu_id = (torch.from_numpy(each[:9].copy()) for each in (catalogue.item_id, catalogue.spu_id))
    positive, ignore = positive_and_ignore(item_id[:6, None], spu_id[:6, None], item_id, spu_id)
    return {
        "scores": queries @ candidates.T,
        "positive": positive,
        "ignore": ignore,
        "queries": queries,
        "items": candidates[:6],
        "candidates": candidates,
        "item_id": item_id[:6],
        "spu_id": spu_id[:6],
        "candidate_id": item_id,
        "candidate_spu": spu_id,
        "seed": 3,
    }


def check_negative_sampler(make: Callable[[], NegativeSampler]) -> None:
    """Check a negative sampler: what it proposes, what it leaves of the pool, dtypes, gradients, and its state.

    Args:
        make: returns a fresh sampler.
    """
    data = example_training_data(dim=8)

    def ready() -> NegativeSampler:
        sampler = make()
        sampler.setup(data)
        return sampler

    sampler = ready()
    _check_proposals(sampler, data)
    same = np.array_equal(_proposed(sampler, data, 3), _proposed(ready(), data, 3))
    require(same, "propose: a sampler set up with the same data gives other items")
    if sampler.refresh_every is not None:
        _check_refresh(sampler, sampler.refresh_every, data)
    for seed in range(4):
        _check_pool(sampler, _example_pool(seed))
    restored = ready()
    try:
        restored.load_state_dict(sampler.state_dict())
    except RuntimeError as error:
        raise AssertionError(f"state_dict: does not fit a fresh sampler ({error})") from error
    same = all(np.array_equal(_proposed(sampler, data, s), _proposed(restored, data, s)) for s in (3, 10**6))
    require(same, "state_dict: a restored sampler proposes other items")
    ours, theirs = sampler.extend(_example_pool(4)), restored.extend(_example_pool(4))
    same = all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in TENSORS)
    require(same, "state_dict: a restored sampler extends the pool otherwise")


def example_training_data(dim: int) -> TrainingData:
    """Training data that a stage would give a sampler, from the orders of `example_tables`.

    Every search that ended in an order has two clicks on other items beside it.

    Args:
        dim: width of the representations.
    """
    tables = example_tables()
    products = EXAMPLE_SPLITS.known(tables.products)
    searches = EXAMPLE_SPLITS.select(tables.searches, "behaviour")
    ordered = searches.filter(pl.col("action") == "order")
    others = np.random.default_rng(0).choice(products["item_id"].to_numpy(), (2, len(ordered)))
    clicks = [ordered.with_columns(pl.Series("item_id", items), pl.lit("click").alias("action")) for items in others]
    return TrainingData(
        pairs=search_pairs(searches, actions=["order"]),
        catalogue=Catalogue.of(products),
        searches=pl.concat([searches, *clicks]).sort("ts", "search_id", "item_id"),
        dim=dim,
    )


def _proposed(sampler: NegativeSampler, data: TrainingData, step: int) -> NDArray[np.int64]:
    """Proposals of a sampler for eight pairs; their generator always has the same state."""
    return sampler.propose(data.pairs[np.arange(8)], step, np.random.default_rng(3))


def _check_proposals(sampler: NegativeSampler, data: TrainingData) -> None:
    given, before = data.pairs[np.arange(8)], data.pairs[np.arange(8)]
    generators = _global_generators()
    first = sampler.propose(given, 3, np.random.default_rng(3))
    again = _proposed(sampler, data, 3)
    same = all(np.array_equal(getattr(given, n), getattr(before, n)) for n in ("query_id", "item_id", "positives"))
    require(same, "propose: changes the pairs it is given")
    untouched = _global_generators() == generators
    require(untouched, "propose: draws from a global generator; use the one it is given")
    one = sampler.propose(data.pairs[np.arange(1)], 3, np.random.default_rng(3))
    require(len(one) == 1, "propose: not [Q, k] for a single query")
    require(first.dtype == np.int64 and first.shape[:1] == (8,) and first.ndim == 2, "propose: not int64 [Q, k]")
    require(np.array_equal(first, again), "propose: the same generator state gives other items")
    _proposed(sampler, data, 10**6)
    again = _proposed(sampler, data, 3)
    require(np.array_equal(first, again), "propose: what it gives for a step depends on the steps asked for before")
    unknown = first[~np.isin(first, data.catalogue.item_id)]
    require(not unknown.size, f"propose: item {unknown[:1]} is not in the catalogue")


def _check_refresh(sampler: NegativeSampler, every: int, data: TrainingData) -> None:
    require(every >= PLANNED_AHEAD, f"refresh_every: {every} is less than the {PLANNED_AHEAD} batches planned ahead")
    query_ids = pl.Series(np.unique(data.pairs.query_id))
    products, queries = example_representations(pl.Series(data.catalogue.item_id), query_ids)["random"]
    sampler.refresh(products, queries, 0)
    before = _proposed(sampler, data, every - 1)
    unknown = before[~np.isin(before, data.catalogue.item_id)]
    require(not unknown.size, f"propose: item {unknown[:1]} is not in the catalogue")
    sampler.refresh(Representations(products.ids, products.vectors[::-1].copy()), queries, every)
    same = np.array_equal(before, _proposed(sampler, data, every - 1))
    require(same, "refresh: changes what is proposed for a batch before the one it is made for")


def _example_pool(seed: int) -> Candidates:
    """Eight items; those of seed 2 in bfloat16, those of seed 3 with four more that another sampler added."""
    item = torch.arange(8) + 8 * seed
    dtype = torch.bfloat16 if seed == 2 else torch.float32
    representations = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)
    pool = Candidates(representations.requires_grad_(), item, item // 2, item % 3)
    return pool if seed != 3 else pool.extended(torch.ones(4, 8), -item[:4], -item[:4], item[:4] % 3)


def _check_pool(sampler: NegativeSampler, given: Candidates) -> None:
    given.representations.retain_grad()
    extended, count = sampler.extend(replace(given)), len(given.item_id)
    for name in TENSORS:
        before, after = getattr(given, name), getattr(extended, name)
        require(after.dtype == before.dtype, f"extend: {name} became {after.dtype}")
        require(torch.equal(after[:count], before), f"extend: {name} of the pool's own candidates changed")
        require(len(after) == len(extended.item_id), f"extend: {name} is not as long as item_id")
    require(bool(extended.representations.isfinite().all()), "extend: a representation is not finite")
    mine = len(extended.mine().item_id)
    require(mine == 8, f"extend: {mine} candidates count as this batch's, not 8; add others with pool.extended()")
    require(extended.representations.requires_grad, "extend: the pool's own candidates lost their gradient")
    try:
        extended.representations.square().sum().backward()
    except RuntimeError as error:
        raise AssertionError(f"extend: backward: {error}") from error
    gradient = given.representations.grad
    whole = gradient is not None and close(gradient, 2 * given.representations.detach())
    require(whole, "extend: the pool's own candidates lost their gradient")
    kept = [name for name, buffer in sampler.named_buffers() if buffer.requires_grad]
    require(not kept, f"extend: {', '.join(kept)} keeps the graph of past batches alive; detach what is stored")


def _global_generators() -> str:
    """The state of the generators of Python, NumPy and torch, as text."""
    return f"{random.getstate()} {np.random.get_state()} {torch.get_rng_state().tolist()}"  # noqa: NPY002
