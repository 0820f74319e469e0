"""Adam for a model whose embedding tables have sparse gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Adam, Optimizer, SparseAdam
from torch.optim.optimizer import ParamsT


class LazyAdam(Optimizer):
    """`torch.optim.SparseAdam` where a gradient is sparse, `torch.optim.Adam` where it is dense, as one optimizer.

    Of a table with a sparse gradient only the rows in the batch move, and only their moments: a step costs what the
    batch costs, not what the table costs. That is another algorithm than Adam, which moves every row in every step
    by what its moments remember. Both share their parameter groups, so a schedule of the learning rate governs both.

    Which of the two a parameter is for is seen from its gradient (``nn.Embedding(..., sparse=True)``), and must stay.

    Args:
        params: parameters, or groups of them, as for any optimizer of torch.
        lr: learning rate.
        betas: decay of the moments.
        eps: added to the root of the second moment.
        fused: of `torch.optim.Adam`, for the dense parameters.

    Raises:
        ValueError: as `torch.optim.Adam`.

    Example:
        >>> table = torch.nn.Embedding(1000, 4, sparse=True)
        >>> before = table.weight.detach().clone()
        >>> optimizer = LazyAdam(table.parameters(), lr=0.1)
        >>> table(torch.tensor([3, 5, 3])).sum().backward()
        >>> optimizer.step()
        >>> (table.weight != before).any(dim=1).nonzero().flatten()
        tensor([3, 5])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        fused: bool | None = None,
    ) -> None:
        self.dense = Adam(params, lr, betas, eps, fused=fused)
        self.lazy = SparseAdam(self.dense.param_groups, lr, betas, eps)
        super().__init__(self.dense.param_groups, self.dense.defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Perform one step.

        Args:
            closure: computes the loss again and returns it.

        Raises:
            RuntimeError: a parameter's gradient was sparse and is dense now, or the other way round.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for sparse, optimizer in ((False, self.dense), (True, self.lazy)):
            # Parameters, options and moments are this optimizer's, whatever was loaded or scheduled since.
            optimizer.state = self.state
            optimizer.param_groups = [{**group, "params": self.of(group, sparse)} for group in self.param_groups]
            optimizer.step()
        return loss

    def of(self, group: dict[str, Any], sparse: bool) -> list[torch.Tensor]:
        """Parameters of a group whose gradients are sparse, or dense."""
        chosen = [p for p in group["params"] if p.grad is not None and p.grad.is_sparse == sparse]
        for parameter in chosen:
            # Adam counts steps in a tensor, SparseAdam in an integer.
            if parameter in self.state and torch.is_tensor(self.state[parameter]["step"]) == sparse:
                now, before = ("sparse", "dense") if sparse else ("dense", "sparse")
                raise RuntimeError(
                    f"a parameter of shape {list(parameter.shape)} has a {now} gradient, and had a {before} one: "
                    "look it up in the same way in every step"
                )
        return chosen

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "dense": self.dense, "lazy": self.lazy}
