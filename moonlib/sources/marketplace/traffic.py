"""Traffic: everything that happens, day by day."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moonlib.data.ids import Ids
from moonlib.sources.marketplace.fashion import DAYS, LOGGED_FROM
from moonlib.sources.marketplace.feed import browse
from moonlib.sources.marketplace.market import TOLD, Columns, Flags, Floats, Market, search
from moonlib.system.console import progress

SEARCHES_PER_VISIT = 1.45
"""About how many searches a visit has, of `MOST_SEARCHES`."""

MOST_SEARCHES = 3

BROWSED = 0.75
"""Share of the visits that begin with a page of the feed: it has about a third of the impressions."""

VISITS_AT_ONCE = 4_096
"""Visits of a day that are simulated together: what is made for each of them is large. A part of what a seed means."""


@dataclass(frozen=True)
class Traffic:
    """Everything that happened, as columns. A page of the feed is a search without a query.

    Attributes:
        user, intended: int32 [S], one per search: who, and the listing in mind; -1 in the feed.
        ts: int64 [S], when; microseconds from the first day.
        photo, text: bool [S], what the query consists of; neither in the feed.
        told: bool [S] by block, what the query's text names.
        search, item: int32 [I], one per logged impression, rows; position: int8 [I].
        clicked: bool [I]; p_click: float64 [I], its true probability; p_click_no_position: at the average position.
        propensity: float64 [I], chance of being shown there, NaN where a ranker chose.
        relevance: float32 [I], a judge's grade from 0 to 3, NaN where nobody judged.
        acted_search, acted_item: int32 [A], one per click, cart or order, rows; action: int8 [A]; acted_ts: int64 [A].
    """

    user: NDArray[np.int32]
    ts: Ids
    intended: NDArray[np.int32]
    photo: Flags
    text: Flags
    told: dict[str, Flags]
    search: NDArray[np.int32]
    item: NDArray[np.int32]
    position: NDArray[np.int8]
    clicked: Flags
    p_click: Floats
    p_click_no_position: Floats
    propensity: Floats
    relevance: NDArray[np.float32]
    acted_search: NDArray[np.int32]
    acted_item: NDArray[np.int32]
    action: NDArray[np.int8]
    acted_ts: Ids


IMPRESSION = ("search", "item", "position", "clicked", "p_click", "p_click_no_position", "propensity", "relevance")
"""The columns of `Traffic` that have a row per impression."""


_NARROW: dict[str, type[np.generic]] = {
    **dict.fromkeys(("user", "intended", "search", "item", "acted_search", "acted_item"), np.int32),
    **dict.fromkeys(("position", "action"), np.int8),
    "relevance": np.float32,
}
"""The columns that are kept in a smaller type than they are made in."""


def simulate(market: Market, rng: np.random.Generator, folder: Path | None = None) -> Traffic:
    """Run all the days, and let the market's shoppers remember what they came for.

    Args:
        market: what is sold to whom.
        rng: the stream that all of it is a function of.
        folder: an empty one for the columns, a file each, which are then mapped into memory and not held in it; None
            holds them.
    """
    batches = _batches(market, rng)
    columns = _held(batches) if folder is None else _mapped(batches, folder)
    told = {block: columns.pop(block) for block in ("category", *TOLD)}
    return Traffic(told=told, **columns)


def _batches(market: Market, rng: np.random.Generator) -> Iterator[Columns]:
    """Pages of one day after another, in the types that are kept."""
    searches = 0
    with progress() as bars:
        for day in bars.track(range(DAYS), description="Simulating days"):
            for batch in _day(market, day, rng):
                if day < LOGGED_FROM:
                    batch |= {name: batch[name][:0] for name in IMPRESSION}
                del batch["satisfied"]
                batch["search"] += searches
                batch["acted_search"] += searches
                searches += len(batch["user"])
                yield {name: values.astype(_NARROW.get(name, values.dtype)) for name, values in batch.items()}


def _held(batches: Iterator[Columns]) -> Columns:
    """The columns of all batches, joined one at a time."""
    every = list(batches)
    return {name: np.concatenate([batch.pop(name) for batch in every]) for name in list(every[0])}


def _mapped(batches: Iterator[Columns], folder: Path) -> Columns:
    """The same, written to files and mapped from these."""
    types: dict[str, np.dtype[np.generic]] = {}
    with ExitStack() as files:
        opened = {}
        for batch in batches:
            for name, values in batch.items():
                if name not in opened:
                    opened[name], types[name] = files.enter_context((folder / name).open("wb")), values.dtype
                opened[name].write(values.tobytes())
    return {name: np.memmap(folder / name, dtype, mode="r") for name, dtype in types.items()}


def _day(market: Market, day: int, rng: np.random.Generator) -> Iterator[Columns]:
    """The pages of a day, some visits after others."""
    market.open(day)
    visits = market.interests.visits(day)
    for start in range(0, len(visits), VISITS_AT_ONCE):
        yield from _pages(market, visits[start : start + VISITS_AT_ONCE], day, rng)


def _pages(market: Market, rows: Ids, day: int, rng: np.random.Generator) -> list[Columns]:
    """The pages of visits: the feed, then searches until something was bought or patience is at an end."""
    visits = market.visits(market.interests.user[rows], day, rng)
    browsing = rng.random(len(rows)) < BROWSED
    batches = [browse(market, visits.user[browsing], day, visits.start[browsing] - 300, rng)]
    user, start, category = visits.user, visits.start, visits.category
    wanted, intended = visits.wanted, visits.intended
    for _ in range(MOST_SEARCHES):
        batches.append(batch := search(market, user, start, intended, wanted, rng))
        # Those who found nothing to buy may look again: for the same, or for another of its kind.
        again = ~batch["satisfied"] & (rng.random(len(user)) < 0.5)
        user, category, wanted, intended = user[again], category[again], wanted[again], intended[again]
        start = start[again] + rng.uniform(600, 1_200, size=len(user))
        other = rng.random(len(user)) < 0.5
        intended = np.where(other, market.intend(category, wanted, rng), intended)
    market.interests.remember(rows, visits.category, visits.ideal, visits.opened)
    return batches
