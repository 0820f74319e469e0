"""Looks up what users had done as of a moment, where a data set publishes that in place of events."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from moonlib.data.ids import Ids


class HistorySnapshots:
    """The lists of the table ``histories``, cut for any batch of (user, moment).

    Nothing is copied: a list is a range of places in one array, which stays mapped from the shard.

    Attributes:
        ids: int64 [E], all lists one behind the other, each with its newest item last.

    Args:
        histories: the table ``histories``, as `moonlib.data.dataset.Dataset.arrow` maps it.

    Example:
        >>> moments = pa.array([10], pa.timestamp("us", "UTC"))
        >>> table = pa.table({"user_id": [7], "ts": moments, "item_ids": [[4, -5, 6]]})
        >>> snapshots = HistorySnapshots(table)
        >>> places = snapshots.places(np.array([7, 7]), np.array([10, 9]), np.array([0, 0]), 2)
        >>> places
        array([[ 2,  1],
               [-1, -1]])
        >>> snapshots.ids[places[0]]
        array([ 6, -5])
    """

    def __init__(self, histories: pa.Table) -> None:
        chunks = histories.column("item_ids").cast(pa.large_list(pa.int64())).chunks
        # A dataset writes them as one chunk. To join several is to copy them, and so is to join one.
        lists = chunks[0] if len(chunks) == 1 else pa.concat_arrays([pa.array([], pa.large_list(pa.int64())), *chunks])
        self.ids: Ids = lists.values.to_numpy()
        events = pl.DataFrame(
            {
                "user": histories.column("user_id").to_numpy(),
                "ts": histories.column("ts").cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy(),
            }
        )
        order = events.select(pl.arg_sort_by("user", "ts")).to_series().to_numpy()
        bounds = lists.offsets.to_numpy()
        self._start, self._end = bounds[:-1][order], bounds[1:][order]
        # Ids and times span all of int64, so a joint sort key is made of their ranks, whose product cannot overflow.
        self._users, user = np.unique(events["user"].to_numpy()[order], return_inverse=True)
        self._times, time = np.unique(events["ts"].to_numpy()[order], return_inverse=True)
        self._when: Ids = user * len(self._times) + time

    def places(self, user_id: Ids, ts: Ids, search_id: Ids, length: int) -> Ids:
        """Say where each user's latest behaviours stand, as of the user's latest snapshot at or before ``ts``.

        Args:
            user_id: int64 [B].
            ts: int64 [B], microseconds since 1970 UTC.
            search_id: int64 [B]; a snapshot does not tell searches apart, so this is not used.
            length: how many behaviours to list, L.

        Returns:
            int64 [B, L], places in `ids`, newest first, -1 where there are no more.
        """
        if not len(self._when):
            return np.full((len(user_id), length), -1, dtype=np.int64)
        user = np.searchsorted(self._users, user_id).clip(max=len(self._users) - 1)
        first = user * len(self._times)
        snapshot = np.searchsorted(self._when, first + np.searchsorted(self._times, ts, side="right")) - 1
        known = (self._users[user] == user_id) & (snapshot >= 0)
        snapshot[~known] = 0
        known &= self._when[snapshot] >= first
        newest = self._end[snapshot, None] - 1 - np.arange(length)
        places: Ids = np.where(known[:, None] & (newest >= self._start[snapshot, None]), newest, -1)
        return places
