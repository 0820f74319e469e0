"""Histograms of the target's cosines with the shopper's history."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.adapters.cosine import cosines

Form = Literal["muse", "equal"]


class SimTier(Adapter):
    """How many behaviours are how similar to the target.

    Three histograms over tiers of the cosine: the target with the item history, with the query history, and with the
    present query (a single count), then that last cosine itself. A behaviour without representation, or any where the
    target has none, is in no tier.

    Args:
        bins: number of tiers.
        form: how a cosine becomes a tier, see `tiers`.
        log: whether a count is given as log(1 + count) times a learned scalar, as MUSE does; else as it is.

    Raises:
        ValueError: if ``bins`` is too small, or odd in the form "muse".

    Source: Sheng et al., "Enhancing Taobao display advertising with multimodal representations" (arXiv 2407.19467),
    form "equal" without log; MUSE (arXiv 2512.07216), form "muse" with log. Query histories and the present query's
    tier are our addition.
    """

    def __init__(self, bins: int = 22, form: Form = "muse", log: bool = True) -> None:
        super().__init__()
        if form == "muse" and (bins < 4 or bins % 2):
            raise ValueError(f"bins must be even and at least 4 in the form 'muse', got {bins}")
        if bins < 2:
            raise ValueError(f"bins must be at least 2, got {bins}")
        self.bins = bins
        self.form: Form = form
        self.scale = nn.Parameter(torch.ones(())) if log else None

    def setup(self, id_dim: int, dim: int) -> None:
        """Fix the width; there is no weight that depends on it."""
        self.out_features = 3 * self.bins + 1

    def forward(self, batch: BehaviourBatch) -> Tensor:
        """Compute the features, float [B, 3 bins + 1]."""
        present = batch.query.unsqueeze(1)
        has_query = batch.has_query.unsqueeze(1)
        features = []
        for others, known in (
            (batch.items, batch.item_known),
            (batch.queries, batch.query_known),
            (present, has_query),
        ):
            both = known & batch.target_known.unsqueeze(1)
            values = cosines(batch.target, others, both)
            counts = histogram(tiers(values, self.bins, self.form), both, self.bins).to(values.dtype)
            features.append(counts if self.scale is None else counts.log1p() * self.scale)
        features.append(values)
        return torch.cat(features, dim=1)


def tiers(values: Tensor, bins: int, form: Form) -> Tensor:
    """Sort cosines into tiers.

    "equal" cuts [-1, 1] into ``bins`` equal tiers, each closed below (the last on both sides). "muse" is MUSE's
    ceil(10 c) + 10 for 22 bins, generalised to ceil(h c) + h with h = bins / 2 - 1: each tier is closed above, -1 has
    tier 0 to itself, and the last tier stays empty.

    Args:
        values: float, any shape, in [-1, 1].
        bins: number of tiers.
        form: "equal" or "muse".

    Returns:
        int64, the shape of ``values``, in [0, bins).

    Example:
        >>> tiers(torch.tensor([-1.0, 0.0, 0.1, 0.11, 1.0]), 22, "muse").tolist()
        [0, 10, 11, 12, 20]
    """
    if form == "muse":
        half = bins // 2 - 1
        return ((values * half).ceil() + half).long()
    return ((values + 1) * (bins / 2)).floor().long().clamp(max=bins - 1)


def histogram(tier: Tensor, known: Tensor, bins: int) -> Tensor:
    """Count the known entries of each row per tier.

    Args:
        tier: int64 [B, L] in [0, bins).
        known: bool [B, L]; the others are counted nowhere.
        bins: number of tiers.

    Returns:
        int64 [B, bins].
    """
    counts = torch.zeros(len(tier), bins, dtype=torch.int64, device=tier.device)
    return counts.scatter_add(1, tier, known.long())
