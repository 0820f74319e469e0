"""Checks of where data comes from and what is left of it: sources and filters."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest import mock

import polars as pl

from moonlib.artifacts.checksums import SUMS, seal
from moonlib.data import sample_shards, shards
from moonlib.data.check import check
from moonlib.data.dataset import Dataset
from moonlib.data.ids import FAMILIES, LISTS, Family
from moonlib.data.image_lists import IMAGES
from moonlib.data.reader import SampleReader
from moonlib.data.tables import KEYS, SCHEMAS, Tables, empty, validate
from moonlib.filters.filter import Encoded, Filter, Filtered
from moonlib.sources.source import Source
from moonlib.testing.examples import example_representations, example_tables
from moonlib.testing.promises import directory_state, require


def check_source(make: Callable[[], Source]) -> None:
    """Check a source: a sound dataset that is built once, the same everywhere, and never half.

    Args:
        make: returns a fresh source, of few products: its dataset is built three times.
    """
    with tempfile.TemporaryDirectory() as folder:
        cache, other, full = (Path(folder) / name for name in ("cache", "other", "full"))
        directory = make().prepare(cache)
        dataset = Dataset(directory)
        require(dataset.counts["products"] > 0, "prepare: there are no products")
        require(len(dataset.splits.known(dataset.products)) > 0, "prepare: no product is listed before training ends")
        tables = Tables(**{table: dataset.table(table) for table in SCHEMAS}, ids=dataset.ids)
        try:
            validate(tables)
        except ValueError as error:
            raise AssertionError(f"prepare: the tables do not fit their schemas: {error}") from error
        report = check(directory)
        require(report.ok, f"prepare: moonlib data check finds {'; '.join(report.problems)}")
        before = directory_state(directory)
        require(make().prepare(cache) == directory, "prepare: a second call returns another directory")
        require(directory_state(directory) == before, "prepare: a second call builds anew")
        elsewhere = Dataset(make().prepare(other))
        require(elsewhere.hash == dataset.hash, "prepare: built again, the content differs (its hash does)")
        no_space = mock.patch.object(shards, "write_text", side_effect=OSError(28, "No space left on device"))
        with no_space, suppress(OSError):
            make().prepare(full)
        try:
            repaired = Dataset(make().prepare(full))
        except (ValueError, OSError) as error:
            raise AssertionError(f"prepare: after a build that broke off, the next one fails: {error}") from error
        require(repaired.hash == dataset.hash, "prepare: after a build that broke off, the content differs")


def write_pictures(dataset: Dataset, table: str, rows: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """Write the pictures of rows as files, as a shop has them.

    Args:
        dataset: that has them.
        table: ``products`` or ``queries``.
        rows: some or all of its rows.
        folder: where the files go; what is there already is not written again.

    Returns:
        The rows, whose ``image`` and ``images`` are the names of these files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reader, ids = SampleReader(dataset, table), rows[KEYS[table]].to_numpy()
    named: list[list[str] | None] = []
    for start in range(0, len(ids), 1024):
        for sample in reader.read(ids[start : start + 1024]):
            pictures = () if sample.image is None else (sample.image, *sample.more)
            names = [f"{table}-{sample.id}.{number}.jpg" for number in range(len(pictures))]
            for name, picture in zip(names, pictures, strict=True):
                if not (folder / name).exists():
                    (folder / name).write_bytes(picture)
            named.append(names or None)
    images = pl.Series(IMAGES, named, dtype=pl.List(pl.String))
    rows = rows.with_columns(image=images.list.first())
    return rows.with_columns(images) if IMAGES in rows.columns else rows


def forget_checksums(directory: Path) -> Path:
    """Make of a dataset what moonlib would have built before it kept checksums.

    Args:
        directory: a dataset's; its list of checksums and those in its indexes are removed.

    Returns:
        ``directory``.
    """
    (directory / SUMS).unlink(missing_ok=True)
    for index in (directory / "shards").glob("*.arrow"):
        rows = pl.read_ipc(index.read_bytes()).drop(sample_shards.CHECKSUM, sample_shards.DIGEST, strict=False)
        rows.write_ipc(index, compat_level=pl.CompatLevel.oldest())
    return directory


def in_older_format(directory: Path) -> Path:
    """Make of a dataset what moonlib built before a dataset listed its shards and knew digests of its pictures.

    Args:
        directory: a dataset's, without text ids or several pictures; its checksums are noted anew.

    Returns:
        ``directory``.
    """
    for index in (directory / "shards").glob("*.arrow"):
        rows = pl.read_ipc(index.read_bytes()).drop(sample_shards.DIGEST)
        rows.write_ipc(index, compat_level=pl.CompatLevel.oldest())
    file = directory / "dataset.json"
    described = json.loads(file.read_text())
    del described["shards"]
    file.write_text(json.dumps(described | {"format": 1}))
    seal(directory)
    return directory


def with_text_ids(tables: Tables) -> Tables:
    """The tables of a shop whose ids are text: their order is that of the int64 ids that they take the place of.

    Args:
        tables: validated, with int64 ids.

    Returns:
        The same tables with ids such as ``item 0007``, as they may be read from files; not validated.
    """
    return _renamed(tables, lambda family, ranks: pl.lit(f"{family} ") + ranks.cast(pl.String).str.zfill(6))


def with_ranked_ids(tables: Tables) -> Tables:
    """The same tables with the numbers 0, 1, 2, … in place of a family's int64 ids, in their order."""
    return _renamed(tables, lambda family, ranks: ranks)


def _renamed(tables: Tables, rename: Callable[[str, pl.Expr], pl.Expr]) -> Tables:
    """Replace all ids by what is made of their ranks within their family."""
    columns = [(table, name) for table in SCHEMAS for name in SCHEMAS[table].names if name in FAMILIES]
    known: dict[Family, list[pl.Series]] = {}
    for table, name in columns:
        ids = tables[table][name]
        known.setdefault(FAMILIES[name], []).append((ids.explode() if name in LISTS else ids).alias("id"))
    numbers = {
        family: pl.concat(ids).drop_nulls().unique().sort().to_frame().with_row_index("rank").cast(pl.Int64)
        for family, ids in known.items()
    }
    frames = {table: tables[table] for table in SCHEMAS}
    for table, name in columns:
        of = numbers[FAMILIES[name]]
        renamed = of.select("id", rename(FAMILIES[name], pl.col("rank")).alias("new"))
        at = pl.element() if name in LISTS else pl.col(name)
        new = at.replace_strict(renamed["id"], renamed["new"], return_dtype=renamed["new"].dtype)
        frames[table] = frames[table].with_columns((pl.col(name).list.eval(new) if name in LISTS else new).alias(name))
    return Tables(*(frames[table] for table in SCHEMAS))


def check_filter(make: Callable[[], Filter]) -> None:
    """Check a filter: valid tables, every row accounted for, determinism, nothing changed, tables without rows.

    Args:
        make: returns a fresh filter.
    """
    tables, untouched = example_tables(), example_tables()
    first = _filtered(make(), tables)
    for table in SCHEMAS:
        require(tables[table].equals(untouched[table]), f"{table}: the filter changes what it is given")
    again = _filtered(make(), tables)
    for table in SCHEMAS:
        same = first.tables[table].equals(again.tables[table])
        require(same and first.removed == again.removed, f"{table}: the same tables give another result")
    _filtered(make(), Tables(example_tables().products))
    _filtered(make(), Tables(empty("products")))


def _filtered(filter: Filter, tables: Tables) -> Filtered:
    """Run a filter and check what holds for any tables."""
    encoded = None
    if filter.reads_representations:
        # Of most products: one that was never represented has no row.
        encoded = Encoded(
            *example_representations(tables.products["item_id"][1:], tables.queries["query_id"])["random"]
        )
    result = filter(tables, encoded)
    require(isinstance(result, Filtered), f"expected a Filtered, got {type(result).__name__}")
    unknown = set(result.removed) - set(SCHEMAS)
    require(not unknown, f"removed: {sorted(unknown)} are no tables; tables are {', '.join(SCHEMAS)}")
    for table in SCHEMAS:
        before, after = tables[table], result.tables[table]
        reasons = dict(result.removed.get(table, {}))
        require(before.schema == after.schema, f"{table}: columns or types changed")
        counted = all(isinstance(rows, int) and rows > 0 and reason.strip() for reason, rows in reasons.items())
        require(counted, f"{table}: expected reasons with the rows removed, above 0; got {reasons}")
        require(
            before.height - after.height == sum(reasons.values()),
            f"{table}: {before.height} rows in, {after.height} out, but removed are {reasons or 'none'}",
        )
    try:
        validate(result.tables)
    except ValueError as error:
        raise AssertionError(f"the tables that are left are not valid: {error}") from error
    return result
