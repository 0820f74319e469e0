"""Checks of what an encoder is trained with: losses and negative samplers."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import torch

from moonlib.losses.loss import Loss
from moonlib.negatives.negative_sampler import Candidates, NegativeSampler
from moonlib.testing.promises import check_gradients, check_restored, close, require


def check_loss(make: Callable[[], Loss]) -> None:
    """Check a loss: one value per query, masks, direction of the gradient, finite at every edge, dtype, weights.

    Args:
        make: returns a fresh loss.
    """
    loss = make()
    rng = torch.Generator().manual_seed(0)
    scores = (torch.rand(6, 9, generator=rng) * 2 - 1).requires_grad_()
    positive = torch.eye(6, 9, dtype=torch.bool)
    positive[:3, 6] = True  # several positives
    ignore = torch.zeros_like(positive)
    ignore[1:5, 7] = True
    positive[4], ignore[4] = False, False  # no positive
    ignore[5] = ~positive[5]  # no negative
    values = loss(scores, positive, ignore)
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
        require(close(values[:1], loss(scores[:1], positive[:1], ignore[:1])), "forward: a query depends on others")
        flipped = loss(scores.flip(1), positive.flip(1), ignore.flip(1))
        require(close(values, flipped), "forward: a query depends on the order of candidates")
        far = loss(scores.masked_fill(ignore, 1.0), positive, ignore)
        require(close(values, far), "forward: the score of an ignored candidate matters")
        require(close(values, loss(scores, positive, ignore)), "forward: a second call gives another result")
        # The reverse direction of a batch comes as a transposed view.
        columns = loss(scores[:, :6].T, positive[:, :6].T, ignore[:, :6].T)
        copied = [tensor[:, :6].T.contiguous() for tensor in (scores, positive, ignore)]
        require(close(columns, loss(*copied)), "forward: a transposed view gives another result than its copy")
        coarse = scores.to(torch.bfloat16)  # what a product of matrices is under trainer.precision bf16-mixed
        low, high = loss(coarse, positive, ignore), loss(coarse.float(), positive, ignore)
        require(
            low.is_floating_point() and bool(low.isfinite().all()), "forward: bfloat16 scores give no finite floats"
        )
        exact = torch.allclose(low.float(), high, rtol=1e-3, atol=1e-3)
        require(exact, "forward: bfloat16 scores lose precision: convert them to float32 first")
    check_gradients(loss, lambda: loss(scores, positive, ignore))
    check_restored(loss, make(), lambda module: module(scores, positive, ignore))


def check_negative_sampler(make: Callable[[], NegativeSampler]) -> None:
    """Check a negative sampler: what it proposes, what it leaves of the pool, dtype, and that its state is saved.

    Args:
        make: returns a fresh sampler.
    """
    sampler, ids = make(), np.array([-(2**63), 2**63 - 1, 2**53 + 1, 0, 1, 2, 3, 4])
    given_ids, generators = ids.copy(), _global_generators()
    first, again = (sampler.propose(given_ids, np.random.default_rng(3)) for _ in range(2))
    require(np.array_equal(given_ids, ids), "propose: changes the ids it is given")
    untouched = _global_generators() == generators
    require(untouched, "propose: draws from a global generator; use the one it is given")
    require(len(sampler.propose(ids[:1], np.random.default_rng(3))) == 1, "propose: not [Q, k] for a single query")
    require(first.dtype == np.int64 and first.shape[:1] == (8,) and first.ndim == 2, "propose: not int64 [Q, k]")
    require(np.array_equal(first, again), "propose: the same generator state gives other items")

    def pool(seed: int) -> Candidates:
        item = torch.arange(8) + 8 * seed
        representations = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        return Candidates(representations.requires_grad_(), item, item // 2, item % 3)

    for seed in range(3):
        given = pool(seed)
        extended = sampler.extend(replace(given))
        for field in fields(Candidates):
            before, after = getattr(given, field.name), getattr(extended, field.name)
            require(after.dtype == before.dtype, f"extend: {field.name} became {after.dtype}")
            require(torch.equal(after[:8], before), f"extend: {field.name} of the pool's own candidates changed")
            require(len(after) == len(extended.item_id), f"extend: {field.name} is not as long as item_id")
        require(bool(extended.representations.isfinite().all()), "extend: a representation is not finite")
        require(extended.representations[:8].requires_grad, "extend: the pool's own candidates lost their gradient")
    restored = make()
    try:
        restored.load_state_dict(sampler.state_dict())
    except RuntimeError as error:
        raise AssertionError(f"state_dict: does not fit a fresh sampler ({error})") from error
    ours, theirs = sampler.extend(pool(3)), restored.extend(pool(3))
    same = all(torch.equal(getattr(ours, field.name), getattr(theirs, field.name)) for field in fields(Candidates))
    require(same, "state_dict: a restored sampler extends the pool otherwise")


def _global_generators() -> str:
    """The state of the generators of Python, NumPy and torch, as text."""
    return f"{random.getstate()} {np.random.get_state()} {torch.get_rng_state().tolist()}"  # noqa: NPY002
