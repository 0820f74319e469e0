"""InfoNCE with several positives per query."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moonlib.losses.loss import Loss, told

Form = Literal["each", "supcon"]


class InfoNCE(Loss):
    """Contrasts each positive of a query with the query's negatives.

    A query with positives P and negatives N (candidates neither positive nor ignored) costs

        mean over p in P of  -log( exp(s_p / t) / sum over c in C(p) of exp(s_c / t) )

    where C(p), the candidates that p is told apart from, itself included, depends on the form:

    - "each": p and N. Neither the other positives nor ignored candidates stand in a denominator. A query without
      negatives costs 0, with gradient 0.
    - "supcon": P and N. Positives also compete with each other, so that a query with k of them costs at least log k,
      and one without negatives is asked for equal scores of its positives.

    With one positive and nothing ignored both are cross entropy over the candidates, CLIP's loss. Both are 0, with
    gradient 0, for a query without positives.

    Label smoothing e takes the share e of each target from p and spreads it evenly over C(p), p included, which adds

        e * (s_p / t - mean over c in C(p) of s_c / t)

    to the term of p. So ignored candidates never get a share, other positives get one in "supcon" only, and with one
    positive and nothing ignored this is torch's ``cross_entropy(..., label_smoothing=e)``.

    A learnable temperature is ``min_temperature + exp(w)``: it stays above its minimum and, unlike a clamped one, keeps
    its gradient there.

    Args:
        temperature: t, at the start where it is learnable; ``encoder`` for the inverse of the logit scale that the
            encoder was trained with, such as a CLIP's.
        learnable: whether t is learnt with the encoder.
        min_temperature: bound below a learnable t; CLIP's scale of at most 100 is 0.01. A fixed t ignores it. With
            ``encoder`` it is half of that t at most.
        form: "each" or "supcon", what stands in the denominator.
        label_smoothing: e, in [0, 1).

    Raises:
        ValueError: if an argument is out of range.

    Source: van den Oord et al., "Representation learning with contrastive predictive coding" (2018), equation 4;
    temperature as in Radford et al., "Learning transferable visual models from natural language supervision" (2021),
    section 2.3. "supcon" is Khosla et al., "Supervised contrastive learning" (2020), equation 2; "each" takes the mean
    over positives outside the logarithm from there, keeping the other positives out of the denominator is our choice.
    Label smoothing: Szegedy et al., "Rethinking the Inception architecture for computer vision" (2016), section 7; its
    form for several positives is ours.

    Example:
        >>> loss = InfoNCE(temperature=1.0, learnable=False)
        >>> scores = torch.tensor([[0.5, 0.5, 0.9]])
        >>> loss(scores, torch.tensor([[True, False, False]]), torch.tensor([[False, False, True]]))
        tensor([0.6931])
    """

    def __init__(
        self,
        temperature: float | Literal["encoder"] = 0.07,
        learnable: bool = True,
        min_temperature: float = 0.01,
        form: Form = "each",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.from_encoder = temperature == "encoder"
        if isinstance(temperature, str):
            temperature = 0.07  # until the encoder is known
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if learnable and not 0 <= min_temperature < temperature:
            raise ValueError(
                f"min_temperature must be at least 0 and below temperature {temperature}, got {min_temperature}"
            )
        if form not in get_args(Form):
            raise ValueError(f"form must be 'each' or 'supcon', got '{form}'")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}")
        self.min_temperature = min_temperature
        self.fixed_temperature = temperature
        self.log_excess = nn.Parameter(torch.tensor(math.log(temperature - min_temperature))) if learnable else None
        self.form: Form = form
        self.label_smoothing = label_smoothing

    def start_from(self, logit_scale: tuple[float, float] | None) -> None:
        if not self.from_encoder:
            return
        temperature = 1 / told(logit_scale, "temperature")[0]
        self.fixed_temperature = temperature
        if self.log_excess is not None:
            self.min_temperature = min(self.min_temperature, temperature / 2)
            with torch.no_grad():
                self.log_excess.fill_(math.log(temperature - self.min_temperature))

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
        # What all positives of a query have in common in their denominators.
        left_out = positive | ignore if self.form == "each" else ignore
        # The lowest finite value stands for minus infinity: its exp is 0, but its gradient is 0 and not NaN.
        lowest = torch.finfo(logits.dtype).min
        common = logits.masked_fill(left_out, lowest).logsumexp(dim=1, keepdim=True)
        losses = -F.logsigmoid(logits - common) if self.form == "each" else common - logits
        if self.label_smoothing:
            total = logits.masked_fill(left_out, 0).sum(dim=1, keepdim=True)
            size = (~left_out).sum(dim=1, keepdim=True)
            # Rows of size 0 are without positives: their terms count for nothing below.
            mean = (total + logits) / (size + 1) if self.form == "each" else total / size.clamp(min=1)
            losses = losses + self.label_smoothing * (logits - mean)
        count = positive.sum(dim=1).clamp(min=1)
        return losses.masked_fill(~positive, 0).sum(dim=1) / count
