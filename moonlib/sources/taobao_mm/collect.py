"""Collects what the files say of the sampled users and their items, each once, wherever and how often it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moonlib.data.ids import Ids
from moonlib.sources.taobao_mm.files import FEATURES, HISTORY, USER, Rows
from moonlib.sources.taobao_mm.sample import mixed


def find(values: Ids, wanted: Ids) -> tuple[Ids, NDArray[np.bool_]]:
    """The place of each wanted id among ascending ids, and whether it is there."""
    if not len(values):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    place = np.searchsorted(values, wanted).clip(max=len(values) - 1)
    return place, values[place] == wanted


@dataclass
class _Part:
    """Users of one batch: ids [u], features [u, 5], lengths [u] of their lists, and the lists one behind the other."""

    user: Ids
    features: Ids
    lengths: Ids
    ids: Ids


class UserRows:
    """The features and the latest behaviours of users, of one period.

    Args:
        history: how many of the latest behaviours are kept.
    """

    def __init__(self, history: int) -> None:
        self.history = history
        self.user: Ids = np.empty(0, np.int64)
        """The users so far, ascending."""
        self._hash: NDArray[np.uint64] = np.empty(0, np.uint64)
        self.parts: list[_Part] = []

    def add(self, rows: Rows, keep: NDArray[np.bool_]) -> None:
        """Take the users of the rows that are marked.

        Raises:
            ValueError: a user stands there twice with other features or another history.
        """
        number = np.flatnonzero(keep)
        if not len(number):
            return
        features = np.stack([rows.numbers(name)[number] for name in FEATURES], axis=1)
        bounds, values = rows.lists(HISTORY)
        user, end = rows.numbers(USER)[number], bounds[1:][number]
        start = np.maximum(bounds[:-1][number], end - self.history)
        ids = values[_ranges(start, end - start)]
        hashes = _hash(features, ids, end - start)
        distinct, first, inverse = np.unique(user, return_index=True, return_inverse=True)
        place, known = find(self.user, distinct)
        before = hashes[first]
        before[known] = self._hash[place[known]]
        differs = np.zeros(len(keep), bool)
        differs[number] = hashes != before[inverse]
        rows.refuse(differs, USER, "appears a second time, with other features or another history")
        new = first[~known]
        place = np.searchsorted(self.user, user[new])
        self.user, self._hash = np.insert(self.user, place, user[new]), np.insert(self._hash, place, hashes[new])
        lengths = (end - start)[new]
        begins = np.cumsum(end - start) - (end - start)
        self.parts.append(_Part(user[new], features[new], lengths, ids[_ranges(begins[new], lengths)]))

    def features(self) -> Ids:
        """The features of `user`, int64 [U, 5]."""
        features = np.empty((len(self.user), len(FEATURES)), np.int64)
        for part in self.parts:
            features[np.searchsorted(self.user, part.user)] = part.features
        return features


def lists_of(periods: Sequence[UserRows]) -> pa.LargeListArray:
    """The histories of every period's users, in the order of periods and users, as one array; empties the periods."""
    places = np.cumsum([0, *(len(rows.user) for rows in periods)])
    lengths = np.zeros(places[-1], np.int64)
    for base, rows in zip(places, periods, strict=False):
        for part in rows.parts:
            lengths[base + np.searchsorted(rows.user, part.user)] = part.lengths
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    ids = np.empty(bounds[-1], np.int64)
    for base, rows in zip(places, periods, strict=False):
        while rows.parts:  # what was copied is let go: it may be much
            part = rows.parts.pop()
            ids[_ranges(bounds[base + np.searchsorted(rows.user, part.user)], part.lengths)] = part.ids
    return pa.LargeListArray.from_arrays(bounds, ids)


def _ranges(start: Ids, lengths: Ids) -> Ids:
    """The numbers of every range [start, start + length), one behind the other."""
    ends = np.cumsum(lengths)
    numbers: Ids = np.repeat(start - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)
    return numbers


def _hash(features: Ids, ids: Ids, lengths: Ids) -> NDArray[np.uint64]:
    """A hash of each user's features and list, uint64 [u]; the order of the list matters."""
    ends = np.cumsum(lengths)
    within = np.arange(len(ids)) - np.repeat(ends - lengths, lengths)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed(mixed(ids).view(np.int64) + within))])
    lists = sums[ends] - sums[ends - lengths]
    for column in (*features.T, lengths):
        lists = mixed(lists.view(np.int64) ^ mixed(column, 1).view(np.int64), 2)
    return lists
