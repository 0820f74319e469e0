"""Small tables and pictures of any content end in a dataset or in one line that says what is wrong."""

from __future__ import annotations

import io
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from moonlib.cli.errors import is_users, message
from moonlib.data.build import build
from moonlib.data.check import check
from moonlib.data.content import Modalities
from moonlib.data.dataset import Dataset
from moonlib.data.images import UnreadableImage, decode_image
from moonlib.data.jpeg import to_jpeg
from moonlib.data.reader import SampleReader
from moonlib.embedding.tables import TableReader

MORSELS = [
    *("1", "2", "01", "-0", "9223372036854775808", "1.5", "nan", "inf", "", " ", "\\N", "NULL", "a", "红", "a/b"),
    *("true", "2025-01-01", "2025-01-01 10:00:00 UTC", "1738317600000", "0000-00-00", "9999-12-31T23:59:59-12:00"),
    *('"', '""', '24" x', '"a" b', '\\"', ",", "\n", "\r", "\r\n", "\0", "\x1b[2J", "\ufeff", "{}", '{"a": NaN}', "[1"),
    *("[0, 0, 1, 1]", "[]", "{" * 2000, "1" * 5000, "click", "order"),
]
COLUMNS = {
    "products": ["item_id", "spu_id", "category", "listed_at", "title", "attributes", "price", "box", "own", " price"],
    "queries": ["query_id", "text", "box", "own", "Text"],
    "searches": ["search_id", "user_id", "query_id", "item_id", "action", "ts", "own"],
    "impressions": ["search_id", "user_id", "query_id", "item_id", "position", "clicked", "ts", "bid"],
    "histories": ["user_id", "ts", "item_ids"],
}
GOOD = {
    "products": {"spu_id": "1", "category": "a", "listed_at": "2025-01-01"},
    "searches": {"search_id": "1", "user_id": "5", "query_id": "0", "item_id": "0", "action": "click"},
    "impressions": {"search_id": "2", "user_id": "5", "query_id": "0", "item_id": "0", "position": "0", "clicked": "1"},
    "histories": {"user_id": "5", "item_ids": "[1]"},
}
KEYS = {"products": "item_id", "queries": "query_id"}


@st.composite
def csv_of(draw: st.DrawFn, table: str) -> bytes:
    """Rows that are right but for a few cells, which may be written with or without the quotes that they need."""
    columns = draw(st.lists(st.sampled_from(COLUMNS[table]), min_size=1, unique=True))
    columns = draw(st.sampled_from([COLUMNS[table][:-1], COLUMNS[table], columns]))
    lines = [",".join(columns)]
    for row in range(draw(st.integers(0, 3))):
        good = {KEYS.get(table, ""): str(row), "ts": f"2025-01-0{row + 1}"} | GOOD.get(table, {})
        cells = [good.get(column, "") for column in columns]
        for _ in range(draw(st.integers(0, 2))):
            cell = draw(
                st.one_of(st.sampled_from(MORSELS), st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
            )
            if draw(st.booleans()):
                cell = '"' + cell.replace('"', '""') + '"'
            cells[draw(st.integers(0, len(cells) - 1))] = cell
        lines.append(",".join(cells))
    return draw(st.sampled_from(["\n", "\r\n"])).join(lines).encode()


def one_line(error: Exception) -> None:
    assert is_users(error), repr(error)
    assert message(error) and "\n" not in message(error), repr(error)


def strict(text: bytes | str) -> Any:
    def refused(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refused)


def built(tables: dict[str, bytes]) -> bool:
    """Build a dataset, look at it and embed its products; tell whether it could be built."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for table, data in tables.items():
            (folder / f"{table}.csv").write_bytes(data)
        arguments = (None, Modalities.parse("rich"), folder / "q.jsonl", folder / "copy.arrow")
        titles = None
        try:
            reader = TableReader(folder / "products.csv", "products", *arguments)
            titles = [sample.row["title"] for sample in reader.read(reader.ids)]
        except Exception as error:
            one_line(error)
        try:
            dataset = Dataset(build(folder, None, folder / "out"))
        except Exception as error:
            one_line(error)
            return False
        assert dataset.products["title"].to_list() == titles, "build and embed read different titles"
        samples = SampleReader(dataset.directory, "products").read(dataset.products["item_id"].to_numpy())
        assert [sample.row["title"] for sample in samples] == titles
        strict((dataset.directory / "dataset.json").read_text())
        assert not [problem for problem in check(dataset.directory).problems if "split" not in problem]
    return True


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({"products": csv_of("products")}))
def test_any_products(tables: dict[str, bytes]) -> None:
    built(tables)


@settings(max_examples=50, deadline=None)
@given(st.data(), st.sampled_from([table for table in COLUMNS if table != "products"]))
def test_any_other_table(data: st.DataObject, table: str) -> None:
    products = b"item_id,spu_id,category,listed_at\n0,1,a,2025-01-01\n"
    built({"products": products, "queries": b"query_id,text\n0,a\n", table: data.draw(csv_of(table))})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=8), st.sampled_from([m.encode() for m in MORSELS])), max_size=12))
def test_any_bytes(pieces: list[bytes]) -> None:
    built({"products": b"".join(pieces)})
    built({"products": b"item_id,spu_id,category,listed_at,title\n0,1,a,2025-01-01," + b"".join(pieces)})


def test_the_fuzz_reaches_datasets() -> None:
    assert built({"products": b'item_id,spu_id,category,listed_at,title\n0,1,a,2025-01-01,24" x\n'})


def _pictures() -> list[bytes]:
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    found = []
    for mode, format in itertools.product(
        ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"), ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")
    ):
        if mode == "I;16":
            image = Image.fromarray(grey)
        else:
            image = Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB" if mode in ("CMYK", "RGBA") else "L")
            image = image.convert(mode)
        out = io.BytesIO()
        try:
            image.save(out, format)
        except (OSError, ValueError, KeyError):
            continue
        found.append(out.getvalue())
    return found


PICTURES = _pictures()


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(PICTURES),
    st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=6)), max_size=3),
    st.none() | st.integers(0, 2000),
)
def test_any_picture(picture: bytes, changes: list[tuple[int, bytes]], end: int | None) -> None:
    data = bytearray(picture)
    for place, new in changes:
        place %= len(data)
        data[place : place + len(new)] = new
    torn = bytes(data[:end])
    try:
        stored = to_jpeg(torn, 12)
    except ValueError as error:
        assert is_users(error) and "\n" not in str(error)
    else:
        assert decode_image(stored).shape[0] == 3
    try:
        assert decode_image(torn, size=8).shape == (3, 8, 8)
    except UnreadableImage as error:
        assert "\n" not in str(error)
