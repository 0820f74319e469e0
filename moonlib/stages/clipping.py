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
    gradients = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            gradients.append(parameter.grad.values())  # no copy: what changes them changes the gradient
        elif parameter.grad is not None:
            gradients.append(parameter.grad)
    if algorithm == "value":
        for gradient in gradients:
            gradient.clamp_(-limit, limit)
    elif gradients:
        # Plain tensors that hold their own gradient are what torch's function works on.
        norm = torch.nn.utils.get_total_norm(gradients)
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale)
