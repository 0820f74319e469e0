"""Interests of shoppers, which are opened once and returned to, sooner or later."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moonlib.data.ids import Ids
from moonlib.sources.marketplace.fashion import DAYS, Fashion

NOVELTY, DISCOUNT = 12.0, 0.85
"""Concentration and discount of the Pitman-Yor process: how readily a visit opens a new interest."""

FORGETTING, MEMORY_DAYS = 0.6, 300.0
"""A past interest draws a shopper back in proportion to age^-FORGETTING exp(-age / MEMORY_DAYS)."""

IDEALS = 4_096
"""How many different looks an interest may have."""


class Interests:
    """Who visits on which day, and what each visit is about.

    A shopper's visit opens a new interest with probability (NOVELTY + DISCOUNT K) / (n + NOVELTY), after n visits with
    K different interests; its category is drawn by the day's demand. Otherwise it returns to the interest of a visit
    on an earlier day, drawn by that visit's age and by how much the season asks for its category.

    Visits are in order of shopper and day.

    Attributes:
        user: int64 [V]; day: int16 [V].
        category: int16 [V], what each is about; -1 before `remember` is told.
        ideal: int16 [V], which of `IDEALS` looks each has in mind.
        opened: bool [V], whether it opened the interest.

    Args:
        activity: float64 [U], how often each shopper comes, as a share of all visits.
        per_day: visits of a day.
        fashion: what is in demand.
        rng: of who comes when.

    Source: Anderson, Kumar, Tomkins and Vassilvitskii, "The dynamics of repeat consumption", WWW 2014 (copying by
        recency); Pitman and Yor, "The two-parameter Poisson-Dirichlet distribution", 1997.
    """

    def __init__(self, activity: NDArray[np.float64], per_day: int, fashion: Fashion, rng: np.random.Generator) -> None:
        drawn = rng.choice(len(activity), size=(DAYS, per_day), p=activity)
        drawn *= DAYS
        drawn += np.arange(DAYS)[:, None]
        key = np.sort(drawn, axis=None)
        self.user, self.day = key // DAYS, (key % DAYS).astype(np.int16)
        self.category = np.full(len(key), -1, dtype=np.int16)
        self.ideal = np.zeros(len(key), dtype=np.int16)
        self.opened = np.zeros(len(key), dtype=bool)
        self._key, self._fashion = key, fashion
        self._by_day = np.argsort(self.day, kind="stable").astype(np.int32).reshape(DAYS, per_day)
        age = np.arange(1, DAYS + 1)
        self._pull = age**-FORGETTING * np.exp(-age / MEMORY_DAYS)

    def visits(self, day: int) -> Ids:
        """The visits of a day, int32 [per_day], in order of their shoppers."""
        return self._by_day[day]

    def recall(self, user: Ids, day: int, count: int, rng: np.random.Generator) -> Ids:
        """Draw earlier visits that users still have in mind on a day.

        Returns:
            int64 [B, count], with replacement; -1 for a user without earlier visits.
        """
        return _drawn(*self._pulls(user, day), count, rng)

    def shares(self, user: Ids, day: int) -> NDArray[np.float64]:
        """Shares of categories in what draws users back on a day, float64 [B, all categories]; 0 without a past."""
        visit, pull = self._pulls(user, day)
        categories = self._fashion.season.shape[1]
        cell = np.arange(len(user))[:, None] * categories + np.maximum(self.category[visit], 0)
        of_each = np.bincount(cell.ravel(), pull.ravel(), len(user) * categories).reshape(len(user), categories)
        return of_each / np.maximum(pull.sum(axis=1, keepdims=True), 1e-12)

    def have(self, user: Ids, day: int, rng: np.random.Generator) -> tuple[Ids, Ids, NDArray[np.bool_]]:
        """Draw what users come for on a day: category and ideal, int64 [B], and whether that is a new interest."""
        visit, pull = self._pulls(user, day)
        before, known = (pull > 0).sum(axis=1), (self.opened[visit] & (pull > 0)).sum(axis=1)
        opened = rng.random(len(user)) < (NOVELTY + DISCOUNT * known) / (before + NOVELTY)
        again = _drawn(visit, pull, 1, rng)[:, 0]
        fashion = self._fashion
        demand = fashion.demand[day] / fashion.demand[day].sum()
        category = np.where(opened, rng.choice(fashion.categories, size=len(user), p=demand), self.category[again])
        ideal = np.where(opened, rng.integers(0, IDEALS, size=len(user)), self.ideal[again])
        return category, ideal, opened

    def remember(self, visit: Ids, category: Ids, ideal: Ids, opened: NDArray[np.bool_]) -> None:
        """Write down what visits were about, so that later ones may return to it."""
        self.category[visit], self.ideal[visit], self.opened[visit] = category, ideal, opened

    def _pulls(self, user: Ids, day: int) -> tuple[Ids, NDArray[np.float64]]:
        """Each user's earlier visits int64 [B, H], and how much each draws the user back; 0 beyond their number."""
        first, stop = self._past(user, day)
        visit = first[:, None] + np.arange(max(int((stop - first).max(initial=0)), 1))
        there = visit < stop[:, None]
        visit = np.minimum(visit, len(self.user) - 1)
        age = np.where(there, np.int16(day) - self.day[visit], np.int16(1))
        return visit, self._pull[age - 1] * self._fashion.season[day, self.category[visit]] * there

    def _past(self, user: Ids, day: int) -> tuple[Ids, Ids]:
        """Where each user's visits begin, and where those before the day end."""
        return np.searchsorted(self._key, user * DAYS), np.searchsorted(self._key, user * DAYS + day)


def _drawn(visit: Ids, weight: NDArray[np.float64], count: int, rng: np.random.Generator) -> Ids:
    """Draw `count` visits of each row, with replacement: int64 [B, count], -1 where none has a weight."""
    upto = np.cumsum(weight, axis=1)
    place = [(upto <= rng.random((len(visit), 1)) * upto[:, -1:]).sum(axis=1) for _ in range(count)]
    place = np.minimum(np.stack(place, axis=1), visit.shape[1] - 1)
    return np.where(upto[:, -1:] > 0, np.take_along_axis(visit, place, axis=1), -1)
