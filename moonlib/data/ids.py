"""Ids of products, queries and users: int64 within moonlib, and whatever a shop uses outside of it.

A shop's ids are int64 or text, each family of them by itself. Ids that are int64 are used as they are. Ids that are
text (a SKU, an ASIN, a UUID, a GTIN with its zeros) have a number each, from 0 on, and an `IdMap` that knows both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ids = NDArray[np.int64]
"""int64 [N], or [Q, L] for lists of them."""

Family = Literal["item", "spu", "user", "query", "search", "merchant"]
"""What ids are of. The columns of a family, in whatever table, hold the same ids."""

FAMILIES: dict[str, Family] = {
    "item_id": "item",
    "item_ids": "item",
    "spu_id": "spu",
    "user_id": "user",
    "query_id": "query",
    "search_id": "search",
    "merchant_id": "merchant",
}
"""The family of each column of ids."""

LISTS = ("item_ids",)
"""Those of the columns that are of lists."""

_AT_ONCE = 2**18
"""Ids looked up at once."""


class IdMap:
    """The text ids of one family, and the number of each.

    The numbers of a part ascend with the bytes of its texts, so that a text is found by a binary search in what may be
    a file mapped into memory, and nothing is held per id. The numbers of a later part follow those of the earlier
    ones: ids that come later change no number.

    Args:
        parts: texts in ascending order of their UTF-8 bytes, each of them once, in one part.
        files: where the parts are mapped from, if they are; a pickle then holds their names alone.

    Example:
        >>> ids = IdMap.of([pl.Series(["B7", "A1"]), pl.Series(["A1", "007"])])
        >>> ids.encode(pl.Series(["A1", "C9"])).to_list()
        [1, None]
        >>> ids.decode(np.array([0, 2])).to_list()
        ['007', 'B7']
    """

    def __init__(self, parts: Sequence[pa.LargeStringArray], files: Sequence[Path] = ()) -> None:
        self.parts, self.files = list(parts), tuple(files)
        self._starts = np.cumsum([0, *map(len, self.parts)])

    @classmethod
    def of(cls, texts: Iterable[pl.Series]) -> IdMap:
        """Number the distinct texts of some columns; nulls are none."""
        columns = [pl.Series(dtype=pl.String), *(column.drop_nulls().unique().alias("") for column in texts)]
        return cls([_strings(pl.concat(columns).unique().sort())])

    @classmethod
    def mapped(cls, files: Sequence[Path]) -> IdMap:
        """Map the parts from files that `write_part` wrote."""
        return cls([read_part(file) for file in files], files)

    def __reduce__(self) -> tuple[Any, ...]:
        return (IdMap.mapped, (self.files,)) if self.files else (IdMap, (self.parts,))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def extended(self, texts: Iterable[pl.Series]) -> IdMap:
        """The same ids with the same numbers, and a part more with the texts that are none of them yet.

        Example:
            >>> ids = IdMap.of([pl.Series(["B7", "C1"])]).extended([pl.Series(["A1", "B7"])])
            >>> ids.encode(pl.Series(["A1", "B7", "C1"])).to_list()
            [2, 0, 1]
        """
        columns = [column.cast(pl.String).drop_nulls().unique().alias("") for column in texts]
        new = [column.filter(self.encode(column).is_null()) for column in columns]
        (part,) = IdMap.of(new).parts
        return IdMap([*self.parts, part]) if len(part) else self

    def encode(self, texts: pl.Series) -> pl.Series:
        """Number of each text: int64 [N], null for a text that is no id, and for null."""
        numbers = [pl.Series(dtype=pl.Int64)]
        for start in range(0, len(texts), _AT_ONCE):
            numbers.append(self._encode(_strings(texts.slice(start, _AT_ONCE))))
        return pl.concat(numbers, rechunk=True).alias(texts.name)

    def decode(self, ids: Ids | pl.Series) -> pl.Series:
        """Text of each number [N]; null for null.

        Raises:
            IndexError: a number is no id's.
        """
        numbers = ids if isinstance(ids, pl.Series) else pl.Series(np.asarray(ids, np.int64))
        unknown = numbers.filter(~numbers.is_between(0, len(self), closed="left"))
        if len(unknown):
            raise IndexError(f"no id has the number {unknown[0]}; there are {len(self)}")
        texts = pl.repeat(None, len(numbers), dtype=pl.String, eager=True)
        for part, start in zip(self.parts, self._starts.tolist(), strict=False):
            rows = numbers.is_between(start, start + len(part), closed="left").arg_true()
            taken = part.take((numbers[rows] - start).to_arrow()) if len(rows) else []
            texts = texts.scatter(rows, pl.Series(taken, dtype=pl.String))
        return texts.alias(numbers.name)

    def text(self, id: int) -> str:
        """Text of one number, from 0 to below the number of ids."""
        part = int(np.searchsorted(self._starts, id, side="right")) - 1
        return str(self.parts[part][id - int(self._starts[part])].as_py())

    def _encode(self, texts: pa.LargeStringArray) -> pl.Series:
        found = np.full(len(texts), -1, dtype=np.int64)
        for part, start in zip(self.parts, self._starts, strict=False):
            if len(part):
                place, there = _search(part, texts)
                found[there] = start + place[there]
        return pl.Series(found).replace(-1, None)


def write_part(file: Path, part: pa.LargeStringArray) -> None:
    """Write a part of an `IdMap` as an Arrow file of one batch, so that it is one array where it is mapped."""
    table = pa.table({"id": part})
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read_part(file: Path, *, check: bool = False) -> pa.LargeStringArray:
    """Map a part of an `IdMap` from a file.

    Args:
        file: what `write_part` wrote.
        check: whether to look at all of it, because no checksum vouches for the file.

    Raises:
        ValueError: it holds something else.
    """
    column = pa.ipc.open_file(pa.memory_map(str(file))).read_all().column("id")
    if check:
        column.validate(full=True)
    if column.type != pa.large_string() or column.null_count or column.num_chunks > 1:
        raise ValueError("its column 'id' is not one array of texts")
    texts = column.chunk(0) if column.num_chunks else pa.array([], pa.large_string())
    if check and len(texts) > 1 and not pc.all(pc.less(texts[:-1], texts[1:])).as_py():
        raise ValueError("its texts do not ascend")
    return texts


def _search(ascending: pa.LargeStringArray, texts: pa.LargeStringArray) -> tuple[Ids, NDArray[np.bool_]]:
    """Binary search: where each text is, int64 [N], and whether it is there, bool [N]."""
    low, high = np.zeros(len(texts), np.int64), np.full(len(texts), len(ascending), np.int64)
    for _ in range(len(ascending).bit_length()):
        middle = (low + high) // 2
        at = ascending.take(pa.array(np.minimum(middle, len(ascending) - 1)))
        less = _true(pc.less(at, texts)) & (low < high)
        low, high = np.where(less, middle + 1, low), np.where(less, high, middle)
    place = np.minimum(low, len(ascending) - 1)
    return place, _true(pc.equal(ascending.take(pa.array(place)), texts))


def _true(compared: pa.BooleanArray) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = compared.fill_null(False).to_numpy(zero_copy_only=False)
    return found


def _strings(series: pl.Series) -> pa.LargeStringArray:
    return series.cast(pl.String).rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.large_string())


class ShopIds(Mapping[Family, IdMap]):
    """The ids that a shop uses, for all columns of ids: an `IdMap` of each family that is text.

    A column's name says its family. Where that has no map, its ids are int64, and everything here leaves them as they
    are.

    Args:
        maps: by family; none for a shop whose ids are all int64.

    Example:
        >>> ids = ShopIds({"item": IdMap.of([pl.Series(["A1", "B7"])])})
        >>> ids.decoded(pl.DataFrame({"item_id": [1, 0], "user_id": [7, 7]}), "item_id", "user_id").rows()
        [('B7', 7), ('A1', 7)]
    """

    def __init__(self, maps: Mapping[Family, IdMap] = {}) -> None:
        self._maps = dict(maps)

    def __getitem__(self, family: Family) -> IdMap:
        return self._maps[family]

    def __iter__(self) -> Iterator[Family]:
        return iter(self._maps)

    def __len__(self) -> int:
        return len(self._maps)

    def of(self, column: str) -> IdMap | None:
        """The map of a column's ids; None where they are int64, or no ids."""
        family = FAMILIES.get(column)
        return None if family is None else self._maps.get(family)

    def decode(self, column: str, ids: Ids | pl.Series) -> pl.Series:
        """The shop's ids [N] in place of those of a dataset: text, or the same int64."""
        known = self.of(column)
        if known is not None:
            return known.decode(ids)
        return ids if isinstance(ids, pl.Series) else pl.Series(ids)

    def decoded(self, frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
        """A table with the shop's ids in some of its columns, in place of those of a dataset."""
        named = [column for column in columns if self.of(column) is not None]
        return frame.with_columns(self.decode(column, frame[column]).alias(column) for column in named)

    def encoded(self, frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
        """A table with the ids of a dataset in some of its columns, in place of the shop's; null for unknown ones."""
        maps = {column: known for column in columns if (known := self.of(column)) is not None}
        return frame.with_columns(known.encode(frame[column]).alias(column) for column, known in maps.items())

    def value(self, column: str, id: int) -> int | str:
        """One id, for people and for files: as the shop writes it; a number that is no id's stays what it is."""
        known = self.of(column)
        return id if known is None or not 0 <= id < len(known) else known.text(id)

    def row(self, row: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Any]:
        """A row of a sample with the shop's ids in some of its columns."""
        named = [column for column in columns if self.of(column) is not None and row.get(column) is not None]
        return {**row, **{column: self.value(column, row[column]) for column in named}}


def codes(column: pl.Series) -> Ids:
    """Tell the values of a column of ids apart by int64 [N], which keep the order of the ids.

    Args:
        column: the shop's ids, without nulls.

    Returns:
        Of int64, the ids themselves; of text, the place of each among the distinct ones.

    Example:
        >>> codes(pl.Series(["u7", "u1", "u7"]))
        array([1, 0, 1])
    """
    if column.dtype == pl.String:
        column = column.rank("dense").cast(pl.Int64) - 1
    return column.to_numpy()
