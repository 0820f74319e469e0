"""Checks of what a CTR model is made of: adapters and predictors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.predictors.predictor import Predictor
from moonlib.testing.examples import example_behaviours, without_queries
from moonlib.testing.promises import check_gradients, check_half_precision, check_restored, close, require


def check_adapter(make: Callable[[], Adapter]) -> None:
    """Check an adapter: shapes, rows, what is missing, padding, determinism, gradients, dtype, weights.

    Missing may be representations, behaviours and the query, as in a feed.

    An adapter that is pretrained is asked for gradients of its pretraining.

    Args:
        make: returns a fresh adapter that `Adapter.setup` was not called on.
    """
    id_dim, dim = 3, 5
    catalogue = torch.randn(40, dim, generator=torch.Generator().manual_seed(3))
    adapters = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        adapter = make()
        adapter.setup(id_dim, dim)
        adapter.fit(catalogue)
        adapters.append(adapter.eval())
    adapter, twin, other = adapters
    batch = example_behaviours(id_dim, dim)
    rows = adapter(batch)
    expected = (len(batch.target), adapter.out_features)
    require(rows.shape == expected, f"forward: shape {tuple(rows.shape)} is not [B, out_features] = {expected}")
    require(rows.is_floating_point(), f"forward: {rows.dtype} is not a float")
    require(bool(rows.isfinite().all()), "forward: a row that lacks a history or a representation is not finite")
    require(close(rows, adapter(batch)), "forward: a second call in eval mode gives another result")
    require(close(rows, twin(batch)), "setup: the same seed gives other weights")
    one = BehaviourBatch(**{field.name: getattr(batch, field.name)[:1] for field in fields(batch)})
    require(close(rows[:1], adapter(one)), "forward: a row alone differs from the row in a batch")
    for junk in (1e3, torch.nan):
        dirty = replace(
            batch,
            item_ids=batch.item_ids.masked_fill(~batch.item_mask.unsqueeze(2), junk).requires_grad_(),
            query_ids=batch.query_ids.masked_fill(~batch.query_mask.unsqueeze(2), junk),
            items=batch.items.masked_fill(~batch.item_known.unsqueeze(2), junk),
            queries=batch.queries.masked_fill(~batch.query_known.unsqueeze(2), junk),
            query=batch.query.masked_fill(~batch.has_query.unsqueeze(1), junk),
        )
        features = adapter(dirty)
        require(close(rows, features), f"forward: {junk} in padding changes the features")
        if features.requires_grad:
            features.square().sum().backward()
        if dirty.item_ids.grad is not None:
            require(not dirty.item_ids.grad[~batch.item_mask].any(), "backward: padding has a gradient")
    feed = without_queries(batch)
    unasked = adapter(feed)
    require(bool(unasked.isfinite().all()), "forward: a row without a query is not finite")
    there = {name: getattr(batch, name) for name in ("query", "query_id", "has_query")}
    for name, value in there.items():
        there[name] = torch.cat([value[:4], getattr(feed, name)[4:]])
    mixed = adapter(replace(batch, **there))
    expected_rows = torch.cat([rows[:4], unasked[4:]])
    require(close(mixed, expected_rows), "forward: a row without a query changes when others have one")
    histories = {}
    padded = ("item_ids", "items", "queries", "query_ids", "item_mask", "item_known", "query_known", "query_mask")
    for name in padded:
        history = getattr(batch, name)
        histories[name] = torch.cat([history, torch.zeros_like(history[:, :2])], dim=1)
    require(close(rows, adapter(replace(batch, **histories))), "forward: more padding changes the features")
    empty = replace(batch, **{name: history[:, :0] for name, history in histories.items()})
    require(adapter(empty).shape == expected, "forward: histories of length 0 change the shape")
    if not adapter.reads_content:
        bare = {name: getattr(batch, name)[..., :0] for name in ("target", "items", "queries", "query")}
        require(close(rows, adapter(replace(batch, **bare))), "reads_content: is False, but representations matter")
    if not adapter.reads_query_ids:
        bare = {name: getattr(batch, name)[..., :0] for name in ("query_id", "query_ids")}
        require(close(rows, adapter(replace(batch, **bare))), "reads_query_ids: is False, but queries' ids matter")
    if adapter.reads_codes:
        _check_coded(make, catalogue, batch)
    joined = sum(adapter.matching)
    require(joined <= adapter.out_features, f"matching: {joined} outputs are more than {adapter.out_features} features")
    require(adapter.matching[-1:] in ((), (1,)), f"matching: {adapter.matching} does not end with a logit's width, 1")
    batch.target_id.requires_grad_()
    trained: Callable[[], torch.Tensor] = lambda: adapter(batch)  # noqa: E731
    if adapter.pretraining_epochs:
        logits = adapter.pretraining_logits(batch)
        require(logits.shape == (len(rows),), f"pretraining_logits: shape {tuple(logits.shape)} is not [B]")
        require(bool(logits.isfinite().all()), "pretraining_logits: a row that lacks something is not finite")
        trained = lambda: torch.cat([adapter(batch), adapter.pretraining_logits(batch).unsqueeze(1)], dim=1)  # noqa: E731
    check_gradients(adapter, trained)
    check_half_precision(adapter, lambda: adapter(batch))
    check_restored(adapter, other, lambda module: module(batch))


def _check_coded(make: Callable[[], Adapter], catalogue: Tensor, batch: BehaviourBatch) -> None:
    """Check that codebooks are taken, whatever their number of levels and centroids, and that fitting leaves them."""
    books = torch.randn(2, 6, catalogue.shape[1], generator=torch.Generator().manual_seed(5))
    found = []
    for codebooks, fitted in ((books, True), (books, False), (books.flip(1), False), (books[:, :4], False)):
        torch.manual_seed(0)
        adapter = make()
        adapter.take_codebooks(codebooks)
        adapter.setup(batch.target_id.shape[1], catalogue.shape[1])
        if fitted:
            adapter.fit(catalogue)
        found.append(adapter.eval()(batch))
        expected = (len(batch.target), adapter.out_features)
        require(found[-1].shape == expected, f"take_codebooks: shape {tuple(found[-1].shape)} is not {expected}")
    require(close(found[0], found[1]), "fit: changes what comes of codebooks that were taken")
    require(not close(found[1], found[2]), "take_codebooks: other codebooks make no difference")


def check_predictor(make: Callable[[], Predictor]) -> None:
    """Check a predictor: shapes, independent rows, determinism, gradients, dtype, weights, matching points.

    Args:
        make: returns a fresh predictor that `Predictor.setup` was not called on.
    """
    _check_predictor(make, None)
    predictor = make()
    if not predictor.joins:
        return
    for name in ("setup", "forward"):
        try:
            inspect.signature(getattr(predictor, name)).bind(None, [])
        except TypeError:
            require(False, f"joins: is True, but {name} takes no matching points; take them or say joins = False")
    for matching in ([], [1], [3, 1]):
        if matching == [3, 1]:
            try:
                _setup(make(), matching)
            except ValueError:  # it has no hidden layer to join one to
                continue
        _check_predictor(make, matching)
        if matching:
            _check_joined(make, matching)
    try:
        _setup(make(), [3])
    except ValueError:
        return
    require(False, "setup: a last matching point of width 3 is not refused; it is the logit, of width 1")


def _setup(predictor: Predictor, matching: Sequence[int] | None) -> Predictor:
    """Make the weights for seven features and, unless None, matching points."""
    setup: Callable[..., None] = predictor.setup
    setup(7, *([] if matching is None else [matching]))
    return predictor


def _example_inputs(matching: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Six rows of features and of what is joined to them."""
    rng = torch.Generator().manual_seed(1)
    return torch.randn(6, 7, generator=rng), [torch.randn(6, width, generator=rng) for width in matching]


def _check_predictor(make: Callable[[], Predictor], matching: Sequence[int] | None) -> None:
    """Check what holds with and without matching points."""
    predictors = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        predictors.append(_setup(make(), matching).eval())
    predictor, twin, other = predictors
    features, matched = _example_inputs(matching or [])
    inputs = (features,) if matching is None else (features, matched)
    first = (features[:1],) if matching is None else (features[:1], [tensor[:1] for tensor in matched])
    with torch.no_grad():
        logits = predictor(*inputs)
        require(logits.shape == (6,), f"forward: shape {tuple(logits.shape)} is not [B]")
        require(logits.is_floating_point(), f"forward: {logits.dtype} is not a float")
        require(bool(logits.isfinite().all()), "forward: a logit is not finite")
        require(close(logits, predictor(*inputs)), "forward: a second call in eval mode gives another result")
        require(close(logits[:1], predictor(*first)), "forward: a row alone differs from the row in a batch")
        require(close(logits, twin(*inputs)), "setup: the same seed gives other weights")
    check_gradients(predictor, lambda: predictor(*inputs))
    check_half_precision(predictor, lambda: predictor(*inputs))
    check_restored(predictor, other, lambda module: module(*inputs))


def _check_joined(make: Callable[[], Predictor], matching: Sequence[int]) -> None:
    """Check that hidden outputs are read, and that the logit is added as it is at first."""
    features, matched = _example_inputs(matching)
    predictor = _setup(make(), matching).eval()
    with torch.no_grad():
        logits = predictor(features, matched)
        more = [*matched[:-1], matched[-1] + 2]
        require(
            close(predictor(features, more), logits + 2), "forward: a joined logit is not added with weight 1 at first"
        )
        for i in range(len(matched) - 1):
            more = [tensor + 2 * (place == i) for place, tensor in enumerate(matched)]
            require(not close(predictor(features, more), logits), f"forward: hidden output {i} is joined but not read")
