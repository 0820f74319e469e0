"""Where the pictures that tables name come from: files below a folder, members of tars, or the tables themselves.

An `ImageSource` reads a picture by its name. `open_images` says which one a place needs: another kind of place, such as
a bucket, is another class with this method and a line there. `ImageReader` is what a build and an embedding read with.
"""

from __future__ import annotations

import bisect
import hashlib
import logging
import os
import secrets
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

import polars as pl

from moonlib.data import table_files
from moonlib.data.cloud_images import CloudImages, in_cloud
from moonlib.data.image_lists import IMAGES
from moonlib.data.jpeg import to_jpeg
from moonlib.system.disk import writing

log = logging.getLogger(__name__)

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")
"""Members of a tar that a key names; others are captions and metadata."""


class ImageSource(Protocol):
    """Reads pictures by name. It must be picklable, and is used in several processes at once."""

    def read(self, name: str) -> bytes:
        """Return a picture's file as it is.

        Raises:
            ValueError: there is none of this name, or it can't be read; the message says why.
        """
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """An `ImageSource` that reads many pictures faster than one by one."""

    def prefetched(self, names: Sequence[str]) -> ImageSource:
        """Return a source of these pictures, which have been read."""
        ...


def open_images(place: str | Path) -> ImageSource:
    """Open a place of pictures.

    Args:
        place: a folder of files, or of tars with such files in them, as img2dataset and WebDataset write them; or what
            `moonlib.data.cloud_images.CloudImages` reads.

    Raises:
        ValueError: it is no folder, or holds a tar that can't be read and nothing but tars and what belongs to them.
            Where it holds other files, these are read, and a warning names the tar.
    """
    if in_cloud(place):
        return CloudImages(str(place))
    place = Path(place)
    if not place.is_dir():
        raise ValueError(f"{place} is no folder of images")
    with os.scandir(place) as found:
        visible = [entry.name for entry in found if not entry.name.startswith(".")]
    tars = sorted(place / name for name in visible if name.endswith(".tar") and (place / name).is_file())
    try:
        return ImageShards(place, tars) if tars else ImageFolder(place)
    except ValueError as error:
        if all(name.endswith((".tar", ".parquet", ".json")) for name in visible):
            raise
        log.warning(f"warning: {error}; no tar in {place} is read, only files beside them")
        return ImageFolder(place)


@dataclass(frozen=True)
class ImageReader:
    """Reads the pictures that tables name or hold; a `moonlib.data.shards.ReadImage`.

    Attributes:
        source: of those that they name; None where they name none.
        stored: of those that they hold.
        max_side: the longest side that a picture keeps, in pixels; None keeps its size.
    """

    source: ImageSource | None
    stored: StoredImages | None = None
    max_side: int | None = None

    def __call__(self, table: str, name: str) -> bytes:
        """Return a picture as a JPEG; it has been decoded once, so it is whole."""
        return to_jpeg(self.read(name), self.max_side)

    def read(self, name: str) -> bytes:
        """Return a picture's file as it is.

        Raises:
            ValueError: it can't be read.
        """
        if self.stored is not None and name in self.stored:
            return self.stored.read(name)
        if self.source is None:
            raise ValueError("there is no folder of images")
        return self.source.read(name)

    def identity(self, name: str) -> list[Any] | None:
        """Tell a picture from another of the same name: where it lies, its size and when it was last changed.

        Returns:
            Values that JSON has words for; None where a look at the picture itself is needed.
        """
        if self.stored is not None and name in self.stored:
            return [name, self.max_side]  # which is made of its content
        if not isinstance(self.source, ImageFolder | ImageShards):
            return None
        return [name, self.max_side, *self.source.identity(name)]

    @property
    def reads_ahead(self) -> bool:
        """Whether `ahead` reads anything: the source reads many pictures faster than one by one."""
        return isinstance(self.source, ReadsAhead)

    def ahead(self, names: Sequence[str]) -> ImageReader:
        """Return a reader of these pictures, which have been read if the source reads many at once."""
        if not isinstance(self.source, ReadsAhead):
            return self
        named = [name for name in names if self.stored is None or name not in self.stored]
        return replace(self, source=self.source.prefetched(named))


@dataclass(frozen=True)
class ImageFolder:
    """Reads images by their name in a folder.

    Attributes:
        root: the folder.
        max_side: the longest side that an image keeps, in pixels; None keeps its size.
    """

    root: Path
    max_side: int | None = None

    @cached_property
    def _place(self) -> Path:
        """The folder without links, looked up once: it takes as long as to read a small picture.

        Each `ImageFolder` does it for itself: a link may be turned, and the current directory be another, by the next.
        """
        return self.root.resolve()

    def __call__(self, table: str, name: str) -> bytes:
        """Return an image as a JPEG; it has been decoded once, so it is whole."""
        return to_jpeg(self.read(name), self.max_side)

    def identity(self, name: str) -> list[Any]:
        """See `ImageReader.identity`."""
        try:
            path = (self.root / relative_name(self.root, name)).resolve(strict=True)
            found = path.stat()
        except (OSError, ValueError, RuntimeError) as error:
            return [str(error)]
        return [str(path), found.st_size, found.st_mtime_ns]

    def read(self, name: str) -> bytes:
        """Return an image's file as it is.

        Args:
            name: relative to the folder, or an absolute path that lies in it.

        Raises:
            ValueError: there is no such file below the folder, also not by a link, or it can't be read.
        """
        if "://" in name:
            raise ValueError(
                "it is a URL: read the pictures from the web (--images https), or download them, such as with "
                "img2dataset, and give that folder"
            )
        relative = relative_name(self.root, name)
        path = self.root / relative
        try:
            file = self._without_links(relative)
            if not file.is_file():  # a pipe would be waited for, and a device read without an end
                raise ValueError(f"{path}: no regular file")
            return file.read_bytes()
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from error
        except RuntimeError as error:  # what Python before 3.13 raises for links in a circle
            raise ValueError(f"{path}: {error}") from error

    def _without_links(self, name: PurePosixPath) -> Path:
        """Where the file of a name lies.

        Raises:
            OSError: there is none.
            ValueError: a link leads out of the folder.
        """
        root = self._place
        place = os.fspath(root)
        for part in name.parts:
            place = f"{place}{os.sep}{part}"
            if stat.S_ISLNK(os.lstat(place).st_mode):
                file = Path(os.path.realpath(self.root / name, strict=True))
                if not file.is_relative_to(root):
                    raise ValueError(f"{self.root / name}: a link that leads out of {self.root}")
                return file
        return Path(place)


def relative_name(root: Path, name: str) -> PurePosixPath:
    """Return a name relative to a folder.

    Raises:
        ValueError: it is an absolute path elsewhere, or leads out of the folder.
    """
    path = PurePosixPath(name)
    for start in (root.absolute(), root.resolve()) if path.is_absolute() else ():
        if path.is_relative_to(start):
            path = path.relative_to(start)
            break
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"the name leads out of {root}")
    return path


class ImageShards:
    """Reads pictures out of the tars of a folder, without unpacking them: of WebDataset's shards, or img2dataset's.

    A picture is named ``00000.tar/000000000.jpg``, by tar and member; by the member alone, ``000000000.jpg``; by its
    key, ``000000000``, which is the member's name without its ending; or by the URL that img2dataset downloaded it
    from, which the table ``00000.parquet`` beside the tar has (columns ``url``, ``key``, ``status``). What names a file
    of the folder is that file.

    The tars are read through once, for where each member lies.

    Args:
        root: the folder.
        tars: those in it.

    Raises:
        ValueError: a tar is cut off or none, or has two members of one name; or the table beside it can't be read.
    """

    def __init__(self, root: Path, tars: Sequence[Path]) -> None:
        self.root = root
        self._tars = [str(path) for path in tars]
        members = [_members(path).with_columns(tar=pl.lit(number, pl.Int32)) for number, path in enumerate(tars)]
        found = pl.concat([_named(frame, path) for frame, path in zip(members, tars, strict=True)])
        keys = found.filter(pl.col("kind") == 1)
        several = keys.filter(pl.col("name").is_duplicated()).group_by("name").agg(pl.col("tar").unique().sort())
        self._ambiguous = {
            name: " and ".join(tars[number].name for number in numbers[:2]) for name, numbers in several.iter_rows()
        }
        # What has the name of a member is that; of two downloads of one URL, one that succeeded.
        found = found.sort("kind", pl.col("why").is_not_null(), maintain_order=True)
        found = found.unique("name", keep="first", maintain_order=True).sort("name")
        # Arrow's arrays can be read in a forked process, in which polars' threads are dead.
        oldest = pl.CompatLevel.oldest()
        self._names, self._why = (found[column].rechunk().to_arrow(compat_level=oldest) for column in ("name", "why"))
        self._places = found.select("tar", "offset", "size").to_numpy()

    def read(self, name: str) -> bytes:
        """Return a picture's file as it is.

        Raises:
            ValueError: no member, key or URL has this name, two members have this key, its download had failed, or it
                can't be read.
        """
        try:
            return ImageFolder(self.root).read(name)
        except ValueError as error:
            if "://" not in name and not isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                raise
        name = str(relative_name(self.root, name)) if name.startswith("/") else name
        place = self._find(name)
        if place is None:
            known = "the name is neither of a member (00000.tar/000000000.jpg), nor a key (000000000), nor a URL"
            raise ValueError(f"{known} that img2dataset downloaded, nor of a file in {self.root}")
        if name in self._ambiguous:
            raise ValueError(f"{name!r} is in {self._ambiguous[name]} more than once; name tar and member")
        if (why := self._why[place].as_py()) is not None:
            raise ValueError(why)
        tar, offset, size = self._places[place].tolist()
        try:
            file = os.open(self._tars[tar], os.O_RDONLY)
            try:
                data = os.pread(file, size, offset)
            finally:
                os.close(file)
        except OSError as error:
            raise ValueError(f"{self._tars[tar]}: {error.strerror}") from error
        if len(data) != size:
            raise ValueError(f"{self._tars[tar]} has become shorter while it was read")
        return data

    def identity(self, name: str) -> list[Any]:
        """See `ImageReader.identity`."""
        name = str(relative_name(self.root, name)) if name.startswith(f"{self.root}") else name
        place = self._find(name)
        in_tar: list[Any] = []
        if place is not None:
            tar, offset, size = self._places[place].tolist()
            found = Path(self._tars[tar]).stat()
            in_tar = [self._tars[tar], found.st_size, found.st_mtime_ns, offset, size, self._why[place].as_py()]
        return [*ImageFolder(self.root).identity(name), *in_tar]

    def _find(self, name: str) -> int | None:
        place = bisect.bisect_left(range(len(self._names)), name, key=lambda i: str(self._names[i].as_py()))
        return place if place < len(self._names) and self._names[place].as_py() == name else None


def _members(path: Path) -> pl.DataFrame:
    """Where the members of a tar lie: member, offset, size."""
    names, offsets, sizes = [], [], []
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isreg() and not member.issparse():
                    name = member.name.encode(errors="surrogateescape").decode(errors="replace")
                    names.append(name.removeprefix("./"))
                    offsets.append(member.offset_data)
                    sizes.append(member.size)
            # tarfile takes any end, and anything that is no header, for the end of a tar; that is a block of zeros.
            file.seek(tar.offset)
            whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{path} can't be read as a tar: {error}; make it again, without compression") from error
    if not whole:
        last = f"after {names[-1]!r}" if names else "at its beginning"
        raise ValueError(f"{path} is cut off or damaged {last}: make or copy it again, or move it elsewhere")
    schema = {"member": pl.String, "offset": pl.Int64, "size": pl.Int64}
    members = pl.DataFrame([names, offsets, sizes], schema=schema)
    if (twice := members.filter(~pl.col("member").is_first_distinct())).height:
        raise ValueError(f"{path}: the member {twice['member'][0]!r} stands twice; keep one of them")
    return members


def _named(members: pl.DataFrame, path: Path) -> pl.DataFrame:
    """All names of a tar's pictures: kind 0 by tar and member, 1 by member or key, 2 by URL; why one can't be read."""
    why = pl.lit(None, pl.String).alias("why")
    columns = ("name", "kind", "tar", "offset", "size", "why")
    ending = pl.col("member").str.extract(r"(\.[^./]*)$")
    keys = members.filter(ending.str.to_lowercase().is_in(PICTURES).fill_null(False)).with_columns(
        why, name=pl.col("member").str.strip_suffix(ending), kind=pl.lit(1)
    )
    alone = members.with_columns(why, name=pl.col("member"), kind=pl.lit(1))
    full = members.with_columns(why, name=pl.format("{}/{}", pl.lit(path.name), "member"), kind=pl.lit(0))
    parts = [frame.select(columns) for frame in (full, alone, keys)]
    table = path.with_suffix(".parquet")
    if table.is_file() and {"url", "key"} <= set(table_files.header(table)):
        parts.append(_downloads(table, keys).select(columns))
    return pl.concat(parts)


def _downloads(table: Path, keys: pl.DataFrame) -> pl.DataFrame:
    """The pictures of img2dataset's table by URL, and why a download failed."""
    rows = pl.concat(table_files.scan(table, ("url", "key", "status", "error_message"))).drop_nulls("url")
    for column in ("url", "key"):
        if rows[column].dtype != pl.String:
            raise ValueError(f"{table}: column {column!r}: {rows[column].dtype} is not text, as img2dataset writes it")
    status = pl.col("status").cast(pl.String) if "status" in rows.columns else pl.lit("success")
    said = pl.col("error_message").cast(pl.String) if "error_message" in rows.columns else pl.lit(None, pl.String)
    failed = pl.format("img2dataset: {}", pl.concat_str(status, said, separator=": ", ignore_nulls=True))
    found = rows.with_columns(failed=pl.when(status != "success").then(failed)).join(
        keys.filter(~pl.col("name").is_duplicated()).select("offset", "size", "tar", key="name"),
        on="key",
        how="left",
    )
    lost = pl.format("{}: no picture of the key {} in its tar", pl.lit(str(table)), pl.col("key"))
    return found.select(
        pl.col("offset", "size").fill_null(0),
        name="url",
        kind=pl.lit(2),
        tar=pl.col("tar").fill_null(0),
        why=pl.coalesce("failed", pl.when(pl.col("offset").is_null()).then(lost)),
    )


class StoredImages:
    """Pictures that tables hold themselves: moved to one file, so that memory does not hold them, and named.

    The name is made of their content, ``sha256:…``; equal pictures are one.

    Args:
        file: where to put them; made with the first. None keeps them in memory.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._held: dict[str, bytes] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0

    def __contains__(self, name: str) -> bool:
        return name in self._places or name in self._held

    def lacks(self, names: pl.Series) -> int:
        """Count the names whose pictures are elsewhere."""
        return sum(name not in self for name in names.to_list())

    def read(self, name: str) -> bytes:
        """Return a picture as it was in its table.

        Raises:
            ValueError: the file can't be read.
        """
        if self.file is None:
            return self._held[name]
        offset, size = self._places[name]
        try:
            with self.file.open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise ValueError(f"{self.file}: {error.strerror}") from error
        if len(data) != size:
            raise ValueError(f"{self.file} has become shorter while it was read")
        return data

    def take(self, frame: pl.DataFrame, name: str) -> pl.DataFrame:
        """Put names in place of the pictures that the columns ``image`` and ``images`` of a table hold.

        A picture is bytes, or Hugging Face's ``{bytes, path}``; of that, ``path`` is the name where ``bytes`` is null.

        Args:
            frame: rows of products or queries. Columns of names stay as they are.
            name: what to call the table in errors.

        Raises:
            ValueError: a struct has other fields.
        """
        held = held_columns(frame.schema, name)
        named = [self._named(column) if column.name in held else column for column in frame]
        return pl.DataFrame(named) if held else frame

    def read_table(self, path: Path, text: Sequence[str]) -> pl.DataFrame:
        """Read a table of products or queries as `moonlib.data.table_files.read` does, with names in place of pictures.

        Of pictures in a Parquet table, only a few are in memory at a time. CSV holds none.

        Raises:
            ValueError: see `moonlib.data.table_files.read` and `take`.
        """
        held = [] if path.suffix == ".csv" else held_columns(table_files.schema(path), path.name)
        if not held:
            return table_files.read(path, text)
        return table_files.read(path, text, without=held).hstack(self.names_in(path, held))

    def names_in(self, path: Path, columns: Sequence[str]) -> pl.DataFrame:
        """Read columns of a Parquet table that hold pictures, and name them: as many rows as the table has."""
        return pl.concat(self.take(part, path.name) for part in table_files.few_rows(path, columns))

    def _named(self, column: pl.Series) -> pl.Series:
        lists = isinstance(column.dtype, pl.List | pl.Array)

        def names() -> Iterator[Any]:
            for value in column:
                if not lists or value is None:
                    yield self._name(value)
                else:
                    yield [self._name(one) for one in value]

        return pl.Series(column.name, list(names()), dtype=pl.List(pl.String) if lists else pl.String)

    def _name(self, value: bytes | dict[str, Any] | None) -> str | None:
        if isinstance(value, dict):
            held: bytes | None = value["bytes"]
            if held is None:
                path: str | None = value.get("path")
                return path
            value = held
        if value is None:
            return None
        name = f"sha256:{hashlib.sha256(value).hexdigest()[:32]}"
        if self.file is None:
            self._held[name] = value
        elif name not in self._places:
            with writing(self.file):
                self.file.parent.mkdir(parents=True, exist_ok=True)
                with self.file.open("ab" if self._places else "wb") as file:
                    file.write(value)
            self._places[name] = (self._end, len(value))
            self._end += len(value)
        return name


def held_columns(schema: Mapping[str, pl.DataType], name: str) -> list[str]:
    """Return which of the columns ``image`` and ``images`` hold pictures and not names.

    Raises:
        ValueError: one is a struct of other fields than ``bytes`` and ``path``.
    """
    held = []
    for column in ("image", IMAGES):
        dtype = schema.get(column)
        if column == IMAGES and isinstance(dtype, pl.List | pl.Array):
            dtype = dtype.inner  # type: ignore[assignment]
        if isinstance(dtype, pl.Struct):
            fields = {field.name: field.dtype for field in dtype.fields}
            expected = {"bytes": (pl.Binary, pl.Null), "path": (pl.String, pl.Null)}
            if "bytes" not in fields or any(kind not in expected.get(field, ()) for field, kind in fields.items()):
                problem = f"{dtype} is neither text, nor bytes, nor {{bytes: binary, path: text}}"
                raise ValueError(f"{name}: column {column!r}: {problem}; write it as one of these")
        if dtype == pl.Binary or isinstance(dtype, pl.Struct):
            held.append(column)
    return held


@contextmanager
def stored_images(beside: Path) -> Iterator[StoredImages]:
    """Hold pictures of tables in a temporary file beside the dataset that is built of them."""
    file = beside.with_name(f".{beside.name}.{os.getpid()}-{secrets.token_hex(4)}.pictures")
    try:
        yield StoredImages(file)
    finally:
        file.unlink(missing_ok=True)
