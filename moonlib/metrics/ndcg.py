"""Normalised discounted cumulative gain of graded lists, exact, ties included."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from moonlib.metrics.rows import RowMetric

Gain = Literal["exponential", "linear"]


class GroupNDCG(NamedTuple):
    """nDCG of each group that has at least two different grades.

    Attributes:
        groups: int64 [G], ascending.
        ndcg: float64 [G], in [0, 1].
    """

    groups: Tensor
    ndcg: Tensor


def gains(relevance: Tensor, gain: Gain = "exponential") -> Tensor:
    """Gains of grades.

    Args:
        relevance: [n], grades from 0 up; they need not be whole numbers.
        gain: ``exponential``, 2^grade − 1 (Burges et al., "Learning to rank using gradient descent", ICML 2005), or
            ``linear``, the grade itself (Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques",
            ACM TOIS 20(4), 2002).

    Returns:
        float64 [n].

    Raises:
        ValueError: if a grade is negative or not finite, its gain is not finite, or there is no such gain.

    Example:
        >>> gains(torch.tensor([0.0, 1.0, 2.0, 3.0])).tolist()
        [0.0, 1.0, 3.0, 7.0]
    """
    if gain not in get_args(Gain):
        raise ValueError(f"gain must be one of {', '.join(get_args(Gain))}, got {gain!r}")
    relevance = relevance.double()
    wrong = relevance[~(relevance.isfinite() & (relevance >= 0))]
    if len(wrong):
        raise ValueError(f"relevance must be a grade from 0 up, got {wrong[0].item():g}")
    found = relevance if gain == "linear" else relevance.exp2() - 1
    if not bool(found.isfinite().all()):
        raise ValueError(f"the exponential gain of grade {relevance.max().item():g} is too large: use the linear one")
    return found


def group_ndcg(
    scores: Tensor, relevance: Tensor, groups: Tensor, k: int | None = None, gain: Gain = "exponential"
) -> GroupNDCG:
    """Compute the nDCG within each group; groups whose grades are all the same are left out.

    DCG@K = Σ gain / log2(1 + place) over the places 1 to K of the rows by falling score, and nDCG@K is that over the
    DCG@K of the best order. Rows of equal score share their places: each counts with the mean discount of them, which
    is the expectation over all orders of the tied rows (McSherry and Najork, "Computing information retrieval
    performance measures efficiently in the presence of tied scores", ECIR 2008).

    All groups at once, O(n log n).

    Args:
        scores: [n].
        relevance: [n], grades from 0 up.
        groups: int64 [n], which list a row belongs to.
        k: K; all places if not given.
        gain: see `gains`.

    Returns:
        One entry per group with at least two different grades.

    Raises:
        ValueError: if shapes differ, groups are not int64, a score is NaN, a grade is negative or not finite, K is
            below 1, or there is no such gain.
    """
    scores, worth = _check(scores, relevance, groups, k, gain)
    relevance = relevance.double()
    ids, group = groups.unique(return_inverse=True)
    least, most = (
        relevance.new_zeros(len(ids)).scatter_reduce_(0, group, relevance, how, include_self=False)
        for how in ("amin", "amax")
    )
    graded = least < most
    found, ideal = (_dcg(by, worth, group, len(ids), k)[graded] for by in (scores, relevance))
    return GroupNDCG(ids[graded], found / ideal)


def _dcg(by: Tensor, worth: Tensor, group: Tensor, groups: int, k: int | None) -> Tensor:
    """Expected DCG of each group, float64 [groups], with its rows in falling order of ``by``."""
    levels, level = by.unique(return_inverse=True)
    # One int64 key orders by group, then by falling value; rows with one key are tied.
    ties, tie, size = (group * len(levels) + len(levels) - 1 - level).unique(return_inverse=True, return_counts=True)
    rows = group.bincount(minlength=groups)
    begin = size.cumsum(0) - size - (rows.cumsum(0) - rows)[ties // max(len(levels), 1)]
    places = torch.arange(int(rows.max()) if groups else 0, dtype=torch.float64, device=by.device)
    up_to = torch.cat([worth.new_zeros(1), (1 / (places + 2).log2()).cumsum(0)])
    last = len(up_to) - 1 if k is None else min(k, len(up_to) - 1)
    discount = (up_to[(begin + size).clamp(max=last)] - up_to[begin.clamp(max=last)]) / size
    return worth.new_zeros(groups).index_add_(0, group, worth * discount[tie])


def ndcg(scores: Tensor, relevance: Tensor, groups: Tensor, k: int | None = None, gain: Gain = "exponential") -> Tensor:
    """Average the nDCG@K within groups over the groups that have at least two different grades.

    Where all grades are equal every order is as good as any other, so such a group says nothing of the scores.
    Libraries differ in what they count it as: scikit-learn takes 0 where all grades are 0 and 1 otherwise, LightGBM
    1. We leave it out, as GAUC leaves out users with one class.

    Args:
        scores: [n].
        relevance: [n], grades from 0 up.
        groups: int64 [n], which list a row belongs to.
        k: K; all places if not given.
        gain: see `gains`.

    Returns:
        float64 scalar; NaN where no group has two different grades.

    Raises:
        ValueError: as `group_ndcg`.

    Example:
        >>> scores, relevance = torch.tensor([0.2, 0.9, 0.9, 0.1]), torch.tensor([3.0, 0.0, 3.0, 1.0])
        >>> ndcg(scores, relevance, torch.tensor([5, 5, 5, 5]), k=1).item()
        0.5
    """
    return group_ndcg(scores, relevance, groups, k, gain).ndcg.mean()


class NDCG(RowMetric):
    """`ndcg` over all rows seen; a group's rows may come in any batch and process.

    Args:
        k: K; all places if not given.
        gain: see `gains`.

    Raises:
        ValueError: if K is below 1 or there is no such gain.
    """

    columns: ClassVar[dict[str, torch.dtype]] = {
        "scores": torch.float64,
        "relevance": torch.float64,
        "groups": torch.int64,
    }
    higher_is_better = True

    def __init__(self, k: int | None = None, gain: Gain = "exponential", **kwargs: Any) -> None:
        _check_k(k)
        gains(torch.empty(0), gain)
        super().__init__(**kwargs)
        self.k, self.name = k, "ndcg" if k is None else f"ndcg@{k}"
        self.gain: Gain = gain

    def update(self, scores: Tensor, relevance: Tensor, groups: Tensor) -> None:
        """Add rows: ``scores`` [n], ``relevance`` [n], ``groups`` int64 [n]."""
        _check(scores, relevance, groups, self.k, self.gain)
        self.append(scores=scores, relevance=relevance, groups=groups)

    def compute(self) -> Tensor:
        """The nDCG; NaN where no group has two different grades."""
        return ndcg(self.column("scores"), self.column("relevance"), self.column("groups"), self.k, self.gain)


def _check_k(k: int | None) -> None:
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, got {k}")


def _check(scores: Tensor, relevance: Tensor, groups: Tensor, k: int | None, gain: Gain) -> tuple[Tensor, Tensor]:
    """Return the scores and the gains, both float64 [n]."""
    if scores.ndim != 1 or not scores.shape == relevance.shape == groups.shape:
        shapes = ", ".join(str(list(column.shape)) for column in (scores, relevance, groups))
        raise ValueError(f"expected scores, relevance and groups of one shape [n], got {shapes}")
    if groups.dtype != torch.int64:
        raise ValueError(f"groups must be int64, got {groups.dtype}: other types cannot hold every id")
    if missing := int(scores.isnan().sum()):
        raise ValueError(f"{missing} of {len(scores)} scores are NaN")
    _check_k(k)
    return scores.double(), gains(relevance, gain)
