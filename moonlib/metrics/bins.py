"""Bins of equal mass, in which calibration is looked at."""

from __future__ import annotations

from torch import Tensor


def equal_mass_bins(probabilities: Tensor, bins: int) -> Tensor:
    """Tell each row's bin, by its prediction.

    Bins hold equal numbers of rows rather than equal widths of [0, 1], of which click probabilities fill only the first
    few. A row's bin is set by how many predictions lie strictly below its own, so equal predictions share a bin, and
    bins do not depend on the order of rows. A bin that ties leave no row for is empty.

    Args:
        probabilities: [n], without NaN.
        bins: number of bins.

    Returns:
        int64 [n], from 0 to ``bins`` - 1, ascending with the prediction.

    Raises:
        ValueError: if ``bins`` is below 1.

    Example:
        >>> import torch
        >>> equal_mass_bins(torch.tensor([0.3, 0.1, 0.2, 0.2]), bins=4).tolist()
        [3, 0, 1, 1]
    """
    check_bins(bins)
    _, level, count = probabilities.unique(return_inverse=True, return_counts=True)
    below = count.cumsum(0) - count
    return (below * bins // max(len(probabilities), 1))[level]


def check_bins(bins: int) -> None:
    """Require at least one bin, or raise ValueError."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
