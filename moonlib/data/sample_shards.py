"""Writes the shards of products and queries: pictures are read, and each shard is a tar and an index beside it.

Shards are written side by side by processes where there are many of them, else one after another while processes read
their pictures. The bytes are the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tarfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import PIL
import polars as pl
import pyarrow as pa

from moonlib.artifacts.directories import write_json
from moonlib.data.ids import ShopIds
from moonlib.data.image_lists import IMAGES, names
from moonlib.data.image_sources import ImageReader
from moonlib.data.jpeg import MAGIC, to_jpeg
from moonlib.data.tables import KEYS
from moonlib.system.console import progress
from moonlib.system.disk import is_panic
from moonlib.system.workers import worker_pool

OFFSETS = ("jpg_offset", "jpg_size", "json_offset", "json_size")
"""Columns that an index adds to the table's: where a member's data starts in the tar and its bytes; -1, 0: no image."""
CHECKSUM = "sample_crc32"
"""Another column of the index: the CRC-32 of a sample, from the header of its first member to the end of its last. The
indexes of older datasets don't have it."""

MORE_SIZES = "more_jpg_sizes"
"""Another column of the index, where rows have several pictures: the sizes of those after the first, a list of int64.
They follow one another in the tar, each after a header of its own, and the row's JSON follows the last."""

DIGEST = "image_digest"
"""Another column of the index: `digest_of` a row's pictures, null where it has none. Older indexes do not have it."""

INDEX_COLUMNS = (*OFFSETS, CHECKSUM, MORE_SIZES, DIGEST)
"""The columns of an index that are not the table's."""

ReadImage = Callable[[str, str], bytes]
"""(table, image name) → the encoded picture. Raises OSError or ValueError for one that can't be read."""


@runtime_checkable
class ImageIdentity(Protocol):
    """A `ReadImage` that identifies a picture without reading it, so that a killed build can be resumed."""

    def identity(self, name: str) -> list[Any] | None:
        """Values that JSON has words for, equal for the same picture only; None where nobody can tell."""


_IMAGES_PER_TASK = 64
_LAYOUT = 1
"""Version of what this module makes of the same rows and pictures."""


@dataclass(frozen=True)
class Shard:
    """A shard as ``dataset.json`` lists it; a part of the text ids likewise.

    Attributes:
        name: of its files, without their endings.
        rows: that it holds.
        sha256: of its content: of samples, the members of the tar; of other tables, their rows as JSON; of ids, the
            texts. It does not depend on the versions of the libraries that write the files.
    """

    name: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """The rows of one shard.

    Attributes:
        stem: path of the shard's files, without their endings.
        table: ``products`` or ``queries``.
        rows: of the table.
        note: where to note that the shard is whole, for the build that goes on after a kill; None for nowhere.
    """

    stem: Path
    table: str
    rows: pl.DataFrame
    note: Path | None

    @property
    def images(self) -> list[tuple[str, str]]:
        """Table and name of every picture, in their order."""
        return [(self.table, name) for name in names(self.rows)]

    @property
    def task(self) -> Task:
        """The same for another process, in which polars is of no use after a fork."""
        columns = self.rows.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
        return Task(self.stem, self.table, self.rows.rows(named=True), columns, self.note)


@dataclass(frozen=True)
class Task:
    """A shard to write; see `Part`, but for:

    Attributes:
        rows: by column.
        columns: the same as Arrow, for the index.
    """

    stem: Path
    table: str
    rows: list[dict[str, Any]]
    columns: pa.Table
    note: Path | None

    @property
    def images(self) -> list[tuple[str, str]]:
        """Table and name of every picture, in their order."""
        return [(self.table, name) for row in self.rows for name in _slots(row) if name is not None]


@dataclass(frozen=True)
class Written:
    """A shard that was written.

    Attributes:
        shard: its entry.
        bad: the pictures that could not be read.
        images: how many there were in all.
    """

    shard: Shard
    bad: list[dict[str, Any]]
    images: int


def digest_of(pictures: Sequence[bytes]) -> bytes | None:
    """BLAKE2b-128 of a row's pictures, of each its length as 8 bytes (little endian) and its bytes; None for none.

    Example:
        >>> digest_of([b"picture"]).hex()
        'ddded6c217f89728d437dc287d5ac628'
        >>> digest_of([]) is None
        True
    """
    if not pictures:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for picture in pictures:
        digest.update(len(picture).to_bytes(8, "little"))
        digest.update(picture)
    return digest.digest()


def parts_of(
    folder: Path, table: str, frame: pl.DataFrame, first: int, size: int, notes: Path | None
) -> Iterator[Part]:
    """Cut a table into shards.

    Args:
        folder: of the shards.
        table: ``products`` or ``queries``.
        frame: its rows; without any there is one shard of none, so that its columns are written too.
        first: number of the first shard.
        size: rows of a shard.
        notes: folder of the notes about shards that are whole; None for no notes.
    """
    for number, start in enumerate(range(0, max(frame.height, 1), size), first):
        name = f"{table}-{number:06d}"
        note = None if notes is None else notes / f"{name}.json"
        yield Part(folder / name, table, frame.slice(start, size), note)


def write_samples(
    parts: Sequence[Part], read_image: ReadImage, ids: ShopIds, workers: int | None = None
) -> tuple[list[Written], int]:
    """Write shards, but for those that a killed build has left whole, of the same rows and pictures.

    Args:
        parts: the rows of each.
        read_image: reads a picture.
        ids: the shop's.
        workers: processes; None takes one per CPU where there is enough to do.

    Returns:
        The shards in their order, and how many of them were whole.

    Raises:
        ValueError: a value can't be written as JSON.
    """
    found = [_whole(part, read_image) for part in parts]
    todo = [part for part, written in zip(parts, found, strict=True) if written is None]
    images = sum(len(names(part.rows)) for part in todo)
    workers = _workers(images, workers)
    ahead = isinstance(read_image, ImageReader) and read_image.reads_ahead
    with progress() as bars:
        bar = bars.add_task("Writing images", total=images)
        if workers > 1 and len(todo) >= 2 * workers and not ahead:
            made = _side_by_side(todo, read_image, ids, workers, lambda count: bars.advance(bar, count))
        else:
            made = _one_by_one(todo, read_image, ids, workers, lambda count: bars.advance(bar, count))
        every = [next(made) if written is None else written for written in found]
    return every, len(found) - len(todo)


def _workers(images: int, workers: int | None) -> int:
    if workers is not None:
        return workers
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cpus, -(-images // _IMAGES_PER_TASK) // 4)  # starting a process costs as much as a few tasks


def _one_by_one(
    parts: Sequence[Part], read_image: ReadImage, ids: ShopIds, workers: int, advance: Callable[[int], None]
) -> Iterator[Written]:
    """Write shards here, while processes read their pictures."""

    def counted() -> Iterator[bytes | str]:
        for image in read_images([image for part in parts for image in part.images], read_image, workers):
            yield image
            advance(1)

    images = counted()
    for part in parts:
        yield _write(part.task, images, ids, read_image)


def _side_by_side(
    parts: Sequence[Part], read_image: ReadImage, ids: ShopIds, workers: int, advance: Callable[[int], None]
) -> Iterator[Written]:
    """Let each process read the pictures of whole shards and write these. Few are under way, so memory is bounded."""
    with worker_pool(workers, _start_worker, read_image, ids) as pool:
        pending: deque[Future[Written]] = deque()
        try:
            for part in parts:
                pending.append(pool.submit(_write_task, part.task))
                if len(pending) > workers + 1:
                    yield _advanced(pending.popleft().result(), advance)
            while pending:
                yield _advanced(pending.popleft().result(), advance)
        finally:
            for future in pending:
                future.cancel()


def _advanced(written: Written, advance: Callable[[int], None]) -> Written:
    advance(written.images)
    return written


def _write(task: Task, images: Iterator[bytes | str], ids: ShopIds, read_image: ReadImage) -> Written:
    """Write one shard, its index, and the note that it is whole."""
    inputs = None if task.note is None else _inputs(task, read_image)  # before the pictures are read: they may change
    bad, places, kept, more_sizes, digests = [], [], [], [], []
    content, count = hashlib.sha256(), 0
    for path in (task.note, *(task.stem.with_suffix(ending) for ending in (".tar", ".arrow"))):
        if path is not None:
            path.unlink(missing_ok=True)  # what a killed build left may be a hard link to a file of another dataset
    with task.stem.with_suffix(".tar").open("wb") as tar:
        for row, pictures, unread in as_stored(task.table, task.rows, images):
            count += len(pictures) + len(unread)
            bad += unread
            kept.append(row)
            key, start, sample = row[KEYS[task.table]], tar.tell(), b""
            for number, image in enumerate(pictures):
                member = _member(f"{key}.{number}.jpg" if number else f"{key}.jpg", image, content)
                sample += member + _padding(member)
            text = _row_as_json(row, task.table, ids)
            sample += _member(f"{key}.json", text, content)
            end = start + len(sample)
            jpg = (start + tarfile.BLOCKSIZE, len(pictures[0])) if pictures else (-1, 0)
            places.append((*jpg, end - len(text), len(text), zlib.crc32(sample)))
            more_sizes.append([len(image) for image in pictures[1:]])
            digests.append(digest_of(pictures))
            tar.write(sample + _padding(sample))
        tar.write(bytes(2 * tarfile.BLOCKSIZE))  # the end of a tar, which fills a whole record
        tar.write(bytes(-tar.tell() % tarfile.RECORDSIZE))
    index = task.columns
    for name in ("image", "box", IMAGES):
        if name in index.column_names:
            place = index.schema.get_field_index(name)
            field = index.schema.field(place)
            index = index.set_column(place, field, pa.array([row[name] for row in kept], field.type))
    for place, name in enumerate((*OFFSETS, CHECKSUM)):
        index = index.append_column(name, pa.array([each[place] for each in places], pa.int64()))
    if IMAGES in index.column_names:
        index = index.append_column(MORE_SIZES, pa.array(more_sizes, pa.large_list(pa.int64())))
    index = index.append_column(DIGEST, pa.array(digests, pa.binary(16)))
    with pa.ipc.new_file(task.stem.with_suffix(".arrow"), index.schema) as writer:
        writer.write_table(index)
    written = Written(Shard(task.stem.name, len(task.rows), content.hexdigest()), bad, count)
    if task.note is not None and inputs is not None:
        write_json(task.note, {"inputs": inputs, "files": _digests(task.stem), **asdict(written)})
    return written


def as_stored(
    table: str, rows: Iterable[dict[str, Any]], images: Iterator[bytes | str]
) -> Iterator[tuple[dict[str, Any], list[bytes], list[dict[str, Any]]]]:
    """Yield rows as they are stored, each with its pictures, and with what is said of those that can't be read.

    Args:
        table: ``products`` or ``queries``.
        rows: by column.
        images: what `read_images` yields of their pictures.
    """
    key = KEYS[table]
    for row in rows:
        bad, pictures = [], []
        for number, name in enumerate(_slots(row)):
            image = None if name is None else next(images)
            if isinstance(image, str):
                bad.append({"table": table, "id": row[key], "image": name, "reason": image})
            elif image is not None:
                pictures.append((number, name, image))
        row["image"] = pictures[0][1] if pictures else None
        if IMAGES in row:
            row[IMAGES] = [name for _, name, _ in pictures] or None
            row["box"] = row["box"] if not pictures or pictures[0][0] == 0 else None
        yield row, [image for _, _, image in pictures], bad


def _slots(row: Mapping[str, Any]) -> list[str | None]:
    return (row[IMAGES] or []) if IMAGES in row else [row["image"]]


def _whole(part: Part, read_image: ReadImage) -> Written | None:
    """The note about a shard that a killed build has left, if it is whole and of the same rows and pictures."""
    if part.note is None or not part.note.is_file():
        return None
    try:
        noted = json.loads(part.note.read_bytes())
        same = noted["inputs"] == _inputs(part.task, read_image) and noted["files"] == _digests(part.stem)
        return Written(Shard(**noted["shard"]), noted["bad"], noted["images"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digests(stem: Path) -> list[str]:
    """SHA-256 of a shard's files."""
    found = []
    for ending in (".tar", ".arrow"):
        with stem.with_suffix(ending).open("rb") as file:
            found.append(hashlib.file_digest(file, "sha256").hexdigest())
    return found


def _inputs(task: Task, read_image: ReadImage) -> str | None:
    """Fingerprint of all that a shard is made of; None where nobody can tell whether a picture is still the same."""
    if not isinstance(read_image, ImageIdentity):
        return None
    content = hashlib.sha256(as_json([_LAYOUT, PIL.__version__, task.table, task.columns.schema.to_string()]))
    for row in task.rows:
        content.update(_row_as_json(dict(row), task.table, ShopIds()))
        for name in _slots(row):
            if name is not None:
                identity = read_image.identity(name)
                if identity is None:
                    return None
                content.update(as_json(identity))
    return content.hexdigest()


def _member(name: str, data: bytes, content: hashlib._Hash) -> bytes:
    """The header and the data of a tar's member. Nothing of the clock or the user goes into it."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    content.update(f"{name}:{len(data)}:".encode())
    content.update(data)
    return member.tobuf(tarfile.USTAR_FORMAT) + data


def _padding(written: bytes) -> bytes:
    """Padding of a tar's last block."""
    return bytes(-len(written) % tarfile.BLOCKSIZE)


def as_json(value: Any) -> bytes:
    """A value as compact JSON.

    Raises:
        ValueError: it holds something that JSON has no word for.
    """

    def plain(other: Any) -> str:
        if isinstance(other, date | time | Decimal):
            return str(other) if isinstance(other, Decimal) else other.isoformat()
        raise ValueError(
            f"a value of type {type(other).__name__} can't be kept as JSON; make its column text or numbers"
        )

    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=plain, allow_nan=False).encode()


def _row_as_json(row: dict[str, Any], table: str, ids: ShopIds) -> bytes:
    """Return a row as strict JSON, in which NaN, also within lists and structs, is null."""
    try:
        return as_json(row)
    except ValueError:
        kept = _without_nan(row)
    try:
        return as_json(kept)
    except ValueError as error:
        raise ValueError(f"{table}: {KEYS[table]} {ids.value(KEYS[table], row[KEYS[table]])}: {error}") from error


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


_read_image: ReadImage
_ids: ShopIds
"""The reader and the ids of this worker process: sent once, because they may hold much."""


def _start_worker(read_image: ReadImage, ids: ShopIds) -> None:
    global _read_image, _ids
    _read_image, _ids = read_image, ids


def _read_task(task: list[tuple[str, str]]) -> list[bytes | str]:
    return _read_all(task, _read_image)


def _write_task(task: Task) -> Written:
    return _write(task, read_images(task.images, _read_image, 1), _ids, _read_image)


def _read_all(task: list[tuple[str, str]], read_image: ReadImage) -> list[bytes | str]:
    """Read images; in place of one that can't be read, the reason."""
    results: list[bytes | str] = []
    if isinstance(read_image, ImageReader):
        read_image = read_image.ahead([image for _, image in task])
    for table, image in task:
        try:
            data = read_image(table, image)
            results.append(data if data.startswith(MAGIC) else to_jpeg(data))
        except BaseException as error:
            if not isinstance(error, OSError | ValueError) and not is_panic(error):
                raise
            results.append(str(error))
    return results


def read_images(
    wanted: list[tuple[str, str]], read_image: ReadImage, workers: int | None = None
) -> Iterator[bytes | str]:
    """Yield images in order. Only a few tasks are under way at a time, so memory stays bounded.

    Args:
        wanted: table and name of each.
        read_image: reads one.
        workers: processes; None chooses.

    Yields:
        The picture as a JPEG; in place of one that can't be read, the reason.
    """
    tasks = [wanted[i : i + _IMAGES_PER_TASK] for i in range(0, len(wanted), _IMAGES_PER_TASK)]
    workers = _workers(len(wanted), workers)
    if workers <= 1:
        for task in tasks:
            yield from _read_all(task, read_image)
        return
    with worker_pool(workers, _start_worker, read_image, ShopIds()) as pool:
        pending: deque[Future[list[bytes | str]]] = deque()
        for task in tasks:
            if isinstance(read_image, ImageReader) and read_image.reads_ahead:
                # Connections do not outlive a fork: what reads many images at once does so here, and workers decode.
                pending.append(pool.submit(_read_all, task, read_image.ahead([image for _, image in task])))
            else:
                pending.append(pool.submit(_read_task, task))
            if len(pending) > 2 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
