"""How many behaviours are how similar to the target, where what counts as similar is learnt."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moonlib.adapters.adapter import Adapter, BehaviourBatch

FAR = 100.0
"""Of values in [-1, 1], one that lies in no tier."""


class LearnedMetric(Adapter):
    """Soft histograms and the highest of the similarities cos(P_h r_t, P_h r_b), for several learnt projections P_h.

    The cosine of two representations counts every component alike; a product of a low-rank projection counts what
    clicks say counts, and several of them see several kinds of likeness. A histogram with hard tiers, as SimTier's,
    passes no gradient on to what is compared; here a similarity belongs to each tier by how close it is to the tier's
    middle. Of each projection the features are: log(1 + how many) per tier of the item history and of the query
    history, the ``top`` highest similarities with items in descending order, and that with the present query. What
    has no representation is in no tier, and the similarities that are missing are 0.

    Args:
        metrics: H, how many projections.
        width: W, the rank of each.
        bins: K, tiers between -1 and 1.
        top: how many of the highest similarities.

    Raises:
        ValueError: if ``metrics``, ``width`` or ``top`` is below 1 or ``bins`` below 2.

    Source: tiers as in SimTier (arXiv 2407.19467); soft ones are the kernel pooling of Xiong et al., "End-to-end neural
    ad-hoc ranking with kernel pooling" (arXiv 1706.06613, section 3.1). The learnt projections, the highest
    similarities and the query are our choice.

    Example:
        >>> adapter = LearnedMetric()
        >>> adapter.setup(id_dim=16, dim=128)
        >>> adapter.out_features
        124
    """

    middles: Tensor

    def __init__(self, metrics: int = 4, width: int = 16, bins: int = 11, top: int = 8) -> None:
        super().__init__()
        if min(metrics, width, top) < 1 or bins < 2:
            given = f"{metrics}, {width}, {top} and {bins}"
            raise ValueError(f"metrics, width and top must be at least 1 and bins at least 2, got {given}")
        self.metrics, self.width, self.bins, self.top = metrics, width, bins, top
        self.register_buffer("middles", torch.linspace(-1, 1, bins), persistent=False)

    def setup(self, id_dim: int, dim: int) -> None:
        """Make the projections; random ones keep cosines about as they are, which is where they start."""
        self.project = nn.Linear(dim, self.metrics * self.width, bias=False)
        nn.init.normal_(self.project.weight, std=dim**-0.5)
        self.out_features = self.metrics * (2 * self.bins + self.top + 1)

    def forward(self, batch: BehaviourBatch) -> Tensor:
        """Compute the features, float [B, H (2 K + top + 1)]."""
        known = batch.target_known.unsqueeze(1)
        target = F.normalize(self.projected(batch.target), dim=2)
        histories = []
        for others, there in (
            (batch.items, batch.item_known & known),
            (batch.queries, batch.query_known & known),
            (batch.query.unsqueeze(1), batch.has_query.unsqueeze(1) & known),
        ):
            histories.append((self.similarities(target, others, there), there.unsqueeze(1)))
        items, queries, (query, _) = histories
        tiers = [soft_histogram(*items, self.middles), soft_histogram(*queries, self.middles)]
        return torch.cat([*tiers, highest(*items, self.top), query], dim=2).flatten(1)

    def projected(self, vectors: Tensor) -> Tensor:
        """Projections P_h v, float [..., H, W], of representations float [..., D]."""
        return self.project(vectors).unflatten(-1, (self.metrics, self.width))

    def similarities(self, target: Tensor, others: Tensor, known: Tensor) -> Tensor:
        """Cosines of projections, float [B, H, L]; 0 where not known.

        Args:
            target: float [B, H, W], the targets' projections, of length 1.
            others: float [B, L, D], representations.
            known: bool [B, L].
        """
        # t · P_h v = (P_hᵀ t) · v is one product of small matrices; of the projections themselves only the lengths are
        # needed. This is what most of the time goes into: behaviours are many.
        directions = torch.einsum("bhw,hwd->bhd", target, self.project.weight.unflatten(0, target.shape[1:]))
        dots = directions @ others.transpose(1, 2)
        lengths = torch.linalg.vector_norm(self.projected(others), dim=3).transpose(1, 2)
        # The gradient of the length of a zero vector is 0, that of 0 / 0 is not.
        known = known.unsqueeze(1) & (lengths > 0)
        return (dots / lengths.masked_fill(~known, 1)).masked_fill(~known, 0)


def soft_histogram(values: Tensor, known: Tensor, middles: Tensor) -> Tensor:
    """Count values per tier: log(1 + Σ exp(-(v - m)² / 2 s²)), s half the distance of two middles.

    Args:
        values: float [B, H, L].
        known: bool [B, 1, L]; the others are counted nowhere.
        middles: float [K], evenly spaced.

    Returns:
        float [B, H, K].

    Example:
        >>> values, known = torch.tensor([[[1.0, 1.0, 0.0]]]), torch.tensor([[[True, True, False]]])
        >>> soft_histogram(values, known, torch.tensor([-1.0, 0.0, 1.0])).expm1()
        tensor([[[6.7093e-04, 2.7067e-01, 2.0000e+00]]])
    """
    scale = 2**0.5 / (middles[1] - middles[0])  # 1 / (s √2), s half the distance
    # What is not known stands so far from all tiers that exp(-distance²) is 0: cheaper than a mask of [B, H, L, K].
    near = values.masked_fill(~known, FAR) * scale
    return (near.unsqueeze(3) - middles * scale).square().neg().exp().sum(dim=2).log1p()


def highest(values: Tensor, known: Tensor, top: int) -> Tensor:
    """The highest known values of each row in descending order, then zeros.

    Args:
        values: float [B, H, L] in [-1, 1].
        known: bool [B, 1, L].
        top: how many.

    Returns:
        float [B, H, top].

    Example:
        >>> highest(torch.tensor([[[0.1, 0.5, 0.9]]]), torch.tensor([[[True, True, False]]]), 4)
        tensor([[[0.5000, 0.1000, 0.0000, 0.0000]]])
    """
    found = values.masked_fill(~known, -2).sort(dim=2, descending=True).values[:, :, :top]
    there = torch.arange(found.shape[2], device=values.device) < known.sum(dim=2, keepdim=True)
    return F.pad(found.masked_fill(~there, 0), (0, top - found.shape[2]))
