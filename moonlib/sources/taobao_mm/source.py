"""The source ``taobao_mm``: a sample of TAOBAO-MM's users, with the published vectors as representations."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.data.reader import verify
from moonlib.data.shards import build_once, write_dataset
from moonlib.data.splits import Splits
from moonlib.data.tables import Tables, validate
from moonlib.representations.store import Representations
from moonlib.sources.source import Source
from moonlib.sources.taobao_mm.collect import UserRows, find, lists_of
from moonlib.sources.taobao_mm.files import (
    ATTRIBUTES,
    CATEGORY,
    EMBEDDING,
    FEATURES,
    HISTORY,
    ITEM,
    LABEL,
    PERIODS,
    USER,
    VECTOR,
    Files,
    Period,
    read,
)
from moonlib.sources.taobao_mm.sample import place

VERSION = 1
"""Raised when the same files become another dataset."""

_LISTS = 4096
"""Rows read at once where they have histories, of up to a thousand items each."""

_DAYS = [datetime(2001, 1, day, tzinfo=UTC) for day in (1, 2, 3, 4)]
_AS_OF: dict[Period, datetime] = {"train": _DAYS[0], "test": _DAYS[2]}
SPLITS = Splits(*_DAYS)
"""One day each for training, validation and test. The data set has no times; these only say what comes before what."""


class TaobaoMM(Source):
    """Impressions of Taobao's display advertising, up to a thousand behaviours of each user, and int8 representations.

    The published files (139 GB) are read some rows at a time, and only a share of the users is kept. Which ones is a
    function of the user's id, so that a larger share holds a smaller one. What becomes what:

    - a row of samples → an impression of a search of its own, in the order of user and item;
    - a user's list of behaviours as of each period → ``histories``; its items need be neither products nor represented;
    - a target item → a product, with ``206`` as its category and columns ``213`` and ``214``;
    - a user → columns ``u1`` to ``u5``, which are ``130_1`` to ``130_5`` as of training, or of test for who came later;
    - a vector of 128 int8 → the representation of a target or of an item of a history, as it is.

    Times are synthetic: training is 2001-01-01, validation 01-02, test 01-03, histories are as of training and test,
    and a product is listed on the first day that shows it: a *new* one is one that no training impression has shown.
    Validation are the impressions in the training period of some users, who are not trained on. The categories of
    behaviours (``151_2_180``) are not kept.

    Both layouts of the same data make the same dataset.

    Args:
        directory: where the files lie, or the folders ``raw``, ``train`` and ``test`` that hold them.
        layout: which form of the data is read: ``raw`` (a file each for samples, users and items), ``joined`` (shards
            whose rows have it all), or ``auto``, which prefers ``raw``.
        users: share of the users to keep, above 0 and at most 1.
        history: how many of a user's latest behaviours are kept, at most.
        valid: share of those users whose impressions in the training period validate.

    Source:
        https://huggingface.co/datasets/TaoBao-MM/Taobao-MM, Apache-2.0; "MUSE", arXiv 2512.07216.

    Example:
        >>> TaobaoMM(users=0.05).users
        0.05
    """

    def __init__(
        self,
        directory: Path = Path("data/taobao_mm"),
        layout: Literal["auto", "raw", "joined"] = "auto",
        users: float = 0.01,
        history: int = 1000,
        valid: float = 0.05,
    ) -> None:
        if not 0 < users <= 1:
            raise ValueError(f"taobao_mm: users {users} is no share; take one above 0 and at most 1")
        if not 0 < valid < 1:
            raise ValueError(f"taobao_mm: valid {valid} is no share; take one between 0 and 1")
        if history < 1:
            raise ValueError(f"taobao_mm: history {history}: keep at least 1 behaviour")
        self.directory, self.layout = Path(directory), layout
        self.users, self.history, self.valid = users, history, valid

    def prepare(self, cache: Path) -> Path:
        """Return the dataset's directory in ``cache``, building it first for files and arguments that it is not of.

        Raises:
            FileNotFoundError: a published file is missing.
            ValueError: a file is not as published, or the share of users leaves a split empty.
        """
        files = Files.find(self.directory, self.layout)
        sizes = [[path.name, path.stat().st_size] for path in files.all()]
        identity = json.dumps([VERSION, self.users, self.history, self.valid, sizes])
        name = f"taobao_mm-v{VERSION}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
        directory = build_once(cache / name, partial(self._build, files=files))
        verify(directory)
        return directory

    def _build(self, directory: Path, files: Files) -> None:
        shown = {period: self._impressions(files, period) for period in PERIODS}
        impressions = self._splits(pl.concat([shown[period] for period in PERIODS], rechunk=True))
        known = {period: self._users(files, period, shown[period]) for period in PERIODS}
        products = _products(files, impressions)
        as_of = {period: pl.lit(day).dt.cast_time_unit("us").alias("ts") for period, day in _AS_OF.items()}
        histories = pl.concat(
            [pl.DataFrame({"user_id": known[period].user}).select("user_id", as_of[period]) for period in PERIODS]
        )
        features = np.concatenate([known[period].features() for period in PERIODS])
        users = histories.select("user_id").with_columns(
            pl.Series(f"u{i}", column) for i, column in enumerate(features.T, 1)
        )
        lists = lists_of([known[period] for period in PERIODS])
        named = np.union1d(products["item_id"].to_numpy(), np.unique(lists.values.to_numpy()))
        tables = validate(
            Tables(
                products=products,
                queries=pl.DataFrame({"query_id": [0]}),
                users=users.unique("user_id", keep="first").sort("user_id"),
                impressions=impressions,
                histories=histories.with_columns(pl.Series("item_ids", pl.from_arrow(lists))),
            )
        )
        write_dataset(
            directory,
            tables,
            _no_image,
            SPLITS,
            name="taobao_mm",
            version=str(VERSION),
            workers=1,
            representations={"products": _representations(files, named)},
        )

    def _impressions(self, files: Files, period: Period) -> pl.DataFrame:
        """The samples of the sampled users: user_id, item_id, clicked, period."""
        parts = []
        for path in files.samples[period]:
            for rows in read(path, files.schema("samples"), (LABEL, USER, ITEM)):
                clicked, user, item = rows.clicked(), rows.numbers(USER), rows.numbers(ITEM)
                keep = place(user, 0) < self.users
                parts.append(pl.DataFrame({"user_id": user[keep], "item_id": item[keep], "clicked": clicked[keep]}))
        found = pl.concat(parts) if parts else pl.DataFrame()
        if found.is_empty():
            first = files.samples[period][0]
            raise ValueError(f"{first}: none of the {period} users is among the share of {self.users}; raise users")
        return found.with_columns(period=pl.lit(period))

    def _splits(self, shown: pl.DataFrame) -> pl.DataFrame:
        """The table of impressions: days by period and by whether the user validates."""
        validates = pl.Series(place(shown["user_id"].to_numpy(), 1) < self.valid)
        day = pl.when(period="test").then(2).when(validates).then(1).otherwise(0)
        table = shown.with_columns(day=day).sort("day", "user_id", "item_id", "clicked")
        if empty := [name for number, name in enumerate(("train", "valid")) if number not in table["day"]]:
            users = shown.filter(period="train")["user_id"].n_unique()
            raise ValueError(
                f"taobao_mm: none of {users} training users is in the {empty[0]} split; raise users or valid"
            )
        return table.select(
            pl.int_range(pl.len(), dtype=pl.Int64).alias("search_id"),
            "user_id",
            pl.lit(0, pl.Int64).alias("query_id"),
            "item_id",
            pl.lit(0, pl.Int32).alias("position"),
            "clicked",
            pl.lit(_DAYS[0]).dt.cast_time_unit("us").alias("ts") + pl.duration(days="day"),
        )

    def _users(self, files: Files, period: Period, shown: pl.DataFrame) -> UserRows:
        """Features of the users that a period's impressions name."""
        wanted = shown["user_id"].unique().sort().to_numpy()
        found = UserRows(self.history)
        for path in files.users[period]:
            for rows in read(path, files.schema("users"), (USER, *FEATURES, HISTORY), _LISTS):
                found.add(rows, find(wanted, rows.numbers(USER))[1])
        if len(lost := np.setdiff1d(wanted, found.user)):
            path = files.samples[period][0]
            raise ValueError(
                f"{path}: column {USER!r}: {lost[0]} is the user of no row in {files.users[period][0].name}"
            )
        return found


def _products(files: Files, impressions: pl.DataFrame) -> pl.DataFrame:
    """The table of products: the targets, by id."""
    targets = impressions.group_by("item_id").agg(listed_at=pl.col("ts").min()).sort("item_id")
    wanted = targets["item_id"].to_numpy()
    columns = (ITEM, CATEGORY, *ATTRIBUTES)
    parts = []
    for path in files.items:
        for rows in read(path, files.schema("items"), columns):
            keep = find(wanted, rows.numbers(ITEM))[1]
            parts.append(pl.DataFrame({name: rows.numbers(name)[keep] for name in columns}).unique())
    described = pl.concat(parts).unique() if parts else pl.DataFrame(schema=dict.fromkeys(columns, pl.Int64))
    where = files.items[0]
    if described[ITEM].is_duplicated().any():
        item = described.filter(pl.col(ITEM).is_duplicated())[ITEM].sort()[0]
        raise ValueError(f"{where}: column {ITEM!r}: item {item} appears with different values of {columns[1:]}")
    joined = targets.join(described, left_on="item_id", right_on=ITEM, how="left", maintain_order="left")
    if joined[CATEGORY].null_count():
        item = joined.filter(pl.col(CATEGORY).is_null())["item_id"][0]
        raise ValueError(f"{where}: column {ITEM!r}: {item} of the samples is the item of no row")
    return joined.select(
        "item_id",
        pl.col("item_id").alias("spu_id"),
        pl.col(CATEGORY).cast(pl.String).alias("category"),
        "listed_at",
        *ATTRIBUTES,
    )


def _representations(files: Files, named: NDArray[np.int64]) -> Representations:
    """The published vectors of the named items (ascending), as int8; those without one are left out."""
    parts: list[tuple[NDArray[np.int64], NDArray[np.int8]]] = []
    dim = 0
    for rows in read(files.embedding, EMBEDDING, (ITEM, VECTOR)):
        bounds, values = rows.lists(VECTOR)
        dim = dim or int(bounds[1] - bounds[0])
        rows.refuse(np.diff(bounds) != dim, VECTOR, f"does not have {dim} values as the first row has")
        keep = find(named, rows.numbers(ITEM))[1]
        vectors = values[bounds[0] : bounds[-1]].reshape(-1, dim)
        parts.append((rows.numbers(ITEM)[keep], vectors[keep].astype(np.int8, copy=False)))
    ids = np.concatenate([np.empty(0, np.int64), *(part for part, _ in parts)])
    order = np.argsort(ids)
    if len(twice := np.flatnonzero(np.diff(ids[order]) == 0)):
        raise ValueError(f"{files.embedding}: column {ITEM!r}: {ids[order][twice[0]]} appears a second time")
    row = np.empty(len(ids), np.int64)
    row[order] = np.arange(len(ids))
    vectors = np.empty((len(ids), dim), np.int8)
    done = 0
    for part, of_part in parts:
        vectors[row[done : done + len(part)]] = of_part
        done += len(part)
    return Representations(ids[order], vectors)


def _no_image(table: str, name: str) -> bytes:
    raise ValueError(f"TAOBAO-MM has no images ({table}, {name})")
