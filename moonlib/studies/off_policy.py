"""Off-policy evaluation: the reward of a policy, estimated from the log of another.

A logged decision with a known propensity stands for all those that the log might have made in its place: weighing it
with chance under the new policy / propensity turns an average over the log into one over the new policy.

- IPS, inverse propensity scoring (Horvitz and Thompson, 1952): mean(w r). Unbiased where every decision that the new
  policy may take had a chance in the log.
- SNIPS, self-normalised (Swaminathan and Joachims, "The self-normalized estimator for counterfactual learning", NIPS
  2015): sum(w r) / sum(w). Slightly biased on little data, of much smaller variance, and never outside the rewards.

For lists a decision is an item at a position, as in the item-position model of Li et al., "Offline evaluation of
ranking policies with click models" (KDD 2018, arXiv 1804.10488): it presumes that a click depends on the item and its
position, and not on the neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from moonlib.metrics.bootstrap import Interval, resampled_sums

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PolicyValue:
    """The estimated mean reward of a policy, per decision.

    Attributes:
        ips: with a 95 % interval over users.
        snips: with a 95 % interval over users; NaN where no decision of the log is one that the policy may take.
        effective_samples: how many decisions of the policy's own the log is worth, (sum w)² / sum w² (Kish, 1965).
        decisions: n, how many there are in the log.
        clipped: share of the weights that were cut.
    """

    ips: Interval
    snips: Interval
    effective_samples: float
    decisions: int
    clipped: float


def importance_weights(chance: ArrayLike, propensity: ArrayLike, clip: float | None = None) -> Floats:
    """Weight each logged decision: chance under the new policy / propensity.

    Args:
        chance: [n], that the new policy would have taken the logged decision, 0 to 1.
        propensity: [n], that the log took it, above 0.
        clip: cut weights down to this (Ionides, 2008): less variance, and a value that is too low; None for not.

    Returns:
        float64 [n].

    Raises:
        ValueError: shapes differ, a chance is not within 0 and 1, a propensity is not above 0 and at most 1, or
            ``clip`` is not above 0.

    Example:
        >>> importance_weights([1, 0, 0.5], [0.5, 0.25, 0.1], clip=4)
        array([2., 0., 4.])
    """
    new, logged = np.asarray(chance, dtype=np.float64), np.asarray(propensity, dtype=np.float64)
    if new.ndim != 1 or new.shape != logged.shape:
        raise ValueError(f"expected chances and propensities [n], got {list(new.shape)} and {list(logged.shape)}")
    for name, values, bad in (
        ("chance", new, ~((new >= 0) & (new <= 1))),
        ("propensity", logged, ~((logged > 0) & (logged <= 1))),
    ):
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(f"row {row}: {name} {values[row]} is not a probability" + " above 0" * (name != "chance"))
    if clip is not None and not clip > 0:
        raise ValueError(f"clip {clip}: a weight cannot be cut down to that; give a number above 0")
    weights = new / logged
    return weights if clip is None else np.minimum(weights, clip)


def ips(rewards: ArrayLike, weights: ArrayLike, users: ArrayLike, samples: int = 1000, seed: int = 0) -> Interval:
    """Estimate a policy's mean reward by inverse propensity scoring: mean(w r).

    Args:
        rewards: [n], of the logged decisions, such as clicks.
        weights: [n], see `importance_weights`.
        users: int64 [n].
        samples: number of resamples of users.
        seed: of the resamples.

    Returns:
        The estimate, with an interval over users.

    Example:
        >>> ips(rewards=[1, 0, 1, 0], weights=[2, 0, 0, 2], users=[1, 2, 3, 4]).estimate
        0.5
    """
    weight = np.asarray(weights, dtype=np.float64)
    return resampled_sums([weight * np.asarray(rewards), np.ones_like(weight)], users, samples, seed).interval(_ratio)


def snips(rewards: ArrayLike, weights: ArrayLike, users: ArrayLike, samples: int = 1000, seed: int = 0) -> Interval:
    """Estimate a policy's mean reward by self-normalised inverse propensity scoring: sum(w r) / sum(w).

    Args:
        rewards: [n]; this and the others as in `ips`.
        weights: [n].
        users: int64 [n].
        samples: number of resamples of users.
        seed: of the resamples.

    Returns:
        The estimate, with an interval over users; NaN where all weights are 0.

    Example:
        >>> snips(rewards=[1, 0, 1, 0], weights=[2, 0, 0, 3], users=[1, 2, 3, 4]).estimate
        0.4
    """
    weight = np.asarray(weights, dtype=np.float64)
    return resampled_sums([weight * np.asarray(rewards), weight], users, samples, seed).interval(_ratio)


def _ratio(sums: Floats) -> Floats:
    ratio: Floats = sums[0] / sums[1]
    return ratio


def effective_sample_size(weights: ArrayLike) -> float:
    """How many decisions of the new policy's own weighted ones are worth: (sum w)² / sum w²; 0 where all are 0.

    Example:
        >>> effective_sample_size([2, 2, 0, 0])
        2.0
    """
    weight = np.asarray(weights, dtype=np.float64)
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / squares if squares else 0.0


def policy_value(
    rewards: ArrayLike, chance: ArrayLike, propensity: ArrayLike, users: ArrayLike, clip: float | None = None
) -> PolicyValue:
    """Estimate a policy's mean reward from a log with propensities, by IPS and by SNIPS.

    Args:
        rewards: [n], of the logged decisions.
        chance: [n], that the policy would have taken them.
        propensity: [n], that the log took them.
        users: int64 [n].
        clip: see `importance_weights`.

    Returns:
        Both estimates, and what they rest on.

    Raises:
        ValueError: see `importance_weights`.

    Example:
        >>> value = policy_value(rewards=[1, 0, 1, 0], chance=[1, 0, 0, 1], propensity=[0.5] * 4, users=[1, 2, 3, 4])
        >>> value.ips.estimate, value.snips.estimate, value.effective_samples
        (0.5, 0.5, 2.0)
    """
    weights = importance_weights(chance, propensity, clip)
    whole = importance_weights(chance, propensity)
    return PolicyValue(
        ips=ips(rewards, weights, users),
        snips=snips(rewards, weights, users),
        effective_samples=effective_sample_size(weights),
        decisions=len(weights),
        clipped=float((weights < whole).mean()) if len(weights) else 0.0,
    )


def randomised(impressions: pl.DataFrame) -> pl.DataFrame:
    """The impressions of searches whose order chance decided, and how likely each item was to stand where it stood.

    A policy is evaluated as it reorders *what was shown*, for a log does not say what else there was; so what counts is
    an item's chance of its position given what was shown. Where all items of every search had one propensity, 1/K for
    K candidates of which n were shown, the order was drawn uniformly, and that chance is 1/n. Otherwise propensities
    are taken as they are logged: that presumes that the shown items were all that could be shown there.

    Args:
        impressions: a table of impressions. A search counts if all of its impressions have a propensity.

    Returns:
        Those rows, in their order, with ``place`` (int64, position within what was shown, from 0) and ``chance``
        (float64) for the propensity given what was shown.
    """
    of_search = pl.len().over("search_id")
    found = (
        impressions.filter(pl.col("propensity").is_not_null().all().over("search_id"))
        .with_columns(pl.col("position").rank("ordinal").over("search_id").cast(pl.Int64).alias("place") - 1)
        .with_columns(shown=of_search.cast(pl.Int64))
    )
    candidates = 1 / found["propensity"]
    one = found.select(pl.col("propensity").n_unique().over("search_id") == 1).to_series()
    whole = ((candidates - candidates.round()).abs() < 1e-6 * candidates) & (candidates.round() >= found["shown"])
    uniform = bool((one & whole).all())
    chance = 1 / pl.col("shown") if uniform else pl.col("propensity")
    return found.with_columns(chance=chance.cast(pl.Float64)).drop("shown")


def reordered(log: pl.DataFrame, score: ArrayLike) -> Floats:
    """The chance that each item stands where the log showed it, if its search were ordered by score, best first.

    Args:
        log: n rows with ``search_id`` and ``place``, as `randomised` gives them.
        score: [n]; equal scores are ordered by chance.

    Returns:
        float64 [n]: 1 or 0, and between for equal scores.

    Example:
        >>> log = pl.DataFrame({"search_id": [5, 5, 5], "place": [0, 1, 2]})
        >>> reordered(log, [0.3, 0.1, 0.1])
        array([1. , 0.5, 0.5])
    """
    score_of = pl.Series("score", np.asarray(score, dtype=np.float64))
    ranked = log.select("search_id", "place").with_columns(score_of)
    first = pl.col("score").rank("min", descending=True).over("search_id").cast(pl.Int64) - 1
    ties = pl.len().over("search_id", "score").cast(pl.Int64)
    inside = (pl.col("place") >= first) & (pl.col("place") < first + ties)
    return ranked.select(pl.when(inside).then(1 / ties).otherwise(0.0)).to_series().to_numpy().astype(np.float64)
