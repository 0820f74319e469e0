"""The published files of TAOBAO-MM: which there are, what columns they have, read some rows at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from moonlib.system.console import progress
from moonlib.system.terminal import visible

Layout = Literal["raw", "joined"]
Period = Literal["train", "test"]
PERIODS: tuple[Period, ...] = ("train", "test")

LABEL, USER, ITEM, CATEGORY, VECTOR = "label_0", "129_1", "205", "206", "205_c"
HISTORY = "150_2_180"
FEATURES = ("130_1", "130_2", "130_3", "130_4", "130_5")
"""Features of a user: five categories."""
ATTRIBUTES = ("213", "214")
"""Features of an item besides its category."""

_LABELS, _VECTORS, _IDS = pa.list_(pa.int8()), pa.list_(pa.int8()), pa.list_(pa.int64())
SAMPLES: dict[str, pa.DataType] = {LABEL: _LABELS, USER: pa.int64(), ITEM: pa.int64()}
USERS: dict[str, pa.DataType] = {
    **dict.fromkeys((USER, *FEATURES), pa.int64()),
    HISTORY: _IDS,
    "151_2_180": _IDS,
}
ITEMS: dict[str, pa.DataType] = dict.fromkeys((ITEM, CATEGORY, *ATTRIBUTES), pa.int64())
EMBEDDING: dict[str, pa.DataType] = {ITEM: pa.int64(), VECTOR: _VECTORS}
JOINED: dict[str, pa.DataType] = {**SAMPLES, **USERS, **ITEMS}
"""The columns of each kind of file, with their types. Lists may be of a fixed size or have large offsets."""

_RAW = {
    "train_samples.parquet": SAMPLES,
    "test_samples.parquet": SAMPLES,
    "train_user_features.parquet": USERS,
    "test_user_features.parquet": USERS,
    "item_features.parquet": ITEMS,
}
_EMBEDDING = "scl_embedding_int8_p90.parquet"
_SHARD = re.compile(r"(train|test)-shard-\d{6}\.parquet")
_FOLDERS = (".", "raw", "train", "test")


@dataclass(frozen=True)
class Files:
    """The files of one layout.

    Attributes:
        layout: ``raw`` has one file for each of samples, user features and items; in ``joined`` shards every row has it
            all.
        samples: the files that hold a period's labels.
        users: the files that hold a period's user features.
        items: the files that hold item features.
        embedding: the file of vectors.
    """

    layout: Layout
    samples: Mapping[Period, list[Path]]
    users: Mapping[Period, list[Path]]
    items: list[Path]
    embedding: Path

    @classmethod
    def find(cls, directory: Path, layout: Literal["auto", "raw", "joined"] = "auto") -> Files:
        """Find the files in a directory, or in its folders ``raw``, ``train`` and ``test``, as they are published.

        Args:
            directory: where the data set lies.
            layout: which of its two forms to read; ``auto`` takes ``raw`` where it is there, in which a history is
                stored once per user and not once per row.

        Raises:
            FileNotFoundError: naming a file that is missing.
        """
        if not directory.is_dir():
            raise FileNotFoundError(
                f"{directory} is no directory: put TAOBAO-MM there (huggingface.co/datasets/TaoBao-MM/Taobao-MM), or "
                "say where it is with --data.init_args.directory"
            )
        places = [directory / folder for folder in _FOLDERS]
        there = {path.name: path for place in places if place.is_dir() for path in sorted(place.glob("*.parquet"))}
        shards = {
            period: [path for name, path in sorted(there.items()) if (m := _SHARD.fullmatch(name)) and m[1] == period]
            for period in PERIODS
        }
        if layout == "auto":
            layout = "joined" if shards["train"] and "train_samples.parquet" not in there else "raw"
        needed = [*(_RAW if layout == "raw" else ()), _EMBEDDING]
        missing = [name for name in needed if name not in there]
        if layout == "joined":
            missing += [f"{period}-shard-000000.parquet" for period in PERIODS if not shards[period]]
        if missing:
            has = ", ".join(sorted(there)[:8]) + (", …" if len(there) > 8 else "") or "no Parquet file"
            raise FileNotFoundError(
                f"{directory / missing[0]} is missing: the {layout} layout of TAOBAO-MM has "
                f"{', '.join(needed) if layout == 'raw' else f'train and test shards and {_EMBEDDING}'} (found: {has})"
            )
        if layout == "joined":
            return cls("joined", shards, shards, [*shards["train"], *shards["test"]], there[_EMBEDDING])
        samples, users = (
            {period: [there[f"{period}_{kind}.parquet"]] for period in PERIODS} for kind in ("samples", "user_features")
        )
        return cls("raw", samples, users, [there["item_features.parquet"]], there[_EMBEDDING])

    def all(self) -> list[Path]:
        """Every file once, in a fixed order."""
        named = [*self.samples.values(), *self.users.values(), self.items, [self.embedding]]
        return sorted({path for paths in named for path in paths}, key=lambda path: path.name)

    def schema(self, kind: Literal["samples", "users", "items"]) -> dict[str, pa.DataType]:
        """The columns that files of a kind must have."""
        return JOINED if self.layout == "joined" else {"samples": SAMPLES, "users": USERS, "items": ITEMS}[kind]


@dataclass(frozen=True)
class Rows:
    """Some rows of a file, of which the first is number ``first`` (from 0)."""

    path: Path
    first: int
    batch: pa.RecordBatch

    def numbers(self, column: str) -> NDArray[np.int64]:
        """A column of int64, [n]."""
        values: NDArray[np.int64] = self.batch.column(column).to_numpy()
        return values

    def lists(self, column: str) -> tuple[NDArray[np.int64], NDArray[np.signedinteger]]:
        """A column of lists: where each starts, and where the last ends, int64 [n + 1]; all their values [E]."""
        lists = self.batch.column(column)
        return lists.offsets.to_numpy(), lists.values.to_numpy()

    def clicked(self) -> NDArray[np.bool_]:
        """The labels, bool [n]; published as [0, 1] for a click and [1, 0] for none."""
        bounds, values = self.lists(LABEL)
        self.refuse(np.diff(bounds) != 2, LABEL, "is not [1, 0] or [0, 1]")
        pair = values[bounds[0] : bounds[-1]].reshape(-1, 2)
        self.refuse((pair.min(axis=1, initial=1) < 0) | (pair.sum(axis=1) != 1), LABEL, "is not [1, 0] or [0, 1]")
        return pair[:, 1] == 1

    def refuse(self, bad: NDArray[np.bool_], column: str, problem: str) -> None:
        """Raise for the first row marked bad.

        Raises:
            ValueError: naming file, row (counted from 1), column and value.
        """
        if len(rows := np.flatnonzero(bad)):
            value = self.batch.column(column)[int(rows[0])].as_py()
            raise ValueError(f"{self.path}: row {self.first + rows[0] + 1}, column {column!r}: {value} {problem}")


def read(path: Path, schema: Mapping[str, pa.DataType], columns: tuple[str, ...], rows: int = 65_536) -> Iterator[Rows]:
    """Read some columns of a file, a batch of rows at a time.

    Args:
        path: a Parquet file.
        schema: the columns that it must have, with their types, whichever are read.
        columns: those to read; lists come with offsets of int64.
        rows: in a batch, at most.

    Raises:
        ValueError: a column is missing, of another type or has nulls, or the file can't be read; the message names file
            and column.
    """
    try:
        # Buffered, because a column of a published row group has several gigabytes.
        with parquet.ParquetFile(path, buffer_size=1 << 23) as file:
            _check(path, file.schema_arrow, schema)
            first, total = 0, file.metadata.num_rows
            with progress() as bars:
                task = bars.add_task(visible(path.name), total=total)
                for batch in file.iter_batches(rows, columns=list(columns)):
                    yield Rows(path, first, _plain(path, first, batch, schema))
                    first += len(batch)
                    bars.update(task, completed=first)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} can't be read ({str(error).splitlines()[0]}): download it again") from error


def _check(path: Path, found: pa.Schema, schema: Mapping[str, pa.DataType]) -> None:
    for column, expected in schema.items():
        if column not in found.names:
            has = ", ".join(found.names)
            raise ValueError(f"{path}: column {column!r} is missing; expected {_show(expected)} (it has {has})")
        kind = found.field(column).type
        same = kind == expected
        if pa.types.is_list(expected):
            lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
            same = lists and kind.value_type == expected.value_type
        if not same:
            raise ValueError(f"{path}: column {column!r} is {_show(kind)}; expected {_show(expected)}")


def _show(kind: pa.DataType) -> str:
    return f"list<{kind.value_type}>" if hasattr(kind, "value_type") else str(kind)


def _plain(path: Path, first: int, batch: pa.RecordBatch, schema: Mapping[str, pa.DataType]) -> pa.RecordBatch:
    """Give lists offsets of int64, and refuse nulls."""
    columns = []
    for column in batch.schema.names:
        values = batch.column(column)
        if pa.types.is_list(schema[column]):
            values = values.cast(pa.large_list(schema[column].value_type))
        holes = values.null_count + (values.values.null_count if pa.types.is_list(schema[column]) else 0)
        if holes:
            raise ValueError(
                f"{path}: column {column!r} has missing values in rows {first + 1} to {first + len(batch)}"
            )
        columns.append(values)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
