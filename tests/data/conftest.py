"""A shop small enough to know by heart: its tables and pictures."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from moonlib.data.splits import Splits
from moonlib.data.tables import Tables, validate

LOWEST, HIGHEST = -(2**63), 2**63 - 1


def _day(day: int, hour: int = 12) -> datetime:
    return datetime(2025, 1, day, hour, tzinfo=UTC)


@pytest.fixture
def splits() -> Splits:
    """Six days of behaviour, then two of training, one of validation, one of test."""
    return Splits(_day(7, 0), _day(9, 0), _day(10, 0), _day(11, 0))


@pytest.fixture
def shop() -> Tables:
    """Four products (one without image), three queries (one a text), with ids at both ends of int64."""
    products = pl.DataFrame(
        {
            "item_id": [LOWEST, HIGHEST, 16777217, 0],
            "spu_id": [1, 1, 2, 3],
            "title": ["red lamp", "红色 台灯", None, "blue bowl"],
            "category": ["home/light/lamp", "home/light/lamp", "home/light/lamp", "home/bowl"],
            "attributes": pl.Series([{"colour": "red"}, {}, None, {"材质": "瓷"}], dtype=pl.Map(pl.String, pl.String)),
            "price": [9.99, float("nan"), None, 3.0],
            "listed_at": [_day(1)] * 3 + [_day(9, 1)],
            "image": ["a.jpg", "b.png", "c.jpg", None],
            "box": [[0.0, 0.0, 0.5, 1.0], None, None, None],
            "shelf": ["x", "y", "y", "x"],
        }
    )
    queries = pl.DataFrame(
        {"query_id": [10, 20, 30], "text": [None, "bowl", "lamp"], "image": ["q.jpg", None, "r.jpg"]}
    )
    users = pl.DataFrame({"user_id": [5, 6]})
    searches = pl.DataFrame(
        {
            "search_id": [100, 101, 102],
            "user_id": [5, 6, 5],
            "query_id": [10, 20, 30],
            "item_id": [LOWEST, 0, 16777217],
            "action": ["order", "click", "order"],
            "ts": [_day(2), _day(9), _day(10)],
        }
    )
    impressions = pl.DataFrame(
        {
            "search_id": [200, 200, 201, 202],
            "user_id": [5, 5, 6, 6],
            "query_id": [20, 20, 20, 20],
            "item_id": [LOWEST, 16777217, HIGHEST, 0],
            "position": [0, 1, 0, 0],
            "clicked": [True, False, False, True],
            "ts": [_day(8), _day(8), _day(9), _day(10)],
        }
    )
    return validate(Tables(products, queries, users, searches, impressions))


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """Encode noise as a picture: ``encode(seed, format="JPEG", size=(40, 30), mode="RGB")``."""

    def picture(seed: int, format: str = "JPEG", size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(out, format)
        return out.getvalue()

    return picture


@pytest.fixture
def image_folder(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    """The pictures that `shop` names."""
    folder = tmp_path / "images"
    folder.mkdir()
    for seed, name in enumerate(("a.jpg", "b.png", "c.jpg", "q.jpg", "r.jpg")):
        (folder / name).write_bytes(encode(seed, "PNG" if name.endswith("png") else "JPEG"))
    return folder


@pytest.fixture
def bomb() -> Callable[[int, int], bytes]:
    """Make a PNG of a few bytes whose header promises ``width`` x ``height`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def picture(width: int, height: int) -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")

    return picture
