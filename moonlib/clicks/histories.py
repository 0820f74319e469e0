"""Histories: the behaviours of a user before a moment, cut at load time so that none can see its own future."""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.data.ids import Ids


class Histories:
    """The behaviours of all users, sorted once, cut for any batch of (user, moment, search).

    A behaviour is one item (or one query) of one search: clicking, carting and ordering the same item in a search
    is one behaviour, at the time of the first of the three. An action without a query is a behaviour among the items
    and not among the queries.

    Args:
        searches: columns ``search_id``, ``user_id``, ``ts`` and ``key``.
        key: what to list, the items a user acted on or the queries that led there.

    Attributes:
        ids: int64 [E], what was acted on, user by user and in the order of time.
    """

    def __init__(self, searches: pl.DataFrame, key: Literal["item_id", "query_id"] = "item_id") -> None:
        events = (
            searches.select("user_id", "search_id", pl.col(key).alias("id"), pl.col("ts").dt.cast_time_unit("us"))
            .drop_nulls("id")
            .group_by("user_id", "search_id", "id")
            .agg(pl.col("ts").min())
            .sort("user_id", "ts", "search_id", "id")
        )
        self.ids: Ids = events["id"].to_numpy()
        self._search: Ids = events["search_id"].to_numpy()
        # Ids and times span all of int64, so a joint sort key is made of their ranks, whose product cannot overflow.
        self._users, user = np.unique(events["user_id"].to_numpy(), return_inverse=True)
        self._times, time = np.unique(events["ts"].to_physical().to_numpy(), return_inverse=True)
        self._when: Ids = user * len(self._times) + time
        self._searches, search, self._search_sizes = np.unique(self._search, return_inverse=True, return_counts=True)
        self._search_begins = np.full(len(self._searches), len(self._times), dtype=np.int64)
        np.minimum.at(self._search_begins, search, time)

    def places(self, user_id: Ids, ts: Ids, search_id: Ids, length: int) -> Ids:
        """Find each user's latest behaviours strictly before ``ts``, none of them from the search ``search_id``.

        Args:
            user_id: int64 [B].
            ts: int64 [B], microseconds since 1970 UTC (``frame["ts"].to_physical().to_numpy()``).
            search_id: int64 [B], the search that is being predicted.
            length: how many behaviours to find, L.

        Returns:
            int64 [B, L], places in ``ids``, newest first; -1 where there are no more.
        """
        if not len(self.ids):
            return np.full((len(user_id), length), -1, dtype=np.int64)
        user, known = _rank(self._users, user_id)
        time = np.searchsorted(self._times, ts)
        start = np.searchsorted(self._when, user * len(self._times))
        end = np.where(known, np.searchsorted(self._when, user * len(self._times) + time), start)
        place = end[:, None] - 1 - np.arange(length)
        place[place < start[:, None]] = -1
        # A search has rarely led to something before the moment that is predicted; only such rows are looked through.
        search, seen = _rank(self._searches, search_id)
        rows = np.flatnonzero(seen & known & (self._search_begins[search] < time))
        if len(rows):
            # Looking back this much further makes up for the behaviours that the search's own exclusion removes.
            further = length + self._search_sizes[search[rows]].max()
            place[rows] = self._without(search_id[rows], start[rows], end[rows], length, further)
        return place

    def before(self, user_id: Ids, ts: Ids, search_id: Ids, length: int) -> tuple[Ids, NDArray[np.bool_]]:
        """List what `places` finds.

        Args:
            user_id: int64 [B].
            ts: int64 [B].
            search_id: int64 [B].
            length: L.

        Returns:
            ids int64 [B, L], newest first, 0 where there are no more; mask bool [B, L], True for a behaviour.
        """
        place = self.places(user_id, ts, search_id, length)
        mask = place >= 0
        ids = np.zeros_like(place)
        ids[mask] = self.ids[place[mask]]
        return ids, mask

    def _without(self, search_id: Ids, start: Ids, end: Ids, length: int, further: int) -> Ids:
        """The last ``length`` places of each range that are not of the search, looking at the last ``further``."""
        place = end[:, None] - 1 - np.arange(further)
        keep = place >= start[:, None]
        place[~keep] = 0
        keep &= self._search[place] != search_id[:, None]
        rank = keep.cumsum(axis=1) - 1
        row, column = np.nonzero(keep & (rank < length))
        kept = np.full((len(search_id), length), -1, dtype=np.int64)
        kept[row, rank[row, column]] = place[row, column]
        return kept


def _rank(values: Ids, wanted: Ids) -> tuple[Ids, NDArray[np.bool_]]:
    """Return the place of each wanted value among the sorted values, and whether it is there."""
    place = np.searchsorted(values, wanted).clip(max=len(values) - 1)
    return place, values[place] == wanted
