"""Outcomes of every arm of a test, and the lift of one over another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moonlib.metrics.bootstrap import Interval, ResampledSums, resampled_sums

ORACLE = "oracle"
"""The arm that ranks by the true click probability, positions apart."""

SEEN = "impressions of "
"""Before an arm's name: an arm whose clicks are the impressions of that one."""

REVENUE = "revenue per mille"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Lifts:
    """Relative lifts of a run over a base, by measure; what is not defined is left out.

    Attributes:
        lifts: the run's.
        oracle: the oracle's.
        share_of_oracle: the run's share of the oracle's.
    """

    lifts: dict[str, Interval]
    oracle: dict[str, Interval]
    share_of_oracle: dict[str, Interval]


@dataclass(frozen=True)
class Outcome:
    """Outcome of every arm by every measure, with resamples of users.

    Attributes:
        names: (arm, measure) of each of the sums.
        sums: K of them.
    """

    names: list[tuple[str, str]]
    sums: ResampledSums

    @classmethod
    def of(cls, clicks: Mapping[str, Floats], measures: Mapping[str, Floats], users: NDArray[np.int64]) -> Outcome:
        """Sum up.

        Args:
            clicks: float64 [n], of each candidate, by arm.
            measures: float64 [n], what a click counts for, by name.
            users: int64 [n].
        """
        # Users first, one sum after the other: K rows of n would take a gigabyte.
        people, user = np.unique(users, return_inverse=True)
        names = [(arm, measure) for arm in clicks for measure in measures]
        of_user = [np.bincount(user, clicks[arm] * measures[measure], minlength=len(people)) for arm, measure in names]
        return cls(names, resampled_sums(np.stack(of_user), people))

    def interval(self, statistic: Callable[..., Any], *sums: tuple[str, str]) -> Interval:
        """An interval of a function of some (arm, measure), given one argument for each."""
        rows = [self.names.index(name) for name in sums]
        return self.sums.interval(lambda all_sums: statistic(*all_sums[rows]))

    def against(self, base: str, run: str, per_impression: bool = False) -> Lifts:
        """Lifts of a run over a base, those of the oracle, and the run's share of them, by measure.

        What is not defined is left out: a lift where the base earned nothing, and a share where the oracle's own lift
        is not surely above 0.

        Args:
            base: an arm.
            run: another.
            per_impression: of what is earned by the impressions of a segment's items, in place of all that is earned
                with them; an arm that shows fewer of them may still have found the better ones.
        """
        lifts, oracle, share = dict[str, Interval](), dict[str, Interval](), dict[str, Interval]()
        for measure in dict.fromkeys(measure for _, measure in self.names):
            if per_impression and measure in ("all", REVENUE):  # every arm has equally many impressions
                continue
            arms = [(arm, measure) for arm in (run, base, ORACLE)]
            if per_impression:
                arms += [(SEEN + arm, measure) for arm in (run, base, ORACLE)]
            lifts[measure] = self.interval(partial(_made, _lift), *arms)
            oracle[measure] = self.interval(partial(_made, _oracle_lift), *arms)
            if oracle[measure].low > 0:
                share[measure] = self.interval(partial(_made, _share), *arms)
        return Lifts(defined(lifts), defined(oracle), defined(share))


def _made(of: Callable[[Floats, Floats, Floats], Floats], *sums: Floats) -> Floats:
    """A function of what run, base and oracle have earned, each divided by its impressions where these follow."""
    return of(*(a / b for a, b in zip(sums[:3], sums[3:], strict=True)) if len(sums) > 3 else sums)


def _lift(run: Floats, base: Floats, oracle: Floats) -> Floats:
    return run / base - 1


def _oracle_lift(run: Floats, base: Floats, oracle: Floats) -> Floats:
    return oracle / base - 1


def _share(run: Floats, base: Floats, oracle: Floats) -> Floats:
    return (run - base) / (oracle - base)


def defined(intervals: Mapping[str, Interval]) -> dict[str, Interval]:
    """Those of intervals that are finite."""
    return {key: each for key, each in intervals.items() if all(map(math.isfinite, vars(each).values()))}
