"""AUC within users, averaged: GAUC, by the name of its convention."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from moonlib.metrics.rows import RowMetric, check_scores

Weighting = Literal["impressions", "unweighted", "positives"]


class UserAUC(NamedTuple):
    """AUC of each user who has both classes.

    Attributes:
        users: int64 [U], ascending.
        auc: float64 [U].
        impressions: float64 [U], number of the user's rows.
        positives: float64 [U], number of those clicked.
    """

    users: Tensor
    auc: Tensor
    impressions: Tensor
    positives: Tensor


def user_auc(scores: Tensor, labels: Tensor, users: Tensor) -> UserAUC:
    """Compute the AUC within each user, a tie counting one half; users with one class only are left out.

    All users at once, O(n log n).

    Args:
        scores: [n].
        labels: [n], 0 or 1.
        users: int64 [n].

    Returns:
        One entry per user with both classes.

    Raises:
        ValueError: if shapes differ, users are not int64, a score is NaN or a label is neither 0 nor 1.
    """
    scores, labels = check_scores(scores, labels)
    _check_users(users, scores)
    ids, user = users.unique(return_inverse=True)
    levels, level = scores.unique(return_inverse=True)
    # One int64 key orders by user, then by score, so that one sort serves every user.
    key = user * len(levels) + level
    clicked = labels == 1
    unclicked = key[~clicked].sort().values
    before = torch.searchsorted(unclicked, user[clicked] * len(levels))
    below = torch.searchsorted(unclicked, key[clicked]) - before
    up_to = torch.searchsorted(unclicked, key[clicked], right=True) - before
    won = scores.new_zeros(len(ids)).index_add_(0, user[clicked], (below + up_to).double() / 2)
    impressions = user.bincount(minlength=len(ids)).double()
    positives = user[clicked].bincount(minlength=len(ids)).double()
    pairs = positives * (impressions - positives)
    both = pairs > 0
    return UserAUC(ids[both], (won / pairs)[both], impressions[both], positives[both])


def gauc(scores: Tensor, labels: Tensor, users: Tensor, weighting: Weighting = "impressions") -> Tensor:
    """Average the AUC within users over the users who have both classes.

    The name GAUC covers several averages, which differ in how they weigh a user:

    - "impressions": by number of rows; Zhou et al., "Deep interest network" (arXiv 1706.06978), section 6.2; ours
    - "unweighted": all alike, as in torchrec and TorchEasyRec
    - "positives": by number of clicks, as in RecBole

    Args:
        scores: [n].
        labels: [n], 0 or 1.
        users: int64 [n].
        weighting: the convention.

    Returns:
        float64 scalar; NaN where no user has both classes.

    Raises:
        ValueError: as `user_auc`, and if there is no such weighting.

    Example:
        >>> scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), torch.tensor([1, 0, 1, 1, 0])
        >>> gauc(scores, labels, torch.tensor([1, 1, 1, 2, 2]), "unweighted").item()
        0.75
    """
    _check_weighting(weighting)
    per_user = user_auc(scores, labels, users)
    weights = {
        "impressions": per_user.impressions,
        "unweighted": torch.ones_like(per_user.auc),
        "positives": per_user.positives,
    }[weighting]
    return (weights * per_user.auc).sum() / weights.sum()


class GAUC(RowMetric):
    """`gauc` over all rows seen; a user's rows may come in any batch and process.

    Args:
        weighting: the convention, see `gauc`.

    Raises:
        ValueError: if there is no such weighting.
    """

    columns: ClassVar[dict[str, torch.dtype]] = {**RowMetric.columns, "users": torch.int64}
    higher_is_better = True

    def __init__(self, weighting: Weighting = "impressions", **kwargs: Any) -> None:
        _check_weighting(weighting)
        super().__init__(**kwargs)
        self.weighting: Weighting = weighting

    def update(self, scores: Tensor, labels: Tensor, users: Tensor) -> None:
        """Add rows: ``scores`` [n], ``labels`` [n], ``users`` int64 [n]."""
        scores, labels = check_scores(scores, labels)
        _check_users(users, scores)
        self.append(scores=scores, labels=labels, users=users)

    def compute(self) -> Tensor:
        """The GAUC; NaN where no user has both classes."""
        return gauc(self.column("scores"), self.column("labels"), self.column("users"), self.weighting)


def _check_users(users: Tensor, scores: Tensor) -> None:
    if users.dtype != torch.int64:
        raise ValueError(f"users must be int64, got {users.dtype}: other types cannot hold every id")
    if users.shape != scores.shape:
        raise ValueError(f"expected users of shape {list(scores.shape)}, got {list(users.shape)}")


def _check_weighting(weighting: str) -> None:
    if weighting not in get_args(Weighting):
        raise ValueError(f"weighting must be one of {', '.join(get_args(Weighting))}, got {weighting!r}")
