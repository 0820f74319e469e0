"""A dataset on disk: its tables, splits and identity."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moonlib.artifacts.checksums import Damaged, is_noted, verified
from moonlib.artifacts.layout import IDS, SUPERSEDED
from moonlib.artifacts.reading import Unreadable, read_array, read_mapping
from moonlib.data.ids import Family, IdMap, ShopIds, read_part
from moonlib.data.image_lists import IMAGES
from moonlib.data.sample_shards import DIGEST, INDEX_COLUMNS, OFFSETS, Shard
from moonlib.data.shards import FORMATS, SAMPLE_TABLES
from moonlib.data.splits import Splits, crossing
from moonlib.data.tables import KEYS, OPTIONAL_TABLES, SCHEMAS
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

    A dataset that was appended to (`moonlib.data.append`) holds rows of products, queries and users that a later row
    of the same id supersedes. No table has them: an id's row stands where its last one was written. Columns that only
    later rows have are null in the earlier ones.

    Attributes:
        directory: where it lies.
        name: what its maker calls it.
        version: of its maker.
        hash: SHA-256 over its content, by way of the hashes of its shards.
        splits: when behaviour, training, validation and test end.
        counts: rows of each table that the dataset has, without those that are superseded.
        shards: of each table, in their order; None for a dataset of format 1, or of format 2 as it was at first, whose
            shards are the files that are there.

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
            self._columns: dict[str, list[str]] = {}
            self._given: dict[str, int] = dict(described.get("representations", {}))
            self._text_ids: dict[Family, int] = {
                family: about["count"] for family, about in described.get("ids", {}).items()
            }
            self._superseded: dict[str, int] = dict(described.get("superseded", {}))
            listed = described.get("shards")
            self.shards: dict[str, list[Shard]] | None = (
                None if listed is None else {table: [Shard(**shard) for shard in listed[table]] for table in there}
            )
            self.id_parts: dict[Family, list[Shard]] = {
                family: [Shard(**part) for part in about["parts"]]
                for family, about in described.get("ids", {}).items()
                if "parts" in about
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
        arrow = self.arrow(name, columns)
        with _told_of(self.directory / "shards", f"{name}: "):
            frame = pl.from_arrow(arrow, rechunk=False)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def arrow(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return what `table` returns, as Arrow maps it; nothing of its content has been looked at.

        Of a shard in which rows are superseded, the other rows are copied, and no other column than those wanted.
        """
        if name not in SCHEMAS:
            raise KeyError(f"no table {name!r}; the tables are {', '.join(SCHEMAS)}")
        if name not in self.counts:
            nothing = SCHEMAS[name].empty_table()
            return nothing if columns is None else nothing.select(list(columns))
        shards = self.directory / "shards"
        if name in SAMPLE_TABLES:
            parts = [_without_places(read_index(path)) for path in self.shard_files(name, ".arrow")]
        else:
            parts = [part for shard in self.shard_files(name) for part in _read_events(shard)]
        if name in SAMPLE_TABLES:
            parts = [with_lists(part, parts) for part in parts]
        more = self._more if name == "queries" else None
        wanted = self._live(name, parts, columns if more is None else None)
        try:
            table = pa.concat_tables(wanted, promote_options="none" if self.shards is None else "default")
        except pa.ArrowException as error:
            problem = f"shards of {name} differ in their columns ({first_line(error)})"
            raise BrokenShard(f"{shards}: {problem}; {REMEDY}") from error
        there = {column for part in parts for column in part.column_names}
        if missing := [column for column in SCHEMAS[name].names if column not in there]:
            raise BrokenShard(f"{shards}: {name}: the shards have no column {missing[0]!r}; {REMEDY}")
        if more is not None:
            more = more.cast(pa.schema([table.schema.field(column) for column in more.column_names]))
            table = pa.concat_tables([table, more], promote_options="default")
        return table if columns is None else table.select(list(columns))

    def columns(self, name: str) -> list[str]:
        """Names of the columns of a table."""
        if name not in self._columns:
            self._columns[name] = self.arrow(name).column_names
        return list(self._columns[name])

    def order(self, table: str) -> NDArray[np.int64] | None:
        """The order in which ids were first written, of products, queries or users that later rows supersede.

        In it a dataset that was appended to has its rows where the one before it had them, and new ids after them.

        Returns:
            int64 [rows], numbers of rows of `arrow`; None where they are in that order.
        """
        if table not in KEYS or not self._superseded.get(table, 0):
            return None
        if table in SAMPLE_TABLES:
            parts = [read_index(path) for path in self.shard_files(table, ".arrow")]
        else:
            parts = [part for shard in self.shard_files(table) for part in _read_events(shard)]
        keys = np.concatenate([part.column(KEYS[table]).to_numpy() for part in parts])
        ids, first = np.unique(keys, return_index=True)
        there = keys[np.concatenate(self.live(table, [len(part) for part in parts]))]
        return np.argsort(first[np.searchsorted(ids, there)], kind="stable")

    def shard_files(self, table: str, ending: Literal[".tar", ".arrow"] = ".tar") -> list[Path]:
        """The files of a table's shards that are there, in their order.

        Args:
            table: its name.
            ending: ``.arrow`` for the indexes of products or queries, which stand beside their tars.
        """
        folder = self.directory / "shards"
        if self.shards is None:
            return sorted(folder.glob(f"{table}-*{ending}"))
        return [path for shard in self.shards.get(table, ()) if (path := folder / f"{shard.name}{ending}").is_file()]

    def image_digests(self, table: str) -> pa.ChunkedArray | None:
        """Digests of the pictures of products or queries, by which changed ones are told from those that stayed.

        Args:
            table: ``products`` or ``queries``.

        Returns:
            fixed_size_binary(16), rows as in `arrow`, null where a row has no picture; see
            `moonlib.data.sample_shards.digest_of`. None for a dataset that was built before there were digests.

        Raises:
            BrokenShard: as `table`.
        """
        indexes = [read_index(path) for path in self.shard_files(table, ".arrow")]
        if not all(DIGEST in index.column_names for index in indexes):
            return None
        live = self._live(table, indexes, (DIGEST,))
        return pa.chunked_array([chunk for index in live for chunk in index.column(DIGEST).chunks], pa.binary(16))

    def superseded(self, table: str) -> NDArray[np.int64]:
        """Numbers of the rows that a later row of the same id supersedes, counted over all shards, int64, ascending.

        Raises:
            BrokenShard: their file is missing or broken.
            Damaged: its content is not what was written.
        """
        expected = self._superseded.get(table, 0)
        if not expected:
            return np.empty(0, np.int64)
        file = self.directory / SUPERSEDED / f"{table}.npy"
        try:
            rows = read_array(file)
        except Damaged:
            raise
        except (OSError, ValueError, TypeError) as error:
            raise BrokenShard(f"{file} is missing or broken ({first_line(error)}); {REMEDY}") from error
        ascending = rows.ndim == 1 and rows.dtype == np.int64 and (np.diff(rows, prepend=-1) > 0).all()
        if not ascending or len(rows) != expected:
            raise BrokenShard(f"{file} does not hold {expected} ascending numbers of rows; {REMEDY}")
        return rows

    def live(self, table: str, rows: Sequence[int]) -> list[NDArray[np.bool_]]:
        """Tell which rows of a table's shards are not superseded.

        Args:
            table: its name.
            rows: how many each of its shards holds.

        Returns:
            bool [rows] of each shard.

        Raises:
            BrokenShard: these are not as many rows as were written.
        """
        ends = np.cumsum([0, *rows])
        superseded = self.superseded(table)
        there = int(ends[-1]) - len(superseded)
        if there != self.counts[table] or superseded.max(initial=-1) >= ends[-1]:
            raise self._lost(table, there)
        kept = [np.ones(count, np.bool_) for count in rows]
        for shard, mask in enumerate(kept):
            first, last = np.searchsorted(superseded, (ends[shard], ends[shard + 1]))
            mask[superseded[first:last] - ends[shard]] = False
        return kept

    def _live(self, table: str, parts: list[pa.Table], columns: Sequence[str] | None) -> list[pa.Table]:
        """The rows of a table that are not superseded, part by part."""
        if not parts:
            raise self._lost(table, 0)
        masks = self.live(table, [len(part) for part in parts])
        if columns is not None:
            parts = [part.select([name for name in columns if name in part.column_names]) for part in parts]
        return [part if mask.all() else part.filter(pa.array(mask)) for part, mask in zip(parts, masks, strict=True)]

    def _lost(self, table: str, rows: int) -> BrokenShard:
        lost = f"{rows} of {self.counts[table]} rows of {table} are there"
        return BrokenShard(f"{self.directory / 'shards'}: {lost}; shards are missing: {REMEDY}")

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
        folder = self.directory / IDS
        if family in self.id_parts:
            files = [path for part in self.id_parts[family] if (path := folder / f"{part.name}.arrow").is_file()]
        else:
            files = sorted(folder.glob(f"{family}-*.arrow"))
        parts = []
        for file in files:
            with _told_of(verified(file)):
                parts.append(read_part(file, check=not is_noted(file)))
        if (found := sum(map(len, parts))) != count:
            lost = f"{found} of {count} {family} ids are there"
            raise BrokenShard(f"{folder}: {lost}; files are missing: {REMEDY}")
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
    if DIGEST in table.column_names and table.column(DIGEST).type != pa.binary(16):
        raise BrokenShard(f"{path} is no index of a shard (its column {DIGEST!r} is not of 16 bytes); {REMEDY}")
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


def with_lists(part: pa.Table, parts: Sequence[pa.Table]) -> pa.Table:
    """A part of products or queries with the column of several pictures, if other parts have it.

    A part of a dataset that was appended to may be from before any row had several.
    """
    kind = next((other.schema.field(IMAGES).type for other in parts if IMAGES in other.column_names), None)
    if kind is None or IMAGES in part.column_names or "image" not in part.column_names:
        return part
    image = part.column("image").combine_chunks()
    there = image.is_valid()
    ends = np.cumsum(np.concatenate([[0], there.to_numpy(zero_copy_only=False)]))
    lists = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), image.drop_null(), mask=pc.invert(there))
    return part.append_column(IMAGES, lists.cast(kind))


def _without_places(index: pa.Table) -> pa.Table:
    return index.drop_columns([name for name in INDEX_COLUMNS if name in index.column_names])


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
