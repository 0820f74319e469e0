"""Shards of samples are the same however they are written, and one that is whole is not written again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from moonlib.data import sample_shards, shards
from moonlib.data.build import build
from moonlib.data.dataset import Dataset
from moonlib.data.image_sources import ImageReader, open_images, stored_images
from moonlib.data.sample_shards import Part, Task, Written
from moonlib.data.shards import write_dataset
from moonlib.data.splits import Splits
from moonlib.data.tables import Tables, validate

COUNT = 12


@pytest.fixture
def pictured(image_folder: Path, encode: Callable[..., bytes]) -> pl.DataFrame:
    """Twelve products with a picture each, one of which can't be read."""
    for number in range(COUNT):
        (image_folder / f"{number}.jpg").write_bytes(encode(number, size=(8, 8)))
    (image_folder / "5.jpg").write_bytes(b"no picture")
    return pl.DataFrame(
        {"item_id": range(COUNT), "title": ["x"] * COUNT, "image": [f"{number}.jpg" for number in range(COUNT)]}
    )


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("several", [False, True])
def test_processes_that_write_whole_shards_write_the_same_bytes(
    pictured: pl.DataFrame,
    image_folder: Path,
    tmp_path: Path,
    splits: Splits,
    monkeypatch: pytest.MonkeyPatch,
    several: bool,
) -> None:
    if several:
        lists = [[f"{number}.jpg", f"{(number + 1) % COUNT}.jpg"] for number in range(COUNT)]
        pictured = pictured.drop("image").with_columns(images=pl.Series(lists))
    tables = validate(Tables(pictured))

    def write(name: str, workers: int, each: int = 2) -> dict[str, bytes]:
        reader = ImageReader(open_images(image_folder))
        options: dict[str, Any] = {"workers": workers, "samples_per_shard": each}
        monkeypatch.setattr(shards, "UNREADABLE_LIMIT", 1)
        write_dataset(tmp_path / name, tables, reader, splits, name="x", version="1", **options)
        return files(tmp_path / name)

    alone = write("alone", 1)
    assert len([name for name in alone if name.endswith(".tar") and "products" in name]) == COUNT // 2
    assert "quarantine.jsonl" in alone

    def never(*_: object) -> None:
        raise AssertionError("shards are written one by one")

    with monkeypatch.context() as patch:
        patch.setattr(sample_shards, "_one_by_one", never)
        assert write("together", 3) == alone
    with monkeypatch.context() as patch:
        patch.setattr(sample_shards, "_side_by_side", never)
        assert write("few", 3, each=4) == write("few alone", 1, each=4)


class Interrupted:
    """A build of twelve products, four a shard, that is interrupted when its second shard is done."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, products: pl.DataFrame) -> None:
        self.place, self.monkeypatch = tmp_path, monkeypatch
        monkeypatch.setitem(write_dataset.__kwdefaults__, "samples_per_shard", 4)
        monkeypatch.setattr(shards, "UNREADABLE_LIMIT", 1)
        self.products = products

    def build(self, name: str = "out", images: str = "images") -> Dataset:
        folder = self.place / "tables"
        folder.mkdir(exist_ok=True)
        self.products.write_parquet(folder / "products.parquet")
        build(folder, self.place / images, self.place / name, workers=1)
        return Dataset(self.place / name)

    def interrupt(self, images: str = "images") -> None:
        write = sample_shards._write

        def interrupted(task: Task, *rest: Any) -> Written:
            if task.stem.name == "products-000002":
                raise KeyboardInterrupt
            return write(task, *rest)

        with self.monkeypatch.context() as patch:
            patch.setattr(sample_shards, "_write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                self.build(images=images)

    def written(self) -> list[str]:
        """Build on; the shards that are written."""
        write, names = sample_shards._write, list[str]()

        def noted(task: Task, *rest: Any) -> Written:
            names.append(task.stem.name)
            return write(task, *rest)

        with self.monkeypatch.context() as patch:
            patch.setattr(sample_shards, "_write", noted)
            self.build()
        return names


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictured: pl.DataFrame) -> Interrupted:
    return Interrupted(tmp_path, monkeypatch, pictured)


def test_what_is_whole_is_not_written_again(interrupted: Interrupted, caplog: pytest.LogCaptureFixture) -> None:
    unbroken = files(interrupted.build("unbroken").directory)
    interrupted.interrupt()
    place = interrupted.place / "out.partial/shards"
    before = [(place / f"products-00000{number}.tar").stat() for number in (0, 1)]
    with caplog.at_level(logging.INFO, "moonlib"):
        assert interrupted.written() == ["products-000002", "queries-000000"]
    assert "resumed: 2 of 4 shards of products and queries were whole, and are not made again" in caplog.messages
    after = [path.stat() for path in Dataset(interrupted.place / "out").shard_files("products")[:2]]
    assert [(each.st_ino, each.st_mtime_ns) for each in after] == [(each.st_ino, each.st_mtime_ns) for each in before]
    resumed = files(interrupted.place / "out")
    different = {name for name in unbroken if resumed[name] != unbroken[name]}
    assert resumed.keys() == unbroken.keys() and different == {"dataset.json", "moonlib.sha256"}  # they hold the name


def test_a_shard_of_other_rows_is_written_again(interrupted: Interrupted) -> None:
    interrupted.interrupt()
    changed = pl.when(pl.col("item_id") == 6).then(pl.lit("y")).otherwise("title")
    interrupted.products = interrupted.products.with_columns(title=changed)
    assert interrupted.written() == ["products-000001", "products-000002", "queries-000000"]


def test_a_shard_of_other_pictures_is_written_again(interrupted: Interrupted, encode: Callable[..., bytes]) -> None:
    interrupted.interrupt()
    (interrupted.place / "images/1.jpg").write_bytes(encode(77))
    assert interrupted.written() == ["products-000000", "products-000002", "queries-000000"]


@pytest.mark.parametrize("ending", ["tar", "arrow"])
def test_a_shard_that_was_cut_off_is_written_again(interrupted: Interrupted, ending: str) -> None:
    interrupted.interrupt()
    file = interrupted.place / f"out.partial/shards/products-000001.{ending}"
    file.write_bytes(file.read_bytes()[:-1])
    assert interrupted.written() == ["products-000001", "products-000002", "queries-000000"]


def test_of_fewer_rows_no_shard_is_left(interrupted: Interrupted) -> None:
    interrupted.interrupt()
    interrupted.products = interrupted.products.head(4)
    assert interrupted.written() == ["queries-000000"]
    assert len(list((interrupted.place / "out/shards").glob("products-*"))) == 2


def test_a_file_that_is_linked_from_another_dataset_is_never_written_to(interrupted: Interrupted) -> None:
    old = interrupted.build("old")
    before = files(old.directory)
    interrupted.interrupt()
    linked = interrupted.place / "out.partial/shards/products-000000.tar"
    linked.unlink()
    linked.hardlink_to(old.directory / "shards/products-000001.tar")
    assert interrupted.written()[0] == "products-000000"
    assert files(old.directory) == before


def test_pictures_in_tars_and_tables_are_told_apart(
    tmp_path: Path, encode: Callable[..., bytes], image_folder: Path
) -> None:
    reader = ImageReader(open_images(image_folder), None, 512)
    assert reader.identity("a.jpg") != reader.identity("b.png") and reader.identity("a.jpg") == reader.identity("a.jpg")
    assert reader.identity("lost.jpg") != reader.identity("other.jpg")
    with stored_images(tmp_path / "out") as stored:
        frame = stored.take(pl.DataFrame({"image": [encode(1), encode(2)]}), "products")
        held = [ImageReader(None, stored).identity(name) for name in frame["image"]]
    assert held[0] != held[1] and None not in held
    assert ImageReader(None).identity("a.jpg") is None


def test_few_shards_are_in_memory_at_a_time(
    pictured: pl.DataFrame, image_folder: Path, tmp_path: Path, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of twelve shards, rows of no more are made ready than processes have, and two."""
    ready = 0
    most = 0
    task = Part.task.fget
    advanced = sample_shards._advanced
    assert task is not None

    def begun(part: Part) -> Task:
        nonlocal ready, most
        ready += 1
        most = max(most, ready)
        return task(part)

    def ended(written: Written, advance: Callable[[int], None]) -> Written:
        nonlocal ready
        ready -= 1
        return advanced(written, advance)

    monkeypatch.setattr(Part, "task", property(begun))
    monkeypatch.setattr(sample_shards, "_advanced", ended)
    tables, reader = validate(Tables(pictured)), ImageReader(open_images(image_folder))
    write_dataset(tmp_path / "d", tables, reader, splits, name="x", version="1", workers=2, samples_per_shard=1)
    assert ready == 0 and 2 <= most <= 4
