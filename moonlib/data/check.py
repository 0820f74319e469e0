"""`moonlib data check`: counts, broken samples, leaks between splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from moonlib.artifacts.checksums import LOCK, SUMS, Damaged, sums, verify_all
from moonlib.artifacts.layout import IDS, QUARANTINE, SUPERSEDED
from moonlib.artifacts.reading import reading
from moonlib.artifacts.remedies import made_again
from moonlib.data.contact_sheet import contact_sheet
from moonlib.data.dataset import REMEDY, BrokenShard, Dataset, first_line
from moonlib.data.ids import ShopIds
from moonlib.data.jpeg import to_jpeg
from moonlib.data.numbering import id_doubts
from moonlib.data.reader import Sample, SampleReader, verify
from moonlib.data.splits import Split
from moonlib.data.stream import stream
from moonlib.data.table_contents import describe, doubts
from moonlib.data.tables import KEYS, SAMPLE_TABLES, Tables, validate
from moonlib.system.remote import local_copy

NEEDED: dict[str, tuple[Split, ...]] = {"searches": ("behaviour", "test"), "impressions": ("train", "valid", "test")}
"""The splits that a run reads events from."""

_LONG_AGO = datetime(1995, 1, 1, tzinfo=UTC)
_SKEW = timedelta(minutes=1)
_SESSION = timedelta(days=1)
_CHUNK = 1024
_EXAMPLES = 3
_SPLITS = "moonlib data build --splits BEHAVIOUR TRAIN VALID TEST"
_REPAIR = "repair the table and build the dataset again"
_UNASK = "leave the query_id of their later searches empty, which stay in histories, and build the dataset again"


@dataclass
class DatasetReport:
    """Findings of `check`.

    Attributes:
        dataset: name, version, hash.
        counts: rows per table.
        images: images per table of samples.
        contents: what each table holds, in words.
        splits: rows of searches and impressions per split.
        problems: what must be repaired: broken samples, empty splits, leaks.
        warnings: what may be as it should be, and deserves a look.
    """

    dataset: str
    counts: dict[str, int]
    images: dict[str, int] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing must be repaired."""
        return not self.problems


def check(directory: str | Path, sheet: Path | None = None, *, samples: int | None = None) -> DatasetReport:
    """Look for what would spoil a run.

    Problems are files that are missing or not as they were written, tables that don't fit their schema, samples whose
    row or image can't be read, shards that hold other samples than their index says, events without a split that has
    any, a search_id that goes on for more than a day across the end of a split, and leaks: a query photo (the same
    query or the same bytes) in more than one split. Warnings are days without a click, or with nothing else, events
    before their product was listed, after the last split or long ago, rows that are there twice, searches whose clock
    differs from that of their impressions, a search_id with several users or queries, query photos that are also a
    product's image, images lost when the dataset was built, products without titles and images, what
    `moonlib.data.table_contents.doubts` finds in the tables, files that are no part of the dataset, and a dataset
    without checksums, of which nobody can tell whether it is as it was written. Each line says what to do about it.

    Args:
        directory: a dataset's directory, or its URL.
        sheet: where to draw a contact sheet, if anywhere.
        samples: how many samples per table to decode, spread evenly; None decodes all, compares every file with its
            checksum, and reads the shards without their index too. Leaks by bytes are found among these only.

    Raises:
        ValueError: the directory is no dataset.
    """
    directory = local_copy(directory)
    damaged, warnings = _compare(directory, samples)
    try:
        dataset = Dataset(directory)
    except ValueError:
        if not damaged:
            raise
        return DatasetReport(str(directory), {}, problems=damaged, warnings=warnings)
    report = DatasetReport(repr(dataset), dataset.counts, problems=damaged, warnings=warnings)
    try:
        for name in dataset.counts:
            try:
                dataset.arrow(name).validate(full=True)  # damaged offsets would lead any reader astray
            except pa.ArrowException as error:
                raise BrokenShard(f"{name}: {first_line(error)}; {REMEDY}") from error
        verify(directory)
        validate(Tables(**{name: dataset.table(name) for name in dataset.counts}, ids=dataset.ids))
    except (ValueError, OSError) as error:
        # Of damaged files it is the consequence, and they are named already.
        remedy = "" if isinstance(error, BrokenShard | Damaged) else f"; {_REPAIR}"
        report.problems = report.problems or [f"{error}{remedy}"]
        return report
    for name in dataset.counts:
        report.contents[name] = describe(dataset.table(name), name)
        report.warnings += doubts(dataset.table(name), name)
    report.warnings += id_doubts(dataset.ids)
    if not _has_content(dataset):
        nothing = "no product has a title or an image: an encoder has nothing to represent"
        report.warnings.append(f"{nothing}; give products the column title or image, and build the dataset again")
    digests = {table: _check_samples(dataset, table, samples, report) for table in SAMPLE_TABLES}
    if samples is None:
        for table in SAMPLE_TABLES:
            _check_stream(dataset, table, report)
    _check_splits(dataset, report)
    _check_leaks(dataset, digests["queries"], report)
    _check_events(dataset, report)
    _check_clicks(dataset, report)
    shared = digests["queries"].join(digests["products"], on="digest", how="semi")["id"]
    _note(
        report.warnings,
        shared,
        "query photos that are also a product's image, byte by byte, which makes search too easy",
        f"{_UNASK}, or give these queries photos of their own",
        dataset.ids,
        "query_id",
    )
    quarantine = directory / QUARANTINE
    if quarantine.exists():
        try:
            with reading(quarantine, "list of images"):
                lost = len(quarantine.read_bytes().splitlines())
            line = f"images that could not be read when the dataset was built: {lost} (see {quarantine})"
            report.warnings.append(f"{line}; replace these files and build the dataset again")
        except ValueError as error:
            report.problems += [] if any(str(error) in line for line in report.problems) else [f"{error}; {REMEDY}"]
    if sheet is not None:
        contact_sheet(dataset, sheet)
    return report


def _compare(directory: Path, samples: int | None) -> tuple[list[str], list[str]]:
    """Compare the files of a dataset with their checksums.

    Args:
        directory: a dataset's directory.
        samples: if not None, only what is opened is compared, when it is opened.

    Returns:
        Problems and warnings.
    """
    if not (directory / SUMS).exists():
        unknown = "it was built before moonlib kept checksums, or has lost them, and damage may go unnoticed"
        return [], [f"{directory} has no {SUMS}: {unknown}; build it again"] if directory.is_dir() else []
    try:
        noted = sums(directory)
        problems = [] if samples is not None else verify_all(directory)
    except Damaged as error:
        return [str(error)], []
    warnings = []
    if samples is not None:
        parts = "truth, the list of unreadable images and, but for these samples, shards of products and queries"
        warnings.append(f"not compared with their checksums: {parts}; leave out --samples to compare all files")
    ours = {"dataset.json", QUARANTINE, "shards", "representations", IDS, SUPERSEDED}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        if not path.is_file() or path.is_symlink() or name.as_posix() in (*noted, SUMS, LOCK):
            continue
        if name.parts[0] in ours and not path.name.startswith("."):
            problems.append(f"{path} is not in {SUMS}: one of them was changed; {made_again(directory)}")
        else:
            warnings.append(f"{path} is no part of the dataset: it is not in {SUMS}; move it elsewhere")
    return problems, warnings


def _has_content(dataset: Dataset) -> bool:
    """Whether there is anything of the products to represent, or representations that came with the data."""
    products = dataset.products
    return bool(dataset.representations or products.is_empty() or products["title"].count() + products["image"].count())


def _note(lines: list[str], ids: pl.Series, problem: str, remedy: str, shop: ShopIds, key: str | None = None) -> None:
    """Add a line that says how many ids have a problem, names the first as the shop does, and says what to do."""
    ids = ids.unique().sort()
    if ids.len():
        shown = [str(shop.value(key or ids.name, id)) for id in ids.head(_EXAMPLES)]
        examples = ", ".join(shown) + (", …" if ids.len() > _EXAMPLES else "")
        lines.append(f"{problem}: {ids.len():,} ({examples}); {remedy}")


def _check_samples(dataset: Dataset, table: str, samples: int | None, report: DatasetReport) -> pl.DataFrame:
    """Decode samples; return id and digest of every image that was read."""
    reader = SampleReader(dataset.directory, table)
    ids = reader.ids
    report.images[table] = int(reader.pictures.sum())
    if samples is not None and samples < len(ids):
        ids = ids[np.linspace(0, len(ids) - 1, samples).round().astype(np.int64)]
    seen: list[int] = []
    digests: list[bytes] = []
    broken: list[int] = []
    reasons: list[str] = []
    for id, sample in _read(reader, ids):
        try:
            if isinstance(sample, Exception):
                raise sample
            if sample.row.get(KEYS[table]) != id:
                raise ValueError(f"the index points at the row of {sample.row.get(KEYS[table])}")
            for image in () if sample.image is None else (sample.image, *sample.more):
                seen.append(id)
                digests.append(hashlib.sha256(image).digest())
                to_jpeg(image)
        except (ValueError, OSError, AttributeError) as error:
            broken.append(id)
            reasons.append(str(error))
    if broken:
        reason = reasons[0].removesuffix(f"; {REMEDY}")
        unread = pl.Series(KEYS[table], broken, dtype=pl.Int64)
        _note(report.problems, unread, f"broken {table} ({reason})", REMEDY, dataset.ids)
    return pl.DataFrame({"id": seen, "digest": digests}, schema={"id": pl.Int64, "digest": pl.Binary})


def _check_stream(dataset: Dataset, table: str, report: DatasetReport) -> None:
    """Read the shards without their index, as any WebDataset tool does: it must find the same samples."""
    reader = SampleReader(dataset.directory, table)
    ids = reader.ids.tolist()
    problem = None
    read = 0
    try:
        for sample in stream(dataset.directory, table) if ids else ():
            members = sorted(name for name in sample if not name.startswith("__"))
            pictures = int(reader.pictures[read]) if read < len(ids) else 0
            pictured = ["jpg", *(f"{number}.jpg" for number in range(1, pictures))] if pictures else []
            expected = sorted([*pictured, "json"])
            if read == len(ids) or sample["__key__"] != str(ids[read]) or members != expected:
                problem = f"{sample['__key__']} with {', '.join(members)}"
                break
            read += 1
    except Exception as error:  # webdataset hands on whatever its parser of tars meets
        problem = first_line(error)
    if problem is None and read == len(ids):
        return
    after = f"after {read:,} of {len(ids):,} samples"
    found = f"comes {problem}" if problem else "the shard ends"
    report.problems.append(
        f"shards of {table}: {after} {found}, which the index does not say; WebDataset tools read something else; "
        f"{REMEDY}"
    )


def _read(reader: SampleReader, ids: NDArray[np.int64]) -> Iterator[tuple[int, Sample | Exception]]:
    """Yield each sample, or why it can't be read."""
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        try:
            yield from zip(chunk.tolist(), reader.read(chunk), strict=True)
        except (ValueError, OSError):
            for i in range(len(chunk)):
                try:
                    yield int(chunk[i]), reader.read(chunk[i : i + 1])[0]
                except (ValueError, OSError) as error:
                    yield int(chunk[i]), error


def empty_splits(dataset: Dataset) -> list[str]:
    """Say which splits are empty that a run reads; a table that has events must have some in each of these."""
    problems = []
    for table, needed in NEEDED.items():
        events = dataset.table(table)
        for split in needed if events.height else ():
            try:
                dataset.splits.check(events, split, table)
            except ValueError as error:
                problems.append(str(error))
    return problems


def _check_splits(dataset: Dataset, report: DatasetReport) -> None:
    report.problems += empty_splits(dataset)
    for table in NEEDED:
        events = dataset.table(table)
        report.splits[table] = {split: dataset.splits.select(events, split).height for split in get_args(Split)}
        unused = events.filter(pl.col("ts") >= dataset.splits.test_until)["search_id"]
        unused = unused.filter(~unused.is_in(dataset.sessions["search_id"].implode()))
        problem = f"search_ids of {table} after the last split, which are never read"
        remedy = f"build the dataset again with a later end of the test days ({_SPLITS})"
        _note(report.warnings, unused, problem, remedy, dataset.ids)


def _check_leaks(dataset: Dataset, photos: pl.DataFrame, report: DatasetReport) -> None:
    columns = ["search_id", "query_id", "ts"]
    events = pl.concat([dataset.searches.select(columns), dataset.impressions.select(columns)])
    parts = [
        dataset.splits.select(events, split).select("search_id", "query_id", split=pl.lit(split)).unique()
        for split in get_args(Split)
    ]
    used = pl.concat(parts)
    long = dataset.sessions.filter(pl.col("ended") - pl.col("began") >= _SESSION)["search_id"]
    problem = "search_ids whose events are a day or more apart, and all belong to the split of the first"
    remedy = "a search_id is of one search or page: give each its own, and build the dataset again"
    _note(report.problems, long, problem, remedy, dataset.ids)
    pictured = dataset.queries.filter(pl.col("image").is_not_null())["query_id"]
    used = used.filter(pl.col("query_id").is_in(pictured.implode()))
    repeated = _in_several(used, "query_id")
    remedy = f"{_UNASK}, or build it with other splits ({_SPLITS})"
    _note(report.problems, repeated, "photo queries in more than one split", remedy, dataset.ids)
    copies = used.join(photos, left_on="query_id", right_on="id")
    copied = copies.filter(pl.col("digest").is_in(_in_several(copies, "digest").implode()))["query_id"]
    copied = copied.filter(~copied.is_in(repeated.implode()))
    problem = "queries whose photo, byte by byte, is in more than one split"
    _note(report.problems, copied, problem, remedy, dataset.ids)


def _in_several(used: pl.DataFrame, key: str) -> pl.Series:
    return used.group_by(key).agg(pl.col("split").n_unique()).filter(pl.col("split") > 1)[key]


def _check_clicks(dataset: Dataset, report: DatasetReport) -> None:
    for split in NEEDED["impressions"]:
        clicked = dataset.splits.select(dataset.impressions, split)["clicked"]
        if clicked.n_unique() == 1:
            trained = split == "train"
            lost = "a click model has nothing to tell apart" if trained else "AUC, for one, is not defined there"
            report.warnings.append(
                f"{'every' if clicked[0] else 'no'} impression of the {split} days was clicked: {lost}; "
                f"look at the column clicked, or build the dataset with longer {split} days ({_SPLITS})"
            )


def _check_events(dataset: Dataset, report: DatasetReport) -> None:
    listed = dataset.products.select("item_id", "listed_at")
    for table in ("searches", "impressions"):
        events = dataset.table(table)
        early = events.join(listed, on="item_id").filter(pl.col("ts") < pl.col("listed_at"))["item_id"]
        problem = f"products with {table} before they were listed"
        remedy = "set their listed_at to when they first could be found, or leave it empty"
        _note(report.warnings, early, problem, remedy, dataset.ids)
        unset = events.filter(pl.col("ts") < _LONG_AGO)["search_id"]
        problem = f"search_ids of {table} before {_LONG_AGO.year}, as of a clock that was not set"
        remedy = "repair their ts, or remove these rows, and build the dataset again"
        _note(report.warnings, unset, problem, remedy, dataset.ids)
        again = events.filter(events.is_duplicated())["search_id"]
        problem = f"search_ids of {table} with rows that stand there more than once"
        remedy = "remove all but one of these rows and build the dataset again"
        _note(report.warnings, again, problem, remedy, dataset.ids)
        mixed = events.group_by("search_id").agg(pl.col("user_id", "query_id").n_unique())
        mixed_ids = mixed.filter((pl.col("user_id") > 1) | (pl.col("query_id") > 1))["search_id"]
        problem = f"search_ids of {table} with more than one user or query"
        remedy = "give each search or page a search_id of its own"
        _note(report.warnings, mixed_ids, problem, remedy, dataset.ids)
    first = [events.group_by("search_id").agg(pl.col("ts").min()) for events in (dataset.searches, dataset.impressions)]
    both = first[0].join(first[1], on="search_id", suffix="_shown")
    skewed = both.filter(pl.col("ts") < pl.col("ts_shown") - _SKEW)["search_id"]
    problem = "search_ids whose items were acted on before they were shown, as of clocks or time zones that differ"
    remedy = "write ts of both tables by one clock, in UTC, and build the dataset again"
    _note(report.warnings, skewed, f"{problem}, such that histories may tell the future", remedy, dataset.ids)
