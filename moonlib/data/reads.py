"""The part of a dataset that a stage or a component reads: its fingerprint covers it, and it is given no more."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from moonlib.data.content import Modalities
from moonlib.data.splits import MOMENTS
from moonlib.data.tables import KEYS

Moment = Literal["behaviour_until", "train_until", "valid_until", "test_until"]

ALWAYS = {
    **{table: (key,) for table, key in KEYS.items()},
    "searches": ("search_id", "ts"),
    "impressions": ("search_id", "ts"),
    "histories": ("user_id", "ts"),
}
"""Columns that are read of a table if any are: without them its rows can't be told apart, or put in a split."""


@dataclass(frozen=True)
class TableReads:
    """The part of one table that is read.

    Attributes:
        columns: their names; None for all of them.
        pictures: whether the pictures of its rows are read, too.
        until: rows of this moment and later are not read, but for the rest of a session that began before it; None for
            all rows. A product counts by when it was listed, and is also there if an event that is read names it. Of
            queries and users, who have no time, there are those that an event that is read names.
    """

    columns: frozenset[str] | None = None
    pictures: bool = False
    until: Moment | None = None

    def __or__(self, other: TableReads) -> TableReads:
        columns = None if self.columns is None or other.columns is None else self.columns | other.columns
        moments = (self.until, other.until)
        until = None if None in moments else max(moments, key=lambda moment: MOMENTS.index(str(moment)))
        return TableReads(columns, self.pictures or other.pictures, until)


@dataclass(frozen=True)
class Reads:
    """The part of a dataset that is read; ``|`` is the union.

    Attributes:
        tables: what of each table; a table that is not named is not read.
        moments: which ends of splits are looked at.
        truth: whether the truth of a simulated dataset is read.
        whole: whether simply everything is read, whatever else is said.

    Example:
        >>> titles = Reads.of(products=["title"]).before("train_until")
        >>> sorted((titles | Reads.of(products=["price"])).tables["products"].columns)
        ['item_id', 'price', 'title']
    """

    tables: Mapping[str, TableReads] = field(default_factory=dict)
    moments: frozenset[Moment] = frozenset()
    truth: bool = False
    whole: bool = False

    @classmethod
    def of(cls, *, moments: Iterable[Moment] = (), truth: bool = False, **tables: Collection[str]) -> Reads:
        """Name what is read.

        Args:
            moments: ends of splits.
            truth: of a simulated dataset.
            tables: columns of each table, without those that are `ALWAYS` read.
        """
        if unknown := tables.keys() - ALWAYS.keys():
            raise KeyError(f"no table {min(unknown)!r}; the tables are {', '.join(ALWAYS)}")
        named = {table: TableReads(frozenset((*ALWAYS[table], *columns))) for table, columns in tables.items()}
        return cls(named, frozenset(moments), truth)

    @classmethod
    def named(cls, names: Iterable[str]) -> Reads:
        """The columns that a recipe names, ``table.column`` each; what is of no table is left out."""
        found = cls()
        for name in names:
            table, _, column = name.partition(".")
            if table in ALWAYS:
                found |= cls({table: TableReads(frozenset((*ALWAYS[table], column)))})
        return found

    @classmethod
    def content(cls, table: str, modalities: Iterable[Modalities]) -> Reads:
        """The part of a table that an encoder is shown.

        Args:
            table: ``products`` or ``queries``.
            modalities: all that is shown, by one of them or another.
        """
        read = Modalities.union(list(modalities))
        columns = list(ALWAYS[table])
        if read.text:
            rich = ("category", "attributes") if read.text == "rich" else ()
            columns += ("text",) if table == "queries" else ("title", *rich)
        if read.image:
            columns += ("image", "box")
        return cls({table: TableReads(frozenset(columns), pictures=read.image)})

    def includes(self, table: str, column: str) -> bool:
        """Whether a column is read."""
        if self.whole or table not in self.tables:
            return self.whole
        columns = self.tables[table].columns
        return columns is None or column in columns

    def table(self, name: str) -> TableReads | None:
        """The part of a table that is read; None where nothing of it is.

        Example:
            >>> Reads(whole=True).table("products")
            TableReads(columns=None, pictures=True, until=None)
        """
        return TableReads(pictures=True) if self.whole else self.tables.get(name)

    def before(self, moment: Moment) -> Reads:
        """The same of the rows before a moment, see `TableReads.until`; of a table that is cut already, no more."""
        tables = {
            name: replace(table, until=min(moment, table.until or moment, key=lambda each: MOMENTS.index(str(each))))
            for name, table in self.tables.items()
        }
        return replace(self, tables=tables)

    def __or__(self, other: Reads) -> Reads:
        tables = dict(self.tables)
        for name, table in other.tables.items():
            tables[name] = tables[name] | table if name in tables else table
        moments, truth = self.moments | other.moments, self.truth or other.truth
        return Reads(tables, moments, truth, self.whole or other.whole)


class Declaring:
    """Base of the classes whose method ``reads`` declares what they read of a dataset.

    A declaration is of the class that makes it: a subclass without one of its own may read more than what it derives
    from, and has the declaration of the first class, which is the widest.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "reads" not in vars(cls) and Declaring not in cls.__bases__:
            first: Any = next(base for base in cls.__mro__ if Declaring in base.__bases__)
            cls.reads = first.reads  # type: ignore[attr-defined]


NOTHING = Reads()
EVERYTHING = Reads(whole=True)

ALL_MOMENTS: tuple[Moment, ...] = ("behaviour_until", "train_until", "valid_until", "test_until")
