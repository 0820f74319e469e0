"""Traffic: everything that happens, day by day."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moonlib.data.ids import Ids
from moonlib.sources.marketplace.fashion import DAYS, LOGGED_FROM
from moonlib.sources.marketplace.feed import browse
from moonlib.sources.marketplace.market import TOLD, Columns, Flags, Floats, Market, search

SEARCHES_PER_VISIT = 1.45
"""About how many searches a visit has, of `MOST_SEARCHES`."""

MOST_SEARCHES = 3

BROWSED = 0.75
"""Share of the visits that begin with a page of the feed: it has about a third of the impressions."""


@dataclass(frozen=True)
class Traffic:
    """Everything that happened, as columns. A page of the feed is a search without a query.

    Attributes:
        user, ts, intended: int64 [S], one per search: who, when (microseconds from the first day), and the listing in
            mind; -1 in the feed.
        photo, text: bool [S], what the query consists of; neither in the feed.
        told: bool [S] by block, what the query's text names.
        search, item, position: int64 [I], one per logged impression; search and item are rows.
        clicked: bool [I]; p_click: float64 [I], its true probability; p_click_no_position: at the average position.
        propensity: float64 [I], chance of being shown there, NaN where a ranker chose.
        relevance: float64 [I], a judge's grade from 0 to 3, NaN where nobody judged.
        acted_search, acted_item, action, acted_ts: int64 [A], one per click, cart or order.
    """

    user: Ids
    ts: Ids
    intended: Ids
    photo: Flags
    text: Flags
    told: dict[str, Flags]
    search: Ids
    item: Ids
    position: Ids
    clicked: Flags
    p_click: Floats
    p_click_no_position: Floats
    propensity: Floats
    relevance: Floats
    acted_search: Ids
    acted_item: Ids
    action: Ids
    acted_ts: Ids


IMPRESSION = ("search", "item", "position", "clicked", "p_click", "p_click_no_position", "propensity", "relevance")
"""The columns of `Traffic` that have a row per impression."""


def simulate(market: Market, rng: np.random.Generator) -> Traffic:
    """Run all the days, and let the market's shoppers remember what they came for.

    Args:
        market: what is sold to whom.
        rng: the stream that all of it is a function of.
    """
    batches: list[Columns] = []
    searches = 0
    for day in range(DAYS):
        for batch in _day(market, day, rng):
            if day < LOGGED_FROM:
                batch |= {name: batch[name][:0] for name in IMPRESSION}
            del batch["satisfied"]
            batch["search"] += searches
            batch["acted_search"] += searches
            searches += len(batch["user"])
            batches.append(batch)
    columns = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    told = {block: columns.pop(block) for block in ("category", *TOLD)}
    return Traffic(told=told, **columns)


def _day(market: Market, day: int, rng: np.random.Generator) -> list[Columns]:
    """The pages of a day: the feed, then searches until something was bought or patience is at an end."""
    market.open(day)
    rows = market.interests.visits(day)
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
