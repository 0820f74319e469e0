"""Relative cross entropy: how much of the base rate's log loss a model saves, in percent."""

from __future__ import annotations

from torch import Tensor

from moonlib.metrics.ne import NE, ne


def rce(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute 100 · (1 - cross entropy / cross entropy of the constant click rate).

    The click rate is that of the rows themselves, so that the cross entropy of the constant is their entropy and RCE is
    100 · (1 - `ne`): the same comparison, as a gain in percent instead of a share that is left.

    Args:
        probabilities: [n], predicted probability of a click, clipped to [1e-7, 1 - 1e-7].
        labels: [n], 0 or 1.

    Returns:
        float64 scalar: 0 is as good as the constant click rate, 100 is perfect, below 0 is worse than knowing nothing;
        NaN where one class is missing.

    Raises:
        ValueError: if shapes differ, a prediction is NaN or outside [0, 1], or a label is neither 0 nor 1.

    Source: Belli et al., "Privacy-aware recommender systems challenge on Twitter's home timeline" (arXiv 2004.13715),
    with the base rate of the evaluated rows, as the challenge's evaluation code has it.

    Example:
        >>> import torch
        >>> round(rce(torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.tensor([0, 0, 1, 1])).item(), 4)
        55.5516
    """
    return 100 * (1 - ne(probabilities, labels))


class RCE(NE):
    """`rce` over all rows seen, against the click rate of all rows seen; float64."""

    title = "RCE, %"
    higher_is_better = True

    def compute(self) -> Tensor:
        """The relative cross entropy; NaN where one class is missing."""
        return 100 * (1 - super().compute())

    def of_sums(self, sums: Tensor) -> Tensor:
        """See `moonlib.metrics.metric.Additive`."""
        return 100 * (1 - super().of_sums(sums))
