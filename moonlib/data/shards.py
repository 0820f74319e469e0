"""Writes tables and images as WebDataset shards with an index beside each.

A dataset directory holds::

    dataset.json                          name, version, counts, shards, splits, hash; written last
    moonlib.sha256                        the checksum of every file; `build_once` adds it to what is complete
    quarantine.jsonl                      images that could not be read, one per line; only if there are any
    shards/products-000000.tar            <item_id>.jpg (if it has an image), <item_id>.1.jpg, <item_id>.2.jpg … (if it
                                          has several), <item_id>.json = the row
    shards/products-000000.arrow          the same rows, where each member's data lies in the tar, its CRC-32, and a
                                          digest of its pictures
    shards/queries-000000.tar, .arrow     the same for queries
    shards/users-000000.tar               Arrow files of at most 65,536 rows each; so for searches and impressions
    shards/histories-000000.tar           one Arrow file of one batch; only if the tables have histories
    ids/item-000000.arrow                 the shop's ids of a family that is text, of which the tables hold the numbers
    representations/products.ids.npy, .npy, queries.ids.npy, .npy   only if representations were given
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import shutil
import tarfile
import tempfile
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import polars as pl
import polars.selectors as cs
import pyarrow as pa

from moonlib.artifacts import layout
from moonlib.artifacts.directories import LOCK, attempt, write_text
from moonlib.artifacts.layout import IDS, QUARANTINE
from moonlib.data.ids import Family, IdMap, ShopIds, write_part
from moonlib.data.image_lists import IMAGES, names
from moonlib.data.image_sources import ImageReader
from moonlib.data.jpeg import MAGIC, to_jpeg
from moonlib.data.splits import Splits
from moonlib.data.tables import KEYS, SAMPLE_TABLES, Tables
from moonlib.representations.store import Representations
from moonlib.system.console import progress
from moonlib.system.disk import is_panic, writing
from moonlib.system.remote import without_credentials
from moonlib.system.workers import worker_pool

log = logging.getLogger(__name__)

FORMAT = 2
"""The version of this layout that is written."""

FORMATS = (1, FORMAT)
"""Those that are read. Datasets of the first, and of the second before it listed its shards, have every file in
``shards/`` and no `DIGEST`."""

EVENT_TABLES = ("users", "searches", "impressions")
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

UNREADABLE_LIMIT = 0.01
"""The share of images that may be unreadable."""

Given = Literal["products", "queries"]
"""Tables whose rows may have representations."""

ReadImage = Callable[[str, str], bytes]
"""(table, image name) → the encoded picture. Raises OSError or ValueError for one that can't be read."""

_ROWS_PER_BATCH = 65_536
_BATCHES_PER_SHARD = 16
_IMAGES_PER_TASK = 64


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


def build_once(directory: Path, build: Callable[[Path], None]) -> Path:
    """Return a dataset's directory, building it first if it isn't there.

    The build happens in ``<directory>.partial``, which is renamed when it is complete. Of several builders one works
    and the others wait for it. What a failed build wrote is removed; what a killed one left, or one
    that failed at its very end, by the next.

    Args:
        directory: where the dataset belongs.
        build: writes a dataset into the empty directory it is given.

    Raises:
        FileExistsError: ``directory`` holds something else.
        OSError: it can't be written, for instance because the disk is full.
    """
    if _finished(directory):
        return directory
    if directory.exists():
        if not directory.is_dir() or any(directory.iterdir()):
            problem = "exists and is not a dataset (it has no dataset.json)"
            raise FileExistsError(f"{directory} {problem}; choose another place")
        directory.rmdir()
    partial = layout.partial(directory)
    if _is_foreign(partial):
        raise FileExistsError(f"{partial} is in the way of the build and was not made by one; move it elsewhere")
    # The lock is between processes; the threads of one take turns.
    with writing(directory), _building, attempt(directory, _announce(directory)) as draft:
        if draft is not None:
            _empty(draft)
            try:
                build(draft)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
    return directory


_building = threading.Lock()


def _announce(directory: Path) -> Callable[[str], None]:
    return lambda holder: log.warning(f"{directory} is being built by {holder}: waiting for it")


def _empty(draft: Path) -> None:
    """Remove what a killed build left."""
    for path in draft.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _is_foreign(partial: Path) -> bool:
    """Whether a folder holds something that no build has left.

    A build's own has a lock, but while it begins, when it is empty, and when all is written, before it is renamed.
    """
    try:
        names = {path.name for path in partial.iterdir()}
    except FileNotFoundError:
        return False
    return bool(names) and not names & {LOCK, "dataset.json"}


def _finished(directory: Path) -> bool:
    return (directory / "dataset.json").is_file()


def write_dataset(
    directory: Path,
    tables: Tables,
    read_image: ReadImage,
    splits: Splits,
    *,
    name: str,
    version: str,
    representations: Mapping[Given, Representations] | None = None,
    workers: int | None = None,
    samples_per_shard: int = 4096,
) -> None:
    """Write the shards of validated tables. The bytes depend on neither the number of workers nor the clock.

    JPEGs are stored as they are, other formats are encoded again. A picture that can't be read is named in
    ``quarantine.jsonl``, and its row is kept without it. If it is the main one of several, the next that can be read
    takes its place, without the ``box``, which was not made for it.

    The dataset's hash is the SHA-256 of the splits, of the shards' own hashes in their order (see `Shard`), of the
    given representations as their bytes, and of the hashes of the text ids.

    Args:
        directory: where to write; see `build_once` for a whole that appears at once.
        tables: what `moonlib.data.tables.validate` returned.
        read_image: picklable; called in other processes for every image that is not null.
        splits: stored beside the tables.
        name: what to call the dataset.
        version: of whatever made the tables.
        representations: those that the data set comes with, of products (also of items that only histories name) or of
            queries; a run without an encoder reads them. Where the ids are text, they are by their numbers.
        workers: processes that read images; None takes one per CPU where there is enough to do.
        samples_per_shard: products or queries in one tar.

    Raises:
        ValueError: more than 1 % of the images (and more than one) can't be read; the list is in ``quarantine.jsonl``.
    """
    for table in SAMPLE_TABLES:
        if taken := set(INDEX_COLUMNS) & set(tables[table].columns):
            raise ValueError(f"{table}: column {min(taken)!r}: this name is taken by the shards' index; rename it")
    shards = directory / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    wanted = [(table, image) for table in SAMPLE_TABLES for image in names(tables[table])]
    bad: list[dict[str, Any]] = []
    images = _shown(_read_images(wanted, read_image, workers), len(wanted))
    written: dict[str, list[Shard]] = {table: [] for table in SAMPLE_TABLES}
    for table in SAMPLE_TABLES:
        for number, rows in enumerate(_parts(tables[table], samples_per_shard)):
            shard, unread = _write_samples(shards / f"{table}-{number:06d}", table, rows, images, tables.ids)
            written[table].append(shard)
            bad += unread
    if bad:
        (directory / QUARANTINE).write_bytes(b"".join(_json(line) + b"\n" for line in bad))
    if len(bad) > max(1, UNREADABLE_LIMIT * len(wanted)):
        first = bad[0]
        raise ValueError(
            f"{len(bad)} of {len(wanted)} images can't be read, and only {UNREADABLE_LIMIT:.0%} may be; the first is "
            f"{first['table']} {first['id']}, {without_credentials(first['image'])!r}: {first['reason']}"
        )
    for table in EVENT_TABLES:
        written[table] = _write_events(shards, table, tables[table])
    if tables.histories.height:
        written["histories"] = [_write_histories(shards, tables.histories)]
    content = hashlib.sha256()
    for given, store in sorted((representations or {}).items()):
        _write_representations(directory / "representations", given, store, content)
    ids = {family: _write_ids(directory / IDS, family, known) for family, known in sorted(tables.ids.items())}
    described = {
        "format": FORMAT,
        "name": name,
        "version": version,
        "hash": _hash(splits, written, ids, content.digest() if representations else b""),
        "counts": {table: tables[table].height for table in written},
        "splits": splits.to_json(),
        "shards": {table: [asdict(shard) for shard in listed] for table, listed in written.items()},
    }
    if representations:
        described["representations"] = {given: len(store.ids) for given, store in sorted(representations.items())}
    if ids:
        described["ids"] = {
            family: {"kind": "text", "count": sum(part.rows for part in parts), "parts": [asdict(p) for p in parts]}
            for family, parts in ids.items()
        }
    write_text(directory / "dataset.json", json.dumps(described, indent=2) + "\n")


def _hash(
    splits: Splits, shards: Mapping[str, Sequence[Shard]], ids: Mapping[Family, Sequence[Shard]], representations: bytes
) -> str:
    """SHA-256 of a dataset; see `write_dataset`."""
    content = hashlib.sha256(_json(splits.to_json()))
    content.update(_json({table: [[shard.rows, shard.sha256] for shard in listed] for table, listed in shards.items()}))
    content.update(representations)
    content.update(_json({family: [[part.rows, part.sha256] for part in parts] for family, parts in ids.items()}))
    return content.hexdigest()


def _shown(images: Iterator[bytes | str], total: int) -> Iterator[bytes | str]:
    """Hand images on, and show how many there were."""
    with progress() as bars:
        yield from bars.track(images, total=total, description="Writing images")


def _parts(frame: pl.DataFrame, rows: int) -> Iterator[pl.DataFrame]:
    """Yield slices of a table; an empty table is one empty slice, so that its columns are written too."""
    for start in range(0, max(frame.height, 1), rows):
        yield frame.slice(start, rows)


def _write_samples(
    stem: Path, table: str, rows: pl.DataFrame, images: Iterator[bytes | str], ids: ShopIds
) -> tuple[Shard, list[dict[str, Any]]]:
    """Write one shard of samples and its index; return what could not be read."""
    key, several = KEYS[table], IMAGES in rows.columns
    bad, places, kept, more_sizes, digests = [], [], [], [], []
    content = hashlib.sha256()
    with stem.with_suffix(".tar").open("wb") as tar:
        for row in rows.iter_rows(named=True):
            pictures = []
            for number, name in enumerate((row[IMAGES] or []) if several else [row["image"]]):
                image = None if name is None else next(images)
                if isinstance(image, str):
                    bad.append({"table": table, "id": ids.value(key, row[key]), "image": name, "reason": image})
                elif image is not None:
                    pictures.append((number, name, image))
            row["image"] = pictures[0][1] if pictures else None
            if several:
                row[IMAGES] = [name for _, name, _ in pictures] or None
                row["box"] = row["box"] if not pictures or pictures[0][0] == 0 else None
            kept.append({column: row[column] for column in ("image", "box", IMAGES) if column in row})
            start, sizes, sample = tar.tell(), [len(image) for _, _, image in pictures], b""
            for number, (_, _, image) in enumerate(pictures):
                member = _member(f"{row[key]}.{number}.jpg" if number else f"{row[key]}.jpg", image, content)
                sample += member + _padding(member)
            text = _row_as_json(row, table, ids)
            sample += _member(f"{row[key]}.json", text, content)
            end = start + len(sample)
            jpg = (start + tarfile.BLOCKSIZE, sizes[0]) if sizes else (-1, 0)
            places.append((*jpg, end - len(text), len(text), zlib.crc32(sample)))
            more_sizes.append(sizes[1:])
            digests.append(digest_of([image for _, _, image in pictures]))
            tar.write(sample + _padding(sample))
        tar.write(bytes(2 * tarfile.BLOCKSIZE))  # the end of a tar, which fills a whole record
        tar.write(bytes(-tar.tell() % tarfile.RECORDSIZE))
    index = pl.DataFrame(places, schema=dict.fromkeys((*OFFSETS, CHECKSUM), pl.Int64), orient="row")
    if several:
        index = index.with_columns(pl.Series(MORE_SIZES, more_sizes, dtype=pl.List(pl.Int64)))
        schema = {column: rows.schema[column] for column in ("image", "box", IMAGES)}
        rows = rows.with_columns(pl.DataFrame(kept, schema=schema, orient="row"))
    else:
        readable = pl.Series([one["image"] is not None for one in kept], dtype=pl.Boolean)
        rows = rows.with_columns(image=pl.when(readable).then("image"))
    table_of = rows.hstack(index).rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    digest = pa.array(digests, pa.binary(16))
    with pa.ipc.new_file(stem.with_suffix(".arrow"), table_of.schema.append(pa.field(DIGEST, digest.type))) as writer:
        writer.write_table(table_of.append_column(DIGEST, digest))
    return Shard(stem.name, rows.height, content.hexdigest()), bad


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


def _write_events(shards: Path, table: str, frame: pl.DataFrame) -> list[Shard]:
    written = []
    for number, rows in enumerate(_parts(frame, _ROWS_PER_BATCH * _BATCHES_PER_SHARD)):
        content, name = _begun(table, frame), f"{table}-{number:06d}"
        with tarfile.open(shards / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for i, batch in enumerate(_parts(rows, _ROWS_PER_BATCH)):
                data = _arrow(batch)
                member = tarfile.TarInfo(f"{number * _BATCHES_PER_SHARD + i:09d}.arrow")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
                # Arrow's own bytes change with the library's version; rows as JSON do not.
                content.update(batch.with_columns(cs.temporal().to_physical()).write_ndjson().encode())
        written.append(Shard(name, rows.height, content.hexdigest()))
    return written


def _begun(table: str, frame: pl.DataFrame) -> hashlib._Hash:
    """The hash of a shard that is no sample's, after the names and types of its columns."""
    return hashlib.sha256(_json([table, {column: str(dtype) for column, dtype in frame.schema.items()}]))


def _write_histories(shards: Path, frame: pl.DataFrame) -> Shard:
    """Write all histories as one batch, so that their lists are one array wherever they are mapped into memory."""
    content, name = _begun("histories", frame), "histories-000000"
    for rows in _parts(frame.drop("item_ids"), _ROWS_PER_BATCH):
        content.update(rows.with_columns(cs.temporal().to_physical()).write_ndjson().encode())
    for lists in _parts(frame.select("item_ids"), _ROWS_PER_BATCH):
        for column in (lists["item_ids"].list.len().cast(pl.Int64), lists["item_ids"].explode(empty_as_null=False)):
            content.update(np.ascontiguousarray(column.to_numpy(), dtype="<i8").data)
    # Larger than the 8 GiB that a member of the older format can have, and larger than memory: it goes through a file.
    with tempfile.TemporaryFile(dir=shards) as file:
        _to_arrow(frame, file)
        member = tarfile.TarInfo("000000000.arrow")
        member.size = file.tell()
        file.seek(0)
        with tarfile.open(shards / f"{name}.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            tar.addfile(member, file)
    return Shard(name, frame.height, content.hexdigest())


def _write_representations(directory: Path, name: str, store: Representations, content: hashlib._Hash) -> None:
    content.update(_json(["representations", name, list(store.vectors.shape), store.vectors.dtype.name]))
    content.update(np.ascontiguousarray(store.ids, dtype="<i8").data)
    for start in range(0, len(store.ids), _ROWS_PER_BATCH):
        rows = store.vectors[start : start + _ROWS_PER_BATCH]
        content.update(np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<")).data)
    directory.mkdir(exist_ok=True)
    store.save(directory, name)


def _write_ids(directory: Path, family: Family, ids: IdMap) -> list[Shard]:
    """Write the texts of a family."""
    directory.mkdir(exist_ok=True)
    written = []
    for number, part in enumerate(ids.parts):
        content, name = hashlib.sha256(), f"{family}-{number:06d}"
        for start in range(0, len(part), _ROWS_PER_BATCH):
            content.update(_json(part.slice(start, _ROWS_PER_BATCH).to_pylist()))
        write_part(directory / f"{name}.arrow", part)
        written.append(Shard(name, len(part), content.hexdigest()))
    return written


def _arrow(frame: pl.DataFrame) -> bytes:
    """Return the frame as an Arrow IPC file."""
    out = io.BytesIO()
    _to_arrow(frame, out)
    return out.getvalue()


def _to_arrow(frame: pl.DataFrame, out: IO[bytes]) -> None:
    """Write the frame as an Arrow IPC file of one batch, in types that old readers know."""
    table = frame.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)


def _json(value: Any) -> bytes:
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
        return _json(row)
    except ValueError:
        kept = _without_nan(row)
    try:
        return _json(kept)
    except ValueError as error:
        raise ValueError(f"{table}: {KEYS[table]} {ids.value(KEYS[table], row[KEYS[table]])}: {error}") from error


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


_read_image: ReadImage
"""The reader of this worker process: sent once, because it may hold much."""


def _start_worker(read_image: ReadImage) -> None:
    global _read_image
    _read_image = read_image


def _read_task(task: list[tuple[str, str]]) -> list[bytes | str]:
    return _read_all(task, _read_image)


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


def _read_images(wanted: list[tuple[str, str]], read_image: ReadImage, workers: int | None) -> Iterator[bytes | str]:
    """Yield images in order. Only a few tasks are under way at a time, so memory stays bounded."""
    tasks = [wanted[i : i + _IMAGES_PER_TASK] for i in range(0, len(wanted), _IMAGES_PER_TASK)]
    if workers is None:
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(cpus, len(tasks) // 4)  # starting a process costs as much as a few tasks
    if workers <= 1:
        for task in tasks:
            yield from _read_all(task, read_image)
        return
    with worker_pool(workers, _start_worker, read_image) as pool:
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
