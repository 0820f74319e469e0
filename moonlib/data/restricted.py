"""A dataset that holds what was declared to be read, and refuses all else."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from moonlib.data.dataset import Dataset
from moonlib.data.reads import ALL_MOMENTS, Moment, Reads
from moonlib.data.splits import MOMENTS, Splits, crossing
from moonlib.data.tables import KEYS

EVENTS = ("searches", "impressions")


class Undeclared(RuntimeError):
    """Something is read that was not declared: the declaration is wrong, and with it the fingerprint would be."""

    @classmethod
    def of(cls, reader: str, what: str) -> Undeclared:
        """Say who reads what, and what to do."""
        return cls(
            f"{reader} reads {what}, and has not declared it: a change of it would not make {reader} anew. Name it in "
            "the method `reads`, or leave that method out, which declares everything"
        )


class RestrictedDataset(Dataset):
    """The part of a dataset that a stage has declared: its columns and its rows. All else raises `Undeclared`.

    A table without a list of columns is that of the declared ones. ``counts`` and the names of `columns` are those of
    the whole dataset; ids may be decoded and encoded, whatever they are of.

    Args:
        dataset: the whole.
        reads: what is read of it.
        reader: what to call the reader in errors, such as ``stage pretrain``.
    """

    def __init__(self, dataset: Dataset, reads: Reads, reader: str) -> None:
        super().__init__(dataset.directory)
        self.reads, self.reader = reads, reader
        self._dataset = dataset
        self._cut_by: Splits | None = None  # moments in place of the dataset's own, see `with_splits`
        self.counts = {table: rows for table, rows in dataset.counts.items() if reads.whole or table in reads.tables}
        self.splits = DeclaredSplits.of(self)
        self._kept: dict[str, slice | pa.BooleanArray | None] = {}
        self._orders: dict[str, NDArray[np.int64] | None] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopened, (self.directory, self.reads, self.reader, self._cut_by))

    def arrow(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return what `table` returns, as Arrow."""
        there = self._dataset.columns(name)
        if not self.reads.whole:
            declared = self.declared(name).columns
            if declared is not None:
                if columns is None:
                    columns = [column for column in there if column in declared]
                for column in columns:
                    if column in there and column not in declared:
                        raise self.undeclared(f"the column {column!r} of {name}")
        return self._cut(self._whole(name, there if columns is None else columns), name)

    def columns(self, name: str) -> list[str]:
        """Names of all columns of a table, declared or not."""
        return self._dataset.columns(name)

    def column(self, table: str, column: str) -> pa.ChunkedArray:
        """One column of the rows of a table that are read."""
        return self.arrow(table, [column]).column(column)

    def image_digests(self, table: str) -> pa.ChunkedArray | None:
        """Digests of the pictures of the rows that are read; see `Dataset.image_digests`."""
        if not self.reads.whole and not self.declared(table).pictures:
            raise self.undeclared(f"the pictures of {table}")
        found = self._dataset.image_digests(table)
        if found is None:
            return None
        order = self._order(table)
        return self.cut(found if order is None else found.take(pa.array(order)), table)

    def cut(self, column: pa.ChunkedArray, table: str) -> pa.ChunkedArray:
        """Of a column with a value for every row of a table, those of the rows that are read."""
        return self._cut(pa.table({"column": column}), table).column("column")

    @cached_property
    def sessions(self) -> pl.DataFrame:
        """The sessions of these events that go on beyond a declared moment; see `Dataset.sessions`."""
        tables = [table for table in EVENTS if self.reads.whole or table in self.reads.tables]
        if self._cut_by is not None:
            none = self._dataset.table(EVENTS[0], ("search_id", "ts")).clear()
            return crossing(self._cut_by, [none, *(self.table(table, none.columns) for table in tables)])
        found = self._dataset.sessions
        if found.is_empty() or self.reads.whole:
            return found
        ids = [pl.Series(dtype=pl.Int64), *(self.table(table, ("search_id",))["search_id"] for table in tables)]
        moments = [getattr(self._dataset.splits, moment) for moment in self.reads.moments]
        passed = pl.any_horizontal(
            pl.lit(False), *((pl.col("began") < moment) & (pl.col("ended") >= moment) for moment in moments)
        )
        return found.filter(passed, pl.col("search_id").is_in(pl.concat(ids).unique().implode()))

    @property
    def truth(self) -> Path | None:
        """The truth of a simulated dataset, where it was declared; see `Dataset.truth`."""
        if not (self.reads.truth or self.reads.whole):
            raise self.undeclared("the truth of the simulation")
        return self._dataset.truth

    def with_queries(self, queries: pl.DataFrame) -> Dataset:
        """Refuse: what has been declared is of the dataset as it is."""
        raise self.undeclared("queries that the dataset does not have")

    def with_splits(self, splits: Splits) -> Dataset:
        """The same rows, put in splits by other moments: what was declared to be read says which rows there are."""
        other = copy(self)
        other.__dict__.pop("sessions", None)  # those that cross the moments of this one
        other._cut_by = splits
        other.splits = splits.with_sessions(other._sessions)
        return other

    def declared(self, table: str) -> Any:
        """Look up what was declared of a table.

        Raises:
            Undeclared: nothing was.
        """
        if table not in self.reads.tables:
            raise self.undeclared(f"the table {table}")
        return self.reads.tables[table]

    def undeclared(self, what: str) -> Undeclared:
        """Make the error of reading something."""
        return Undeclared.of(self.reader, what)

    def _whole(self, name: str, columns: Sequence[str]) -> pa.Table:
        """All rows of a table, in the order of `Dataset.order`: an id whose row changed keeps its place."""
        table, order = self._dataset.arrow(name, columns), self._order(name)
        return table if order is None else table.take(pa.array(order))

    def _order(self, name: str) -> NDArray[np.int64] | None:
        if self.reads.whole:
            return None
        if name not in self._orders:
            self._orders[name] = self._dataset.order(name)
        return self._orders[name]

    def _cut(self, table: pa.Table, name: str) -> pa.Table:
        rows = self._rows(name)
        if rows is None:
            return table
        return table.slice(rows.start, rows.stop - rows.start) if isinstance(rows, slice) else table.filter(rows)

    def _rows(self, name: str) -> slice | pa.BooleanArray | None:
        """The rows of a table that are read: all of them, a stretch, of which nothing need be copied, or some."""
        if name not in self._kept:
            self._kept[name] = None if self.reads.whole else _stretch(self._chosen(name))
        return self._kept[name]

    def _chosen(self, name: str) -> pl.Series | None:
        until = self.declared(name).until
        if until is None or name not in self._dataset.counts:
            return None
        if name in (*EVENTS, "histories"):
            return self._frame(name, "ts").select(pl.col("ts") < self._end(until)).to_series()
        key = KEYS[name]
        named = pl.col(key).is_in(self._named(key).implode())
        if name == "products":
            named |= pl.col("listed_at") < self._end(until)
        return self._frame(name, key, *(["listed_at"] if name == "products" else [])).select(named).to_series()

    def _frame(self, name: str, *columns: str) -> pl.DataFrame:
        frame = pl.from_arrow(self._whole(name, columns), rechunk=False)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def _named(self, key: str) -> pl.Series:
        """The ids that the events that are read name."""
        found = [pl.Series(key, dtype=pl.Int64)]
        for name in EVENTS:
            if name in self.reads.tables:
                table = self._cut(self._dataset.arrow(name, [key]), name)
                found.append(pl.Series(key, table.column(key)).drop_nulls().unique())
        return pl.concat(found).unique()

    def _end(self, moment: Moment) -> datetime:
        """When the last session has ended that began before a moment; the moment, where none goes on."""
        end: datetime = getattr(self._dataset.splits, moment)
        if any(table in self.reads.tables for table in EVENTS):
            last = self._dataset.sessions.filter(pl.col("began") < end)["ended"].max()
            if isinstance(last, datetime):
                return max(end, last + timedelta(microseconds=1))
        return end


class DeclaredSplits(Splits):
    """Splits of which only the declared moments are known."""

    dataset: RestrictedDataset

    @classmethod
    def of(cls, dataset: RestrictedDataset) -> DeclaredSplits:
        """The splits that a dataset shows."""
        whole = dataset._dataset.splits
        splits = cls(*(getattr(whole, moment) for moment in MOMENTS), sessions=lambda: dataset.sessions)
        object.__setattr__(splits, "dataset", dataset)
        return splits

    @property
    def moments(self) -> list[datetime]:
        """Those that are declared."""
        reads = self.dataset.reads
        return [getattr(self, moment) for moment in ALL_MOMENTS if reads.whole or moment in reads.moments]

    def __getattribute__(self, name: str) -> Any:
        dataset = vars(self).get("dataset") if name in MOMENTS else None
        if dataset is not None and not dataset.reads.whole and name not in dataset.reads.moments:
            raise dataset.undeclared(f"the split date {name}")
        return super().__getattribute__(name)


def _reopened(directory: Path, reads: Reads, reader: str, cut_by: Splits | None) -> Dataset:
    found = RestrictedDataset(Dataset(directory), reads, reader)
    return found if cut_by is None else found.with_splits(cut_by)


def _stretch(chosen: pl.Series | None) -> slice | pa.BooleanArray | None:
    if chosen is None or chosen.all():
        return None
    kept = chosen.arg_true()
    first, last = (int(kept[0]), int(kept[-1])) if len(kept) else (0, -1)
    if last - first + 1 == len(kept):
        return slice(first, last + 1)
    return chosen.rechunk().to_arrow()
