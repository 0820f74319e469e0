"""The market: visits with something in mind, what is searched and shown, what is clicked and bought."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moonlib.data.ids import Ids
from moonlib.sources.marketplace.catalogue import SimulatedCatalogue
from moonlib.sources.marketplace.categories import CATEGORIES
from moonlib.sources.marketplace.fashion import Fashion
from moonlib.sources.marketplace.interests import Interests
from moonlib.sources.marketplace.latents import LatentSpace
from moonlib.sources.marketplace.shoppers import Shoppers
from moonlib.sources.marketplace.words import MADE_OF

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]

SHOWN = 9
SHUFFLED = 0.07
JUDGED = 0.1
TAIL = 2.25
"""Standard deviation of the logarithm of how readily products come to mind: few are shown often, most seldom."""
CLICK, CART, ORDER = 0, 1, 2

# How often a text names each block of what its writer has in mind. What is left out, only a photo shows.
TOLD = {"colour": 0.45, "pattern": 0.3, "style": 0.35, "brand": 0.25, "composition": 0.25, "function": 0.25}


BIAS = -0.45 * np.log2(1 + np.arange(SHOWN))
"""Effect of a position on the logit of a click, float64 [SHOWN]."""


@dataclass(frozen=True)
class Visits:
    """V visits of a day, as they begin.

    Attributes:
        user: int64 [V].
        start: float64 [V], seconds since the first day began.
        category: int64 [V], what each is about.
        ideal: int64 [V], which of the ideal looks; opened: bool [V], whether the interest is new; see `Interests`.
        wanted: float32 [V, L], the look each is about.
        intended: int64 [V], the listing in mind.
    """

    user: Ids
    start: Floats
    category: Ids
    ideal: Ids
    opened: Flags
    wanted: NDArray[np.float32]
    intended: Ids


@dataclass(frozen=True)
class Asked:
    """Content of V queries: `Traffic` says what each column is."""

    photo: Flags
    text: Flags
    told: dict[str, Flags]
    query: NDArray[np.float32]


@dataclass(frozen=True)
class Appeal:
    """Appeal of k items to each of V shoppers with something in mind, wherever they are shown.

    Attributes:
        match: float64 [V, k], cosine of what is meant and the item.
        same: bool [V, k], another listing of the product in mind.
        liking: float64 [V, k], see `Market.liking`.
        wish: float64 [V, k], the logit of a click but for its position.
        buy: float64 [V, k], the logit of an order of what was clicked.
    """

    match: Floats
    same: Flags
    liking: Floats
    wish: Floats
    buy: Floats

    def p_click(self, bias: Floats | float) -> Floats:
        """The true probability of a click where positions add ``bias`` (`BIAS`), broadcast against [V, k]."""
        return sigmoid(-1.5 + self.wish + bias)

    def p_order(self) -> Floats:
        """The true probability that a click leads to an order, float64 [V, k]."""
        return sigmoid(self.buy)


class Shelf:
    """Draws items by key and weight: one sort to build, one binary search per draw."""

    def __init__(self, keys: Ids, weights: Floats) -> None:
        self._items = np.argsort(keys, kind="stable")
        self._keys = keys[self._items]
        self._upto = np.r_[0.0, np.cumsum(weights[self._items])]

    def draw(self, keys: Ids, count: int, rng: np.random.Generator) -> Ids:
        """`count` items for each of `keys` [B], with replacement: int64 [B, count], -1 where a key has none."""
        start, stop = np.searchsorted(self._keys, keys), np.searchsorted(self._keys, keys, side="right")
        low, high = self._upto[start, None], self._upto[stop, None]
        drawn = np.searchsorted(self._upto, low + rng.random((len(keys), count)) * (high - low), side="right") - 1
        items = self._items[np.clip(drawn, start[:, None], np.maximum(stop - 1, 0)[:, None])]
        return np.where((stop > start)[:, None], items, -1)


class Market:
    """The catalogue and its shoppers with their interests, ready to be searched."""

    def __init__(
        self,
        catalogue: SimulatedCatalogue,
        shoppers: Shoppers,
        interests: Interests,
        fashion: Fashion,
        space: LatentSpace,
    ) -> None:
        self.catalogue, self.shoppers, self.interests = catalogue, shoppers, interests
        self.fashion, self.space = fashion, space
        self.looks = space.look(catalogue.latent)
        # A shopper's taste for a product is measured against how much they like products in general.
        cosines = shoppers.first_taste[:4_000] @ self.looks[:: max(len(self.looks) // 500, 1)].T
        self.liking_mean, self.liking_std = float(cosines.mean()), float(cosines.std())
        self.hidden = catalogue.quality + 0.25 * catalogue.popularity
        names = list(MADE_OF)
        self.department = np.array([names.index(c.department_en) for c in CATEGORIES])[catalogue.factors.category]

    def liking(self, wanted: NDArray[np.float32], items: Ids) -> Floats:
        """Standardised match of looks that shoppers want [B, L] and items [B, k]: float64 [B, k]."""
        return self.standardised(np.einsum("bl,bkl->bk", wanted, self.looks[items]))

    def standardised(self, cosine: NDArray[np.float32]) -> Floats:
        """How much shoppers like looks, from the cosines with those that they want."""
        return ((cosine - self.liking_mean) / self.liking_std).astype(np.float64)

    def open(self, day: int) -> None:
        """Stock the shelves with what is listed on this day, weighted by what is in demand."""
        c = self.catalogue
        self.listed = listed = int(np.searchsorted(c.day, day, side="right"))  # the catalogue is in order of listing
        fresh = 1 + 4.0 * np.exp(-(day - c.day[:listed]) / 4)
        style = c.factors.style[:listed]
        weight = np.exp(TAIL * c.popularity[:listed] + self.fashion.style_trend[day, style]) * fresh
        self.by_category = Shelf(c.factors.category[:listed], weight)
        self.by_spu = Shelf(c.spu[:listed], np.ones(listed))
        self.by_style = Shelf(self.department[:listed] * 100 + style, weight)
        self.by_brand = Shelf(c.factors.brand[:listed], weight)
        self.anywhere = Shelf(np.zeros(listed, dtype=np.int64), weight)

    def intend(self, category: Ids, wanted: NDArray[np.float32], rng: np.random.Generator) -> Ids:
        """The listing that shoppers have in mind: of twenty that they know in the category, one to their taste."""
        known = self.by_category.draw(category, 20, rng)
        known = np.where(known < 0, self.anywhere.draw(category * 0, 20, rng), known)
        score = 1.3 * self.liking(wanted, known) + rng.gumbel(size=known.shape)
        return np.take_along_axis(known, score.argmax(axis=1)[:, None], axis=1)[:, 0]

    def candidates(self, intended: Ids, rng: np.random.Generator) -> Ids:
        """Candidates of a search: int64 [B, k], each item once, -1 for gaps.

        The product in mind (mostly), its category, what shares its style or its brand, and a few of anything.
        """
        f = self.catalogue.factors
        itself = np.c_[intended, self.by_spu.draw(self.catalogue.spu[intended], 2, rng)]
        itself[rng.random(len(intended)) < 0.12] = -1
        pool = np.concatenate(
            [
                itself,
                self.by_category.draw(f.category[intended], 13, rng),
                self.by_style.draw(self.department[intended] * 100 + f.style[intended], 3, rng),
                self.by_brand.draw(f.brand[intended], 2, rng),
                self.anywhere.draw(intended * 0, 3, rng),
            ],
            axis=1,
        )
        return distinct(pool)

    def visits(self, user: Ids, day: int, rng: np.random.Generator) -> Visits:
        """When users come on a day whose shelves are stocked, and with what in mind."""
        start = day * 86_400 + 7 * 3_600 + 15.3 * 3_600 * rng.beta(2.2, 1.6, size=len(user))
        category, ideal, opened = self.interests.have(user, day, rng)
        wanted = self.shoppers.wanted(user, day, ideal)
        return Visits(user, start, category, ideal, opened, wanted, self.intend(category, wanted, rng))

    def ask(self, intended: Ids, rng: np.random.Generator) -> Asked:
        """Queries of shoppers for the listings they have in mind, int64 [V]."""
        n = len(intended)
        kind = rng.choice(3, size=n, p=[0.46, 0.26, 0.28])
        photo, text = kind < 2, kind > 0
        told = {block: text & (rng.random(n) < chance) for block, chance in TOLD.items()}
        told["category"] = text & ((rng.random(n) < 0.9) | ~np.any([*told.values()], axis=0))
        return Asked(photo, text, told, self.told(intended, photo, told))

    def told(self, intended: NDArray[np.integer], photo: Flags, told: dict[str, Flags]) -> NDArray[np.float32]:
        """Latents of what queries tell, float32 [V, D]: all of the product's where there is a photo."""
        query = self.space.embed(self.catalogue.factors.take(intended), told)
        query[photo] = self.catalogue.latent[intended[photo]]
        return query

    def appeal(self, user: Ids, intended: Ids, wanted: NDArray[np.float32], item: Ids) -> Appeal:
        """Appeal of items int64 [V, k] to shoppers with a listing in mind and a look they want."""
        c = self.catalogue
        match = np.einsum("bd,bkd->bk", c.latent[intended], c.latent[item]).astype(np.float64)
        same = c.spu[item] == c.spu[intended, None]
        liking = self.liking(wanted, item)
        # A near miss is looked at, and seldom bought.
        buy = np.where(same, 0.2 + self.worth(user, item) - 6 * (1 - match), -5.0)
        wish = 1.6 * (match - 0.65) + self.wish(user, liking, item)
        return Appeal(match, same, liking, wish, buy)

    def wish(self, user: Ids, liking: Floats, item: Ids) -> Floats:
        """The logit of a click on items [V, k], but for what was asked and for the position."""
        c, s = self.catalogue, self.shoppers
        brand = (c.factors.brand[item][:, :, None] == s.brands[user][:, None, :]).any(axis=2)
        near = c.merchant_region[item] == s.region[user, None]
        return 0.85 * liking + 0.25 * self.price(user, item) + 0.3 * brand + 0.15 * near + 0.6 * self.hidden[item]

    def worth(self, user: Ids, item: Ids) -> Floats:
        """The part of the logit of an order that quality and price make up, of items [V, k]."""
        return 0.6 * self.hidden[item] + 0.5 * self.price(user, item)

    def price(self, user: Ids, item: Ids) -> Floats:
        """How well the prices of items [V, k] suit their shoppers; 0 is best."""
        c, s = self.catalogue, self.shoppers
        return -s.thrift[user, None] * np.abs(c.relative_price[item] - s.spending[user, None])


def search(
    market: Market, user: Ids, start: Floats, intended: Ids, wanted: NDArray[np.float32], rng: np.random.Generator
) -> Columns:
    """One search for each of the users: the columns of `Traffic`, rows counted from zero."""
    asked = market.ask(intended, rng)
    pool = market.candidates(intended, rng)
    c = market.catalogue
    score = 10 * np.einsum("bd,bkd->bk", asked.query, c.latent[pool]) + 0.3 * c.popularity[pool]
    page = rank(pool, score, rng)
    appeal = market.appeal(user, intended, wanted, page.item)
    alike = c.factors.category[page.item] == c.factors.category[intended, None]
    grade = np.select([appeal.same, appeal.match > 0.6, alike], [3.0, 2.0, 1.0], 0.0)
    judged = rng.random(len(user)) < JUDGED
    return {
        "user": user,
        "ts": (start * 1e6).astype(np.int64),
        "intended": intended,
        "photo": asked.photo,
        "text": asked.text,
        **asked.told,
        "relevance": np.where(judged[:, None], grade, np.nan)[page.shown],
        **react(page, appeal, start, rng),
    }


def distinct(pool: Ids) -> Ids:
    """Candidates [B, k] in their order of listing; -1 in place of what a row has already."""
    pool = np.sort(pool, axis=1)
    pool[:, 1:][pool[:, 1:] == pool[:, :-1]] = -1
    return pool


@dataclass(frozen=True)
class Page:
    """The first page of V results.

    Attributes:
        item: int64 [V, SHOWN]; shown: bool [V, SHOWN], which of them exist.
        propensity: float64 [V], the chance of each item to be where it is; NaN where a ranker chose.
    """

    item: Ids
    shown: Flags
    propensity: Floats


def rank(pool: Ids, score: Floats, rng: np.random.Generator) -> Page:
    """Show the best of the candidates int64 [V, k] by their scores and some noise; for a share of the pages, any."""
    exists = pool >= 0
    shuffled = rng.random(len(pool)) < SHUFFLED
    score = np.where(shuffled[:, None], 0, score) + rng.gumbel(size=pool.shape)
    order = np.argsort(np.where(exists, -score, np.inf), axis=1)[:, :SHOWN]
    item, shown = np.take_along_axis(pool, order, axis=1), np.take_along_axis(exists, order, axis=1)
    return Page(item, shown, np.where(shuffled, 1 / exists.sum(axis=1), np.nan))


def react(page: Page, appeal: Appeal, start: Floats, rng: np.random.Generator) -> Columns:
    """Let shoppers react to a page each: the columns of `Traffic` about impressions and actions."""
    item, shown = page.item, page.shown
    position = np.broadcast_to(np.arange(SHOWN), item.shape)
    p_click = appeal.p_click(BIAS)
    clicked = (rng.random(item.shape) < p_click) & shown

    ordered = clicked & (rng.random(item.shape) < appeal.p_order())
    carted = clicked & (rng.random(item.shape) < sigmoid(-1.8 + 2.0 * appeal.same + 0.4 * appeal.liking))
    at_click = start[:, None] + 5 + 8 * position + rng.uniform(0, 10, size=item.shape)
    at_cart = at_click + rng.uniform(10, 90, size=item.shape)
    at_order = at_cart + rng.uniform(60, 400, size=item.shape)
    acts = [(clicked, at_click, CLICK), (carted, at_cart, CART), (ordered, at_order, ORDER)]
    rows = np.broadcast_to(np.arange(len(item))[:, None], item.shape)
    return {
        "search": rows[shown],
        "item": item[shown],
        "position": position[shown],
        "clicked": clicked[shown],
        "p_click": p_click[shown],
        "p_click_no_position": appeal.p_click(BIAS.mean())[shown],
        "propensity": np.broadcast_to(page.propensity[:, None], item.shape)[shown],
        "acted_search": np.concatenate([rows[done] for done, _, _ in acts]),
        "acted_item": np.concatenate([item[done] for done, _, _ in acts]),
        "action": np.concatenate([np.full(done.sum(), code) for done, _, code in acts]),
        "acted_ts": np.concatenate([(at[done] * 1e6).astype(np.int64) for done, at, _ in acts]),
        "satisfied": np.asarray(ordered.any(axis=1)),
    }


def sigmoid(logit: Floats) -> Floats:
    """1 / (1 + exp(-logit))."""
    return np.asarray(1 / (1 + np.exp(-logit)))
