"""The feed: pages that nobody asked for, on the home page and under "you may like"."""

from __future__ import annotations

import numpy as np

from moonlib.data.ids import Ids
from moonlib.sources.marketplace.market import TOLD, Appeal, Columns, Floats, Market, distinct, rank, react

LIVE = 5
"""How many of a shopper's earlier visits a page of the feed takes up."""


KNOWN = 0.4
"""How much of what shoppers like the ranker knows, on the scale of its noise."""

SOUGHT = 1.1
"""How much a category's share in what shoppers come for moves a click where nothing was asked for."""


def browse(market: Market, user: Ids, day: int, start: Floats, rng: np.random.Generator) -> Columns:
    """One page of the feed for each of the users: the columns of `Traffic`, rows counted from zero."""
    n = len(user)
    visit = market.interests.recall(user, day, LIVE, rng)
    category = np.where(visit >= 0, market.interests.category[visit], -1)
    pool = candidates(market, category, rng)
    ideal = market.interests.ideal[visit].astype(np.int64)
    liking = _liking(market, user, day, category, ideal, pool)
    page = rank(pool, KNOWN * liking + 0.3 * market.catalogue.popularity[pool], rng)
    return {
        "user": user,
        "ts": (start * 1e6).astype(np.int64),
        "intended": np.full(n, -1),
        **{name: np.zeros(n, dtype=bool) for name in ("photo", "text", "category", *TOLD)},
        **react(page, _appeal(market, user, day, category, ideal, page.item), start, rng),
        "relevance": np.full(page.shown.sum(), np.nan),
    }


def candidates(market: Market, category: Ids, rng: np.random.Generator) -> Ids:
    """Candidates of pages: int64 [B, k], each item once, -1 for gaps.

    Some of each category int64 [B, LIVE] that the shopper lately came for, what is in demand, and anything at all.
    """
    n = len(category)
    of_interests = market.by_category.draw(category.ravel(), 2, rng).reshape(n, -1)
    in_demand = market.anywhere.draw(np.zeros(n, dtype=np.int64), 8, rng)
    return distinct(np.concatenate([of_interests, in_demand, rng.integers(0, market.listed, size=(n, 4))], axis=1))


def _liking(market: Market, user: Ids, day: int, category: Ids, ideal: Ids, item: Ids) -> Floats:
    """How much users like items [B, k]: by the look wanted in its category, or else by their taste."""
    looks = market.looks[item]
    by_taste = np.einsum("bl,bkl->bk", market.shoppers.taste(user, day), looks)
    known = market.catalogue.factors.category[item][:, :, None] == category[:, None, :]
    wanted = market.shoppers.wanted(np.repeat(user, category.shape[1]), day, ideal.ravel())
    by_interest = np.einsum("bml,bkl->bkm", wanted.reshape(*category.shape, -1), looks)
    nearest = np.take_along_axis(by_interest, known.argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
    return market.standardised(np.where(known.any(axis=2), nearest, by_taste))


def _appeal(market: Market, user: Ids, day: int, category: Ids, ideal: Ids, item: Ids) -> Appeal:
    """Appeal of items [B, k] where nothing was asked for: what shoppers come for stands in for what they asked."""
    liking = _liking(market, user, day, category, ideal, item)
    shares = market.interests.shares(user, day)
    share = np.take_along_axis(shares, market.catalogue.factors.category[item], axis=1)
    wish = SOUGHT * (np.log1p(20 * share) - 0.6) + market.wish(user, liking, item)
    buy = market.worth(user, item) + 0.5 * liking - 3.5
    return Appeal(np.zeros(item.shape), np.zeros(item.shape, dtype=bool), liking, wish, buy)
