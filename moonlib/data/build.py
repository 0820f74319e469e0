"""`moonlib data build`: a folder of tables and a folder of images become a dataset."""

from __future__ import annotations

import difflib
import logging
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import polars as pl

import moonlib
from moonlib.artifacts.checksums import SUMS
from moonlib.artifacts.layout import QUARANTINE
from moonlib.data import table_files
from moonlib.data.append import Comparison, checked_after, first_free_search, grow, open_base, refuse_lost_columns
from moonlib.data.categories import read_levels
from moonlib.data.check import empty_splits
from moonlib.data.cloud_images import in_cloud
from moonlib.data.dataset import Dataset
from moonlib.data.defaults import ABSENT, consequences, with_spus
from moonlib.data.feeds import likely
from moonlib.data.image_lists import names
from moonlib.data.image_sources import ImageFolder as ImageFolder  # where it was before 0.6
from moonlib.data.image_sources import ImageReader, StoredImages, open_images, stored_images
from moonlib.data.numbering import id_doubts
from moonlib.data.shards import SAMPLE_TABLES, build_once, write_dataset
from moonlib.data.splits import Splits
from moonlib.data.table_contents import describe, doubts
from moonlib.data.table_map import read_map, read_mapped
from moonlib.data.tables import SCHEMAS, Tables, empty, known_columns, refuse_near_misses, users_of, validate
from moonlib.system.disk import replacing
from moonlib.system.remote import is_url, local_copy, refuse_occupied, upload

log = logging.getLogger(__name__)


def build(
    tables: str | Path,
    images: str | Path | None,
    out: str | Path,
    *,
    splits: Splits | None = None,
    max_side: int = 512,
    workers: int | None = None,
    map: str | Path | None = None,
    append: str | Path | None = None,
) -> str | Path:
    """Build a dataset from tables and images.

    Only ``products`` must be there: a missing table is empty, and missing users are those that the events name.
    An image that can't be read leaves its row without that image and is named in ``quarantine.jsonl``. Ids are int64 or
    text, see `moonlib.data.ids`: those of a family (items, SPUs, users, queries, searches, merchants) are int64 where
    every one of them is, in all tables.

    Args:
        tables: a folder of ``products.parquet`` or ``products.csv``, and so for queries, users, searches, impressions
            and histories; or the URL of such a folder. Some columns may be absent, see `moonlib.data.defaults`; what
            follows from it is logged. Levels of a ``category`` may be separated by ``>``, see
            `moonlib.data.categories`. In CSV, ``attributes``, ``box``, ``images`` and ``item_ids`` are JSON, times
            ISO 8601, an empty field is a missing value. In Parquet, ``image`` and ``images`` may hold pictures as
            bytes, or as ``{bytes, path}``: these are moved to a temporary file beside ``out``, so that memory does not
            hold them.
        images: the folder or the URL that the names in the ``image`` and ``images`` columns start from, a local folder
            of tars with these images, see `moonlib.data.image_sources.ImageShards`, or ``https`` where the names are
            URLs themselves; None where there are no images.
        out: the dataset's directory, or its URL; must not exist.
        splits: where behaviour, training, validation and test end; by default `Splits.by_fractions` of searches
            and impressions, and without any, all products are for training.
        max_side: larger images are scaled down to this side, in pixels.
        workers: processes that read images; None chooses.
        map: a YAML file, or its URL, that says which files in ``tables`` and which of their columns are which of
            ours, see `moonlib.data.table_map`; None where they are called as ours.
        append: a dataset's directory: ``out`` holds its rows and, after them, those of ``tables``, as
            `moonlib.data.append` has it. No table must be there then, and the default splits are those of that dataset,
            moved on.

    Returns:
        ``out``.

    Raises:
        FileExistsError: ``out`` exists.
        ValueError: a table doesn't fit its schema, or what it is appended to; or more than 1 % of the images (and more
            than one) can't be read: their list is then beside ``out``, as ``<out>.quarantine.jsonl``.
    """
    if is_url(out):
        options: dict[str, Any] = {"splits": splits, "max_side": max_side, "workers": workers}
        options |= {"map": map, "append": append}
        return _build_and_upload(tables, images, str(out), options)
    map = None if map is None else local_copy(map)
    tables, out = local_copy(tables, _is_of_table if map is None else _is_named_by(map)), Path(out)
    base = None if append is None else open_base(append, out)
    refuse_to_replace(out)
    with stored_images(out) as stored:
        if map is None:
            frames, names = read_frames(tables, stored, needed=base is None)
        else:
            frames, names = read_mapped_frames(tables, map, base)
        return build_frames(
            frames, names, images, out, stored, splits=splits, max_side=max_side, workers=workers, base=base
        )


def refuse_to_replace(out: Path) -> None:
    """Refuse a directory that holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists; remove it or choose another place")


def build_frames(
    frames: dict[str, pl.DataFrame],
    names: dict[str, str],
    images: str | Path | None,
    out: Path,
    stored: StoredImages,
    *,
    splits: Splits | None = None,
    max_side: int = 512,
    workers: int | None = None,
    base: Dataset | None = None,
) -> Path:
    """Build a dataset from tables in memory; see `build`.

    Args:
        frames: the tables that there are, not yet validated.
        names: what to call each of them in errors and in the log.
        images: see `build`; so are the others.
        out: the dataset's directory.
        stored: where pictures that the tables hold as bytes go; see `moonlib.data.image_sources.stored_images`.
        splits: where its parts end.
        max_side: of images.
        workers: processes that read images.
        base: the dataset that the tables are appended to, see `moonlib.data.append`.

    Returns:
        ``out``.

    Raises:
        FileExistsError: see `build`.
        ValueError: see `build`.
    """
    refuse_to_replace(out)
    read, files = complete(frames, names, with_users=base is None)
    columns = {table: frame.columns for table, frame in (frames if base else {t: read[t] for t in SCHEMAS}).items()}
    if base is not None:
        refuse_lost_columns(base, columns, files)
    products, said = read_levels(read.products, files["products"])
    said += consequences({table: read[table] for table in columns}, files)
    said += [
        f"{files[table]} has {near!r}: if it is the {column}, call it so, or build with --map (moonlib data map)"
        for table, column in ABSENT
        if read[table].height and column not in columns[table] and (near := likely(columns[table], table, column))
    ]
    read = replace(read, products=with_spus(products, files["products"]))
    products, queries = (stored.take(read[table], files[table]) for table in SAMPLE_TABLES)
    read = replace(read, products=products, queries=queries)
    checked = validate(read, files) if base is None else checked_after(base, read, frames, files)
    for table, header in columns.items():
        refuse_near_misses(header, table, files[table])
    if base is None and checked.products.is_empty():
        raise ValueError(f"{files['products']}: no rows; a dataset needs products")
    source = None
    if images is None or not (in_cloud(images) or Path(images).is_dir()):
        _refuse_images(checked, files, images, stored)
    else:
        source = open_images(images)
    rejected = out.with_name(f"{out.name}.{QUARANTINE}")
    read_image = ImageReader(source, stored, max_side)

    def write(draft: Path) -> None:
        try:
            growth = None
            if base is not None:
                growth = grow(base, checked, files, Comparison(read_image, workers, splits, draft / QUARANTINE))
                said.extend(growth.said)
            write_dataset(
                draft,
                growth.tables if growth else checked,
                read_image,
                growth.splits if growth else splits or default_splits(checked),
                name=out.name,
                version=moonlib.__version__,
                workers=workers,
                earlier=growth.earlier if growth else None,
                resume=True,
            )
        except ValueError as error:
            if (draft / QUARANTINE).exists():
                with replacing(rejected) as partial:
                    shutil.copy(draft / QUARANTINE, partial)
                raise ValueError(f"{error}; all are listed in {rejected}") from error
            raise

    build_once(out, write, resume=True)
    for line in said:
        log.info(line)
    _log(Dataset(out), files if base is None else {table: f"{out}: {table}" for table in SCHEMAS})
    return out


def _is_of_table(name: str) -> bool:
    """Whether a file or folder at a URL is one of the tables', by its name relative to it."""
    return PurePosixPath(name).parts[0].endswith(table_files.SUFFIXES)


def _is_named_by(map: Path) -> Callable[[str], bool]:
    """Whether a file at a URL is of a table that a map names, or a folder leads to one, by its name relative to it."""
    named = {PurePosixPath(of.file) for of in read_map(map).values()}

    def is_named(name: str) -> bool:
        path = PurePosixPath(name)
        return any(file.is_relative_to(path) or path.is_relative_to(file) for file in named)

    return is_named


def _build_and_upload(tables: str | Path, images: str | Path | None, url: str, options: dict[str, Any]) -> str:
    """Build a dataset in a temporary folder, and copy it to a URL; ``dataset.json`` goes last."""
    refuse_occupied(url)
    with tempfile.TemporaryDirectory(prefix="moonlib-build-") as scratch:
        folder = Path(scratch, PurePosixPath(url).name)
        rejected = folder.with_name(f"{folder.name}.{QUARANTINE}")
        try:
            build(tables, images, folder, **options)
        except ValueError as error:
            if not rejected.exists():
                raise
            shutil.copy(rejected, rejected.name)
            raise ValueError(str(error).replace(str(rejected), rejected.name)) from error
        upload(folder, url, last=(SUMS, "dataset.json"))
    return url


def default_splits(tables: Tables) -> Splits:
    """Return the splits for tables whose owner named none."""
    searches, impressions = tables.searches["ts"], tables.impressions["ts"]
    if searches.is_empty() and impressions.is_empty():
        return Splits.all_training(tables.products)
    return Splits.by_fractions(searches, impressions)


def read_tables(folder: Path, stored: StoredImages | None = None) -> tuple[Tables, dict[str, str]]:
    """Read what tables a folder has, and add those that it lacks; see `read_frames` and `complete`."""
    return complete(*read_frames(folder, stored))


def read_frames(
    folder: Path, stored: StoredImages | None = None, needed: bool = True
) -> tuple[dict[str, pl.DataFrame], dict[str, str]]:
    """Read what tables a folder has.

    Args:
        folder: holds one Parquet or CSV file per table, or a folder of such files; see `moonlib.data.table_files`.
        stored: takes the pictures that Parquet tables hold, and leaves their names; None leaves them in the tables.
        needed: whether products must be there; else any table will do.

    Returns:
        The tables, not yet validated, and the file name of each, for `moonlib.data.tables.validate`.

    Raises:
        ValueError: products are missing, a table is there twice, a file can't be read, or its name looks misspelt.
    """
    if not folder.is_dir():
        expected = "products.parquet or products.csv" if needed else "a table to append, such as searches.parquet"
        raise ValueError(f"{folder} is no folder; expected one that holds {expected}")
    visible = (path for path in folder.iterdir() if not path.name.startswith((".", "_")))
    found = sorted(path for path in visible if path.suffix in table_files.SUFFIXES)
    for path in found:
        close = difflib.get_close_matches(path.stem.lower(), SCHEMAS, n=1, cutoff=0.75)
        if path.stem not in SCHEMAS and close:
            raise ValueError(f"{path} is no table of ours; rename it to {close[0]}{path.suffix}, or move it elsewhere")
    frames, names = {}, {}
    for table in SCHEMAS:
        paths = [path for path in found if path.stem == table]
        if len(paths) > 1:
            raise ValueError(f"{folder} holds both {paths[0].name} and {paths[1].name}; keep one")
        if paths:
            reader = stored.read_table if stored is not None and table in SAMPLE_TABLES else table_files.read
            frames[table], names[table] = reader(paths[0], known_columns(table)), paths[0].name
    if "products" not in frames and (needed or not frames):
        has = ", ".join(path.name for path in found) or "no table"
        lacks = "products.parquet or products.csv" if needed else "table to append, such as searches.parquet"
        raise ValueError(f"{folder} holds no {lacks} (it has {has})")
    return frames, names


def read_mapped_frames(
    folder: Path, map: Path, base: Dataset | None = None
) -> tuple[dict[str, pl.DataFrame], dict[str, str]]:
    """Read the tables that a map names; see `moonlib.data.table_map`.

    Args:
        folder: that its files are relative to.
        map: the YAML file.
        base: the dataset that the tables are appended to: searches that are called by row numbers go on after its own.

    Returns:
        As `read_frames`.

    Raises:
        ValueError: the map has no products, and there is no ``base``; or it or a table is not as it should be.
    """
    maps = read_map(map)
    if base is None and "products" not in maps:
        raise ValueError(f"{map}: no products; a dataset needs products")
    return read_mapped(folder, maps) if base is None else read_mapped(folder, maps, lambda: first_free_search(base))


def complete(
    frames: dict[str, pl.DataFrame], names: dict[str, str], *, with_users: bool = True
) -> tuple[Tables, dict[str, str]]:
    """Add the tables that are absent: empty ones, and the users that the events name.

    Args:
        frames: by table.
        names: what to call each of these.
        with_users: whether users who are not given are those that the events name; else there are none.

    Returns:
        All tables, and what to call each.
    """
    files = {table: names.get(table, table) for table in SCHEMAS}
    tables = {table: frames.get(table, empty(table)) for table in SCHEMAS}
    if "users" not in frames and with_users:
        events = {table: tables[table] for table in ("searches", "impressions", "histories")}
        tables["users"] = users_of(events, files)
    return Tables(*(tables[table] for table in SCHEMAS)), files


def _refuse_images(tables: Tables, files: dict[str, str], images: str | Path | None, stored: StoredImages) -> None:
    for table in SAMPLE_TABLES:
        if named := stored.lacks(names(tables[table])):
            where = (
                "no image folder was given (--images DIR, or https where they are URLs)"
                if images is None
                else f"{images} is no folder"
            )
            raise ValueError(f"{files[table]} names {named} images, but {where}")


def _log(dataset: Dataset, files: dict[str, str]) -> None:
    for table in dataset.counts:
        log.info(f"{files[table]}: {describe(dataset.table(table), table)}")
    for family, ids in dataset.ids.items():
        log.info(f"{family} ids: {len(ids):,}, text such as {ids.decode(np.zeros(1, np.int64))[0]!r}")
    quarantine = dataset.directory / QUARANTINE
    if quarantine.exists():
        lost = len(quarantine.read_bytes().splitlines())
        log.warning(f"images that can't be read: {lost}; their rows were kept without them; see {quarantine}")
    for problem in [
        *empty_splits(dataset),
        *id_doubts(dataset.ids),
        *(line for table in dataset.counts for line in doubts(dataset.table(table), table)),
    ]:
        log.warning(f"warning: {problem}")
