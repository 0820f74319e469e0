"""Vectors of products from who acted on what: a teacher of likeness that has read no title and seen no image."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import moonlib.compat  # noqa: F401
import polars as pl
import torch

from moonlib.data.reads import Moment, Reads
from moonlib.data.tables import ACTIONS
from moonlib.metrics.metric import Meaning
from moonlib.representations.store import write_vectors
from moonlib.stages.implicit_als import Actions, factorise, ranks_of
from moonlib.stages.stage import Need, Stage, StageContext

log = logging.getLogger(__name__)

K = 10
"""Of the recall that is reported."""


@dataclass
class ActionData:
    """Which actions are factorised.

    Args:
        actions: what each action counts.
        until: which days are read: those before the CTR model trains (``behaviour``), or all before the end of training
            (``train``: the CTR model then trains on days that the vectors have seen).
        min_actions: actions that a product needs to get a vector; fewer say little of what it is like.
    """

    actions: dict[str, float] = field(default_factory=lambda: {"click": 1.0, "cart": 2.0, "order": 4.0})
    until: Literal["behaviour", "train"] = "behaviour"
    min_actions: int = 5

    def __post_init__(self) -> None:
        if wrong := [name for name in self.actions if name not in ACTIONS]:
            raise ValueError(f"actions: {wrong[0]!r} is none of {', '.join(ACTIONS)}")
        if not self.actions or any(weight <= 0 for weight in self.actions.values()):
            raise ValueError(f"actions: expected at least one action, with weights above 0, got {self.actions}")
        if self.min_actions < 1:
            raise ValueError(f"min_actions: expected at least 1, got {self.min_actions}")


class Collaborative(Stage):
    """Factorises who acted on what, and writes a vector for every product with enough actions: ``products.npy``.

    Products that the same shoppers act on have similar vectors, whatever they look like or are called. Products that
    nobody knows have none. The vectors are a teacher for losses of later stages (``teacher: collaborative``), such as
    `moonlib.losses.distill.Distill`; they are no representations of the iteration, as ``represent`` makes them.

    It reports ``collaborative/coverage``, the share of the products listed before the end of training that have a
    vector, and, of each shopper's last product held out, ``collaborative/recall@10`` among all products with enough
    actions that the shopper has not acted on before, beside the same by popularity. For these two a factorisation
    without the last products is made first, which takes as long again.

    Args:
        dim: width of the vectors.
        iterations: turns of alternating least squares.
        regularization: weight of the squares of all vectors, above 0.
        alpha: how much more an action counts than none: the confidence is 1 + alpha * the weighted number of actions.
        measure: whether recall is reported.

    Raises:
        ValueError: an argument is out of range.

    Source: Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback datasets" (2008). Teaching content
    encoders what behaviour says is what MOON (arXiv 2511.11305) and its kin do with pairs; here with similarities.
    """

    data_type: ClassVar[type] = ActionData
    provides: ClassVar[Literal["weights", "representations", "vectors"] | None] = "vectors"

    def __init__(
        self,
        dim: int = 64,
        iterations: int = 10,
        regularization: float = 10.0,
        alpha: float = 1.0,
        measure: bool = True,
    ) -> None:
        super().__init__()
        for name, number in (("dim", dim), ("iterations", iterations)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        for name, value in (("regularization", regularization), ("alpha", alpha)):
            if value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        self.dim, self.iterations = dim, iterations
        self.regularization, self.alpha = regularization, alpha
        self.measure = measure

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset()

    def reads(self, data: Any, validated: bool = False) -> Reads:
        """Who did what on the days that are read, and which products there are."""
        until: Moment = "train_until" if data.until == "train" else "behaviour_until"
        found = Reads.of(searches=["user_id", "item_id", "action"], moments=["behaviour_until", until]).before(until)
        return found | Reads.of(products=["listed_at"], moments=["train_until"]).before("train_until")

    def meanings(self) -> dict[str, Meaning]:
        return {
            "collaborative/coverage": Meaning("products with a vector", None),
            f"collaborative/recall@{K}": Meaning(f"recall@{K} of the last product, by actions", True),
            f"collaborative/popularity_recall@{K}": Meaning(f"recall@{K} of the last product, by popularity", None),
        }

    def run(self, context: StageContext) -> dict[str, float]:
        if not context.trainer.is_global_zero:
            return {}
        events = self.events(context)
        items = events["item_id"].unique().sort()
        listed = context.dataset.splits.known(context.dataset.table("products", ("item_id", "listed_at")))
        known = int(items.is_in(listed["item_id"].implode()).sum())
        metrics = {"collaborative/coverage": known / max(1, len(listed))}
        count = f"{len(items):,} products with at least {context.data.min_actions} actions"
        log.info(f"collaborative: {len(events):,} actions of {events['user_id'].n_unique():,} shoppers on {count}")
        with context.progress.task("factorisations", 1 + self.measure) as task:
            if self.measure:
                metrics |= self.recall(events, items, context.seed)
                task.at(1)
                context.interruption.check()
            _, vectors = self.factorised(actions_of(events, items), context.seed)
            task.at(1 + self.measure)
        ids = items.to_numpy()
        shop = context.dataset.ids.of("item_id")
        names = None if shop is None else shop.decode(ids).alias("item_id")
        write_vectors(
            context.directory, "products", ids, self.dim, max(1, len(ids)), lambda _: [vectors.numpy()], names
        )
        return metrics

    def events(self, context: StageContext) -> pl.DataFrame:
        """The actions to factorise: user_id, item_id, weight and ts, in their order.

        Raises:
            ValueError: no product has enough of them.
        """
        dataset, data = context.dataset, context.data
        searches = dataset.splits.check(dataset.searches, "behaviour", "searches")
        if data.until == "train":
            searches = pl.concat([searches, dataset.splits.select(dataset.searches, "train")])
        weights = pl.col("action").replace_strict(data.actions, default=None, return_dtype=pl.Float64)
        events = searches.select("user_id", "item_id", "ts", weight=weights).drop_nulls("weight")
        enough = events.group_by("item_id").len().filter(pl.col("len") >= data.min_actions)
        kept = events.join(enough, on="item_id", how="semi")
        if kept.is_empty():
            raise ValueError(
                f"data.min_actions: none of the products has {data.min_actions} actions ({', '.join(data.actions)}) on "
                "the days that are read: lower it, read more days (data.until: train), or leave the stage out"
            )
        return kept.sort("ts", "user_id", "item_id", maintain_order=True)

    def factorised(self, actions: Actions, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors of users and items."""
        generator = torch.Generator().manual_seed(seed)
        return factorise(actions, self.dim, self.iterations, self.regularization, self.alpha, generator)

    def recall(self, events: pl.DataFrame, items: pl.Series, seed: int) -> dict[str, float]:
        """Recall of each user's last product, from all that is known without it; none if no user has two products."""
        last = events.group_by("user_id", maintain_order=True).agg(pl.col("item_id").last())
        rest = events.join(last, on=["user_id", "item_id"], how="anti")
        asked = last.join(rest.select("user_id").unique(), on="user_id", how="semi").sort("user_id")
        if asked.is_empty():
            return {}
        known = actions_of(rest, items)
        users, vectors = self.factorised(known, seed)
        user = torch.arange(len(asked))  # `actions_of` numbers users in ascending order, and the rest has just these
        item = items.search_sorted(asked["item_id"]).cast(pl.Int64).to_torch()
        popularity = torch.bincount(known.item, weights=known.count.double(), minlength=len(items)).unsqueeze(1)
        one = torch.ones(known.users, 1, dtype=torch.float64)
        found = {}
        for name, left, right in (("", users, vectors), ("popularity_", one, popularity)):
            ranks = ranks_of(left, right, user, item, known)
            found[f"collaborative/{name}recall@{K}"] = float((ranks < K).double().mean())
        return found


def actions_of(events: pl.DataFrame, items: pl.Series) -> Actions:
    """Sum up events by user and item.

    Args:
        events: user_id, item_id, weight.
        items: the items' ids, ascending; item i is ``items[i]``. Users are numbered in the order of their ids.
    """
    table = events.group_by("user_id", "item_id").agg(pl.col("weight").sum()).sort("user_id", "item_id")
    user = (table["user_id"].rank("dense").cast(pl.Int64) - 1).to_torch()
    item = items.search_sorted(table["item_id"]).cast(pl.Int64).to_torch()
    return Actions(user, item, table["weight"].to_torch().float(), table["user_id"].n_unique(), len(items))
