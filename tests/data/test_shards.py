"""What the shards hold, for moonlib and for any WebDataset reader."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import webdataset
from PIL import Image

from moonlib.data import shards
from moonlib.data.build import ImageFolder
from moonlib.data.dataset import Dataset
from moonlib.data.shards import build_once, write_dataset
from moonlib.data.splits import Splits
from moonlib.data.tables import KEYS, Tables, empty, validate

LOWEST, HIGHEST = -(2**63), 2**63 - 1
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, shop: Tables, splits: Splits, image_folder: Path) -> Write:
    """Write `shop`, or other tables, into a directory."""

    def to(name: str, tables: Tables = shop, **options: Any) -> Path:
        read_image = ImageFolder(image_folder, 512)
        write_dataset(tmp_path / name, tables, read_image, splits, name="shop", version="1", **options)
        return tmp_path / name

    return to


def _files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def _members(directory: Path, table: str) -> list[tuple[str, bytes]]:
    members = []
    for shard in sorted((directory / "shards").glob(f"{table}-*.tar")):
        with tarfile.open(shard) as tar:
            members += [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    return members


def test_webdataset_iterates_the_products(write: Write, image_folder: Path) -> None:
    shards = sorted(str(path) for path in (write("d", samples_per_shard=3) / "shards").glob("products-*.tar"))
    assert len(shards) == 2
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [str(LOWEST), str(HIGHEST), "16777217", "0"]
    assert [json.loads(sample["json"])["item_id"] for sample in samples] == [LOWEST, HIGHEST, 16777217, 0]
    assert samples[0]["jpg"] == (image_folder / "a.jpg").read_bytes()
    assert Image.open(io.BytesIO(samples[1]["jpg"])).format == "JPEG"  # b.png, encoded again
    assert "jpg" not in samples[3]


def test_a_row_is_written_as_json(write: Write) -> None:
    rows = [json.loads(data) for name, data in _members(write("d"), "products") if name.endswith("json")]
    assert rows[1]["title"] == "红色 台灯"
    assert rows[0]["attributes"] == {"colour": "red"}
    assert rows[0]["listed_at"] == "2025-01-01T12:00:00+00:00"
    assert rows[0]["box"] == [0.0, 0.0, 0.5, 1.0]
    assert rows[2]["price"] is None
    assert rows[3]["shelf"] == "x"


def test_the_index_points_at_the_data_of_every_member(write: Write) -> None:
    directory = write("d", samples_per_shard=2)
    members = dict(_members(directory, "products"))
    for path in sorted((directory / "shards").glob("products-*.arrow")):
        tar = path.with_suffix(".tar").read_bytes()
        for row in pl.read_ipc(path).iter_rows(named=True):
            start, size = row["json_offset"], row["json_size"]
            assert tar[start : start + size] == members[f"{row['item_id']}.json"]
            start, size = row["jpg_offset"], row["jpg_size"]
            if row["image"] is None:
                assert (start, size) == (-1, 0)
            else:
                assert tar[start : start + size] == members[f"{row['item_id']}.jpg"]


def test_events_are_arrow_members(write: Write, shop: Tables) -> None:
    members = _members(write("d"), "impressions")
    assert [name for name, _ in members] == ["000000000.arrow"]
    assert pl.read_ipc(members[0][1]).equals(shop.impressions)


def test_many_events_make_several_members(write: Write, shop: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moonlib.data.shards._ROWS_PER_BATCH", 1)
    monkeypatch.setattr("moonlib.data.shards._BATCHES_PER_SHARD", 3)
    directory = write("parts")
    assert [name for name, _ in _members(directory, "impressions")] == [f"{i:09d}.arrow" for i in range(4)]
    assert len(list((directory / "shards").glob("impressions-*.tar"))) == 2
    assert Dataset(directory).impressions.equals(shop.impressions)


@pytest.mark.parametrize("cuts", [[32], [1, 2, 3], [0, 0, 9, 17, 17, 33], [16, 16], range(40)])
def test_events_in_parts_are_written_as_whole_tables_are(
    write: Write, shop: Tables, monkeypatch: pytest.MonkeyPatch, cuts: Sequence[int]
) -> None:
    monkeypatch.setattr("moonlib.data.shards._ROWS_PER_BATCH", 8)
    monkeypatch.setattr("moonlib.data.shards._BATCHES_PER_SHARD", 2)
    many = replace(shop, searches=pl.concat([shop.searches] * 15), impressions=pl.concat([shop.impressions] * 10))
    without = replace(shop, searches=empty("searches"), impressions=empty("impressions"))
    keys = {table: shop[table][key] for table, key in KEYS.items()}

    def parts(table: str) -> Iterator[pl.DataFrame]:
        assert many[table].height >= 40
        for start, stop in zip([0, *cuts], [*cuts, many[table].height], strict=True):
            part = {"products": empty("products"), table: many[table].slice(start, stop - start)}
            yield validate(Tables(**part), earlier=keys)[table]

    events = {table: parts(table) for table in ("searches", "impressions")}
    assert _files(write("parts", without, events=events)) == _files(write("whole", many))


def test_parts_of_events_are_not_left_out(write: Write, shop: Tables) -> None:
    with pytest.raises(ValueError, match="no part of searches: a table without rows is one part without rows"):
        write("none", events={"searches": iter(())})
    with pytest.raises(ValueError, match="'users' can't come in parts; only searches, impressions can"):
        write("users", events={"users": [shop.users]})


def test_bytes_do_not_depend_on_workers_or_clock(
    write: Write, shop: Tables, image_folder: Path, encode: Callable[..., bytes]
) -> None:
    count = 150  # more than two tasks, so that both workers have some
    for i in range(count):
        (image_folder / f"{i}.jpg").write_bytes(encode(i))
    products = pl.concat([shop.products.head(1)] * count).with_columns(
        item_id=pl.arange(count, eager=True, dtype=pl.Int64),
        image=pl.arange(count, eager=True).cast(pl.String) + ".jpg",
    )
    tables = validate(Tables(products))
    alone = _files(write("alone", tables, workers=1))
    assert alone == _files(write("together", tables, workers=2))
    assert [data for name, data in _members(image_folder.parent / "alone", "products") if name.endswith("jpg")] == [
        encode(i) for i in range(count)
    ]


def test_the_hash_is_of_the_content(
    write: Write, shop: Tables, image_folder: Path, encode: Callable[..., bytes]
) -> None:
    first = Dataset(write("a")).hash
    assert Dataset(write("b")).hash == first
    clicked = shop.impressions.with_columns(clicked=~pl.col("clicked"))
    assert Dataset(write("c", replace(shop, impressions=clicked))).hash != first
    titled = shop.products.with_columns(title=pl.lit("x"))
    assert Dataset(write("d", replace(shop, products=titled))).hash != first
    (image_folder / "a.jpg").write_bytes(encode(99))
    assert Dataset(write("e")).hash != first


def test_one_unreadable_image_leaves_a_row_without_image(write: Write, image_folder: Path) -> None:
    (image_folder / "c.jpg").write_bytes(b"not a picture")
    directory = write("d")
    dataset = Dataset(directory)
    assert dataset.products["image"].to_list() == ["a.jpg", "b.png", None, None]
    assert dataset.products.height == 4
    assert f"{16777217}.jpg" not in dict(_members(directory, "products"))
    (line,) = (directory / "quarantine.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert (entry["table"], entry["id"], entry["image"]) == ("products", 16777217, "c.jpg")
    assert "not a readable picture" in entry["reason"]


def test_too_many_unreadable_images_stop_the_build(write: Write, image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "c.jpg").write_bytes(b"not a picture")
    (image_folder / "q.jpg").unlink()
    with pytest.raises(ValueError, match=r"2 of 5 images can't be read, and only 1% may be; .* 16777217, 'c.jpg'"):
        write("d")
    assert not (tmp_path / "d" / "dataset.json").exists()
    ids = [json.loads(line)["id"] for line in (tmp_path / "d" / "quarantine.jsonl").read_text().splitlines()]
    assert ids == [16777217, 10]


def test_a_bug_in_the_reader_is_not_taken_for_a_bad_image(shop: Tables, splits: Splits, tmp_path: Path) -> None:
    def read_image(table: str, name: str) -> bytes:
        raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        write_dataset(tmp_path / "d", shop, read_image, splits, name="x", version="1", workers=1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_panic_of_the_reader_is_a_bad_image(shop: Tables, splits: Splits, tmp_path: Path, workers: int) -> None:
    """A reader may use a library that is written in Rust, whose panics are no ``Exception``."""

    def read_image(table: str, name: str) -> bytes:
        raise pl.exceptions.PanicException("index out of bounds")

    with pytest.raises(ValueError, match=r"5 of 5 images can't be read, .*: index out of bounds"):
        write_dataset(tmp_path / "d", shop, read_image, splits, name="x", version="1", workers=workers)


def test_empty_tables_keep_their_columns(write: Write, shop: Tables) -> None:
    dataset = Dataset(write("d", validate(Tables(shop.products))))
    for table in ("queries", "users", "searches", "impressions"):
        assert dataset.table(table).equals(empty(table))
        assert dataset.table(table).schema == empty(table).schema


@pytest.mark.parametrize("name", ["jpg_size", "sample_crc32"])
def test_the_names_of_the_index_are_taken(write: Write, shop: Tables, name: str) -> None:
    products = shop.products.with_columns(pl.lit(1).alias(name))
    with pytest.raises(ValueError, match=f"products: column '{name}': this name is taken"):
        write("d", replace(shop, products=products))


def test_the_index_has_the_checksum_of_what_is_read_of_a_sample(write: Write) -> None:
    """From the header of its first member to the end of its last, as any tar reader finds them."""
    directory = write("d", samples_per_shard=3)
    for path in sorted((directory / "shards").glob("*.arrow")):
        data = path.with_suffix(".tar").read_bytes()
        with tarfile.open(path.with_suffix(".tar")) as tar:
            members = {member.name: member for member in tar}
        for row in pl.read_ipc(path).iter_rows(named=True):
            key = row["item_id"] if "item_id" in row else row["query_id"]
            last = members[f"{key}.json"]
            first = members.get(f"{key}.jpg", last)
            assert row["sample_crc32"] == zlib.crc32(data[first.offset : last.offset_data + last.size])


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def _finish(directory: Path, content: str = "{}") -> None:
    (directory / "dataset.json").write_text(content)


def test_build_once_builds_once(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(directory: Path) -> None:
        built.append(directory)
        _finish(directory)

    assert build_once(tmp_path / "a" / "d", build) == tmp_path / "a" / "d"
    assert build_once(tmp_path / "a" / "d", build) == tmp_path / "a" / "d"
    assert len(built) == 1
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["d"]


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(directory: Path) -> None:
        (directory / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(tmp_path / "d", build)
    assert list(tmp_path.iterdir()) == []


def test_build_once_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").write_text("")
    with pytest.raises(FileExistsError, match=r"d exists and is not a dataset \(it has no dataset.json\)"):
        build_once(tmp_path / "d", _finish)


def test_of_two_builders_one_works_and_the_other_takes_its_result(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(directory: Path) -> None:
        built.append(directory)
        time.sleep(0.2)
        _finish(directory)

    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(build_once, [tmp_path / "d"] * 3, [build] * 3)) == {tmp_path / "d"}  # none is refused
    assert len(built) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert _names(tmp_path / "d") == {"moonlib.sha256", "dataset.json"}


@pytest.mark.parametrize("left", [[], ["dataset.json", "shards"]])
def test_a_build_that_begins_or_has_just_ended_is_in_nobodys_way(left: list[str], tmp_path: Path) -> None:
    """Its folder is there a moment before its lock, and a moment after."""
    (tmp_path / "d.partial").mkdir()
    for name in left:
        (tmp_path / "d.partial" / name).write_text("")
    assert build_once(tmp_path / "d", _finish) == tmp_path / "d"
    assert _names(tmp_path / "d") == {"moonlib.sha256", "dataset.json"}


BUILDER = """
import sys, time
from pathlib import Path
from moonlib.data.shards import build_once

def build(directory):
    assert [path.name for path in directory.iterdir()] == [".lock"]
    (directory / "shards").mkdir()
    (directory / "half").write_text(sys.argv[2])
    print("building", flush=True)
    if sys.argv[2] == "killed":
        time.sleep(60)
    (directory / "half").unlink()
    (directory / "dataset.json").write_text("{}")

build_once(Path(sys.argv[1]) / "d", build)
"""


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", BUILDER, str(tmp_path), "killed"], stdout=subprocess.PIPE
        ) as builder:
            assert builder.stdout is not None and builder.stdout.readline() == b"building\n"
            builder.kill()
        assert [path.name for path in tmp_path.iterdir()] == ["d.partial"]
    subprocess.run([sys.executable, "-c", BUILDER, str(tmp_path), "whole"], check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert _names(tmp_path / "d") == {"moonlib.sha256", "dataset.json", "shards"}


def test_a_builder_waits_for_another_process_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce = shards._announce

    def announce_and_kill(directory: Path) -> Callable[[str], None]:
        return lambda holder: (announce(directory)(holder), builder.kill())[0]

    command = [sys.executable, "-c", BUILDER, str(tmp_path), "killed"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as builder:
        assert builder.stdout is not None and builder.stdout.readline() == b"building\n"
        monkeypatch.setattr(shards, "_announce", announce_and_kill)
        build_once(tmp_path / "d", _finish)
    assert f"d is being built by process {builder.pid} on " in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_folder_in_the_way_of_the_build_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "d.partial").mkdir()
    (tmp_path / "d.partial" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"d\.partial is in the way of the build"):
        build_once(tmp_path / "d", _finish)
    assert (tmp_path / "d.partial" / "thesis.txt").exists()


def test_members_are_strict_json(write: Callable[..., Path], shop: Tables) -> None:
    nan, inf = float("nan"), float("inf")
    own: dict[str, list[Any]] = {
        "number": [1.5, nan, None, 2.0],
        "numbers": [[1.0, nan], [], None, [nan]],
        "in": [{"a": nan}] * 4,
    }
    products = validate(replace(shop, products=shop.products.with_columns(**{k: pl.Series(v) for k, v in own.items()})))

    def refused(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    rows = []
    with tarfile.open(write("strict", products) / "shards/products-000000.tar") as tar:
        for member in tar:
            if member.name.endswith(".json"):
                file = tar.extractfile(member)
                assert file is not None
                rows.append(json.loads(file.read(), parse_constant=refused))
    assert [row["number"] for row in rows] == [1.5, None, None, 2.0]
    assert [row["numbers"] for row in rows] == [[1.0, None], [], None, [None]]
    assert [row["in"] for row in rows] == [{"a": None}] * 4
    endless = shop.products.with_columns(numbers=pl.Series([[1.0], [inf], None, None]))
    with pytest.raises(ValueError, match=f"products: item_id {shop.products['item_id'][1]}: .*not JSON compliant"):
        write("endless", replace(shop, products=endless))
