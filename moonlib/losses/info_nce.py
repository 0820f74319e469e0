"""InfoNCE with several positives per query."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moonlib.losses.loss import Loss


class InfoNCE(Loss):
    """Contrasts each positive of a query with the query's negatives.

    A query with positives P and negatives N (candidates neither positive nor ignored) costs

        mean over p in P of  -log( exp(s_p / t) / (exp(s_p / t) + sum over n in N of exp(s_n / t)) )

    so that neither the other positives nor ignored candidates stand in a denominator. With one positive and nothing
    ignored this is cross entropy over the candidates, CLIP's loss. It is 0, with gradient 0, for a query without
    positives or without negatives.

    A learnable temperature is ``min_temperature + exp(w)``: it stays above its minimum and, unlike a clamped one, keeps
    its gradient there.

    Args:
        temperature: t, at the start where it is learnable.
        learnable: whether t is learnt with the encoder.
        min_temperature: bound below a learnable t; CLIP's scale of at most 100 is 0.01. A fixed t ignores it.

    Raises:
        ValueError: if a temperature is out of range.

    Source: van den Oord et al., "Representation learning with contrastive predictive coding" (2018), equation 4;
    temperature as in Radford et al., "Learning transferable visual models from natural language supervision" (2021),
    section 2.3. The mean over positives outside the logarithm follows Khosla et al., "Supervised contrastive learning"
    (2020), equation 2; keeping the other positives out of the denominator is our choice.

    Example:
        >>> loss = InfoNCE(temperature=1.0, learnable=False)
        >>> scores = torch.tensor([[0.5, 0.5, 0.9]])
        >>> loss(scores, torch.tensor([[True, False, False]]), torch.tensor([[False, False, True]]))
        tensor([0.6931])
    """

    def __init__(self, temperature: float = 0.07, learnable: bool = True, min_temperature: float = 0.01) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if learnable and not 0 <= min_temperature < temperature:
            raise ValueError(
                f"min_temperature must be at least 0 and below temperature {temperature}, got {min_temperature}"
            )
        self.min_temperature = min_temperature
        self.fixed_temperature = temperature
        self.log_excess = nn.Parameter(torch.tensor(math.log(temperature - min_temperature))) if learnable else None

    @property
    def temperature(self) -> Tensor | float:
        """The present temperature."""
        if self.log_excess is None:
            return self.fixed_temperature
        return self.min_temperature + self.log_excess.exp()

    def forward(self, scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
        """Compute one loss per query, float [Q], in float32 or wider."""
        # Half precision holds neither exp(1 / 0.07) nor differences of cosines well.
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        logits = scores / self.temperature
        # The lowest finite value stands for minus infinity: its exp is 0, but its gradient is 0 and not NaN.
        lowest = torch.finfo(logits.dtype).min
        negatives = logits.masked_fill(positive | ignore, lowest).logsumexp(dim=1, keepdim=True)
        losses = -F.logsigmoid(logits - negatives)
        count = positive.sum(dim=1).clamp(min=1)
        return losses.masked_fill(~positive, 0).sum(dim=1) / count
