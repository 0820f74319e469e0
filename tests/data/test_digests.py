"""Digests of columns: equal for equal content however it is held, and different for any other."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from moonlib.data import digests as module
from moonlib.data.content import Modalities
from moonlib.data.dataset import Dataset
from moonlib.data.digests import digest, digests
from moonlib.data.ids import IdMap
from moonlib.data.reads import EVERYTHING, Reads
from moonlib.testing.data import in_older_format
from moonlib.testing.examples import example_dataset

TS = datetime(2024, 5, 1, 12, 30, tzinfo=UTC)
VALUES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "int64": (pa.int64(), [1, None, -(2**63), 2**63 - 1, 0]),
    "int8": (pa.int8(), [1, None, -128, 127, 0]),
    "uint16": (pa.uint16(), [1, None, 65535, 0]),
    "float64": (pa.float64(), [1.5, None, float("nan"), float("-inf"), -0.0]),
    "float32": (pa.float32(), [1.5, None, 0.25]),
    "bool": (pa.bool_(), [True, None, False, False, True, True, False, True, False, True]),
    "string": (pa.string(), ["red 红色", None, "", "red", "mug"]),
    "binary": (pa.binary(), [b"\x00\xff", None, b"", b"a"]),
    "fixed": (pa.binary(4), [b"abcd", None, b"\x00\x00\x00\x00"]),
    "timestamp": (pa.timestamp("us", "UTC"), [TS, None, datetime(1970, 1, 1, tzinfo=UTC)]),
    "date": (pa.date32(), [date(2024, 1, 1), None, date(1970, 1, 1)]),
    "decimal": (pa.decimal128(9, 2), [Decimal("1.50"), None, Decimal("-3.25")]),
    "null": (pa.null(), [None, None, None]),
    "list": (pa.list_(pa.int64()), [[1, None], None, [], [2, 3, 4]]),
    "texts": (pa.list_(pa.string()), [["a", "b"], None, [], ["", None]]),
    "box": (pa.list_(pa.float32(), 2), [[0.0, 1.0], None, [0.5, None]]),
    "lists of lists": (pa.list_(pa.list_(pa.string())), [[["a"], []], None, [None, ["b", "c"]]]),
    "struct": (pa.struct([("a", pa.int64()), ("b", pa.string())]), [{"a": 1, "b": None}, None, {"a": None, "b": "x"}]),
    "map": (pa.map_(pa.string(), pa.string()), [[("k", "v"), ("l", None)], None, [], [("k", "w")]]),
    "structs": (pa.list_(pa.struct([("a", pa.bool_())])), [[{"a": True}, None], None, []]),
}


@pytest.mark.parametrize("name", VALUES)
def test_content_is_digested_however_it_is_cut_or_sliced(name: str) -> None:
    kind, values = VALUES[name]
    whole = pa.array(values, kind)
    expected = digest(whole)
    assert len(expected) == 32
    for cut in range(len(values) + 1):
        assert digest(pa.chunked_array([whole.slice(0, cut), whole.slice(cut)], kind)) == expected
    around = pa.array([values[-1], values[0], *values, values[0]], kind)
    assert digest(around.slice(2, len(values))) == expected
    assert digest(pa.chunked_array([pa.array([each], kind) for each in values], kind)) == expected
    assert digest(pa.chunked_array([], kind)) == digest(whole.slice(0, 0)) != expected


@pytest.mark.parametrize("name", [name for name in VALUES if name != "null"])
def test_every_value_every_null_and_their_order_count(name: str) -> None:
    kind, values = VALUES[name]
    found = {digest(pa.array(values, kind)), digest(pa.array(values[::-1], kind)), digest(pa.array(values[:-1], kind))}
    assert len(found) == 3
    for row in range(len(values)):
        for other in (None, values[0], values[-1]):
            changed = [*values[:row], other, *values[row + 1 :]]
            same = repr(changed) == repr(values)  # NaN is itself
            assert (digest(pa.array(changed, kind)) == digest(pa.array(values, kind))) == same


def test_types_that_hold_the_same_values_are_one_and_others_are_not() -> None:
    words = ["a", None, "bb", "a"]
    expected = digest(pa.array(words))
    for held in (
        pa.array(words, pa.large_string()),
        pa.array(words).dictionary_encode(),
        pa.array(words, pa.string_view()),
    ):
        assert digest(held) == expected
    assert digest(pl.Series(words, dtype=pl.Categorical).to_arrow()) == expected
    assert digest(pa.array([b"a", None, b"bb", b"a"])) != expected
    lists = [[1, 2], None, []]
    assert digest(pa.array(lists, pa.large_list(pa.int64()))) == digest(pa.array(lists, pa.list_(pa.int64())))
    kinds = [
        pa.int64(),
        pa.int32(),
        pa.uint64(),
        pa.float64(),
        pa.timestamp("us"),
        pa.timestamp("us", "UTC"),
        pa.timestamp("ms"),
    ]
    assert len({digest(pa.array([1, 2], kind)) for kind in kinds}) == len(kinds)


def test_where_one_value_ends_and_the_next_begins_counts() -> None:
    assert digest(pa.array(["ab", "c"])) != digest(pa.array(["a", "bc"]))
    assert digest(pa.array([[1, 2], [3]])) != digest(pa.array([[1], [2, 3]]))
    assert digest(pa.array([None, ""])) != digest(pa.array(["", None]))


def test_what_lies_under_a_null_does_not_count() -> None:
    mask = np.array([False, True, False])
    numbers = [pa.array(np.array([1, under, 3]), mask=mask) for under in (2, 99)]
    assert digest(numbers[0]) == digest(numbers[1]) == digest(pa.array([1, None, 3]))
    validity = pa.py_buffer(bytes([0b101]))
    offsets = pa.py_buffer(np.array([0, 1, 3, 4], np.int32))
    texts = [
        pa.Array.from_buffers(pa.string(), 3, [validity, offsets, pa.py_buffer(data)]) for data in (b"aXXb", b"aYYb")
    ]
    assert digest(texts[0]) == digest(texts[1]) == digest(pa.array(["a", None, "b"]))
    lists = [
        pa.ListArray.from_arrays(
            pa.array([0, 1, 3, 4], pa.int32()), pa.array([1, under, under, 4]), mask=pa.array(mask)
        )
        for under in (7, 8)
    ]
    assert digest(lists[0]) == digest(lists[1]) == digest(pa.array([[1], None, [4]]))
    structs = [pa.StructArray.from_arrays([pa.array([1, under, 3])], ["a"], mask=pa.array(mask)) for under in (7, 8)]
    assert digest(structs[0]) == digest(structs[1]) == digest(pa.array([{"a": 1}, None, {"a": 3}]))


def test_a_column_larger_than_what_is_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    column = pa.array([None if i % 7 == 0 else f"text {i}" for i in range(1000)])
    expected = digest(column)
    monkeypatch.setattr(module, "_AT_ONCE", 64)
    assert digest(column) == expected


def test_ids_that_are_text_count_as_numbers_and_as_texts() -> None:
    column, lists = pa.array([0, None, 1]), pa.array([[1, 0], None])
    one, other = (IdMap.of([pl.Series(texts)]) for texts in (["A1", "B7"], ["A1", "B8"]))
    for each in (column, lists):
        assert digest(each, one) == digest(each, IdMap.of([pl.Series(["A1", "B7"])]))
        assert len({digest(each), digest(each, one), digest(each, other)}) == 3
    # Ids that come later, and that the column does not have, change nothing.
    grown = IdMap([*one.parts, *IdMap.of([pl.Series(["007"])]).parts])
    assert digest(column, grown) == digest(column, one)
    assert digest(pa.array([1, None, 0]), one) != digest(column, one)


def test_parts_are_told_one_by_one(tmp_path: Path) -> None:
    dataset = example_dataset(tmp_path / "shop")
    reads = Reads.of(products=["title", "absent"], searches=["item_id"], moments=["train_until"])
    found = digests(dataset, reads)
    assert list(found) == [
        *("products.item_id", "products.title", "searches.item_id", "searches.search_id", "searches.ts"),
        "splits.train_until",
    ]
    assert found["products.title"] == digest(dataset.arrow("products").column("title"))
    assert digests(dataset, EVERYTHING) == {"dataset": dataset.hash}
    (dataset.directory / "truth").mkdir()
    (dataset.directory / "truth" / "products.arrow").write_bytes(b"latents")
    before = digests(dataset, EVERYTHING)
    (dataset.directory / "truth" / "products.arrow").write_bytes(b"other latents")  # which are no part of the hash
    assert digests(dataset, EVERYTHING)["truth"] != before["truth"]
    assert digests(dataset, EVERYTHING)["dataset"] == before["dataset"] == dataset.hash
    assert digests(dataset, Reads()) == {}
    known = digests(dataset, reads.before("train_until"))
    assert known["products.title"] != found["products.title"]  # a twelfth is listed later


def test_a_dataset_without_digests_of_pictures_has_its_checksums_in_their_place(tmp_path: Path) -> None:
    dataset = example_dataset(tmp_path / "shop")
    reads = Reads.content("products", [])
    assert "products pictures" not in digests(dataset, reads)
    pictured = Reads.content("products", [Modalities.parse("image")])
    now = digests(dataset, pictured)["products pictures"]
    column = dataset.image_digests("products")
    assert column is not None and now == digest(column)
    assert digests(dataset, pictured.before("train_until"))["products pictures"] != now
    older = Dataset(in_older_format(example_dataset(tmp_path / "older").directory))
    assert older.image_digests("products") is None
    checksums = digests(older, pictured)["products pictures"]
    assert checksums not in (now, older.hash[:32])
    assert digests(older, pictured.before("train_until"))["products pictures"] != checksums
