"""Files that are not what their names say end in one sentence; whatever is in them."""

from __future__ import annotations

import io
import json
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.artifacts.checksums import Damaged, seal
from moonlib.artifacts.costs import read_costs
from moonlib.artifacts.reading import (
    Unreadable,
    ValueType,
    is_number,
    read_array,
    read_json,
    read_mapping,
    read_numbers,
    read_table,
    reading,
)
from moonlib.cli.errors import is_users, message

COLUMNS: dict[str, ValueType] = {"item_id": "integers", "probability": "floats", "clicked": "booleans", "task": "texts"}


def npy(array: Any, **kwargs: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **kwargs)
    return file.getvalue()


def parquet(table: pl.DataFrame) -> bytes:
    file = io.BytesIO()
    table.write_parquet(file)
    return file.getvalue()


def header(words: str, data: bytes = b"\0" * 16) -> bytes:
    text = words.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", data)
    return file.getvalue()


TABLE = pl.DataFrame({"item_id": [7, 8], "probability": [0.25, 0.5], "clicked": [True, False], "task": ["a", "b"]})
ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)
RECORDS = np.zeros(3, dtype=[("a", "<i8"), ("b", "<f4")])

READERS: dict[str, Callable[[Path], object]] = {
    ".npy": read_array,
    ".parquet": lambda file: read_table(file, COLUMNS),
    ".json": lambda file: (read_json(file), read_mapping(file)),
    "numbers": read_numbers,
    "costs": read_costs,
}
SEEDS = [
    b"",
    npy(ARRAY),
    npy(ARRAY.astype(np.float16)),
    npy(np.arange(3)),
    npy(np.zeros((0, 4), np.float32)),
    npy(RECORDS),
    npy(np.array([{}, None], dtype=object), allow_pickle=True),
    pickle.dumps({"a": ARRAY}),
    zipped(npy(ARRAY)),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999, 4), }\n"),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9223372036854775807), }\n"),
    header("{'descr': '<f4', 'fortran_order': True, 'shape': (-2, -2), }\n"),
    header("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (2,), }\n"),
    header("(" * 3000),
    parquet(TABLE),
    parquet(TABLE.cast({"probability": pl.String})),
    parquet(TABLE.clear()),
    parquet(pl.DataFrame({"item_id": [[1], [2]]})),
    json.dumps({"ctr/auc": 0.7, "stage": {"seconds": 1.5, "reused": True, "first_run": {"seconds": 2}}}).encode(),
    b'{"a": NaN, "b": 1' + b"0" * 400 + b"}",
    b'{"a": {"seconds": "long"}}',
    b'{"a": {"seconds": 1, "first_run": []}}',
    b"[" * 100_000,
    b'"\\ud800"',
    b"\xff\xfe{}",
    b"[]",
]


@st.composite
def content(draw: st.DrawFn) -> bytes:
    """A file as it was written, cut off, with some bytes changed or taken out, or of random bytes."""
    data = bytearray(draw(st.one_of(st.sampled_from(SEEDS), st.sampled_from(SEEDS), st.binary(max_size=64))))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["change", "flip", "cut", "take out", "add"]))
        if kind == "flip" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[place:]
        elif kind == "take out":
            del data[place : place + draw(st.integers(1, 8))]
        else:
            new = draw(st.binary(min_size=1, max_size=6))
            data[place : place + (len(new) if kind == "change" else 0)] = new
    return bytes(data)


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(sorted(READERS)), content())
def test_any_content_is_read_or_ends_in_one_sentence(kind: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"x{kind}")
        file.write_bytes(data)
        try:
            READERS[kind](file)
        except Exception as error:
            assert isinstance(error, Unreadable) and is_users(error), repr(error)
            assert str(file) in str(error) and "again" in str(error)
            assert message(error) == str(error) and "\n" not in str(error)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    for name, data in (("a.npy", npy(ARRAY)), ("t.parquet", parquet(TABLE)), ("m.json", b'{"ctr/auc": 0.7, "n": NaN}')):
        (tmp_path / name).write_bytes(data)
    assert np.array_equal(read_array(tmp_path / "a.npy"), ARRAY)
    assert read_table(tmp_path / "t.parquet", COLUMNS).equals(TABLE)
    assert read_table(tmp_path / "t.parquet", ["task"]).equals(TABLE)
    assert list(read_numbers(tmp_path / "m.json")) == ["ctr/auc", "n"]
    (tmp_path / "empty.npy").write_bytes(npy(np.zeros((0, 4))))
    assert read_array(tmp_path / "empty.npy").shape == (0, 4)


@pytest.mark.parametrize(
    ("kind", "data", "told"),
    [
        (".npy", b"", "is no .npy file that can be read"),
        (".npy", pickle.dumps([1]), "is no .npy file that can be read"),
        (".npy", zipped(npy(ARRAY)), "is no .npy file that can be read"),
        (".npy", SEEDS[6], "is no .npy file that can be read"),
        (".npy", npy(ARRAY)[:-1], "is no .npy file that can be read"),
        (".npy", npy(ARRAY) + b"12", "has 178 bytes, and its header says 176"),
        (".npy", SEEDS[9], "is no .npy file that can be read"),
        (".parquet", b"", "is no Parquet file that can be read"),
        (".parquet", parquet(TABLE)[:-9], "is no Parquet file that can be read"),
        (".parquet", parquet(TABLE.drop("clicked")), "has no column 'clicked' (it has item_id, probability, task)"),
        (".parquet", SEEDS[15], "column 'probability' holds String, and should hold floats"),
        (
            ".parquet",
            parquet(TABLE.with_columns(clicked=pl.Series([None, True]))),
            "column 'clicked' lacks 1 of its 2 values",
        ),
        (".json", b"", "is no JSON file that can be read (Expecting value"),
        (".json", b"[" * 100_000, "is no JSON file that can be read"),
        (".json", b"[1, 2]", "holds no JSON object, but '[1, 2]'"),
        ("numbers", b'{"ctr/auc": {"test": 0.7}}', "'ctr/auc' is \"{'test': 0.7}\", and should be a number"),
        ("numbers", b'{"ctr/auc": true}', "'ctr/auc' is 'True', and should be a number"),
        ("costs", b'{"pretrain": 3}', "'pretrain' is '3', and should be an object"),
        ("costs", b'{"pretrain": {"seconds": "1.5"}}', "'seconds' of 'pretrain' is '1.5', and should be a number"),
        (
            "costs",
            b'{"pretrain": {"first_run": {"seconds": []}}}',
            "'seconds' of 'pretrain: first_run' is '[]', and should be a number",
        ),
    ],
)
def test_the_sentence_says_which_file_what_is_wrong_and_what_to_do(
    tmp_path: Path, kind: str, data: bytes, told: str
) -> None:
    file = tmp_path / f"x{kind}"
    file.write_bytes(data)
    with pytest.raises(Unreadable) as caught:
        READERS[kind](file)
    text = str(caught.value)
    assert text.startswith(str(file)) and told in text
    assert text.endswith("again, or remove it and run the command that wrote it once more")


@pytest.mark.parametrize("kind", sorted(READERS))
def test_what_is_no_file_ends_in_a_sentence_too(tmp_path: Path, kind: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("folder", "loop"):
        with pytest.raises(Unreadable, match=f"{name} is no .* file that can be read"):
            READERS[kind](tmp_path / name)
    with pytest.raises(FileNotFoundError):
        READERS[kind](tmp_path / "missing")


@pytest.mark.parametrize("kind", sorted(READERS))
def test_a_changed_bit_is_an_error_whatever_the_file(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "file"
    whole = {".npy": npy(ARRAY), ".parquet": parquet(TABLE)}.get(kind, b"{}")
    file.write_bytes(whole)
    seal(tmp_path)
    READERS[kind](file)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(Damaged, match="file is damaged"):
        READERS[kind](file)


def test_a_panic_of_a_library_in_rust_is_a_sentence_and_an_interruption_is_none(tmp_path: Path) -> None:
    class PanicException(BaseException):
        pass

    (tmp_path / "a").touch()
    told = r"is no Parquet file that can be read \(index out of bounds\)"
    with pytest.raises(Unreadable, match=told), reading(tmp_path / "a", "Parquet file"):
        raise PanicException("index out of bounds")
    with pytest.raises(KeyboardInterrupt), reading(tmp_path / "a", "Parquet file"):
        raise KeyboardInterrupt


def test_numbers_are_what_a_float_can_hold() -> None:
    assert all(map(is_number, (0, -1.5, float("nan"), float("inf"))))
    assert not any(map(is_number, (True, "1", None, [], 10**400)))
