"""The items of all processes as negatives, with gradient."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from moonlib.data.reads import NOTHING, Reads
from moonlib.negatives.negative_sampler import Candidates, NegativeSampler
from moonlib.system.process_group import together


class Gathered(NegativeSampler):
    """Contrasts a query with what every other process has encoded for this batch: MOON's spatial negatives.

    Gradients flow back to the process that encoded an item. So R processes with batches of B / R give the loss and the
    gradient of one process with a batch of B. Ids travel with the representations: a positive that another process
    has loaded is recognised. Alone, a process adds nothing.

    Source: MOON (arXiv 2511.11305), Fig. 3c; the gather with gradient as in CLIP's training.
    """

    spatial: ClassVar[bool] = True

    def reads(self) -> Reads:
        """Nothing but ids; see `NegativeSampler.reads`."""
        return NOTHING

    def extend(self, pool: Candidates) -> Candidates:
        """Append the other processes' items, in the order of their ranks."""
        own = pool.mine()
        for rank, theirs in enumerate(gather_candidates(own, gradient=True)):
            if rank != _rank():
                pool = pool.extended(theirs.representations, theirs.item_id, theirs.spu_id, theirs.category)
        return pool


def gather_candidates(candidates: Candidates, *, gradient: bool) -> list[Candidates]:
    """Collect what every process has; all of them must call this.

    Args:
        candidates: of this process, any number.
        gradient: whether gradients flow back to the process that a representation comes from.

    Returns:
        One per process, in the order of their ranks; this process's own is the very one that was given (detached unless
        ``gradient``). Alone, a process is a list of one.
    """
    vectors = candidates.representations if gradient else candidates.representations.detach()
    ids = torch.stack([candidates.item_id, candidates.spu_id, candidates.category], dim=1)
    parts = zip(gather(vectors), gather(ids), strict=True)
    return [Candidates(v, codes[:, 0], codes[:, 1], codes[:, 2]) for v, codes in parts]


def gather(own: Tensor) -> list[Tensor]:
    """Collect a tensor from every process; the number of rows may differ.

    Args:
        own: [n, ...], of equal type and equal further dimensions everywhere. If it requires a gradient, what other
            processes' losses owe to it arrives in backward, summed.

    Returns:
        One tensor per process, in the order of their ranks, this process's being ``own`` itself.
    """
    if not together() or dist.get_world_size() == 1:
        return [own]
    sizes = [torch.zeros(1, dtype=torch.int64, device=own.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(own)], device=own.device))
    rows = [int(size) for size in sizes]
    padded = own.new_zeros(max(rows), *own.shape[1:]).index_copy(0, torch.arange(len(own), device=own.device), own)
    everything = _AllGather.apply(padded)
    parts = [part[:size] for part, size in zip(everything, rows, strict=True)]
    parts[_rank()] = own
    return parts


class _AllGather(torch.autograd.Function):
    """All-gather whose backward hands every process the sum of the gradients of what it gave."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # A reduce-scatter would move less, but not every backend has it.
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[_rank()]


def _rank() -> int:
    return dist.get_rank() if together() else 0
