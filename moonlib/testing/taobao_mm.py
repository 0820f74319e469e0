"""Writes any dataset with searches in the form that TAOBAO-MM is published in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from moonlib.data.dataset import Dataset
from moonlib.representations.store import Representations
from moonlib.sources.taobao_mm.files import (
    ATTRIBUTES,
    CATEGORY,
    EMBEDDING,
    FEATURES,
    HISTORY,
    ITEM,
    ITEMS,
    JOINED,
    LABEL,
    SAMPLES,
    USER,
    USERS,
    VECTOR,
)
from moonlib.sources.taobao_mm.sample import mixed
from moonlib.system.disk import replacing

LONGEST = 1000
"""Behaviours in a published history, at most."""

_USER_SALT, _ITEM_SALT = 11, 12
_CATEGORIES = "151_2_180"


def user_hash(user_id: NDArray[np.int64]) -> NDArray[np.int64]:
    """The id that `write_layout` gives each user: another over the whole of int64, no two the same."""
    return mixed(user_id, _USER_SALT).view(np.int64)


def item_hash(item_id: NDArray[np.int64]) -> NDArray[np.int64]:
    """The id that `write_layout` gives each item: another over the whole of int64, no two the same."""
    return mixed(item_id, _ITEM_SALT).view(np.int64)


def write_layout(
    dataset: Dataset,
    representations: Representations,
    directory: Path,
    layout: Literal["raw", "joined"],
    *,
    rows: int = 65_536,
) -> None:
    """Write a dataset's impressions, behaviours and product representations as TAOBAO-MM's files.

    Training impressions, those of the validation days among them, become the training period, test impressions the test
    period. A history has the latest 1000 items that a user acted on (one of several in one search counts once) before
    the first training day, and before the first test day. Users and items are renamed to hashes over all of int64. A
    category becomes a hash of its text, and so do merchant and region (213 and 214); of users the dataset says nothing,
    and ``130_1`` to ``130_5`` are 0. All of it has to fit in memory several times.

    Args:
        dataset: for instance a marketplace.
        representations: of its products; those it has none of are not in the file of vectors. Written as int8, so only
            their directions are kept.
        directory: where the files are written; made if missing.
        layout: see `moonlib.sources.taobao_mm.files.Files`.
        rows: in a shard of the joined layout, at most.

    Example: ``write_layout(dataset, Representations.open(run / "represent", "products"), Path("mm"), "raw")``
    """
    directory.mkdir(parents=True, exist_ok=True)
    items = _items(dataset)
    samples, users = {}, {}
    windows = {"train": ("train", "valid"), "test": ("test",)}
    for period, splits in windows.items():
        shown = pl.concat([dataset.splits.select(dataset.impressions, split) for split in splits])  # type: ignore[arg-type]
        moment = dataset.splits.behaviour_until if period == "train" else dataset.splits.valid_until
        click = pl.col("clicked").cast(pl.Int8)
        samples[period] = shown.select(
            pl.concat_list(1 - click, click).alias(LABEL),
            _renamed(shown["user_id"], user_hash, USER),
            _renamed(shown["item_id"], item_hash, ITEM),
        )
        users[period] = _users(dataset, shown["user_id"].unique().sort(), moment, items)
    small = representations.as_type("int8")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(small.vectors).reshape(-1)), small.dim)
    embedding = pa.table({ITEM: item_hash(small.ids), VECTOR: vectors.cast(EMBEDDING[VECTOR])})
    _write(directory / "scl_embedding_int8_p90.parquet", embedding, EMBEDDING)
    if layout == "raw":
        _write(directory / "item_features.parquet", items.to_arrow(), ITEMS)
        for period in windows:
            _write(directory / f"{period}_samples.parquet", samples[period].to_arrow(), SAMPLES)
            _write(directory / f"{period}_user_features.parquet", users[period].to_arrow(), USERS)
        return
    for period in windows:
        for number, part in enumerate(samples[period].iter_slices(rows)):
            joined = part.join(users[period], on=USER, how="left", maintain_order="left")
            joined = joined.join(items, on=ITEM, how="left", maintain_order="left").select(*JOINED)
            _write(directory / f"{period}-shard-{number:06d}.parquet", joined.to_arrow(), JOINED)


def _items(dataset: Dataset) -> pl.DataFrame:
    products = dataset.table("products", ("item_id", "category", "merchant_id", "region"))
    merchant = products["merchant_id"].cast(pl.String)
    attributes = zip(ATTRIBUTES, (merchant, products["region"]), strict=True)
    return pl.DataFrame(
        [
            _renamed(products["item_id"], item_hash, ITEM),
            _text_hash(products["category"]).alias(CATEGORY),
            *(_text_hash(texts).alias(name) for name, texts in attributes),
        ]
    )


def _users(dataset: Dataset, user_id: pl.Series, moment: datetime, items: pl.DataFrame) -> pl.DataFrame:
    """The user features as of a moment, one row per user."""
    behaviours = (
        dataset.searches.filter(pl.col("ts") < moment, pl.col("user_id").is_in(user_id.implode()))
        .group_by("user_id", "search_id", "item_id")
        .agg(pl.col("ts").min())
        .sort("user_id", "ts", "search_id", "item_id")
    )
    behaviours = behaviours.with_columns(_renamed(behaviours["item_id"], item_hash, ITEM))
    lists = (
        behaviours.join(items, on=ITEM, how="left", maintain_order="left")
        .group_by("user_id", maintain_order=True)
        .agg(pl.col(ITEM).tail(LONGEST).alias(HISTORY), pl.col(CATEGORY).tail(LONGEST).alias(_CATEGORIES))
    )
    return (
        user_id.to_frame()
        .join(lists, on="user_id", how="left", maintain_order="left")
        .select(
            _renamed(user_id, user_hash, USER),
            *(pl.lit(0, pl.Int64).alias(name) for name in FEATURES),
            pl.col(HISTORY, _CATEGORIES).fill_null([]),
        )
    )


def _renamed(ids: pl.Series, rename: object, name: str) -> pl.Series:
    return pl.Series(name, rename(ids.to_numpy()))  # type: ignore[operator]


def _text_hash(texts: pl.Series) -> pl.Series:
    """The first eight bytes of each text's SHA-256, as a signed integer; 0 where there is no text."""
    distinct = texts.unique().drop_nulls()
    digests = [hashlib.sha256(text.encode()).digest()[:8] for text in distinct]
    values = pl.Series([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=pl.Int64)
    return texts.replace_strict(distinct, values, default=0, return_dtype=pl.Int64)


def _write(path: Path, table: pa.Table, schema: Mapping[str, pa.DataType]) -> None:
    with replacing(path) as partial:
        parquet.write_table(table.select(list(schema)).cast(pa.schema(list(schema.items()))), partial)
