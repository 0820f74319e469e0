"""What a user had done before a moment, cut at load time so that no history can see its own future."""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class Histories:
    """The behaviours of all users, sorted once, cut for any batch of (user, moment, search).

    A behaviour is one item (or one query) of one search: clicking, carting and ordering the same item in a search
    is one behaviour, at the time of the first of the three.

    Args:
        searches: columns ``search_id``, ``user_id``, ``ts`` and ``key``.
        key: what to list, the items a user acted on or the queries that led there.
    """

    def __init__(self, searches: pl.DataFrame, key: Literal["item_id", "query_id"] = "item_id") -> None:
        events = (
            searches.select("user_id", "search_id", pl.col(key).alias("id"), pl.col("ts").dt.cast_time_unit("us"))
            .group_by("user_id", "search_id", "id")
            .agg(pl.col("ts").min())
            .sort("user_id", "ts", "search_id", "id")
        )
        self._id: Ids = events["id"].to_numpy()
        self._search: Ids = events["search_id"].to_numpy()
        self._searches, self._search_sizes = np.unique(self._search, return_counts=True)
        # Ids and times span all of int64, so a joint sort key is made of their ranks, whose product cannot overflow.
        self._users, user = np.unique(events["user_id"].to_numpy(), return_inverse=True)
        self._times, time = np.unique(events["ts"].to_physical().to_numpy(), return_inverse=True)
        self._when: Ids = user * len(self._times) + time

    def before(self, user_id: Ids, ts: Ids, search_id: Ids, length: int) -> tuple[Ids, NDArray[np.bool_]]:
        """List each user's latest behaviours strictly before ``ts``, none of them from the search ``search_id``.

        Args:
            user_id: int64 [B].
            ts: int64 [B], microseconds since 1970 UTC (``frame["ts"].to_physical().to_numpy()``).
            search_id: int64 [B], the search that is being predicted.
            length: how many behaviours to list, L.

        Returns:
            ids int64 [B, L], newest first, 0 where there are no more; mask bool [B, L], True for a behaviour.
        """
        ids = np.zeros((len(user_id), length), dtype=np.int64)
        mask = np.zeros((len(user_id), length), dtype=bool)
        if not len(self._id):
            return ids, mask
        user, known = _rank(self._users, user_id)
        moment = user * len(self._times) + np.searchsorted(self._times, ts)
        start = np.searchsorted(self._when, user * len(self._times))
        end = np.where(known, np.searchsorted(self._when, moment), start)
        # Looking back this much further makes up for the behaviours that the search's own exclusion removes.
        search, seen = _rank(self._searches, search_id)
        own = self._search_sizes[search][seen & known].max(initial=0)
        place = end[:, None] - 1 - np.arange(length + own)
        keep = place >= start[:, None]
        place[~keep] = 0
        keep &= self._search[place] != search_id[:, None]
        rank = keep.cumsum(axis=1) - 1
        row, column = np.nonzero(keep & (rank < length))
        ids[row, rank[row, column]] = self._id[place[row, column]]
        mask[row, rank[row, column]] = True
        return ids, mask


def _rank(values: Ids, wanted: Ids) -> tuple[Ids, NDArray[np.bool_]]:
    """Return the place of each wanted value among the sorted values, and whether it is there."""
    place = np.searchsorted(values, wanted).clip(max=len(values) - 1)
    return place, values[place] == wanted
