"""Deep & cross network, version 2: products of features of bounded degree, beside or below a perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

from torch import Tensor, nn

from moonlib.predictors.activations import Activation
from moonlib.predictors.mlp import MLP
from moonlib.predictors.predictor import Predictor

Structure = Literal["stacked", "parallel"]


class DCNv2(Predictor):
    """Cross layers, and an `MLP` that reads their output (stacked) or the same input (parallel).

    From x_0, the features, cross layer l computes

        x_{l+1} = x_0 * (W_l x_l + b_l) + x_l

    elementwise, so that n layers reach all products of n + 1 features. ``stacked``: the logit is the MLP's of x_n.
    ``parallel``: it is the MLP's of x_0, plus a linear function of x_n, which is one linear function of both
    outputs. What an adapter has to join is joined to the MLP, see `Predictor`.

    Args:
        cross_layers: n.
        rank: r of W = U V with U [F, r] and V [r, F]; None for a whole matrix. F^2 becomes 2 F r.
        structure: ``stacked`` or ``parallel``.
        hidden: widths of the MLP's hidden layers.
        dropout: of the MLP.
        activation: of the MLP.

    Raises:
        ValueError: if ``cross_layers`` or ``rank`` is below 1, ``structure`` unknown, or as `MLP`.

    Source: Wang et al., "DCN V2: Improved deep & cross network and practical lessons for web-scale learning to rank
    systems" (arXiv 2008.13535): the cross network, its low-rank form (without the mixture of experts) and both
    structures.

    Example:
        >>> import torch
        >>> predictor = DCNv2(cross_layers=2, rank=4, hidden=[8])
        >>> predictor.setup(16)
        >>> predictor(torch.zeros(3, 16)).shape
        torch.Size([3])
    """

    joins: ClassVar[bool] = True

    def __init__(
        self,
        cross_layers: int = 3,
        rank: int | None = None,
        structure: Structure = "stacked",
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.0,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        if cross_layers < 1:
            raise ValueError(f"cross_layers must be at least 1, got {cross_layers}; without any, take the mlp")
        if rank is not None and rank < 1:
            raise ValueError(f"rank must be at least 1, or null for whole matrices, got {rank}")
        if structure not in get_args(Structure):
            raise ValueError(f"structure must be stacked or parallel, got {structure!r}")
        self.cross_layers = cross_layers
        self.rank = rank
        self.structure = structure
        self.deep = MLP(hidden, dropout, activation)

    def setup(self, in_features: int, matching: Sequence[int] = ()) -> None:
        """Make the layers; ``matching`` as `MLP.setup`."""
        self.cross = nn.ModuleList(self.weight(in_features) for _ in range(self.cross_layers))
        self.deep.setup(in_features, matching)
        if self.structure == "parallel":
            # The MLP's logit has a bias already.
            self.logit = nn.Linear(in_features, 1, bias=False)

    def weight(self, width: int) -> nn.Module:
        """Make W x + b of one cross layer."""
        if self.rank is None:
            return nn.Linear(width, width)
        return nn.Sequential(nn.Linear(width, self.rank, bias=False), nn.Linear(self.rank, width))

    def forward(self, features: Tensor, matched: Sequence[Tensor] = ()) -> Tensor:
        """Predict logits, float [B]; ``matched`` as `MLP.forward`."""
        crossed = features
        for weight in self.cross:
            crossed = features * weight(crossed) + crossed
        logits: Tensor
        if self.structure == "stacked":
            logits = self.deep(crossed, matched)
        else:
            logits = self.deep(features, matched) + self.logit(crossed).squeeze(-1)
        return logits
