"""A dataset on disk: its tables, splits and identity."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from pathlib import Path

import polars as pl
import pyarrow as pa

from moonlib.artifacts.checksums import Damaged, is_noted, verified
from moonlib.artifacts.layout import IDS
from moonlib.artifacts.reading import Unreadable, read_array, read_mapping
from moonlib.data.ids import Family, IdMap, ShopIds, read_part
from moonlib.data.shards import CHECKSUM, FORMATS, MORE_SIZES, OFFSETS, SAMPLE_TABLES
from moonlib.data.splits import Splits, crossing
from moonlib.data.tables import OPTIONAL_TABLES, SCHEMAS
from moonlib.representations.store import Representations
from moonlib.system.disk import is_panic
from moonlib.system.download_cache import origin
from moonlib.system.remote import local_copy, without_credentials
from moonlib.system.workers import shortage

REMEDY = "copy the dataset again, or remove it and build it again"
"""Remedy for a `BrokenShard`."""


class BrokenShard(ValueError):
    """A shard that is not as it was written: missing, cut off, exchanged or damaged; the message names it."""


class Dataset:
    """Opens a directory that `moonlib.data.shards.write_dataset` wrote. Tables are mapped into memory, not read.

    Each file is compared with its checksum when a process first opens it, but for the tars of products and queries, of
    which `moonlib.data.reader.SampleReader` compares each sample as it reads it. A dataset that was built before there
    were checksums is validated as far as Arrow can tell.

    Attributes:
        directory: where it lies.
        name: what its maker calls it.
        version: of its maker.
        hash: SHA-256 over its content.
        splits: when behaviour, training, validation and test end.
        counts: rows of each table that the dataset has.

    Args:
        directory: a dataset's directory, or its URL: it is then copied into the cache, see `moonlib.system.remote`.

    Raises:
        ValueError: the directory is missing or holds no dataset that this version of moonlib can read.
        Damaged: its description is not what was written.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = local_copy(directory)
        file = self.directory / "dataset.json"
        if not file.is_file():
            raise ValueError(
                f"{without_credentials(str(directory))} is no dataset: it has no dataset.json; build one with "
                "`moonlib data build TABLES --images DIR --out DIR` or `moonlib data make small --out DIR`"
            )
        try:
            described = read_mapping(file)
            written = described["format"]
            self.name: str = described["name"]
            self.version: str = described["version"]
            self.hash: str = described["hash"]
            counts = described["counts"]
            there = [table for table in SCHEMAS if table not in OPTIONAL_TABLES or table in counts]
            self.counts: dict[str, int] = {table: counts[table] for table in there}
            self._more: pa.Table | None = None
            self._given: dict[str, int] = dict(described.get("representations", {}))
            self._text_ids: dict[Family, int] = {
                family: about["count"] for family, about in described.get("ids", {}).items()
            }
            self.splits = Splits.from_json(described["splits"]).with_sessions(self._sessions)
        except (Damaged, Unreadable):
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} was not written by moonlib ({error!r}); build the dataset again") from error
        if written not in FORMATS:
            known = " and ".join(map(str, FORMATS))
            raise ValueError(f"{file}: this moonlib reads formats {known}, not {written}; build the dataset again")

    def table(self, name: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return a table as it was written; its columns stay mapped from the shards.

        Args:
            name: of the table.
            columns: those wanted; all by default. Numbers and times cost no memory, of texts polars holds 16 bytes
                each.

        Raises:
            BrokenShard: a shard is missing, cut off or damaged.
            Damaged: the content of one is not what was written.
        """
        arrow = self.arrow(name)
        with _told_of(self.directory / "shards", f"{name}: "):
            frame = pl.from_arrow(arrow if columns is None else arrow.select(list(columns)), rechunk=False)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def arrow(self, name: str) -> pa.Table:
        """Return what `table` returns, as Arrow maps it; nothing of its content has been looked at."""
        if name not in SCHEMAS:
            raise KeyError(f"no table {name!r}; the tables are {', '.join(SCHEMAS)}")
        if name not in self.counts:
            return SCHEMAS[name].empty_table()
        shards = self.directory / "shards"
        if name in SAMPLE_TABLES:
            parts = [_without_places(read_index(path)) for path in index_files(self.directory, name)]
        else:
            parts = [part for shard in sorted(shards.glob(f"{name}-*.tar")) for part in _read_events(shard)]
        rows = sum(map(len, parts))
        if not parts or rows != self.counts[name]:
            lost = f"{rows} of {self.counts[name]} rows of {name} are there"
            raise BrokenShard(f"{shards}: {lost}; shards are missing: {REMEDY}")
        try:
            table = pa.concat_tables(parts)
        except pa.ArrowException as error:
            problem = f"shards of {name} differ in their columns ({first_line(error)})"
            raise BrokenShard(f"{shards}: {problem}; {REMEDY}") from error
        if missing := [column for column in SCHEMAS[name].names if column not in table.column_names]:
            raise BrokenShard(f"{shards}: {name}: the shards have no column {missing[0]!r}; {REMEDY}")
        if name == "queries" and self._more is not None:
            more = self._more.cast(pa.schema([table.schema.field(column) for column in self._more.column_names]))
            return pa.concat_tables([table, more], promote_options="default")
        return table

    def with_queries(self, queries: pl.DataFrame) -> Dataset:
        """The same dataset as if more had been asked: its table of queries ends with these. Nothing is written.

        Its own queries stay what they are. Of the new ones there is no sample to read.

        Args:
            queries: columns of the queries table; ids that the dataset does not have.
        """
        more = Dataset(self.directory)
        more._more = queries.to_arrow(compat_level=pl.CompatLevel.oldest())
        return more

    def with_splits(self, splits: Splits) -> Dataset:
        """The same dataset, cut by other moments. Nothing is written.

        Args:
            splits: the moments.
        """
        other = copy(self)
        other.__dict__.pop("sessions", None)  # those that cross the moments of this one
        other.splits = splits.with_sessions(other._sessions)
        return other

    @cached_property
    def sessions(self) -> pl.DataFrame:
        """The sessions that go on from one split into the next, see `moonlib.data.splits.crossing`; mostly none."""
        return crossing(self.splits, [self.table(name, ("search_id", "ts")) for name in ("searches", "impressions")])

    def _sessions(self) -> pl.DataFrame:
        return self.sessions

    @cached_property
    def products(self) -> pl.DataFrame:
        """The products, one row per SKU."""
        return self.table("products")

    @cached_property
    def queries(self) -> pl.DataFrame:
        """The queries: texts, photos or both."""
        return self.table("queries")

    @cached_property
    def users(self) -> pl.DataFrame:
        """The users and their features."""
        return self.table("users")

    @cached_property
    def searches(self) -> pl.DataFrame:
        """Actions of users on the items that their searches led to."""
        return self.table("searches")

    @cached_property
    def impressions(self) -> pl.DataFrame:
        """Impressions: items shown to users, and whether they were clicked."""
        return self.table("impressions")

    @cached_property
    def histories(self) -> pl.DataFrame:
        """Histories of users as of some moments, of data that has no events; mostly empty."""
        return self.table("histories")

    @cached_property
    def ids(self) -> ShopIds:
        """The shop's own ids of the families that are text, mapped from their files; the tables hold their numbers.

        Raises:
            BrokenShard: a file of them is missing, cut off or damaged.
            Damaged: the content of one is not what was written.
        """
        return ShopIds({family: self._read_ids(family, count) for family, count in self._text_ids.items()})

    def _read_ids(self, family: Family, count: int) -> IdMap:
        files = sorted((self.directory / IDS).glob(f"{family}-*.arrow"))
        parts = []
        for file in files:
            with _told_of(verified(file)):
                parts.append(read_part(file, check=not is_noted(file)))
        if (found := sum(map(len, parts))) != count:
            lost = f"{found} of {count} {family} ids are there"
            raise BrokenShard(f"{self.directory / IDS}: {lost}; files are missing: {REMEDY}")
        return IdMap(parts, files)

    @property
    def representations(self) -> Path | None:
        """Where the representations lie that the data set came with; None where it came with none."""
        return self.directory / "representations" if self._given else None

    def verify_representations(self) -> None:
        """Check that the given representations are there, as they were written and as many.

        Raises:
            BrokenShard: naming the first that is not.
            Damaged: its content is not what was written.
        """
        for name, rows in self._given.items():
            place = self.directory / "representations" / f"{name}.npy"
            try:
                ids, vectors = (read_array(place.with_name(f"{name}{end}.npy")) for end in (".ids", ""))
                found = len(Representations(ids, vectors).ids)
            except Damaged:
                raise
            except (OSError, ValueError, TypeError) as error:
                raise BrokenShard(f"{place} is missing or broken ({first_line(error)}); {REMEDY}") from error
            if found != rows:
                raise BrokenShard(f"{place} holds {found} of {rows} representations; {REMEDY}")

    @property
    def truth(self) -> Path | None:
        """Where a simulation keeps what training must not see; None for real data."""
        path = self.directory / "truth"
        return path if path.is_dir() else None

    def __repr__(self) -> str:
        where = origin(self.directory.resolve()) or str(self.directory)
        return f"Dataset({where!r}: {self.name} {self.version}, {self.hash[:16]})"


def index_files(directory: Path, table: str) -> list[Path]:
    """Return the indexes of a table's shards, in order; each stands beside its tar."""
    return sorted((directory / "shards").glob(f"{table}-*.arrow"))


def read_index(path: Path) -> pa.Table:
    """Map an index into memory: the rows of one shard, the `OFFSETS` of their members, and mostly their `CHECKSUM`.

    Raises:
        BrokenShard: it is no whole Arrow file, or no index.
        Damaged: its content is not what was written.
    """
    with _told_of(verified(path)):
        table = _read_arrow(pa.memory_map(str(path)), path)
    if missing := [column for column in OFFSETS if column not in table.column_names]:
        raise BrokenShard(f"{path} is no index of a shard (it has no column {missing[0]!r}); {REMEDY}")
    require_integers(path, table, *OFFSETS)
    return table


def require_integers(path: Path, table: pa.Table, *columns: str) -> None:
    """Refuse an index whose columns are no int64, or have gaps.

    Raises:
        BrokenShard: naming the first.
    """
    for name in columns:
        column = table.column(name)
        if column.type != pa.int64() or column.null_count:
            raise BrokenShard(f"{path} is no index of a shard (its column {name!r} is not all int64); {REMEDY}")


def _without_places(index: pa.Table) -> pa.Table:
    return index.drop_columns([name for name in (*OFFSETS, CHECKSUM, MORE_SIZES) if name in index.column_names])


def _read_events(shard: Path) -> list[pa.Table]:
    """Map the Arrow members of one shard into memory."""
    with _told_of(verified(shard)):
        if shard.stat().st_size % tarfile.RECORDSIZE:
            raise tarfile.TarError("it is cut off")
        with tarfile.open(shard) as tar:
            places = [(member.offset_data, member.size) for member in tar.getmembers()]
        with pa.memory_map(str(shard)) as source:
            whole = source.read_buffer()
        return [_read_arrow(whole.slice(offset, size), shard) for offset, size in places]


def _read_arrow(source: pa.NativeFile | pa.Buffer, file: Path) -> pa.Table:
    """Read an Arrow file; where no checksum vouches for it, look at all of its content.

    Damaged offsets or texts would lead a reader astray, to the end of the process.
    """
    table = pa.ipc.open_file(source).read_all()
    table.validate(full=not is_noted(file))
    return table


@contextmanager
def _told_of(path: Path, part: str = "") -> Iterator[None]:
    """Turn what readers of tar and Arrow raise, which may be almost anything, into a `BrokenShard`."""
    try:
        yield
    except BaseException as error:
        if (not isinstance(error, Exception) and not is_panic(error)) or shortage(error):
            raise
        raise BrokenShard(f"{path} is broken ({part}{first_line(error)}); {REMEDY}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text."""
    return str(error).partition("\n")[0]
