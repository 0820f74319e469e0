"""A dataset on disk: its tables, splits and identity."""

from __future__ import annotations

import json
import tarfile
from functools import cached_property
from pathlib import Path

import polars as pl
import pyarrow as pa

from moonlib.data.shards import FORMAT, OFFSETS, SAMPLE_TABLES
from moonlib.data.splits import Splits
from moonlib.data.tables import SCHEMAS


class Dataset:
    """Opens a directory that `moonlib.data.shards.write_dataset` wrote. Tables are mapped into memory, not read.

    Attributes:
        directory: where it lies.
        name: what its maker calls it.
        version: of its maker.
        hash: SHA-256 over its content.
        splits: when behaviour, training, validation and test end.
        counts: rows of each table.

    Args:
        directory: a dataset's directory.

    Raises:
        ValueError: the directory is missing or holds no dataset that this version of moonlib can read.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        file = self.directory / "dataset.json"
        if not file.is_file():
            raise ValueError(
                f"{self.directory} is no dataset: it has no dataset.json; build one with "
                "`moonlib data build TABLES --images DIR --out DIR` or `moonlib data make small --out DIR`"
            )
        try:
            described = json.loads(file.read_text(encoding="utf-8"))
            written = described["format"]
            self.name: str = described["name"]
            self.version: str = described["version"]
            self.hash: str = described["hash"]
            self.counts: dict[str, int] = {table: described["counts"][table] for table in SCHEMAS}
            self.splits = Splits.from_json(described["splits"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} was not written by moonlib ({error!r}); build the dataset again") from error
        if written != FORMAT:
            raise ValueError(f"{file}: this moonlib reads format {FORMAT}, not {written}; build the dataset again")

    def table(self, name: str) -> pl.DataFrame:
        """Return a table as it was written; its columns stay mapped from the shards."""
        if name not in SCHEMAS:
            raise KeyError(f"no table {name!r}; the tables are {', '.join(SCHEMAS)}")
        if name in SAMPLE_TABLES:
            parts = [read_index(path).drop_columns(list(OFFSETS)) for path in index_files(self.directory, name)]
        else:
            shards = sorted((self.directory / "shards").glob(f"{name}-*.tar"))
            parts = [part for shard in shards for part in _read_events(shard)]
        frame = pl.from_arrow(pa.concat_tables(parts), rechunk=False) if parts else pl.DataFrame()
        assert isinstance(frame, pl.DataFrame)
        if frame.height != self.counts[name]:
            lost = f"{frame.height} of {self.counts[name]} rows of {name} are there"
            raise ValueError(f"{self.directory}: {lost}; shards are missing: copy or build the dataset again")
        return frame

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
        """What users did with the items that their searches led to."""
        return self.table("searches")

    @cached_property
    def impressions(self) -> pl.DataFrame:
        """What users were shown, and whether they clicked."""
        return self.table("impressions")

    @property
    def truth(self) -> Path | None:
        """Where a simulation keeps what training must not see; None for real data."""
        path = self.directory / "truth"
        return path if path.is_dir() else None

    def __repr__(self) -> str:
        return f"Dataset({str(self.directory)!r}: {self.name} {self.version}, {self.hash[:16]})"


def index_files(directory: Path, table: str) -> list[Path]:
    """Return the indexes of a table's shards, in order; each stands beside its tar."""
    return sorted((directory / "shards").glob(f"{table}-*.arrow"))


def read_index(path: Path) -> pa.Table:
    """Map an index into memory: the rows of one shard and the `OFFSETS` of their members."""
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is broken ({error}); copy or build the dataset again") from error


def _read_events(shard: Path) -> list[pa.Table]:
    """Map the Arrow members of one shard into memory."""
    try:
        with tarfile.open(shard) as tar:
            places = [(member.offset_data, member.size) for member in tar.getmembers()]
        with pa.memory_map(str(shard)) as source:
            whole = source.read_buffer()
        return [pa.ipc.open_file(whole.slice(offset, size)).read_all() for offset, size in places]
    except (tarfile.TarError, pa.ArrowInvalid) as error:
        raise ValueError(f"{shard} is broken ({error}); copy or build the dataset again") from error
