"""Clipping of gradients, some of which may be sparse: torch's own refuses those."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], limit: float, algorithm: Literal["norm", "value"] = "norm") -> None:
    """Shorten gradients in place, as ``trainer.gradient_clip_val`` asks for.

    Rows of a sparse gradient that were looked up several times are added up first.

    Args:
        parameters: those without a gradient are left out.
        limit: above 0.
        algorithm: ``norm``: all gradients together are scaled down to a 2-norm of ``limit`` where theirs is larger.
            ``value``: each element is brought into [-limit, limit].

    Example:
        >>> table = torch.nn.Embedding(9, 1, sparse=True)
        >>> table(torch.tensor([2, 2, 2, 5, 5, 5, 5])).sum().backward()  # gradients 3 and 4
        >>> clip_gradients(table.parameters(), 1.0)
        >>> table.weight.grad.to_dense()[[2, 5]].flatten()
        tensor([0.6000, 0.8000])
    """
    parameters = list(parameters)
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
    gradients = values_of(parameters)
    if algorithm == "value":
        for gradient in gradients:
            gradient.clamp_(-limit, limit)
    elif gradients:
        norm = torch.nn.utils.get_total_norm(gradients)
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale)


@torch.no_grad()
def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The 2-norm of all gradients together, which stay as they are: what `clip_gradients` compares with its limit.

    Args:
        parameters: those without a gradient are left out.

    Returns:
        A tensor of no dimensions; 0 without any gradient.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> (weight * torch.tensor([3.0, 4.0])).sum().backward()
        >>> gradient_norm([weight])
        tensor(5.)
    """
    return torch.nn.utils.get_total_norm(values_of(parameters))


def values_of(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The gradients that there are; of a sparse one its values, each row once.

    Plain tensors that hold their own gradient are what torch's functions work on. They are no copies: what changes them
    changes the gradient, unless a sparse one has yet to be coalesced.
    """
    gradients = (parameter.grad for parameter in parameters if parameter.grad is not None)
    return [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
