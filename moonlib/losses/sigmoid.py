"""SigLIP's loss: every pair of query and candidate is a decision of its own."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moonlib.losses.loss import Loss, told


class Sigmoid(Loss):
    """Tells positives from negatives by logistic regression on the score, pair by pair.

    A query with positives P and negatives N (candidates neither positive nor ignored) costs

        - sum over p in P of log sigmoid(z_p) - sum over n in N of log sigmoid(-z_n),    z = scale * s + bias

    a sum, not a mean: with one positive per query and nothing ignored, its mean over the queries of a batch is SigLIP's
    loss. Each positive weighs as much as each negative, however many there are. A query without positives costs 0, with
    gradient 0, as every loss promises; one without negatives costs what its positives do.

    Few pairs are positive, so the bias starts low: at the start nearly every pair is taken for a negative one and the
    many negatives have small gradients.

    Args:
        scale: factor of the scores, at the start where it is learnable; learnt as its logarithm, it stays above 0.
            ``encoder`` for the logit scale and the bias that the encoder was trained with, such as a SigLIP's.
        bias: added to the scaled scores, at the start where it is learnable; not read where scale is ``encoder``.
        learnable: whether scale and bias are learnt with the encoder.

    Raises:
        ValueError: if ``scale`` is not above 0.

    Source: Zhai et al., "Sigmoid loss for language image pre-training" (2023), section 3.2; the defaults are its
    initial values. Several positives and ignored candidates are our extension.

    Example:
        >>> loss = Sigmoid(scale=1.0, bias=0.0, learnable=False)
        >>> scores = torch.tensor([[0.0, 0.0, 0.9]])
        >>> loss(scores, torch.tensor([[True, False, False]]), torch.tensor([[False, False, True]]))
        tensor([1.3863])
    """

    def __init__(self, scale: float | Literal["encoder"] = 10.0, bias: float = -10.0, learnable: bool = True) -> None:
        super().__init__()
        self.from_encoder = scale == "encoder"
        if isinstance(scale, str):
            scale = 10.0  # until the encoder is known
        if scale <= 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=learnable)
        self.bias = nn.Parameter(torch.tensor(float(bias)), requires_grad=learnable)

    def start_from(self, logit_scale: tuple[float, float] | None) -> None:
        if self.from_encoder:
            scale, bias = told(logit_scale, "scale")
            with torch.no_grad():
                self.log_scale.fill_(math.log(scale))
                self.bias.fill_(bias)

    @property
    def scale(self) -> Tensor:
        """The present scale."""
        return self.log_scale.exp()

    def forward(self, scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
        """Compute one loss per query, float [Q], in float32 or wider."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        logits = self.scale * scores + self.bias
        losses = -F.logsigmoid(torch.where(positive, logits, -logits))
        uncounted = ignore | ~positive.any(dim=1, keepdim=True)
        return losses.masked_fill(uncounted, 0).sum(dim=1)
