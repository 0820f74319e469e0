"""`moonlib data build`: a folder of tables and a folder of images become a dataset."""

from __future__ import annotations

import difflib
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

import moonlib
from moonlib.artifacts.checksums import SUMS
from moonlib.artifacts.layout import QUARANTINE
from moonlib.data import table_files
from moonlib.data.check import empty_splits
from moonlib.data.cloud_images import CloudImages, in_cloud
from moonlib.data.dataset import Dataset
from moonlib.data.jpeg import to_jpeg
from moonlib.data.shards import SAMPLE_TABLES, build_once, write_dataset
from moonlib.data.splits import Splits
from moonlib.data.table_contents import describe, doubts
from moonlib.data.tables import SCHEMAS, Tables, empty, refuse_near_misses, users_of, validate
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
) -> str | Path:
    """Build a dataset from tables and images.

    Only ``products`` must be there: a missing table is empty, and missing users are those that the events name.
    An image that can't be read leaves its row without an image and is named in ``quarantine.jsonl``.

    Args:
        tables: a folder of ``products.parquet`` or ``products.csv``, and so for queries, users, searches, impressions
            and histories. In CSV, ``attributes``, ``box`` and ``item_ids`` are JSON, times ISO 8601, an empty field is
            a missing value. Or the URL of such a folder.
        images: the folder or the URL that the names in the ``image`` columns start from, or ``https`` where they are
            URLs themselves; None where there are no images.
        out: the dataset's directory, or its URL; must not exist.
        splits: where behaviour, training, validation and test end; by default `Splits.by_fractions` of the time range
            of searches and impressions, and without any, all products are for training.
        max_side: larger images are scaled down to this side, in pixels.
        workers: processes that read images; None chooses.

    Returns:
        ``out``.

    Raises:
        FileExistsError: ``out`` exists.
        ValueError: a table doesn't fit its schema, or more than 1 % of the images (and more than one) can't be read;
            their list is then beside ``out``, as ``<out>.quarantine.jsonl``.
    """
    if is_url(out):
        options: dict[str, Any] = {"splits": splits, "max_side": max_side, "workers": workers}
        return _build_and_upload(tables, images, str(out), options)
    tables, out = local_copy(tables, _is_of_table), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists; remove it or choose another place")
    read, files = read_tables(tables)
    checked = validate(read, files)
    for table in SCHEMAS:
        refuse_near_misses(read[table].columns, table, files[table])
    if checked.products.is_empty():
        raise ValueError(f"{files['products']}: no rows; a dataset needs products")
    if images is None or not (in_cloud(images) or Path(images).is_dir()):
        _refuse_images(checked, files, images)
    rejected = out.with_name(f"{out.name}.{QUARANTINE}")

    def write(draft: Path) -> None:
        try:
            write_dataset(
                draft,
                checked,
                CloudImages(str(images), max_side) if in_cloud(images) else ImageFolder(Path(images or ""), max_side),
                splits or default_splits(checked),
                name=out.name,
                version=moonlib.__version__,
                workers=workers,
            )
        except ValueError as error:
            if (draft / QUARANTINE).exists():
                with replacing(rejected) as partial:
                    shutil.copy(draft / QUARANTINE, partial)
                raise ValueError(f"{error}; all are listed in {rejected}") from error
            raise

    build_once(out, write)
    _log(Dataset(out), files)
    return out


def _is_of_table(name: str) -> bool:
    """Whether a file or folder at a URL is one of the tables', by its name relative to it."""
    return PurePosixPath(name).parts[0].endswith(table_files.SUFFIXES)


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
    events = pl.concat([tables.searches["ts"], tables.impressions["ts"]])
    return Splits.all_training(tables.products) if events.is_empty() else Splits.by_fractions(events)


@dataclass(frozen=True)
class ImageFolder:
    """Reads images by their name in a folder.

    Attributes:
        root: the folder.
        max_side: the longest side that an image keeps, in pixels.
    """

    root: Path
    max_side: int

    def __call__(self, table: str, name: str) -> bytes:
        """Return an image as a JPEG; it has been decoded once, so it is whole."""
        return to_jpeg(self.read(name), self.max_side)

    def read(self, name: str) -> bytes:
        """Return an image's file as it is.

        Raises:
            ValueError: there is no such file below the folder, also not by a link, or it can't be read.
        """
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise ValueError(f"the name leads out of {self.root}")
        path = self.root / relative
        try:
            file = path.resolve(strict=True)
            if not file.is_relative_to(self.root.resolve()):
                raise ValueError(f"{path}: a link that leads out of {self.root}")
            if not file.is_file():  # a pipe would be waited for, and a device read without an end
                raise ValueError(f"{path}: no regular file")
            return file.read_bytes()
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from error
        except RuntimeError as error:  # what Python before 3.13 raises for links in a circle
            raise ValueError(f"{path}: {error}") from error


def read_tables(folder: Path) -> tuple[Tables, dict[str, str]]:
    """Read what tables a folder has.

    Args:
        folder: holds one Parquet or CSV file per table, or a folder of such files; see `moonlib.data.table_files`.

    Returns:
        The tables, not yet validated, and the file name of each, for `moonlib.data.tables.validate`.

    Raises:
        ValueError: products are missing, a table is there twice, a file can't be read, or its name looks misspelt.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; expected one that holds products.parquet or products.csv")
    visible = (path for path in folder.iterdir() if not path.name.startswith((".", "_")))
    found = sorted(path for path in visible if path.suffix in table_files.SUFFIXES)
    for path in found:
        close = difflib.get_close_matches(path.stem.lower(), SCHEMAS, n=1, cutoff=0.75)
        if path.stem not in SCHEMAS and close:
            raise ValueError(f"{path} is no table of ours; rename it to {close[0]}{path.suffix}, or move it elsewhere")
    frames, files = {}, {}
    for table in SCHEMAS:
        paths = [path for path in found if path.stem == table]
        if len(paths) > 1:
            raise ValueError(f"{folder} holds both {paths[0].name} and {paths[1].name}; keep one")
        frames[table] = table_files.read(paths[0], SCHEMAS[table].names) if paths else empty(table)
        files[table] = paths[0].name if paths else table
    if files["products"] == "products":
        has = ", ".join(path.name for path in found) or "no table"
        raise ValueError(f"{folder} holds no products.parquet or products.csv (it has {has})")
    if files["users"] == "users":
        frames["users"] = users_of({table: frames[table] for table in ("searches", "impressions", "histories")}, files)
    return Tables(**frames), files


def _refuse_images(tables: Tables, files: dict[str, str], images: str | Path | None) -> None:
    for table in SAMPLE_TABLES:
        if named := tables[table]["image"].count():
            where = "no image folder was given (--images DIR)" if images is None else f"{images} is no folder"
            raise ValueError(f"{files[table]} names {named} images, but {where}")


def _log(dataset: Dataset, files: dict[str, str]) -> None:
    for table in dataset.counts:
        log.info(f"{files[table]}: {describe(dataset.table(table), table)}")
    quarantine = dataset.directory / QUARANTINE
    if quarantine.exists():
        lost = len(quarantine.read_bytes().splitlines())
        log.warning(f"images that can't be read: {lost}; their rows were kept without them; see {quarantine}")
    for problem in [
        *empty_splits(dataset),
        *(line for table in dataset.counts for line in doubts(dataset.table(table), table)),
    ]:
        log.warning(f"warning: {problem}")
