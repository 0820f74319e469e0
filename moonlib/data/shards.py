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
    superseded/products.npy               numbers of rows that a later one of the same id supersedes; only if any are
    representations/products.ids.npy, .npy, queries.ids.npy, .npy   only if representations were given
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import polars as pl
import polars.selectors as cs
import pyarrow as pa
from numpy.typing import NDArray

from moonlib.artifacts import layout
from moonlib.artifacts.directories import LOCK, attempt, write_text
from moonlib.artifacts.layout import IDS, QUARANTINE, SUPERSEDED, WHOLE_SHARDS
from moonlib.data.ids import Family, IdMap, ShopIds, write_part
from moonlib.data.sample_shards import INDEX_COLUMNS, ReadImage, Shard, as_json, parts_of, write_samples
from moonlib.data.splits import Splits
from moonlib.data.tables import KEYS, SAMPLE_TABLES, SCHEMAS, Tables
from moonlib.representations.store import Representations
from moonlib.system.disk import NO_ROOM, writing
from moonlib.system.remote import without_credentials
from moonlib.system.workers import WorkerKilled

log = logging.getLogger(__name__)

FORMAT = 2
"""The version of this layout that is written."""

FORMATS = (1, FORMAT)
"""Those that are read. Datasets of the first, and of the second before it listed its shards, have every file in
``shards/`` and no `DIGEST`."""

EVENTS = ("searches", "impressions")
EVENT_TABLES = ("users", *EVENTS)
UNREADABLE_LIMIT = 0.01
"""The share of images that may be unreadable."""

Given = Literal["products", "queries"]
"""Tables whose rows may have representations."""

_ROWS_PER_BATCH = 65_536
_BATCHES_PER_SHARD = 16


@dataclass(frozen=True)
class Earlier:
    """The dataset that another is appended to, see `moonlib.data.append`.

    Attributes:
        directory: where it lies.
        shards: of each of its tables.
        id_parts: the parts of its text ids, of each family.
        superseded: numbers of the rows that later ones supersede in the whole, over all shards, int64, ascending.
        quarantine: the lines about images that can't be read, of the rows that are not superseded.
    """

    directory: Path
    shards: Mapping[str, Sequence[Shard]]
    id_parts: Mapping[Family, Sequence[Shard]]
    superseded: Mapping[str, NDArray[np.int64]]
    quarantine: bytes


def build_once(
    directory: Path, build: Callable[[Path], None], *, resume: bool = False, scratch: Collection[str] = ()
) -> Path:
    """Return a dataset's directory, building it first if it isn't there.

    The build happens in ``<directory>.partial``, which is renamed when it is complete. Of several builders one works
    and the others wait for it. What a failed build wrote is removed; what a killed one left, or one
    that failed at its very end, by the next, or it is resumed.

    Args:
        directory: where the dataset belongs.
        build: writes a dataset into the empty directory it is given.
        resume: whether ``build`` goes on with the shards that a killed or interrupted build left, see `write_dataset`:
            the directory then holds these, and what is noted about them.
        scratch: names of folders in it that only ``build`` needs. They are deleted when the dataset is complete; one
            that resumes finds them as they were left.

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
    notes = (*scratch, *((WHOLE_SHARDS,) if resume else ()))
    with writing(directory), _building, attempt(directory, _announce(directory), but=notes) as draft:
        if draft is not None:
            _empty(draft, ("shards", *notes) if resume else ())
            try:
                build(draft)
            except BaseException as error:
                if not resume or (isinstance(error, Exception) and not isinstance(error, WorkerKilled)):
                    shutil.rmtree(draft, ignore_errors=True)
                raise
    return directory


_building = threading.Lock()


def _announce(directory: Path) -> Callable[[str], None]:
    return lambda holder: log.warning(f"{directory} is being built by {holder}: waiting for it")


def _empty(draft: Path, kept: Collection[str]) -> None:
    """Remove what a killed build left, but for some folders, and of its shards those that are noted as whole."""
    for path in draft.iterdir():
        if path.name in kept and path.is_dir() and not path.is_symlink():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    if kept:
        noted = {path.stem for path in (draft / WHOLE_SHARDS).glob("*.json")}
        for path in (draft / "shards").glob("*"):
            if path.stem not in noted:
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
    earlier: Earlier | None = None,
    resume: bool = False,
    events: Mapping[str, Iterable[pl.DataFrame]] | None = None,
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
        earlier: what the rows are appended to; None for a dataset of its own.
        resume: whether to leave out shards of products and queries that a killed build has left whole, and to note
            which are, for the next one; see `build_once`.
        events: ``searches`` and ``impressions`` that come in parts, of which few are in memory, in place of those of
            ``tables``. Each part is what `moonlib.data.tables.validate` returned, given the keys of the others as
            ``earlier``. How a table is divided changes no byte.

    Raises:
        ValueError: more than 1 % of the images (and more than one) can't be read; the list is in ``quarantine.jsonl``.
            Or ``events`` has another table, or a table without any part.
    """
    for table in SAMPLE_TABLES:
        if taken := set(INDEX_COLUMNS) & set(tables[table].columns):
            raise ValueError(f"{table}: column {min(taken)!r}: this name is taken by the shards' index; rename it")
    in_parts = events or {}
    if unfit := set(in_parts) - set(EVENTS):
        raise ValueError(f"{min(unfit)!r} can't come in parts; only {', '.join(EVENTS)} can")
    shards, earlier_parts = directory / "shards", earlier.id_parts if earlier else {}
    shards.mkdir(parents=True, exist_ok=True)
    notes = directory / WHOLE_SHARDS if resume else None
    if notes is not None:
        notes.mkdir(exist_ok=True)
    written = {table: list(listed) for table, listed in earlier.shards.items()} if earlier else {}
    linked = {shard.name for listed in written.values() for shard in listed}
    if earlier is not None:
        _link(earlier, directory)
    parts = [
        part
        for table in SAMPLE_TABLES
        if tables[table].height or not written.get(table)
        for part in parts_of(shards, table, tables[table], len(written.get(table, ())), samples_per_shard, notes)
    ]
    if notes is not None:
        stems = {part.stem.name for part in parts}
        for path in (*notes.iterdir(), *shards.iterdir()):
            if path.stem not in stems and path.stem not in linked:  # of a killed build of other tables
                path.unlink()
    samples, whole = write_samples(parts, read_image, tables.ids, workers)
    if whole:
        log.info(
            f"resumed: {whole:,} of {len(parts):,} shards of products and queries were whole, and are not made again"
        )
    for part, sample in zip(parts, samples, strict=True):
        written.setdefault(part.table, []).append(sample.shard)
    bad = [_with_id(line, tables.ids) for sample in samples for line in sample.bad]
    refuse_unreadable(bad, sum(sample.images for sample in samples), directory / QUARANTINE)
    if lines := (earlier.quarantine if earlier else b"") + b"".join(as_json(line) + b"\n" for line in bad):
        (directory / QUARANTINE).write_bytes(lines)
    for table in EVENT_TABLES:
        if table in in_parts or tables[table].height or not written.get(table):
            first = len(written.setdefault(table, []))
            written[table] += _write_events(shards, table, in_parts.get(table, (tables[table],)), first)
    if tables.histories.height:
        first = len(written.setdefault("histories", []))
        written["histories"].append(_write_histories(shards, tables.histories, first))
    written = {table: written[table] for table in SCHEMAS if table in written}
    superseded = {table: rows for table, rows in (earlier.superseded if earlier else {}).items() if len(rows)}
    if superseded:
        (directory / SUPERSEDED).mkdir(exist_ok=True)
        for table, rows in superseded.items():
            np.save(directory / SUPERSEDED / f"{table}.npy", rows.astype("<i8"))
    content = hashlib.sha256()
    for given, store in sorted((representations or {}).items()):
        _write_representations(directory / "representations", given, store, content)
    ids = {
        family: [
            *earlier_parts.get(family, ()),
            *_write_ids(directory / IDS, family, known, len(earlier_parts.get(family, ()))),
        ]
        for family, known in sorted(tables.ids.items())
    }
    counts = {
        table: sum(shard.rows for shard in listed) - len(superseded.get(table, ())) for table, listed in written.items()
    }
    described: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "version": version,
        "hash": _hash(splits, written, ids, superseded, content.digest() if representations else b""),
        "counts": counts,
        "splits": splits.to_json(),
        "shards": {table: [asdict(shard) for shard in listed] for table, listed in written.items()},
    }
    if earlier is not None:  # where it was; a dataset is whole without it
        described["appended_to"] = {"path": os.path.relpath(earlier.directory.resolve(), directory.resolve())}
    if superseded:
        described["superseded"] = {table: len(rows) for table, rows in superseded.items()}
    if representations:
        described["representations"] = {given: len(store.ids) for given, store in sorted(representations.items())}
    if ids:
        described["ids"] = {
            family: {"kind": "text", "count": sum(part.rows for part in listed), "parts": [asdict(p) for p in listed]}
            for family, listed in ids.items()
        }
    write_text(directory / "dataset.json", json.dumps(described, indent=2) + "\n")


def _with_id(line: Mapping[str, Any], ids: ShopIds) -> dict[str, Any]:
    """The line about an image that can't be read, with the shop's id of its row."""
    return {**line, "id": ids.value(KEYS[line["table"]], line["id"])}


def _link(earlier: Earlier, directory: Path) -> None:
    """Link the files of what is appended to; where the file system has no hard links, copy them, and say so."""
    endings = {table: (".tar", ".arrow") if table in SAMPLE_TABLES else (".tar",) for table in earlier.shards}
    wanted = [
        Path("shards", f"{shard.name}{ending}")
        for table, listed in earlier.shards.items()
        for shard in listed
        for ending in endings[table]
    ]
    wanted += [Path(IDS, f"{part.name}.arrow") for listed in earlier.id_parts.values() for part in listed]
    copied = 0
    for name in wanted:
        source, place = (earlier.directory / name).resolve(), directory / name
        place.parent.mkdir(exist_ok=True)
        place.unlink(missing_ok=True)  # of a build that was killed
        try:
            os.link(source, place)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            shutil.copyfile(source, place)
            copied += 1
    if copied:
        log.warning(
            f"warning: {copied:,} of {len(wanted):,} files of {earlier.directory} were copied and take room a second "
            "time: the file system has no hard links from there to here"
        )


def _hash(
    splits: Splits,
    shards: Mapping[str, Sequence[Shard]],
    ids: Mapping[Family, Sequence[Shard]],
    superseded: Mapping[str, NDArray[np.int64]],
    representations: bytes,
) -> str:
    """SHA-256 of a dataset; see `write_dataset`."""
    content = hashlib.sha256(as_json(splits.to_json()))
    content.update(
        as_json({table: [[shard.rows, shard.sha256] for shard in listed] for table, listed in shards.items()})
    )
    content.update(as_json({table: rows.tolist() for table, rows in superseded.items()}))
    content.update(representations)
    content.update(as_json({family: [[part.rows, part.sha256] for part in parts] for family, parts in ids.items()}))
    return content.hexdigest()


def refuse_unreadable(bad: Sequence[Mapping[str, Any]], images: int, file: Path) -> None:
    """List the images that can't be read, and refuse too many of them.

    Args:
        bad: what is said of each.
        images: how many there are in all.
        file: where to list them if they are too many.

    Raises:
        ValueError: they are more than `UNREADABLE_LIMIT` and more than one.
    """
    if len(bad) > max(1, UNREADABLE_LIMIT * images):
        file.write_bytes(b"".join(as_json(line) + b"\n" for line in bad))
        first = bad[0]
        raise ValueError(
            f"{len(bad)} of {images} images can't be read, and only {UNREADABLE_LIMIT:.0%} may be; the first is "
            f"{first['table']} {first['id']}, {without_credentials(first['image'])!r}: {first['reason']}"
        )


def _parts(frame: pl.DataFrame, rows: int) -> Iterator[pl.DataFrame]:
    """Yield slices of a table; an empty table is one empty slice, so that its columns are written too."""
    for start in range(0, max(frame.height, 1), rows):
        yield frame.slice(start, rows)


def _write_events(shards: Path, table: str, parts: Iterable[pl.DataFrame], first: int) -> list[Shard]:
    written = []
    numbered = enumerate(_joined(table, parts, _ROWS_PER_BATCH), first * _BATCHES_PER_SHARD)
    for number, batches in groupby(numbered, lambda batch: batch[0] // _BATCHES_PER_SHARD):
        name, rows, content = f"{table}-{number:06d}", 0, None
        with tarfile.open(shards / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for i, batch in batches:
                data = _arrow(batch)
                member = tarfile.TarInfo(f"{i:09d}.arrow")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
                # Arrow's own bytes change with the library's version; rows as JSON do not.
                content = content or _begun(table, batch)
                content.update(batch.with_columns(cs.temporal().to_physical()).write_ndjson().encode())
                rows += batch.height
        assert content is not None
        written.append(Shard(name, rows, content.hexdigest()))
    return written


def _joined(table: str, parts: Iterable[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """Divide a table that comes in parts anew, as `_parts` divides it whole."""
    held: pl.DataFrame | None = None
    for part in parts:
        held = part if held is None else pl.concat([held, part])
        while held.height > rows:
            yield held.head(rows)
            held = held.slice(rows)
    if held is None:
        raise ValueError(f"no part of {table}: a table without rows is one part without rows")
    yield held


def _begun(table: str, frame: pl.DataFrame) -> hashlib._Hash:
    """The hash of a shard that is no sample's, after the names and types of its columns."""
    return hashlib.sha256(as_json([table, {column: str(dtype) for column, dtype in frame.schema.items()}]))


def _write_histories(shards: Path, frame: pl.DataFrame, number: int) -> Shard:
    """Write all histories as one batch, so that their lists are one array wherever they are mapped into memory."""
    content, name = _begun("histories", frame), f"histories-{number:06d}"
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
    content.update(as_json(["representations", name, list(store.vectors.shape), store.vectors.dtype.name]))
    content.update(np.ascontiguousarray(store.ids, dtype="<i8").data)
    for start in range(0, len(store.ids), _ROWS_PER_BATCH):
        rows = store.vectors[start : start + _ROWS_PER_BATCH]
        content.update(np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<")).data)
    directory.mkdir(exist_ok=True)
    store.save(directory, name)


def _write_ids(directory: Path, family: Family, ids: IdMap, first: int) -> list[Shard]:
    """Write the texts of a family, from one of their parts on."""
    directory.mkdir(exist_ok=True)
    written = []
    for number, part in enumerate(ids.parts[first:], first):
        content, name = hashlib.sha256(), f"{family}-{number:06d}"
        for start in range(0, len(part), _ROWS_PER_BATCH):
            content.update(as_json(part.slice(start, _ROWS_PER_BATCH).to_pylist()))
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
