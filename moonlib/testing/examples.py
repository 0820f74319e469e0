"""Small inputs that the checks run on; good for a plugin's own tests too."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from moonlib.adapters.adapter import BehaviourBatch
from moonlib.data.content import Content
from moonlib.data.dataset import Dataset
from moonlib.data.shards import build_once, write_dataset
from moonlib.data.splits import Splits
from moonlib.data.tables import SCHEMAS, Tables, validate
from moonlib.representations.store import Representations


def example_products() -> pl.DataFrame:
    """Return twelve rows of the products table, in English and Chinese, some without title or attributes."""
    colours, kinds = ["red 红色", "blue 蓝色", "green 绿色"], ["mug 马克杯", "t-shirt T恤", "lamp 台灯", "bag 手提包"]
    titles = [f"{colour} {kind}" for colour in colours for kind in kinds]
    rows = [
        {
            "item_id": 100 + i,
            "spu_id": i,
            "title": title if i > 0 else None,
            "category": f"goods/{title.split()[2]}",
            "attributes": [("colour", title.split()[0]), ("material", "棉 cotton")] if i < 11 else None,
            "listed_at": datetime(2024, 1, 1, tzinfo=UTC),
        }
        for i, title in enumerate(titles)
    ]
    products = pl.from_arrow(pa.Table.from_pylist(rows, schema=SCHEMAS["products"]))
    assert isinstance(products, pl.DataFrame)
    return products


def example_contents() -> list[Content]:
    """Return contents with every combination of image and text, missing ones included."""
    return [
        Content(example_jpeg(0), "red cotton t-shirt"),
        Content(example_jpeg(1), None),
        Content(None, "蓝色 马克杯 blue mug with a longer title"),
        Content(None, None),
        Content(example_jpeg(2, width=50, height=90), "lamp", box=(0.1, 0.2, 0.8, 0.9)),
    ]


def example_jpeg(seed: int, width: int = 80, height: int = 80) -> bytes:
    """Return a JPEG of coarse noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(buffer, "JPEG")
    return buffer.getvalue()


def example_behaviours(id_dim: int, dim: int) -> BehaviourBatch:
    """Return eight random rows; among them one without any history, and one with no representation at all."""
    rng = torch.Generator().manual_seed(0)
    item_mask, known, query_mask, kept = (torch.rand(8, 4, generator=rng) < 0.7 for _ in range(4))
    target_known, has_query = (torch.rand(8, generator=rng) < 0.7 for _ in range(2))
    item_mask[0] = query_mask[0] = False
    target_known[0] = has_query[0] = True
    known[1] = kept[1] = target_known[1] = has_query[1] = False
    item_known, query_known = item_mask & known, query_mask & kept

    def represented(mask: Tensor) -> Tensor:
        return torch.randn(*mask.shape, dim, generator=rng) * mask.unsqueeze(-1)

    return BehaviourBatch(
        target_id=torch.randn(8, id_dim, generator=rng),
        target=represented(target_known),
        target_known=target_known,
        item_ids=torch.randn(8, 4, id_dim, generator=rng),
        item_mask=item_mask,
        items=represented(item_known),
        item_known=item_known,
        queries=represented(query_known),
        query_known=query_known,
        query=represented(has_query),
        has_query=has_query,
        query_id=torch.randn(8, id_dim, generator=rng),
        query_ids=torch.randn(8, 4, id_dim, generator=rng),
        query_mask=query_mask,
    )


def without_queries(batch: BehaviourBatch) -> BehaviourBatch:
    """Return the batch as if none of its rows had a query: impressions of a feed; past queries stay."""
    nothing = {name: torch.zeros_like(getattr(batch, name)) for name in ("query", "query_id", "has_query")}
    return replace(batch, **nothing)


START = datetime(2024, 1, 1, tzinfo=UTC)

EXAMPLE_COLOURS = np.array(
    [
        (220, 40, 40),
        (40, 60, 220),
        (40, 160, 60),
        (20, 20, 20),
        (245, 245, 245),
        (230, 210, 40),
        (240, 150, 180),
        (130,) * 3,
    ],
    dtype=np.uint8,
)

EXAMPLE_SPLITS = Splits(*(START + timedelta(days=days) for days in (5, 7, 8, 10)))
"""Of `example_tables`: five days of behaviour, two of training, one of validation, two of test."""


def example_tables() -> Tables:
    """Return a shop of 96 products and ten days, with all that may be missing, and ids at both ends of int64."""
    rng = np.random.default_rng(0)
    colours = [
        "red 红色",
        "blue 蓝色",
        "green 绿色",
        "black 黑色",
        "white 白色",
        "yellow 黄色",
        "pink 粉色",
        "grey 灰色",
    ]
    kinds = ["mug 马克杯", "t-shirt T恤", "lamp 台灯", "bag 手提包", "shoe 鞋", "bowl 碗"]
    n, users = 96, 12
    colour, kind = np.arange(n) // 2 % 8, np.arange(n) // 16
    item_id = np.arange(1000, 1000 + n)
    item_id[0], item_id[-1] = -(2**63), 2**63 - 1
    days = np.where(np.arange(n) % 12 == 11, 7.5, 0.0)  # a twelfth is new on the test days
    products = pl.DataFrame(
        {
            "item_id": item_id,
            "spu_id": np.arange(n) // 2,
            "title": [None if i % 16 == 5 else f"{colours[colour[i]]} {kinds[kind[i]]}" for i in range(n)],
            "category": [f"goods/{kinds[k].split()[0]}" for k in kind],
            "attributes": pl.Series(
                [{"colour": colours[c].split()[0]} if i % 7 else None for i, c in enumerate(colour)],
                dtype=pl.Map(pl.String, pl.String),
            ),
            "price": [None if i % 10 == 3 else float(5 + i) for i in range(n)],
            "merchant_id": np.arange(n) % 5,
            "listed_at": [START + timedelta(days=float(day)) for day in days],
            "image": [None if i % 16 in (5, 6) else f"{colour[i]}-{kind[i]}-{i}" for i in range(n)],
        }
    )
    old = np.flatnonzero(days == 0)
    # Every photo is searched for once, so that none stands in two splits.
    photos, texts = 80, 20
    wanted = rng.choice(old, photos + texts)
    queries = pl.DataFrame(
        {
            "query_id": np.arange(photos + texts),
            "text": [None if i < photos else f"{colours[colour[w]]} {kinds[kind[w]]}" for i, w in enumerate(wanted)],
            "image": [f"{colour[w]}-{kind[w]}-{200 + i}" if i < photos else None for i, w in enumerate(wanted)],
        }
    )
    order = np.r_[rng.permutation(photos), photos + rng.integers(0, texts, 80)]
    moments = np.r_[np.linspace(0.1, 9.9, photos), np.linspace(0.2, 9.8, 80)]
    actions = np.array(["click", "cart", "order", "order"])
    searches = pl.DataFrame(
        {
            "search_id": np.arange(160),
            "user_id": rng.integers(0, users, 160),
            "query_id": order,
            "item_id": item_id[wanted[order]],
            "action": actions[np.arange(160) % 4],
            "ts": [START + timedelta(days=float(moment)) for moment in moments],
        }
    )
    shown = 480
    page_user, page_query = rng.integers(0, users, shown // 4), rng.integers(0, texts, shown // 4)
    row = rng.choice(old, shown)
    asked = np.repeat(wanted[photos + page_query], 4)
    # A page in two is judged: 1 for the kind that was asked for, 2 for the colour.
    grade = (kind[row] == kind[asked]) + 2.0 * (colour[row] == colour[asked])
    impressions = pl.DataFrame(
        {
            "search_id": 1000 + np.arange(shown) // 4,
            "user_id": np.repeat(page_user, 4),
            "query_id": np.repeat(photos + page_query, 4),
            "item_id": item_id[row],
            "position": np.arange(shown, dtype=np.int32) % 4,
            "clicked": rng.random(shown) < 0.3,
            "ts": [START + timedelta(days=0.15 + 9.7 * (i // 4 * 4) / shown) for i in range(shown)],
            "relevance": [float(grade[i]) if i // 4 % 2 else None for i in range(shown)],
        }
    )
    return validate(Tables(products, queries, pl.DataFrame({"user_id": np.arange(users)}), searches, impressions))


def example_picture(table: str, name: str) -> bytes:
    """Draw the picture that a row of `example_tables` names: a shape for its kind, in its colour, on a noisy ground."""
    colour, kind, seed = map(int, name.split("-"))
    rng = np.random.default_rng(seed)
    rgb = EXAMPLE_COLOURS[colour]
    pixels = rng.integers(150, 256, (32, 32, 3), dtype=np.uint8)
    top, left = rng.integers(2, 8, 2)
    pixels[top : top + 6 + 3 * kind, left : left + 21 - 3 * kind] = rgb
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def example_dataset(directory: Path) -> Dataset:
    """Write `example_tables` with their pictures as a dataset, which takes a fraction of a second.

    Args:
        directory: must not exist, or hold this dataset already.
    """

    def build(draft: Path) -> None:
        write_dataset(draft, example_tables(), example_picture, EXAMPLE_SPLITS, name="example", version="1", workers=1)

    return Dataset(build_once(directory, build))


def example_representations(
    item_ids: pl.Series, query_ids: pl.Series
) -> dict[str, tuple[Representations, Representations]]:
    """Representations of products and queries, width 8: ``random`` ones (some rows zero), and ``zero`` alone."""
    rng = np.random.default_rng(0)

    def draw(ids: pl.Series, scale: float) -> Representations:
        vectors = scale * rng.standard_normal((len(ids), 8), dtype=np.float32)
        vectors[::9] = 0
        return Representations(ids.to_numpy(), vectors)

    return {name: (draw(item_ids, scale), draw(query_ids, scale)) for name, scale in (("random", 3.0), ("zero", 0.0))}
