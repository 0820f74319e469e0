"""What `check` reports as broken or leaking."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from moonlib.artifacts.checksums import seal
from moonlib.cli.data import print_report
from moonlib.data import check as module
from moonlib.data.build import ImageFolder
from moonlib.data.check import DatasetReport
from moonlib.data.shards import write_dataset
from moonlib.data.splits import Splits
from moonlib.data.tables import Tables
from moonlib.testing.data import forget_checksums

REMEDIES = [
    r"; copy .* again, or remove it and (build it again|run the command that wrote it once more)",
    r"build (it|the dataset) (once )?(again|with)",
    r"Set other splits when building the dataset \(--splits",
    r"leave out --samples",
    r"move it elsewhere",
    r"\? If so, rename it",
    r"; give each (search or page|its own)",
    r"; a search_id is of one search or page: give each its own",
    r"; leave the field empty",
    r"; set their listed_at",
]
REMEDY = re.compile("|".join(REMEDIES))
SPLITS = "(moonlib data build --splits BEHAVIOUR TRAIN VALID TEST)"


def check(directory: Path, *args: Any, **options: Any) -> DatasetReport:
    """Check, and see that each line of the report names a remedy, in whichever test it comes up."""
    report = module.check(directory, *args, **options)
    for line in (*report.problems, *report.warnings):
        assert REMEDY.search(line), line
    return report


Checked = Callable[..., DatasetReport]


@pytest.fixture
def written(tmp_path: Path, shop: Tables, splits: Splits, image_folder: Path) -> Callable[..., Path]:
    """Write `shop` with some tables replaced."""

    def write(**tables: pl.DataFrame) -> Path:
        directory = tmp_path / "d"
        read_image = ImageFolder(image_folder, 512)
        write_dataset(directory, replace(shop, **tables), read_image, splits, name="shop", version="1")
        return directory

    return write


OF_ONE_CLASS = [
    f"{what} impression of the {split} days was clicked: AUC, for one, is not defined there; look at the column "
    f"clicked, or build the dataset with longer {split} days {SPLITS}"
    for what, split in (("no", "valid"), ("every", "test"))
]
"""What is said of `shop`: a single impression is of one class."""


@pytest.fixture
def built(written: Callable[..., Path]) -> Path:
    """`shop` as a build leaves it, with a list of checksums."""
    directory = written()
    seal(directory)
    return directory


def test_a_clean_dataset(built: Path) -> None:
    report = check(built)
    assert (report.problems, report.warnings) == ([], OF_ONE_CLASS)
    assert report.ok
    assert report.counts["impressions"] == 4
    assert report.images == {"products": 3, "queries": 2}
    assert report.splits == {
        "searches": {"behaviour": 1, "train": 0, "valid": 1, "test": 1},
        "impressions": {"behaviour": 0, "train": 2, "valid": 1, "test": 1},
    }


def test_shards_that_other_tools_would_read_differently(written: Callable[..., Path]) -> None:
    """moonlib reads a row where the index says and needs no header of it; tar readers end at one that is damaged."""
    directory = forget_checksums(written())
    shard = directory / "shards/products-000000.tar"
    data = bytearray(shard.read_bytes())
    with tarfile.open(shard) as tar:
        member = tar.getmembers()[1]
    assert member.name.endswith(".json")
    data[member.offset + 148 : member.offset + 156] = b"not one."  # its checksum
    shard.write_bytes(data)
    (problem,) = check(directory).problems
    assert (
        problem.startswith("shards of products: after ") and "of 4 samples" in problem and "build it again" in problem
    )
    assert check(directory, samples=2).ok  # a few samples are looked up in the index


def test_a_member_that_has_another_name_in_the_shard(written: Callable[..., Path]) -> None:
    directory = written()
    shard = directory / "shards/queries-000000.tar"
    with tarfile.open(shard) as tar:
        member = next(member for member in tar if member.name.endswith(".json"))
    renamed = tarfile.TarInfo(member.name.replace(".json", ".txt"))
    renamed.size = member.size
    data = bytearray(shard.read_bytes())
    data[member.offset : member.offset + 512] = renamed.tobuf(tarfile.USTAR_FORMAT)
    shard.write_bytes(data)
    problems = check(directory).problems
    assert any("shards of queries: after 0 of" in problem and "txt" in problem for problem in problems), problems


def test_without_events_nothing_is_empty(written: Callable[..., Path], shop: Tables) -> None:
    report = check(written(searches=shop.searches.clear(), impressions=shop.impressions.clear()))
    assert report.ok


def test_a_search_in_two_splits(written: Callable[..., Path], shop: Tables) -> None:
    impressions = shop.impressions.with_columns(search_id=pl.Series([200, 200, 200, 202]))
    report = check(written(impressions=impressions))
    empty, long = report.problems
    assert empty.startswith("the valid split of impressions is empty"), "the event of that day is of a training day"
    assert report.splits["impressions"] == {"behaviour": 0, "train": 3, "valid": 0, "test": 1}
    assert long.startswith(
        "search_ids whose events are a day or more apart, and all belong to the split of the first: 1 ("
    )


def test_a_session_across_midnight_is_no_problem(written: Callable[..., Path], shop: Tables, splits: Splits) -> None:
    """It is shown before midnight and ordered after it: the events of both tables are of the day before."""
    late = splits.train_until + timedelta(minutes=5)
    shown = shop.impressions.head(1).with_columns(search_id=pl.lit(7, pl.Int64), ts=pl.lit(late - timedelta(minutes=9)))
    acted = shop.searches.head(1).with_columns(
        search_id=pl.lit(7, pl.Int64), ts=pl.lit(late), query_id=pl.lit(20, pl.Int64)
    )
    impressions, searches = (pl.concat(pair) for pair in ((shop.impressions, shown), (shop.searches, acted)))
    report = check(written(impressions=impressions, searches=searches))
    assert report.ok
    assert report.splits["searches"] == {"behaviour": 1, "train": 1, "valid": 1, "test": 1}
    assert report.splits["impressions"] == {"behaviour": 0, "train": 3, "valid": 1, "test": 1}


def test_a_photo_query_in_two_splits(written: Callable[..., Path], shop: Tables) -> None:
    searches = shop.searches.with_columns(query_id=pl.Series([10, 10, 30]))
    (problem,) = check(written(searches=searches)).problems
    assert problem.startswith(
        "photo queries in more than one split: 1 (10); leave the query_id of their later searches"
    )


def test_the_same_photo_under_two_queries(written: Callable[..., Path], image_folder: Path) -> None:
    (image_folder / "r.jpg").write_bytes((image_folder / "q.jpg").read_bytes())
    problem = "queries whose photo, byte by byte, is in more than one split: 2 (10, 30)"
    assert [line.split(";")[0] for line in check(written()).problems] == [problem]


def test_an_empty_split(written: Callable[..., Path], shop: Tables, splits: Splits) -> None:
    report = check(written(impressions=shop.impressions.filter(pl.col("ts") < splits.valid_until)))
    assert len(report.problems) == 1
    assert "the test split of impressions is empty" in report.problems[0]


def test_a_broken_image_in_a_shard(written: Callable[..., Path]) -> None:
    directory = forget_checksums(written())
    index = pl.read_ipc((directory / "shards" / "products-000000.arrow").read_bytes())
    tar = directory / "shards" / "products-000000.tar"
    data = bytearray(tar.read_bytes())
    start = index["jpg_offset"][0]
    data[start : start + 40] = bytes(40)
    tar.write_bytes(data)
    report = check(directory)
    assert len(report.problems) == 1
    assert report.problems[0].startswith("broken products (not a readable picture")
    assert f": 1 ({index['item_id'][0]}); copy the dataset again" in report.problems[0]


def test_a_broken_row_spares_the_others(written: Callable[..., Path]) -> None:
    directory = written()
    index = pl.read_ipc((directory / "shards" / "queries-000000.arrow").read_bytes())
    tar = directory / "shards" / "queries-000000.tar"
    data = bytearray(tar.read_bytes())
    data[index["json_offset"][1]] = ord("?")
    tar.write_bytes(data)
    (problem,) = check(directory).problems
    assert problem.startswith("broken queries (")
    assert ": 1 (20); " in problem and problem.count("copy the dataset again") == 1


def test_an_index_of_another_shard(written: Callable[..., Path]) -> None:
    directory = written()
    path = directory / "shards" / "queries-000000.arrow"
    index = pl.read_ipc(path.read_bytes()).drop("image_digest")  # which polars would write in another type
    index.with_columns(query_id=pl.Series([10, 30, 20])).write_ipc(path, compat_level=pl.CompatLevel.oldest())
    problem = check(directory).problems[0]
    assert "queries-000000.tar: query_id 30: the index points at '20.json'" in problem and "build it again" in problem
    assert ": 2 (20, 30); " in problem


FILES = [
    "dataset.json",
    "shards/products-000000.tar",
    "shards/queries-000000.arrow",
    "shards/users-000000.tar",
    "truth/x",
]


@pytest.mark.parametrize("change", ["flip", "remove", "extend"])
@pytest.mark.parametrize("name", FILES)
def test_any_file_that_is_not_as_it_was_written(written: Callable[..., Path], name: str, change: str) -> None:
    directory = written()
    (directory / "truth").mkdir()
    (directory / "truth/x").write_text("known to nobody")
    seal(directory)
    assert check(directory).ok
    file = directory / name
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    if change == "remove":
        file.unlink()
    else:
        file.write_bytes(data if change == "flip" else file.read_bytes() + b"!")
    problems = check(directory).problems
    assert str(file) in problems[0] and ("is missing" if change == "remove" else "is damaged") in problems[0]
    assert "again" in problems[0] and "\n" not in problems[0]


def test_all_damaged_files_are_named_and_the_samples_that_are_lost(built: Path) -> None:
    index = pl.read_ipc((built / "shards/products-000000.arrow").read_bytes())
    for table in ("products", "queries"):
        shard = built / f"shards/{table}-000000.tar"
        data = bytearray(shard.read_bytes())
        data[index["jpg_offset"][0] + 50] ^= 1
        shard.write_bytes(data)
    problems = check(built).problems
    for table, line in zip(("products", "queries"), problems, strict=False):
        assert f"{table}-000000.tar is damaged: its SHA-256" in line
    assert any(line.startswith("broken products (") and "its CRC-32" in line for line in problems)
    assert any(line.startswith("broken queries (") and "its CRC-32" in line for line in problems)


def test_a_few_samples_leave_files_uncompared_and_say_so(built: Path) -> None:
    shard = built / "shards/products-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    report = check(built, samples=2)
    assert report.ok
    (warning,) = (line for line in report.warnings if line not in OF_ONE_CLASS)
    assert warning.startswith("not compared with their checksums: ") and "shards of products and queries" in warning
    assert "leave out --samples to compare all files" in warning
    (problem,) = check(built).problems
    assert f"{shard} is damaged" in problem


def test_files_that_are_no_part_of_the_dataset(built: Path) -> None:
    (built / "notes.txt").write_text("mine")
    (built / "shards/.DS_Store").write_text("the file manager's")
    report = check(built)
    assert report.ok
    assert [line.split(" is no part")[0] for line in report.warnings if line not in OF_ONE_CLASS] == [
        str(built / "notes.txt"),
        str(built / "shards/.DS_Store"),
    ]
    (built / "shards/users-000001.tar").write_bytes((built / "shards/users-000000.tar").read_bytes())
    assert f"{built / 'shards/users-000001.tar'} is not in moonlib.sha256" in check(built).problems[0]


def test_a_dataset_without_checksums_cannot_be_verified(built: Path) -> None:
    for samples in (None, 2):
        warnings = check(forget_checksums(built), samples=samples).warnings
        (warning,) = (line for line in warnings if line not in OF_ONE_CLASS)
        assert (
            "has no moonlib.sha256: it was built before moonlib kept checksums" in warning
            and "build it again" in warning
        )


LISTED = b"0" * 64 + b"  "


@pytest.mark.parametrize(
    "content",
    [b"", b"abc", b"\xff\n", LISTED + b"a", LISTED + b"a\0b\n", LISTED.upper()[2:] + b"a\n", 2 * (LISTED + b"a\n")],
)
def test_a_damaged_list_of_checksums(built: Path, content: bytes) -> None:
    (built / "moonlib.sha256").write_bytes(content)
    assert "moonlib.sha256" in check(built).problems[0] and "build it again" in check(built).problems[0]


def test_missing_shards(written: Callable[..., Path]) -> None:
    directory = written()
    (directory / "shards" / "queries-000000.arrow").unlink()
    assert "0 of 3 rows of queries are there" in check(directory).problems[0]


def test_warnings(written: Callable[..., Path], shop: Tables, image_folder: Path, splits: Splits) -> None:
    (image_folder / "q.jpg").write_bytes((image_folder / "a.jpg").read_bytes())
    (image_folder / "c.jpg").unlink()
    impressions = shop.impressions.with_columns(item_id=pl.lit(0, dtype=pl.Int64), user_id=pl.Series([5, 6, 6, 6]))
    searches = pl.concat(
        [shop.searches, shop.searches.tail(1).with_columns(ts=splits.test_until, search_id=pl.lit(103, pl.Int64))]
    )
    report = check(written(impressions=impressions, searches=searches))
    assert report.ok
    for found in (
        "search_ids of searches after the last split, which are never read: 1 (103); build the dataset again",
        "products with impressions before they were listed: 1 (0); set their listed_at",
        "search_ids of impressions with more than one user or query: 1 (200); give each search",
        "query photos that are also a product's image, byte by byte, which makes search too easy: 1 (10); leave the",
    ):
        assert any(line.startswith(found) for line in report.warnings), found
    assert any(
        line.startswith("images that could not be read when the dataset was built: 1") for line in report.warnings
    )
    assert sum("moonlib.sha256" in line for line in report.warnings) == 1  # it was not built, but only written
    assert len(report.warnings) == 6 + 2  # and the two of a clean dataset


def test_fewer_samples_are_decoded_on_request(written: Callable[..., Path]) -> None:
    directory = written()
    tar = directory / "shards" / "products-000000.tar"
    data = bytearray(tar.read_bytes())
    start = pl.read_ipc((directory / "shards" / "products-000000.arrow").read_bytes())["jpg_offset"][1]
    data[start : start + 40] = bytes(40)
    tar.write_bytes(data)
    assert check(directory, samples=2).ok  # the first and the last
    assert not check(directory).ok


def test_a_contact_sheet_on_request(written: Callable[..., Path], tmp_path: Path) -> None:
    check(written(), tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").format == "PNG"


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no dataset"):
        check(tmp_path)


def test_the_printed_report(written: Callable[..., Path], shop: Tables, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(check(written()))
    printed = capsys.readouterr().out
    assert "shop 1" in printed
    assert printed.rstrip().endswith("ok")
    print_report(check(written(searches=shop.searches.with_columns(query_id=pl.Series([10, 10, 30])))))
    printed = capsys.readouterr().out
    assert "problem photo queries in more than one split: 1 (10)" in printed
    assert printed.rstrip().endswith("problems: 1")


def test_what_the_tables_hold_is_printed_and_doubted(
    written: Callable[..., Path], shop: Tables, capsys: pytest.CaptureFixture[str]
) -> None:
    products = shop.products.with_columns(title=pl.Series(["NULL", "a", "b", None]))
    print_report(check(written(products=products)))
    printed = capsys.readouterr().out
    assert "products: 4 rows, 3 with an image, 3 with a title, 2 with a price, 2 with attributes" in printed
    assert "warning products: column 'title': values that say that there is no text: 1, such as 'NULL'" in printed


def test_products_without_titles_and_images_are_warned_of(written: Callable[..., Path], shop: Tables) -> None:
    products = shop.products.with_columns(title=pl.lit(None, pl.String), image=pl.lit(None, pl.String))
    warning = "no product has a title or an image: an encoder has nothing to represent; give products the column title"
    assert any(line.startswith(warning) for line in check(written(products=products)).warnings)


def test_a_table_that_does_not_fit_its_schema(written: Callable[..., Path], shop: Tables) -> None:
    (problem,) = check(written(searches=shop.searches.with_columns(action=pl.lit("look")))).problems
    assert "is none of click, cart, order; repair the table and build the dataset again" in problem


def test_clocks_and_copies(written: Callable[..., Path], shop: Tables) -> None:
    long_ago = pl.when(pl.col("search_id") == 100).then(pl.lit(datetime(1980, 1, 1, tzinfo=UTC))).otherwise("ts")
    searches = shop.searches.with_columns(ts=long_ago, search_id=pl.Series([100, 101, 202]))
    searches = pl.concat([searches.with_columns(pl.col("ts") - pl.duration(hours=1)), searches.tail(1)])
    impressions = pl.concat([shop.impressions, shop.impressions.tail(1)])
    warnings = check(written(searches=searches, impressions=impressions)).warnings
    for found in ("of searches before 1995", "of impressions with rows that stand there more", "acted on before they"):
        assert any(found in line for line in warnings), found


def test_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(DatasetReport("Dataset('[bold]')", {}, problems=["is not [x0, y0, x1, y1]"]))
    printed = capsys.readouterr().out
    assert "Dataset('[bold]')" in printed
    assert "problem is not [x0, y0, x1, y1]" in printed
