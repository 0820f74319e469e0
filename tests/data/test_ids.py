"""Text ids: their numbers, and the way back."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlib.data.ids import IdMap, ShopIds, codes, read_part, write_part

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=30)


@given(TEXTS, TEXTS)
def test_numbers_ascend_with_the_bytes_of_the_texts_and_lead_back(texts: list[str], others: list[str]) -> None:
    ids = IdMap.of([pl.Series(texts, dtype=pl.String)])
    expected = sorted({*texts}, key=str.encode)
    assert ids.decode(np.arange(len(ids))).to_list() == expected
    numbers = {text: number for number, text in enumerate(expected)}
    asked = pl.Series([*texts, *others, None], dtype=pl.String)
    assert ids.encode(asked).to_list() == [numbers.get(text) for text in asked]


@given(TEXTS, TEXTS)
def test_a_later_part_changes_no_number(first: list[str], second: list[str]) -> None:
    old = IdMap.of([pl.Series(first, dtype=pl.String)])
    new = sorted({*second} - {*first})
    both = IdMap([*old.parts, *IdMap.of([pl.Series(new, dtype=pl.String)]).parts])
    texts = pl.Series([*first, *new], dtype=pl.String)
    assert both.encode(texts).head(len(first)).equals(old.encode(texts.head(len(first))))
    assert both.decode(both.encode(texts)).equals(texts)
    assert [both.text(number) for number in both.encode(texts)] == texts.to_list()
    assert len(both) == len({*first, *second})


def test_more_texts_than_are_looked_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moonlib.data.ids._AT_ONCE", 7)
    texts = pl.Series([f"id {number}" for number in range(50)])
    ids = IdMap.of([texts])
    assert ids.decode(ids.encode(texts)).equals(texts)


@pytest.mark.parametrize("number", [-1, 2, 2**63 - 1, -(2**63)])
def test_a_number_that_is_no_ids_is_refused(number: int) -> None:
    with pytest.raises(IndexError, match=f"no id has the number {number}"):
        IdMap.of([pl.Series(["a", "b"])]).decode(np.array([0, number]))


def test_a_mapped_part_is_what_was_written_and_pickles_as_the_name_of_its_file(tmp_path: Path) -> None:
    texts = pl.Series(["", "0012", "😀", "红"])
    write_part(tmp_path / "a.arrow", IdMap.of([texts]).parts[0])
    ids = IdMap.mapped([tmp_path / "a.arrow"])
    assert ids.decode(np.arange(4)).to_list() == sorted(texts, key=str.encode)
    pickled = pickle.dumps(ShopIds({"item": ids}))
    assert b"a.arrow" in pickled and "红".encode() not in pickled
    assert pickle.loads(pickled).value("item_id", 1) == "0012"


def test_a_part_of_something_else_is_refused(tmp_path: Path) -> None:
    def refused(table: pa.Table, message: str) -> None:
        with pa.ipc.new_file(tmp_path / "x.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
        with pytest.raises(ValueError, match=message):
            read_part(tmp_path / "x.arrow", check=True)

    refused(pa.table({"id": [1, 2]}), "not one array of texts")
    refused(pa.table({"id": pa.array(["a", None], pa.large_string())}), "not one array of texts")
    refused(pa.table({"id": pa.array(["a", "b", "c"], pa.large_string())}), "not one array of texts")
    refused(pa.table({"id": pa.array(["b", "a"], pa.large_string())}), "do not ascend")
    refused(pa.table({"id": pa.array(["a", "a"], pa.large_string())}), "do not ascend")


def test_int64_ids_and_other_columns_pass_as_they_are() -> None:
    ids = ShopIds({"item": IdMap.of([pl.Series(["A", "B"])])})
    frame = pl.DataFrame({"item_id": [1, 0], "user_id": [-(2**63), 2**63 - 1], "n": [1, 1]})
    decoded = ids.decoded(frame, *frame.columns)
    assert decoded.to_dict(as_series=False) == {"item_id": ["B", "A"], "user_id": [-(2**63), 2**63 - 1], "n": [1, 1]}
    assert ids.encoded(decoded, *frame.columns).equals(frame)
    assert [ids.value("item_id", 1), ids.value("item_id", 2), ids.value("user_id", 1)] == ["B", 2, 1]


def test_codes_keep_the_order_of_ids() -> None:
    assert codes(pl.Series(["b", "é", "a", "b"])).tolist() == [1, 2, 0, 1]
    assert codes(pl.Series([2**63 - 1, -(2**63)])).tolist() == [2**63 - 1, -(2**63)]
