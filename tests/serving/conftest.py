"""A center of forty products whose pictures are plain colours, and a small encoder with random weights."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from moonlib.center.aliases import Alias, Target, read_aliases, write_aliases
from moonlib.center.canary import append_canary
from moonlib.center.layout import SPACES
from moonlib.center.record import Record, make_record
from moonlib.center.rows import Rows
from moonlib.center.space import Space, space_name
from moonlib.center.writing import make_center
from moonlib.data.content import Content
from moonlib.encoders.convnet import ConvNet
from moonlib.encoders.dual import DualEncoder
from moonlib.encoders.encoder import Encoder
from moonlib.encoders.transformer import Transformer
from moonlib.fusion.sum import Sum
from moonlib.inference.upserting import Upserted
from moonlib.serving.app import create_app
from moonlib.serving.service import Service
from moonlib.serving.settings import ServeSettings

TOKEN = "a-token"
COLUMNS = {"title": "text", "price": "float", "in_stock": "boolean"}
PRODUCTS = 40


def picture(
    number: int, format: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (48, 64), **save: Any
) -> bytes:
    """The picture of a product: a colour of its own, darker towards the bottom."""
    colour = np.array([(37 * number) % 256, (91 * number) % 256, (151 * number) % 256])
    shade = np.linspace(1, 0.2, size[1])[:, None, None]
    pixels = np.broadcast_to(colour * shade, (size[1], size[0], 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format, **save)
    return file.getvalue()


def title(number: int) -> str:
    return f"mug number {number}"


class StandInWriter:
    """Writes rows to the record as `moonlib.Center` does, as far as the server can tell."""

    def __init__(self, center: Path, encoder: Encoder) -> None:
        self.center, self.encoder = center, encoder

    def upsert(self, products: Any) -> Upserted:
        for number, row in enumerate(products):
            if not isinstance(row.get("item_id"), int):
                raise ValueError(f"row {number}: item_id: expected an integer")
        encoded = append(self.center, self.encoder, products)
        return Upserted(len(products), sequence=encoded)

    def delete(self, ids: Any) -> Upserted:
        record = open_record(self.center, write=True)
        columns = pl.DataFrame(schema={"title": pl.String, "price": pl.Float64, "in_stock": pl.Boolean})
        gone = Rows.tombstones(pl.Series(ids, dtype=pl.Int64), 16, "float32", columns, 1)
        record.append(gone)
        return Upserted(deleted=len(ids), sequence=record.sequence)

    def send_canary(self) -> int:
        return append_canary(open_record(self.center, write=True), 1)


def open_record(center: Path, alias: str = "live", write: bool = False) -> Record:
    return Record(Space.open(center / SPACES / read_aliases(center)[alias].now.space), write=write)


def append(center: Path, encoder: Encoder, products: Any, alias: str = "live") -> int:
    contents = [Content(row.get("image"), row.get("title")) for row in products]
    with torch.inference_mode():
        vectors = encoder(encoder.preprocessor(contents, "product")).float().numpy()
    n = len(products)
    rows = Rows(
        pl.Series([row["item_id"] for row in products], dtype=pl.Int64),
        vectors,
        np.zeros((n, 16), np.uint8),
        np.ones(n, np.int64),
        np.zeros(n, bool),
        pl.DataFrame(
            {
                "title": pl.Series([row.get("title") for row in products], dtype=pl.String),
                "price": pl.Series([row.get("price") for row in products], dtype=pl.Float64),
                "in_stock": pl.Series([row.get("in_stock") for row in products], dtype=pl.Boolean),
            }
        ),
        pl.Series([row.get("image") for row in products], dtype=pl.Binary),
    )
    record = open_record(center, alias, write=True)
    record.append(rows)
    return record.sequence


def make_space(center: Path, encoder: Encoder, fingerprint: str, alias: str) -> None:
    """A space with the forty products, and an alias that leads to it."""
    directory = center / SPACES / space_name(fingerprint, 16, "float32")
    directory.mkdir(parents=True)
    Space(directory, fingerprint, 16, "float32", dict(COLUMNS), {"product": "title+image"}, "int64").save()  # type: ignore[arg-type]
    make_record(directory / "record")
    write_aliases(center, {**read_aliases(center), alias: Alias(Target(directory.name, 0))})
    rows = [
        {"item_id": n, "title": title(n), "price": float(n), "in_stock": n % 2 == 0, "image": picture(n)}
        for n in range(PRODUCTS)
    ]
    append(center, encoder, rows, alias)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """A small dual encoder with random weights."""
    torch.manual_seed(3)
    made = DualEncoder(Sum(), ConvNet(32, 8), Transformer(vocab_size=300, width=16, depth=1), dim=16)
    products = pl.DataFrame({"title": [title(n) for n in range(PRODUCTS)]})
    products = products.with_columns(
        category=pl.lit("Mugs"),
        attributes=pl.lit(None, dtype=pl.List(pl.Struct({"key": pl.String, "value": pl.String}))),
    )
    made.setup(products, tmp_path_factory.mktemp("preprocessing"))
    return made.eval()


def make_center_of(folder: Path, encoder: Encoder) -> Path:
    """A center with one space, to which the alias live leads."""
    make_center(folder)
    make_space(folder, encoder, "a" * 16, "live")
    return folder


@pytest.fixture(scope="session")
def made_center(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Path:
    """A center to copy."""
    return make_center_of(tmp_path_factory.mktemp("made") / "center", encoder)


@pytest.fixture
def center(tmp_path: Path, made_center: Path) -> Path:
    """A center that a test may write to."""
    return Path(shutil.copytree(made_center, tmp_path / "center"))


@pytest.fixture
def settings() -> ServeSettings:
    """Generous with time, as a busy machine needs it."""
    return ServeSettings(timeout_ms=20_000, k=20, max_bytes=1_000_000, max_pixels=1_000_000, max_text=200)


@pytest.fixture
def service(center: Path, encoder: Encoder, settings: ServeSettings) -> Service:
    return Service(center, settings=settings, open_encoder=lambda _: encoder, writer=StandInWriter(center, encoder))


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(create_app(service, TOKEN), raise_server_exceptions=False) as client:
        yield client
