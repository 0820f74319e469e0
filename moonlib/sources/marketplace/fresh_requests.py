"""Requests that nobody has made: new visits on test days, their candidates, and what their shoppers would do.

They are drawn as the simulation draws its own (`Market.visits`, `ask`, `candidates`) from streams of their own, and
answered by its own probabilities (`Market.appeal`), so that what the simulation wrote down stays what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.data.dataset import Dataset
from moonlib.data.reader import Sample
from moonlib.sources.marketplace.album import Shots
from moonlib.sources.marketplace.detector import detect
from moonlib.sources.marketplace.ids import WorldIds
from moonlib.sources.marketplace.market import BIAS, TOLD, Appeal
from moonlib.sources.marketplace.records import SPLITS, START, times
from moonlib.sources.marketplace.titles import write_queries
from moonlib.sources.marketplace.world import SIZES, VERSION, World


@dataclass(frozen=True)
class FreshRequests:
    """R requests and their n candidates.

    A request is the first search of a visit: whether a shopper looks again depends on what they were shown. What it is
    about depends on what the shopper came for on the days before.

    Attributes:
        impressions: one row per candidate, request by request, with the columns of the impressions table. Nobody has
            shown them: each stands at position 0 and is not clicked. The candidates of a request are in random order.
        queries: R rows of the queries table.
        shots: the photos, in the order of the queries that have one.
        request: int64 [n], which request each candidate is of.
        price: float64 [n], of the candidate.
        uniform: float64 [n], what decides whether it is clicked, wherever it is shown.
        appeal: what the candidate is to the shopper, its columns flat [n]. Only the simulation knows.
        latent: float32 [R, D], what each query tells. Only the simulation knows.
        detector: decides which boxes a detector finds in the photos.
    """

    impressions: pl.DataFrame
    queries: pl.DataFrame
    shots: Shots
    request: NDArray[np.int64]
    price: NDArray[np.float64]
    uniform: NDArray[np.float64]
    appeal: Appeal
    latent: NDArray[np.float32]
    detector: int

    def p_click(self, position: NDArray[np.int64]) -> NDArray[np.float64]:
        """The true probability that each candidate is clicked at a position, float64 [n]."""
        return self.appeal.p_click(BIAS[position])

    @cached_property
    def samples(self) -> QuerySamples:
        """The queries with their photos, which are drawn now."""
        photos = np.flatnonzero(self.queries["image"].is_not_null().to_numpy())
        taken = [self.shots.take(number) for number in range(len(photos))]
        true = np.array([box for _, box in taken], dtype=np.float32).reshape(-1, 4)
        found = detect(true, np.random.default_rng(self.detector)).tolist()
        images = {row: jpeg for row, (jpeg, _) in zip(photos.tolist(), taken, strict=True)}
        boxes = {row: box for row, box in zip(photos.tolist(), found, strict=True) if box[0] == box[0]}
        return QuerySamples(
            {
                query["query_id"]: Sample(query["query_id"], query | {"box": boxes.get(row)}, images.get(row))
                for row, query in enumerate(self.queries.iter_rows(named=True))
            }
        )


class QuerySamples:
    """Queries in memory, read by id as `moonlib.data.reader.SampleReader` reads those of a dataset."""

    table = "queries"

    def __init__(self, samples: dict[int, Sample]) -> None:
        self._samples = samples

    def read(self, ids: NDArray[np.int64]) -> list[Sample]:
        """Return one sample per id, in order."""
        return [self._samples[query_id] for query_id in ids.tolist()]


def marketplace_of(dataset: Dataset) -> World | None:
    """The world that a dataset is the record of; None where it is none of this version of the marketplace.

    Example: ``marketplace_of(Dataset("runs/.data/marketplace-v2-small-0"))``
    """
    kind, *parts = dataset.name.split("-")
    if kind != "marketplace" or dataset.version != str(VERSION) or len(parts) not in (2, 3):
        return None
    size, seed, *ids = parts
    if size not in SIZES or not seed.isdecimal() or ids not in ([], ["text"]):
        return None
    world = World.simulate(size, int(seed), text_ids=bool(ids))
    # A dataset of the same name that was not made by this simulation has other ids.
    own, found = WorldIds(world), dataset.table("products", ("item_id",))["item_id"]
    known = own.shop.decode("item_id", np.sort(own.item))
    return world if known.equals(dataset.ids.decode("item_id", found.sort())) else None


def draw_requests(world: World, count: int, seed: int = 0) -> FreshRequests:
    """Draw fresh requests on the test days, in equal numbers on each.

    Args:
        world: the simulation; nothing of it changes but what its market has on the shelves.
        count: R.
        seed: another seed draws other requests.

    Raises:
        ValueError: fewer requests than test days.

    Example:
        >>> fresh = draw_requests(World.simulate("tiny", 0), count=30)
        >>> len(fresh.queries), fresh.impressions.columns[:4]
        (30, ['search_id', 'user_id', 'query_id', 'item_id'])
    """
    market, catalogue = world.market, world.catalogue
    first, last = (SPLITS.valid_until - START).days, (SPLITS.test_until - START).days
    if count < last - first:
        raise ValueError(f"{count} requests: there are {last - first} test days; draw at least one for each")
    rng = world.streams[f"fresh requests {seed}"]
    days = []
    for number, day in enumerate(range(first, last)):
        market.open(day)
        users = rng.choice(len(world.shoppers), size=(count + number) // (last - first), p=world.shoppers.activity)
        visits = market.visits(users, day, rng)
        asked = market.ask(visits.intended, rng)
        # Candidates come sorted by when they were listed, which must not decide between equal scores.
        pool = rng.permuted(market.candidates(visits.intended, rng), axis=1)
        appeal = market.appeal(visits.user, visits.intended, visits.wanted, pool)
        days.append((visits, asked, pool, appeal))
    user, start, intended = (
        np.concatenate([getattr(day[0], name) for day in days]) for name in ("user", "start", "intended")
    )
    photo = np.concatenate([asked.photo for _, asked, _, _ in days])
    told = {block: np.concatenate([asked.told[block] for _, asked, _, _ in days]) for block in ("category", *TOLD)}
    chinese = rng.random(count) < world.shoppers.speaks_chinese[user]
    texts = write_queries(catalogue.factors.take(intended), told, chinese, rng)

    pool = np.concatenate([pool for _, _, pool, _ in days])
    there = pool >= 0
    request, item = np.nonzero(there)[0], pool[there]
    flat = {
        name: np.concatenate([getattr(appeal, name) for _, _, _, appeal in days])[there]
        for name in ("match", "same", "liking", "wish", "buy")
    }
    # Running numbers go on where the simulation's end.
    ids, numbers = WorldIds(world), len(world.traffic.user) + np.arange(count)
    search_id, query_id = ids.searches(numbers), ids.queries(numbers)
    pictures = world.streams[f"fresh pictures {seed}"]
    return FreshRequests(
        impressions=pl.DataFrame(
            {
                "search_id": search_id[request],
                "user_id": ids.user[user][request],
                "query_id": query_id[request],
                "item_id": ids.item[item],
                "position": np.zeros(len(item), dtype=np.int32),
                "clicked": np.zeros(len(item), dtype=bool),
                "ts": times((start * 1e6).astype(np.int64)[request]),
                "propensity": pl.Series([None] * len(item), dtype=pl.Float64),
                "bid": catalogue.bid[item],
                "relevance": pl.Series([None] * len(item), dtype=pl.Float64),
            }
        ),
        queries=pl.DataFrame(
            {
                "query_id": query_id,
                "text": texts,
                "image": [f"fresh{row}" if shown else None for row, shown in enumerate(photo.tolist())],
                "box": pl.Series([None] * count, dtype=pl.List(pl.Float32)),
            }
        ),
        shots=Shots(
            looks=world.shots().looks,
            listing=intended[photo],
            seed=pictures.integers(2**62, size=photo.sum()),
            view=np.full(photo.sum(), -1),
            quality=pictures.integers(70, 86, size=photo.sum()),
            size=world.size.picture,
        ),
        request=request,
        price=catalogue.price[item],
        uniform=world.streams[f"fresh clicks {seed}"].random(len(item)),
        appeal=Appeal(**flat),
        latent=np.concatenate([asked.query for _, asked, _, _ in days]),
        detector=int(world.streams[f"fresh boxes {seed}"].integers(2**62)),
    )
