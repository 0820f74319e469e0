"""Build, embed and questions read the same tables in the same way."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest

from moonlib.data import table_files
from moonlib.data.build import read_tables
from moonlib.data.content import Modalities
from moonlib.embedding.tables import TableReader
from moonlib.pairs.questions import read_questions

HEADER = "item_id,title,question,answer"


def _build(folder: Path, name: str) -> list[str | None]:
    return read_tables(folder)[0].products["title"].to_list()


def _embed(folder: Path, name: str) -> list[str | None]:
    arguments = (None, Modalities.parse("title"), folder / "q.jsonl", folder / "copy.arrow")
    found = TableReader(folder / name, "products", *arguments)
    return [sample.row["title"] for sample in found.read(found.ids)]


def _ask(folder: Path, name: str) -> list[str | None]:
    found = read_questions(folder / name, pl.Series(range(10)))
    return [question for questions in found.values() for question, _ in questions]


VERBS = pytest.mark.parametrize("verb", [_build, _embed, _ask])
Verb = Callable[[Path, str], list[str | None]]


def _write(folder: Path, *titles: bytes) -> str:
    rows = [b"%d,%s,%s,a" % (i, title, title) for i, title in enumerate(titles)]
    (folder / "products.csv").write_bytes(b"\n".join([HEADER.encode(), *rows]) + b"\n")
    return "products.csv"


@VERBS
@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b'24" monitor', '24" monitor'),
        (b'pipe 1/2" x 3/4"', 'pipe 1/2" x 3/4"'),
        (b'"""Premium"" mug ""red"""', '"Premium" mug "red"'),
        (b'"two\nlines, one title"', "two\nlines, one title"),
        (b" a b ", " a b "),
        ("红色".encode(), "红色"),
    ],
)
def test_a_value_is_read_as_it_stands(verb: Verb, written: bytes, read: str, tmp_path: Path) -> None:
    assert verb(tmp_path, _write(tmp_path, b"first", written, b"last")) == ["first", read, "last"]


@VERBS
@pytest.mark.parametrize(
    ("written", "message"),
    [
        (b'"Premium" mug "red"', """'"Premium" mug "red",.* goes on after its closing quote"""),
        (b'"a \\"quoted\\" title"', "goes on after its closing quote; .* twice"),
        (b'"never closed', "has a quote that is never closed|goes on after its closing quote"),
        (b"caf\xe9", r"b'caf\\xe9' is not UTF-8"),
    ],
)
def test_what_is_no_csv_is_refused_with_file_row_and_column(
    verb: Verb, written: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"products\.csv: row 2, column 'title': .*({message})") as error:
        verb(tmp_path, _write(tmp_path, b"first", written, b"last"))
    assert "\n" not in str(error.value)


@VERBS
def test_a_panic_of_the_reader_names_the_table(verb: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of some damaged files polars raises what is no ``Exception``."""
    pl.DataFrame({"item_id": [0], "title": ["a"]}).write_parquet(tmp_path / "products.parquet")

    def panic(*_: object, **__: object) -> pl.LazyFrame:
        raise pl.exceptions.PanicException("")

    monkeypatch.setattr(pl, "scan_parquet", panic)
    with pytest.raises(ValueError, match=r"products\.parquet can't be read: "):
        verb(tmp_path, "products.parquet")


@VERBS
def test_parquet_text_that_is_not_utf8_is_named(verb: Verb, tmp_path: Path) -> None:
    stored = pa.array([b"a", None, b"caf\xe9"])
    text = pa.Array.from_buffers(pa.string(), 3, stored.buffers())
    columns = {"item_id": [1, 2, 3], "question": ["a"] * 3, "answer": ["a"] * 3, "title": text}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "products.parquet")
    message = r"products\.parquet: row 3, column 'title': b'caf\\xe9' is not UTF-8"
    with pytest.raises(ValueError, match=message):
        verb(tmp_path, "products.parquet")


@VERBS
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,a", "row 2, column 'question': is absent \\(2 values, 4 columns\\)"),
        ("1,mug, red,a,b", "row 2, column 'answer': is followed by 'b', which has no column"),
    ],
)
def test_a_row_of_another_length_is_refused(verb: Verb, row: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text(f"{HEADER}\n0,a,a,a\n\n{row}\n")
    with pytest.raises(ValueError, match=rf"products\.csv: {message}"):
        verb(tmp_path, "products.csv")


@VERBS
def test_a_column_twice_and_a_header_in_another_encoding(verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text(f"{HEADER},title\n0,a,a,a,b\n")
    with pytest.raises(ValueError, match=r"products\.csv: column 'title' stands twice in the header"):
        verb(tmp_path, "products.csv")
    (tmp_path / "products.csv").write_text(f"{HEADER},größe\n0,a,a,a,b\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"products\.csv: the header is not UTF-8"):
        verb(tmp_path, "products.csv")


@VERBS
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_folder_as_an_engine_leaves_it(verb: Verb, suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / f"products{suffix}"
    (folder / "_temporary/0").mkdir(parents=True)
    for part, title in enumerate(("b", "a")):
        rows = pl.DataFrame({"item_id": [part], "title": [title], "question": [title], "answer": ["x"]})
        file = folder / f"part-{part:05d}{suffix}"
        rows.write_csv(file) if suffix == ".csv" else rows.write_parquet(file)
        (folder / f".{file.name}.crc").write_bytes(b"crc")
        (folder / f"_temporary/0/{file.name}").write_bytes(b"half of it")
    (folder / "_SUCCESS").touch()
    (tmp_path / f"._products{suffix}").write_bytes(b"what a file system keeps beside a file")
    assert verb(tmp_path, folder.name) == ["b", "a"]
    (folder / "notes.txt").touch()
    with pytest.raises(ValueError, match=rf"notes\.txt is no {suffix} file as .*products{suffix} has them"):
        verb(tmp_path, folder.name)
    for path in folder.glob("*.*"):
        path.unlink()
    with pytest.raises(ValueError, match=f"products{suffix} can't be read: the folder holds no {suffix} file"):
        verb(tmp_path, folder.name)


@VERBS
def test_parts_with_other_columns_are_refused(verb: Verb, tmp_path: Path) -> None:
    rows = pl.DataFrame({"item_id": [1], "title": ["a"], "question": ["a"], "answer": ["x"]})
    for suffix, other in ((".parquet", rows.with_columns(price=1.0)), (".csv", rows.drop("answer"))):
        folder = tmp_path / suffix[1:] / f"products{suffix}"
        folder.mkdir(parents=True)
        for part, frame in enumerate((rows, other)):
            file = folder / f"{part}{suffix}"
            frame.write_csv(file) if suffix == ".csv" else frame.write_parquet(file)
        with pytest.raises(ValueError, match=f"products{suffix}"):
            verb(folder.parent, folder.name)


def test_folders_of_a_partition_are_a_column(tmp_path: Path) -> None:
    for day in (1, 2):
        (tmp_path / f"t.parquet/day={day}").mkdir(parents=True)
        pl.DataFrame({"item_id": [day]}).write_parquet(tmp_path / f"t.parquet/day={day}/0.parquet")
    assert table_files.read(tmp_path / "t.parquet", ["item_id"]).rows() == [(1, 1), (2, 2)]


@pytest.mark.parametrize(
    ("values", "read"),
    [
        (["1", "", "-20"], [1, None, -20]),
        (["1.5", "2", "1e5"], [1.5, 2.0, 100000.0]),
        (["true", "False"], [True, False]),
        (["01067", "80331"], ["01067", "80331"]),
        (["0.5", "007"], ["0.5", "007"]),
        (["-0", "1"], ["-0", "1"]),
        (["1.5", "12345678901234567"], ["1.5", "12345678901234567"]),
        (["9" * 60, "1"], ["9" * 60, "1"]),
        (["9" * 20, "1"], ["9" * 20, "1"]),
        (["1", "a"], ["1", "a"]),
        (["", ""], [None, None]),
    ],
)
def test_a_column_of_ones_own_has_a_type_that_its_values_survive(
    values: list[str], read: list[object], tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("item_id,own\n" + "".join(f"1,{value}\n" for value in values))
    assert table_files.read(tmp_path / "t.csv", ["item_id"])["own"].to_list() == read


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_table_without_rows_has_its_columns(name: str, tmp_path: Path) -> None:
    empty = pl.DataFrame(schema={"item_id": pl.String, "title": pl.String})
    empty.write_csv(tmp_path / name) if name == "t.csv" else empty.write_parquet(tmp_path / name)
    assert table_files.header(tmp_path / name) == ["item_id", "title"]
    assert [frame.shape for frame in table_files.scan(tmp_path / name, ["title", "price"])] == [(0, 1)]
    assert table_files.read(tmp_path / name, ["item_id"]).shape == (0, 2)


def test_a_long_csv_is_read_in_parts_of_bounded_size(tmp_path: Path) -> None:
    rows = io.StringIO()
    np.savetxt(rows, np.arange(200_000), fmt="%d,a title of some length")
    (tmp_path / "t.csv").write_text("item_id,title\n" + rows.getvalue())
    tracemalloc.start()
    read = sum(frame.height for frame in table_files.scan(tmp_path / "t.csv"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert read == 200_000
    assert peak < 12_000_000, "200,000 rows as lists of text take 60 MB"
