"""AUC within users, averaged: GAUC, by the name of its convention."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from moonlib.metrics.rows import RowMetric, check_scores

Weighting = Literal["impressions", "unweighted", "positives"]
SingleClass = Literal["dropped", "counted"]


class UserAUC(NamedTuple):
    """AUC of each user.

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

    def weights(self, weighting: Weighting) -> Tensor:
        """Weights of users in `gauc` by the convention: float64 [U]."""
        if weighting == "impressions":
            return self.impressions
        return self.positives if weighting == "positives" else torch.ones_like(self.auc)


def user_auc(scores: Tensor, labels: Tensor, users: Tensor, single_class: SingleClass = "dropped") -> UserAUC:
    """Compute the AUC within each user, a tie counting one half.

    All users at once, O(n log n).

    Args:
        scores: [n].
        labels: [n], 0 or 1.
        users: int64 [n].
        single_class: whether users who clicked all or nothing, who have no AUC, are ``dropped`` or ``counted`` with one
            half.

    Returns:
        One entry per user that is not dropped.

    Raises:
        ValueError: if shapes differ, users are not int64, a score is NaN, a label is neither 0 nor 1 or
            ``single_class`` is neither of the two.
    """
    check_single_class(single_class)
    scores, labels = check_scores(scores, labels)
    check_users(users, scores)
    ids, user = users.unique(return_inverse=True)
    levels, level = scores.unique(return_inverse=True)
    # One int64 key orders by user, then by score, so that one sort serves every user.
    key = user * len(levels) + level
    clicked = labels == 1
    unclicked_keys = key[~clicked].sort().values
    # Sorted as well: looking up from left to right is several times faster than in random order.
    clicked_keys = key[clicked].sort().values
    clicker = clicked_keys // max(len(levels), 1)
    before = torch.searchsorted(unclicked_keys, clicker * len(levels))
    below = torch.searchsorted(unclicked_keys, clicked_keys) - before
    up_to = torch.searchsorted(unclicked_keys, clicked_keys, right=True) - before
    won = scores.new_zeros(len(ids)).index_add_(0, clicker, (below + up_to).double() / 2)
    impressions = user.bincount(minlength=len(ids)).double()
    positives = clicker.bincount(minlength=len(ids)).double()
    pairs = positives * (impressions - positives)
    per_user = UserAUC(ids, torch.where(pairs > 0, won / pairs, 0.5), impressions, positives)
    return per_user if single_class == "counted" else UserAUC(*(column[pairs > 0] for column in per_user))


def gauc(
    scores: Tensor,
    labels: Tensor,
    users: Tensor,
    weighting: Weighting = "impressions",
    single_class: SingleClass = "dropped",
) -> Tensor:
    """Average the AUC within users.

    The name GAUC covers several averages, which differ in how they weigh a user:

    - "impressions": by number of rows; Zhou et al., "Deep interest network" (arXiv 1706.06978), section 6.2; ours
    - "unweighted": all alike, as in torchrec and TorchEasyRec
    - "positives": by number of clicks, as in RecBole

    and in what becomes of users who clicked all of their rows or none, within whom nothing can be ranked:

    - "dropped": they are left out; as in all of the above, and ours
    - "counted": their AUC is one half and they weigh what the convention says, which pulls the average towards one
      half. Of "positives" that is the number of their clicks: who clicked all is counted, who clicked nothing weighs
      nothing and so is left out all the same.

    Args:
        scores: [n].
        labels: [n], 0 or 1.
        users: int64 [n].
        weighting: the convention.
        single_class: what becomes of users with one class.

    Returns:
        float64 scalar; NaN where all users are dropped or weigh nothing.

    Raises:
        ValueError: as `user_auc`, and if there is no such weighting.

    Example:
        >>> scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), torch.tensor([1, 0, 1, 1, 0])
        >>> gauc(scores, labels, torch.tensor([1, 1, 1, 2, 2]), "unweighted").item()
        0.75
    """
    check_weighting(weighting)
    per_user = user_auc(scores, labels, users, single_class)
    weights = per_user.weights(weighting)
    return (weights * per_user.auc).sum() / weights.sum()


class GAUC(RowMetric):
    """`gauc` over all rows seen; a user's rows may come in any batch and process.

    Args:
        weighting: how much a user weighs, see `gauc`.
        single_class: what becomes of users with one class, see `gauc`.

    Raises:
        ValueError: if there is no such convention.
    """

    columns: ClassVar[dict[str, torch.dtype]] = {**RowMetric.columns, "users": torch.int64}
    title = "GAUC"
    higher_is_better = True

    def __init__(
        self, weighting: Weighting = "impressions", single_class: SingleClass = "dropped", **kwargs: Any
    ) -> None:
        check_weighting(weighting)
        check_single_class(single_class)
        super().__init__(**kwargs)
        self.weighting: Weighting = weighting
        self.single_class: SingleClass = single_class

    def update(self, scores: Tensor, labels: Tensor, users: Tensor) -> None:
        """Add rows: ``scores`` [n], ``labels`` [n], ``users`` int64 [n]."""
        scores, labels = check_scores(scores, labels)
        check_users(users, scores)
        self.append(scores=scores, labels=labels, users=users)

    def compute(self) -> Tensor:
        """The GAUC; NaN where all users are dropped or weigh nothing."""
        rows = self.column("scores"), self.column("labels"), self.column("users")
        return gauc(*rows, self.weighting, self.single_class)

    def sums(self, scores: Tensor, labels: Tensor, users: Tensor) -> Tensor:
        """See `moonlib.metrics.metric.Additive`: a user's AUC counts with the first of the user's rows."""
        per_user = user_auc(scores, labels, users, self.single_class)
        weights = per_user.weights(self.weighting)
        distinct, user = users.unique(return_inverse=True)
        rows = torch.arange(len(users))
        first = rows.new_full((len(distinct),), len(users)).scatter_reduce(0, user, rows, "amin")
        found = torch.zeros(len(users), 2, dtype=torch.float64)
        found[first[torch.searchsorted(distinct, per_user.users)]] = torch.stack([weights * per_user.auc, weights], 1)
        return found

    def of_sums(self, sums: Tensor) -> Tensor:
        """See `moonlib.metrics.metric.Additive`."""
        return sums[0] / sums[1]


def check_users(users: Tensor, scores: Tensor) -> None:
    """Require one int64 user per score, or raise ValueError."""
    if users.dtype != torch.int64:
        raise ValueError(f"users must be int64, got {users.dtype}: other types cannot hold every id")
    if users.shape != scores.shape:
        raise ValueError(f"expected users of shape {list(scores.shape)}, got {list(users.shape)}")


def check_weighting(weighting: str) -> None:
    """Require a convention that `gauc` has, or raise ValueError."""
    if weighting not in get_args(Weighting):
        raise ValueError(f"weighting must be one of {', '.join(get_args(Weighting))}, got {weighting!r}")


def check_single_class(single_class: str) -> None:
    """Require a convention that `gauc` has, or raise ValueError."""
    if single_class not in get_args(SingleClass):
        raise ValueError(f"single_class must be one of {', '.join(get_args(SingleClass))}, got {single_class!r}")
