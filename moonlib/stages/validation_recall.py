"""Recall of an encoder in training, on searches that it does not learn from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from moonlib.data.content import Modalities, Side, Task
from moonlib.data.dataset import Dataset
from moonlib.data.ids import Ids
from moonlib.data.reads import Reads
from moonlib.metrics.recall import ranks, recall_at
from moonlib.pairs.pairs import Pairs
from moonlib.stages.validation_schedule import ValidationSchedule
from moonlib.system import processes

log = logging.getLogger(__name__)

HELD_OUT = 0.1
"""Share of the queries that are held out where a dataset has none on validation days."""

VALIDATION_READS = Reads.of(
    products=["spu_id", "listed_at"],
    searches=["query_id", "item_id", "action"],
    moments=["train_until", "valid_until"],
)
"""What is read to measure recall on validation days, beside the content of products and queries."""

Encode = Callable[[Side, Ids, Modalities], NDArray[np.float32]]
"""Side, ids int64 [N] in any order, modalities → vectors float32 [N, D] in that order."""


@dataclass(frozen=True)
class Asked:
    """Queries that are not learned from, each with what it should find; one row per query and SPU.

    Attributes:
        query_id: int64 [Q], ids of the queries table, or of products where the query is one.
        item_id: int64 [Q], what should be found; any SKU of its SPU is a hit.
        ts: int64 [Q], microseconds since 1970; what is listed later is not searched.
        side: ``query`` or ``product``.
        of_others: whether products look for other products, and not each for itself; its own SPU is then not searched.
    """

    query_id: Ids
    item_id: Ids
    ts: Ids
    side: Side
    of_others: bool = False


def asked_on_validation_days(dataset: Dataset, side: Side) -> Asked:
    """Choose what validation days ask: searches that ended in an order, else in any action, or new products.

    What was acted on without a query asks nothing.

    Args:
        dataset: any dataset.
        side: ``query`` for searches, ``product`` for products that are paired with themselves.

    Returns:
        The rows; none where there are no such days, or nothing happens in them.
    """
    start, end = dataset.splits.window("valid")
    if side == "product":
        listed = dataset.table("products", ("item_id", "listed_at"))
        new = listed.filter(pl.col("listed_at") >= start, pl.col("listed_at") < end).sort("item_id")
        found = new.select("item_id", query_id="item_id", ts="listed_at")
    else:
        searches = dataset.splits.select(dataset.searches, "valid").drop_nulls("query_id")
        orders = searches.filter(pl.col("action") == "order")
        if orders.is_empty() and not searches.is_empty():
            warn("validate: no search of the validation days ended in an order: all of their actions count")
        found = (orders if len(orders) else searches).select("query_id", "item_id", "ts")
        found = found.unique(["query_id", "item_id"], keep="first").sort("query_id", "item_id")
    ts = found["ts"].dt.epoch("us").to_numpy().astype(np.int64)
    return Asked(found["query_id"].to_numpy(), found["item_id"].to_numpy(), ts, side)


def hold_out(pairs: Pairs, seed: int) -> tuple[Pairs, Asked]:
    """Part the pairs of some queries from those that are trained on.

    Where products ask for others, so do the others for them: a pair of which one is held out is not trained on.

    Args:
        pairs: all of them.
        seed: of the draw.

    Returns:
        What is left to train on, and what is asked; a query is in one of them with all of its pairs.

    Raises:
        ValueError: there is only one query.
    """
    queries = np.unique(pairs.query_id)
    if len(queries) < 2:
        raise ValueError("validate: there are no validation days, and of one query none can be held out: leave it out")
    number = max(1, round(HELD_OUT * len(queries)))
    drawn = np.random.default_rng([seed, 0]).choice(queries, number, replace=False)
    held = np.isin(pairs.query_id, drawn)
    left = ~(held | np.isin(pairs.item_id, drawn)) if pairs.of_others else ~held
    if not left.any():
        raise ValueError("validate: of so few pairs none would be left to train on: leave it out")
    warn(
        "validate: %s: %d of %d queries, with %d of %d pairs, are held out of training and measured instead",
        "validation days do not say which products go with which"
        if pairs.of_others
        else "nothing is asked on validation days",
        number,
        len(queries),
        len(pairs) - left.sum(),
        len(pairs),
    )
    out = pairs[np.flatnonzero(held)]
    ever = np.full(len(out), np.iinfo(np.int64).max)
    return pairs[np.flatnonzero(left)], Asked(out.query_id, out.item_id, ever, pairs.query_side, pairs.of_others)


class ValidationRecall:
    """Recall@K of each task over a sampled gallery; which queries and products are sampled is a function of the seed.

    A hit is any SKU of the SPU that was acted on. Only what was listed by the time of the search is searched. The
    overall value is the mean over tasks, weighted as the stage weights them.

    Args:
        dataset: where products and queries are.
        asked: what is asked and should be found.
        tasks: weight of each task of the stage.
        schedule: how much is sampled, and the K.
        seed: of the samples.

    Raises:
        ValueError: no task can be measured, or a gallery is smaller than a K.
    """

    def __init__(
        self, dataset: Dataset, asked: Asked, tasks: Mapping[str, float], schedule: ValidationSchedule, seed: int
    ) -> None:
        self.ks, self.side = sorted(set(schedule.ks)), asked.side
        products = dataset.table("products", ("item_id", "spu_id", "title", "image", "listed_at")).sort("item_id")
        queries = products if asked.side == "product" else dataset.queries
        key = "item_id" if asked.side == "product" else "query_id"
        ids, spus = products["item_id"].to_numpy(), products["spu_id"].to_numpy()
        listed = products["listed_at"].dt.epoch("us").to_numpy().astype(np.int64)
        end = np.int64(dataset.splits.window("valid")[1].timestamp() * 1e6)
        rng = np.random.default_rng([seed, 1])
        self.tasks: list[_SampledTask] = []
        left_out: list[str] = []
        for name, weight in tasks.items():
            task = Task.parse(name)
            if not weight:
                continue
            if asked.side == "product" and task.query == task.item and not asked.of_others:
                left_out.append(f"'{name}' (a product would look for itself)")
                continue
            able = ids[task.item.available(products)]
            served = np.isin(asked.item_id, able)
            served &= np.isin(asked.query_id, queries[key].to_numpy()[task.query.available(queries)])
            rows = np.flatnonzero(served)
            if not len(rows):
                left_out.append(f"'{name}' (nothing asked has what it reads)")
                continue
            if len(rows) > schedule.rows:
                rows = np.sort(rng.choice(rows, schedule.rows, replace=False))
            wanted = np.unique(asked.item_id[rows])
            there = listed[np.searchsorted(ids, able)] < max(end, asked.ts[rows].max())
            others = np.setdiff1d(able[there], wanted)
            more = max(0, schedule.gallery - len(wanted))
            if len(others) > more:
                others = rng.choice(others, more, replace=False)
            gallery = np.sort(np.concatenate([wanted, others]))
            if len(gallery) < self.ks[-1]:
                raise ValueError(
                    f"validate: recall@{self.ks[-1]} of '{name}' needs a gallery of as many products, and there are "
                    f"{len(gallery)}: set validate.ks to smaller numbers"
                )
            of_gallery = np.searchsorted(ids, gallery)
            self.tasks.append(
                _SampledTask(
                    name.replace(" ", ""),  # as the recipe has it, and as loggers like it
                    task,
                    weight,
                    asked.query_id[rows],
                    spus[np.searchsorted(ids, asked.item_id[rows])],
                    spus[np.searchsorted(ids, asked.query_id[rows])] if asked.of_others else None,
                    asked.ts[rows],
                    gallery,
                    spus[of_gallery],
                    # What is looked for is there, whatever a wrong clock says of the day it was listed.
                    np.where(np.isin(gallery, wanted), np.iinfo(np.int64).min, listed[of_gallery]),
                )
            )
        if left_out:
            warn("validate: not measured: %s", ", ".join(left_out))
        if not self.tasks:
            raise ValueError(
                f"validate: none of the stage's tasks can be measured: {', '.join(left_out) or 'their weights are 0'}. "
                "Leave it out (validate: null)"
            )

    @property
    def higher_is_better(self) -> dict[str, bool]:
        """The names of what is measured, the one that decides first: the mean at the largest K."""
        names = [f"recall@{k}" for k in reversed(self.ks)]
        if len(self.tasks) > 1:
            names += [f"{sampled.name}/recall@{k}" for sampled in self.tasks for k in self.ks]
        return dict.fromkeys(names, True)

    def measure(self, encode: Encode) -> dict[str, float]:
        """Encode and rank; values by the names of `higher_is_better`."""
        needed: dict[tuple[Side, Modalities], list[Ids]] = {}
        for sampled in self.tasks:
            needed.setdefault((self.side, sampled.task.query), []).append(sampled.query_id)
            needed.setdefault(("product", sampled.task.item), []).append(sampled.gallery)
        stores = {}
        for (side, modalities), parts in needed.items():
            ids = np.unique(np.concatenate(parts))  # each is encoded once, whatever the number of tasks
            stores[side, modalities] = ids, encode(side, ids, modalities)

        def rows(side: Side, modalities: Modalities, ids: Ids) -> torch.Tensor:
            known, found = stores[side, modalities]
            return torch.from_numpy(found[np.searchsorted(known, ids)])

        values: dict[str, float] = {}
        total = sum(sampled.weight for sampled in self.tasks)
        for k in self.ks:
            values[f"recall@{k}"] = 0.0
        for sampled in self.tasks:
            found = ranks(
                rows(self.side, sampled.task.query, sampled.query_id),
                rows("product", sampled.task.item, sampled.gallery),
                torch.from_numpy(sampled.spu_id),
                torch.from_numpy(sampled.gallery_spu),
                torch.from_numpy(sampled.ts),
                torch.from_numpy(sampled.listed_at),
                own_spu=None if sampled.own_spu is None else torch.from_numpy(sampled.own_spu),
            )
            for k in self.ks:
                value = float(recall_at(found, k, len(sampled.gallery)))
                values[f"recall@{k}"] += sampled.weight / total * value
                values[f"{sampled.name}/recall@{k}"] = value
        return {name: values[name] for name in self.higher_is_better}


@dataclass(frozen=True)
class _SampledTask:
    """Q queries of a task and the N products that they are asked of, all int64."""

    name: str
    task: Task
    weight: float
    query_id: Ids
    spu_id: Ids
    own_spu: Ids | None
    ts: Ids
    gallery: Ids
    gallery_spu: Ids
    listed_at: Ids


def warn(message: str, *arguments: object) -> None:
    """Warn in one of the processes that train together, which all choose the same."""
    if processes.is_first():
        log.warning(message, *arguments)
