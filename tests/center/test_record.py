"""The record: who appends knows the rows as any reader does, whatever is in them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.artifacts.reading import Unreadable
from moonlib.center.aliases import Alias, Target, write_aliases
from moonlib.center.publishing import compact
from moonlib.center.record import Record, make_record
from moonlib.center.rows import COLUMN_TYPES, Dtype, Rows
from moonlib.center.space import Space, space_name, spaces
from moonlib.center.view import View
from moonlib.center.writing import Busy, make_center, writing_to
from moonlib.testing.processes import run_processes

DIM = 3
COLUMNS = {"id": "text", "price": "float", "n": "integer", "in_stock": "boolean"}
VALUES = {
    "id": st.none() | st.text(max_size=4),
    "price": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    "n": st.none() | st.integers(-(2**63), 2**63 - 1),
    "in_stock": st.none() | st.booleans(),
}
ROW = st.fixed_dictionaries(
    {
        "key": st.integers(0, 6),
        "deleted": st.booleans(),
        "vector": st.lists(st.integers(-127, 127), min_size=DIM, max_size=DIM),
        "content": st.binary(min_size=16, max_size=16),
        "received_at": st.integers(-(2**63), 2**63 - 1),
        "picture": st.none() | st.binary(min_size=1, max_size=5),
        "columns": st.fixed_dictionaries(VALUES),
    }
)
APPENDS = st.lists(st.lists(ROW, min_size=1, max_size=5, unique_by=lambda row: row["key"]), min_size=1, max_size=5)


def new_space(center: Path, dtype: Dtype = "int8", columns: dict[str, Any] = COLUMNS) -> Space:
    """A center with one space."""
    make_center(center)
    space = Space(center / "spaces" / space_name("f" * 16, DIM, dtype), "f" * 16, DIM, dtype, columns)
    make_record(space.record)
    space.save()
    return space


def rows_of(rows: list[dict[str, Any]], text: bool, dtype: Dtype, columns: dict[str, Any]) -> Rows:
    """Rows of an append."""
    keys = [row["key"] for row in rows]
    return Rows(
        pl.Series("item_id", [f"é{key}" for key in keys] if text else keys),
        np.array([row["vector"] for row in rows]).astype(dtype),
        np.frombuffer(b"".join(row["content"] for row in rows), np.uint8).reshape(-1, 16),
        np.array([row["received_at"] for row in rows], np.int64),
        np.array([row["deleted"] for row in rows]),
        pl.DataFrame(
            [pl.Series(name, [row["columns"][name] for row in rows], COLUMN_TYPES[columns[name]]) for name in columns]
        ),
        pl.Series([row["picture"] for row in rows], dtype=pl.Binary),
    )


def content(record: Record) -> dict[Any, tuple[Any, ...]]:
    """All that a record knows, by id."""
    ids, rows = record.live()
    arrays = (record.vectors(rows), record.content(rows), record.sequences(rows), record.received_at(rows))
    columns = record.columns(rows).rows() if record.space.columns else [()] * len(rows)
    return {
        id: (*(array[n].tolist() for array in arrays), columns[n], record.picture(int(rows[n])))
        for n, id in enumerate(ids)
    }


@settings(max_examples=20, deadline=None)
@given(
    appends=APPENDS,
    text=st.booleans(),
    dtype=st.sampled_from(["int8", "float16", "float32"]),
    kept=st.booleans(),
    compacted=st.integers(0, 5),
)
def test_who_appends_knows_what_others_read(
    tmp_path_factory: pytest.TempPathFactory,
    appends: list[list[dict[str, Any]]],
    text: bool,
    dtype: Dtype,
    kept: bool,
    compacted: int,
) -> None:
    center = tmp_path_factory.mktemp("center")
    columns = COLUMNS if kept else {}
    space = new_space(center, dtype, columns)
    writer, reader = Record(space, write=True), Record(space)
    expected: dict[Any, tuple[Any, ...]] = {}
    pictures: dict[Any, tuple[bytes, bytes | None]] = {}
    sequence = 0
    for number, rows in enumerate(appends):
        if number == compacted:
            compact(center, space)
        writer.refresh()
        appended = rows_of(rows, text, dtype, columns)
        sequence += len(rows)
        assert writer.append(appended) == sequence
        for n, (id, row) in enumerate(zip(appended.ids.to_list(), rows, strict=True)):
            before = pictures.get(id, (b"", None))
            picture = row["picture"] or (before[1] if before[0] == row["content"] else None)
            pictures[id] = row["content"], picture
            if row["deleted"]:
                expected.pop(id, None)
                pictures.pop(id, None)
                continue
            values = appended.columns.row(n) if kept else ()
            vector, hashed = appended.vectors[n].tolist(), list(row["content"])
            expected[id] = (vector, hashed, sequence - len(rows) + n + 1, row["received_at"], values, picture)
        assert content(writer) == expected
        if number % 2:
            assert reader.refresh()
            assert content(reader) == expected
    again = Record(space)
    assert content(again) == expected and again.sequence == sequence


def versions(rows: Rows, version: int) -> Rows:
    """The same ids in another version, which vector, hash and picture tell."""
    n = len(rows)
    return replace(
        rows,
        vectors=np.full((n, DIM), version, np.int8),
        content=np.full((n, 16), version, np.uint8),
        received_at=np.full(n, version),
        pictures=pl.Series([b"%d" % version] * n, dtype=pl.Binary),
    )


def patiently(work: Callable[[], object]) -> None:
    """Do something as soon as no other process writes."""
    while True:
        try:
            work()
            return
        except Busy:
            time.sleep(0.001)


TURNS, IDS = 10, 3


def write_or_read(rank: int, path: str) -> None:
    """Of three processes, two append and compact in turns with a record that each keeps open, and one reads."""
    center = Path(path)
    (space,) = spaces(center).values()
    ids = [range(writer * 10, writer * 10 + IDS) for writer in range(2)]
    if rank == 2:
        view, seen = View.open(center), [0, 0]
        while seen != [TURNS, TURNS]:
            view = view.refreshed()
            for writer in range(2):
                vectors = view.lookup(list(ids[writer])).round(5)
                assert (vectors == vectors[0, 0]).all()  # what was appended together is there together
                version = round(float(vectors[0, 0]) * 127)
                assert version >= seen[writer]
                assert view.picture(ids[writer][0]) == (b"%d" % version if version else None)
                seen[writer] = version
        return
    record = Record(space, write=True)
    zeros = np.zeros((IDS, DIM), np.int8)
    nothing = np.zeros((IDS, 16), np.uint8)
    empty = pl.Series([None] * IDS, dtype=pl.Binary)
    rows = Rows(
        pl.Series(ids[rank]), zeros, nothing, np.zeros(IDS, np.int64), np.zeros(IDS, bool), pl.DataFrame(), empty
    )

    def append(version: int) -> None:
        with writing_to(center):
            record.refresh()
            record.append(versions(rows, version))

    for version in range(1, TURNS + 1):
        patiently(lambda: append(version))  # noqa: B023
        if version % 5 == rank:
            patiently(lambda: compact(center, space))


def test_processes_write_in_turns_and_read_while_the_record_is_compacted(tmp_path: Path) -> None:
    center = tmp_path / "center"
    space = new_space(center, columns={})
    write_aliases(center, {"live": Alias(Target(space.name, 0))})
    run_processes(write_or_read, str(center), processes=3)
    record = Record(space)
    ids, rows = record.live()
    assert ids.to_list() == [0, 1, 2, 10, 11, 12] and record.sequence == 2 * TURNS * IDS
    assert (record.vectors(rows) == TURNS).all() and (record.received_at(rows) == TURNS).all()


def test_a_center_of_another_format_is_refused(tmp_path: Path) -> None:
    new_space(tmp_path / "center")
    for format, remedy in ((1, "upsert the products into a new center"), (99, "upgrade it")):
        (tmp_path / "center" / "center.json").write_text(json.dumps({"format": format}))
        with pytest.raises(Unreadable, match=f"of format {format}, .*{remedy}"):
            View.open(tmp_path / "center")
