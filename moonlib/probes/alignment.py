"""Alignment and uniformity of queries and what was ordered."""

from __future__ import annotations

import torch
from torch import Tensor

from moonlib.data.reads import Reads
from moonlib.probes.pairs import PAIR_READS, OrderedPairs
from moonlib.probes.probe import Probe, Represented

VECTORS_AT_ONCE = 1024
"""Vectors compared with all others at once."""


def alignment(query: Tensor, item: Tensor) -> Tensor:
    """Mean squared distance of the two sides of a pair; less is better.

    Args:
        query: float [P, D], unit vectors.
        item: float [P, D], unit vectors.

    Returns:
        float64 scalar in [0, 4]; 0 where every query lies on its item. NaN without pairs.

    Source: Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity on the
    hypersphere" (ICML 2020), with α = 2.

    Example:
        >>> alignment(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])).item()
        2.0
    """
    return (query - item).double().pow(2).sum(dim=1).mean()


def uniformity(vectors: Tensor) -> Tensor:
    """Logarithm of the mean Gaussian potential of all pairs of vectors; less is better spread.

    Args:
        vectors: float [n, D], unit vectors.

    Returns:
        float64 scalar, log of the mean of exp(-2 |x - y|²) over the pairs of two different rows: in [-8, 0], 0 where
        all lie on one point. NaN for fewer than two.

    Source: as `alignment`, with t = 2.

    Example:
        >>> round(uniformity(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).item(), 6)
        -4.0
    """
    n = len(vectors)
    if n < 2:
        return torch.tensor(torch.nan, dtype=torch.float64)
    potential = torch.zeros((), dtype=torch.float64)
    for rows in vectors.split(VECTORS_AT_ONCE):
        # |x - y|² = 2 - 2 cos of unit vectors; rounding must not take it below 0.
        potential += (4 * (rows @ vectors.T - 1).clamp(max=0)).exp().sum(dtype=torch.float64)
    own = (4 * (vectors.pow(2).sum(dim=1) - 1).clamp(max=0)).exp().sum(dtype=torch.float64)
    return ((potential - own) / (n * (n - 1))).log()


class Alignment(Probe):
    """Alignment and uniformity on the pairs of a query and what was ordered (Wang and Isola, ICML 2020).

    Uniformity is the mean of the queries' and the items', each on a fixed random sample of them. A pair of which one
    side has no representation is left out; where no pair is left, alignment is that of orthogonal vectors, 2, and
    uniformity that of a single point, 0. Both fall as representations get better. Data without orders has neither.

    Args:
        sample: vectors of each side that uniformity compares with each other.
    """

    def __init__(self, sample: int = 4096) -> None:
        self.sample = sample

    def reads(self) -> Reads:
        """See `Probe.reads`."""
        return PAIR_READS

    def __call__(self, represented: Represented) -> dict[str, float]:
        """Return ``alignment`` and ``uniformity``."""
        pairs = OrderedPairs.of(represented)
        if not len(pairs.query):
            return {}
        known = pairs.query.any(dim=1) & pairs.item.any(dim=1)
        query, item = pairs.query[known], pairs.item[known]
        if len(query) < 2:
            return {"alignment": 2.0, "uniformity": 0.0}
        order = torch.randperm(len(query), generator=torch.Generator().manual_seed(0))[: self.sample]
        spread = (uniformity(query[order]) + uniformity(item[order])) / 2
        return {"alignment": float(alignment(query, item)), "uniformity": float(spread)}
