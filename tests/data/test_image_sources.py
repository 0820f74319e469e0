"""Pictures are read from files, from tars and from the tables themselves, and whatever can't be read is named."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from moonlib.data import build as build_module
from moonlib.data.build import build
from moonlib.data.dataset import Dataset
from moonlib.data.image_sources import (
    ImageFolder,
    ImageReader,
    ImageShards,
    ImageSource,
    StoredImages,
    held_columns,
    open_images,
)
from moonlib.data.reader import SampleReader

Encode = Callable[..., bytes]


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def tar_of(folder: Path, members: dict[str, bytes]) -> bytes:
    path = write_tar(folder / "whole", members)
    data = path.read_bytes()
    path.unlink()
    return data


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """Two shards as img2dataset leaves them."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    for shard in range(2):
        keys = [f"{shard:05d}{n:04d}" for n in range(3)]
        members = {}
        for key in keys[:2]:  # the third was not found
            members |= {f"{key}.jpg": f"picture {key}".encode(), f"{key}.txt": b"caption", f"{key}.json": b"{}"}
        write_tar(folder / f"{shard:05d}.tar", members)
        pl.DataFrame(
            {
                "url": [f"https://shop.example/{key}.png?w=1" for key in keys],
                "key": keys,
                "status": ["success", "success", "failed_to_download"],
                "error_message": [None, None, "HTTP Error 404: Not Found"],
            }
        ).write_parquet(folder / f"{shard:05d}.parquet")
    (folder / "00000_stats.json").write_text("{}")
    return folder


class TestFolder:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "photos" / "sub").mkdir(parents=True)
        (tmp_path / "photos" / "sub" / "a.jpg").write_bytes(b"a")
        (tmp_path / "b.jpg").write_bytes(b"b")
        return tmp_path / "photos"

    def test_names_are_relative_or_absolute_within_the_folder(
        self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = open_images(root)
        assert folder.read("sub/a.jpg") == b"a"
        assert folder.read(str(root / "sub/a.jpg")) == b"a"
        (tmp_path / "link").symlink_to(root)
        linked = open_images(tmp_path / "link")
        assert linked.read(str(tmp_path / "link/sub/a.jpg")) == b"a"
        assert linked.read(str(root / "sub/a.jpg")) == b"a"
        monkeypatch.chdir(tmp_path)
        assert open_images(Path("photos")).read(str(root / "sub/a.jpg")) == b"a"

    def test_a_folder_of_the_same_name_elsewhere_is_another(
        self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = tmp_path / "next" / "photos"
        (other / "sub").mkdir(parents=True)
        (other / "sub/a.jpg").write_bytes(b"new")
        for folder, content in ((tmp_path, b"a"), (tmp_path / "next", b"new")):
            monkeypatch.chdir(folder)
            assert open_images("photos").read("sub/a.jpg") == content
        week = tmp_path / "week"
        for place, content in ((root, b"a"), (other, b"new")):  # a link that is turned to the pictures of each week
            week.unlink(missing_ok=True)
            week.symlink_to(place)
            assert open_images(week).read("sub/a.jpg") == content

    @pytest.mark.parametrize(
        "name", ["../b.jpg", "sub/../../b.jpg", "{out}/b.jpg", "{root}/../b.jpg", "{root}x/a.jpg", "/etc/passwd", "/"]
    )
    def test_no_name_leads_out(self, root: Path, tmp_path: Path, name: str) -> None:
        with pytest.raises(ValueError, match="the name leads out of"):
            open_images(root).read(name.format(root=root, out=tmp_path))

    def test_no_link_leads_out(self, root: Path, tmp_path: Path) -> None:
        (root / "out.jpg").symlink_to(tmp_path / "b.jpg")
        (root / "in.jpg").symlink_to(root / "sub/a.jpg")
        (root / "loop.jpg").symlink_to(root / "loop.jpg")
        folder = open_images(root)
        assert folder.read("in.jpg") == b"a"
        for name in ("out.jpg", str(root / "out.jpg")):
            with pytest.raises(ValueError, match="a link that leads out of"):
                folder.read(name)
        with pytest.raises(ValueError, match=r"loop\.jpg"):
            folder.read("loop.jpg")

    def test_what_is_no_file_is_named(self, root: Path, tmp_path: Path) -> None:
        os.mkfifo(root / "pipe")
        for name, message in (("gone.jpg", r"gone\.jpg: No such file"), ("sub", "no regular file"), ("pipe", "no reg")):
            with pytest.raises(ValueError, match=message):
                open_images(root).read(name)
        with pytest.raises(ValueError, match="it is a URL: read the pictures from the web"):
            open_images(root).read("https://shop.example/a.jpg")
        with pytest.raises(ValueError, match="nowhere is no folder of images"):
            open_images(tmp_path / "nowhere")

    def test_it_is_where_it_was(self) -> None:
        assert build_module.ImageFolder is ImageFolder


class TestShards:
    @pytest.mark.parametrize(
        "name",
        [
            "00001.tar/000010001.jpg",
            "000010001.jpg",
            "000010001",
            "https://shop.example/000010001.png?w=1",
            "{root}/00001.tar/000010001.jpg",
        ],
    )
    def test_a_picture_has_these_names(self, downloads: Path, name: str) -> None:
        source = pickle.loads(pickle.dumps(open_images(downloads)))
        assert isinstance(source, ImageShards)
        assert source.read(name.format(root=downloads)) == b"picture 000010001"

    def test_other_members_are_named_in_full_only(self, downloads: Path) -> None:
        assert open_images(downloads).read("00000.tar/000000000.txt") == b"caption"

    def test_a_failed_download_says_why(self, downloads: Path) -> None:
        with pytest.raises(ValueError, match=r"^img2dataset: failed_to_download: HTTP Error 404: Not Found$"):
            open_images(downloads).read("https://shop.example/000010002.png?w=1")

    @pytest.mark.parametrize(
        "name",
        [
            "000010002",
            "00002.tar/x.jpg",
            "000010009.jpg",
            "https://other.example/x",
            "",
            "/etc/passwd",
            "../x",
        ],
    )
    def test_an_unknown_name_is_refused(self, downloads: Path, name: str) -> None:
        with pytest.raises(ValueError, match=r"the name is neither of a member|no regular file|leads out of"):
            open_images(downloads).read(name)

    def test_files_beside_the_tars_can_be_named(self, downloads: Path) -> None:
        for name in ("own.jpg", "000000000.jpg"):  # the second is also a member's
            (downloads / name).write_bytes(b"own")
            assert open_images(downloads).read(name) == b"own"
        assert open_images(downloads).read("000000000") == b"picture 000000000"

    def test_a_key_in_two_tars_is_refused(self, downloads: Path) -> None:
        write_tar(downloads / "00009.tar", {"000000000.png": b"another"})
        source = open_images(downloads)
        with pytest.raises(ValueError, match=r"'000000000' is in 00000\.tar and 00009\.tar more than once"):
            source.read("000000000")
        assert source.read("00009.tar/000000000.png") == b"another"
        assert source.read("000000001") == b"picture 000000001"

    def test_shards_of_our_own_are_read_by_id_and_number(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "p.tar", {"17.jpg": b"main", "17.1.jpg": b"back", "17.json": b"{}", "./18.JPG": b"other"})
        source = open_images(tmp_path)
        assert [source.read(name) for name in ("17", "17.1", "18", "p.tar/18.JPG")] == [
            b"main",
            b"back",
            b"other",
            b"other",
        ]

    def test_other_tables_beside_a_tar_are_left_alone(self, downloads: Path) -> None:
        pl.DataFrame({"item_id": [1]}).write_parquet(downloads / "00000.parquet")
        source = open_images(downloads)
        assert source.read("000000000") == b"picture 000000000"
        with pytest.raises(ValueError, match="neither"):
            source.read("https://shop.example/000000000.png?w=1")

    @pytest.mark.parametrize("left", [300, 512, 700, 1024, 1536, 3000])
    def test_a_tar_that_is_cut_off_is_named(self, tmp_path: Path, left: int) -> None:
        whole = tar_of(tmp_path, {"a.jpg": b"a" * 600, "b.jpg": b"b" * 600})
        (tmp_path / "cut.tar").write_bytes(whole[:left])
        with pytest.raises(ValueError, match=r"cut\.tar (is cut off or damaged|can't be read as a tar)"):
            open_images(tmp_path)

    def test_every_length_but_that_of_the_padding_is_told(self, tmp_path: Path) -> None:
        whole = tar_of(tmp_path, {"a.jpg": b"a" * 600})
        end = 512 + 1024  # header and data; what follows is zeros
        for left in range(0, end + 512, 128):
            (tmp_path / "cut.tar").write_bytes(whole[:left])
            with pytest.raises(ValueError, match=r"cut\.tar"):
                open_images(tmp_path)
        (tmp_path / "cut.tar").write_bytes(whole[: end + 512])
        assert open_images(tmp_path).read("a") == b"a" * 600

    @pytest.mark.parametrize("data", [b"", b"no tar" * 1000, b"\x1f\x8b" + bytes(2000)])
    def test_what_is_no_tar_is_named(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "x.tar").write_bytes(data)
        with pytest.raises(ValueError, match=r"x\.tar can't be read as a tar: .*; make it again, without compression"):
            open_images(tmp_path)

    def test_damage_between_members_is_told(self, tmp_path: Path) -> None:
        path = write_tar(tmp_path / "x.tar", {"a.jpg": b"a", "b.jpg": b"b"})
        data = bytearray(path.read_bytes())
        data[1024:1100] = b"?" * 76  # the header of the second
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"x\.tar is cut off or damaged after 'a\.jpg'"):
            open_images(tmp_path)

    def test_two_members_of_one_name_are_refused(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            for data in (b"1", b"2"):
                info = tarfile.TarInfo("a.jpg")
                info.size = 1
                tar.addfile(info, io.BytesIO(data))
        with pytest.raises(ValueError, match=r"x\.tar: the member 'a\.jpg' stands twice"):
            open_images(tmp_path)

    def test_links_and_folders_in_a_tar_are_no_pictures(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            for name, kind in (("d", tarfile.DIRTYPE), ("l.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE)):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "/etc/passwd"
                tar.addfile(info)
        source = open_images(tmp_path)
        for name in ("l", "h", "x.tar/l.jpg", "x.tar/d"):
            with pytest.raises(ValueError, match="the name is neither"):
                source.read(name)

    def test_a_broken_table_of_downloads_is_named(self, downloads: Path) -> None:
        (downloads / "00001.parquet").write_bytes(b"PAR1")
        with pytest.raises(ValueError, match=r"00001\.parquet can't be read"):
            open_images(downloads)
        pl.DataFrame({"url": ["u"], "key": [10000]}).write_parquet(downloads / "00001.parquet")
        with pytest.raises(ValueError, match=r"00001\.parquet: column 'key': Int64 is not text"):
            open_images(downloads)

    def test_a_tar_that_shrinks_after_it_was_read_through(self, downloads: Path) -> None:
        source = open_images(downloads)
        (downloads / "00000.tar").write_bytes(b"")
        with pytest.raises(ValueError, match="has become shorter"):
            source.read("000000000")


def held(values: list[Any], kind: str) -> pl.Series:
    """Pictures as bytes, or as Hugging Face's struct."""
    if kind == "bytes":
        return pl.Series("image", values, dtype=pl.Binary)
    dtype = pl.Struct({"bytes": pl.Binary, "path": pl.String})
    return pl.Series("image", [None if v is None else {"bytes": v, "path": "x.png"} for v in values], dtype=dtype)


class TestStored:
    @pytest.mark.parametrize("kind", ["bytes", "struct"])
    def test_names_stand_in_place_of_pictures(self, tmp_path: Path, kind: str) -> None:
        stored = StoredImages(tmp_path / "pictures")
        frame = pl.DataFrame({"item_id": [1, 2, 3, 4], "image": held([b"one", None, b"two", b"one"], kind)})
        taken = stored.take(frame, "products")
        names = taken["image"].to_list()
        assert taken.schema == {"item_id": pl.Int64, "image": pl.String}
        assert names[1] is None and names[0] == names[3] != names[2] and names[0].startswith("sha256:")
        again = pickle.loads(pickle.dumps(stored))
        assert [again.read(name) for name in names if name] == [b"one", b"two", b"one"]
        assert "x.png" not in stored and names[0] in stored
        assert (tmp_path / "pictures").stat().st_size == 6  # equal pictures are one
        in_memory = StoredImages(None)
        assert in_memory.take(frame, "products").equals(taken)
        assert [in_memory.read(name) for name in names if name] == [b"one", b"two", b"one"]
        assert in_memory.lacks(pl.Series([*names[:1], "x.png"])) == stored.lacks(pl.Series([*names[:1], "x.png"])) == 1

    def test_lists_of_pictures(self, tmp_path: Path) -> None:
        stored = StoredImages(tmp_path / "pictures")
        struct = pl.Struct({"bytes": pl.Binary, "path": pl.String})
        values = [[{"bytes": b"a", "path": None}, {"bytes": None, "path": "own.jpg"}], None, []]
        frame = pl.DataFrame({"images": pl.Series(values, dtype=pl.List(struct))})
        first, second, third = stored.take(frame, "products")["images"].to_list()
        assert stored.read(first[0]) == b"a" and first[1] == "own.jpg" and second is None and third == []
        plain = pl.DataFrame({"images": pl.Series([[b"a", b"b"], [b"c", None]], dtype=pl.List(pl.Binary))})
        lists = stored.take(plain, "products")["images"].to_list()
        assert lists[0][0] == first[0] and lists[1][1] is None

    def test_names_stay_names(self, tmp_path: Path) -> None:
        stored = StoredImages(tmp_path / "pictures")
        frame = pl.DataFrame({"image": ["a.jpg"], "images": [["a.jpg", "b.jpg"]], "own": [b"bytes of another column"]})
        assert stored.take(frame, "products").equals(frame) and not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        "dtype",
        [
            pl.Struct({"path": pl.String}),
            pl.Struct({"bytes": pl.String, "path": pl.String}),
            pl.Struct({"bytes": pl.Binary, "url": pl.String}),
            pl.List(pl.Struct({"data": pl.Binary})),
        ],
    )
    def test_another_struct_is_refused(self, dtype: Any) -> None:
        column = "images" if isinstance(dtype, pl.List) else "image"
        with pytest.raises(ValueError, match=f"^p.parquet: column '{column}': .* is neither text, nor bytes, nor"):
            held_columns({column: dtype}, "p.parquet")

    def test_what_an_earlier_attempt_left_is_written_over(self, tmp_path: Path) -> None:
        (tmp_path / "pictures").write_bytes(b"left by a killed process")
        stored = StoredImages(tmp_path / "pictures")
        name = stored.take(pl.DataFrame({"image": [b"new"]}), "p")["image"][0]
        assert stored.read(name) == b"new" and (tmp_path / "pictures").read_bytes() == b"new"


class Ahead:
    """A source that counts how it is asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def read(self, name: str) -> bytes:
        raise AssertionError(name)

    def prefetched(self, names: Any) -> ImageSource:
        self.asked.append(list(names))
        outer = dict.fromkeys(names, b"read ahead")

        class Read:
            def read(self, name: str) -> bytes:
                return outer[name]

        return Read()


def test_a_source_that_reads_many_at_once_is_asked_for_the_names_it_has(tmp_path: Path) -> None:
    stored = StoredImages(tmp_path / "pictures")
    name = stored.take(pl.DataFrame({"image": [b"held"]}), "p")["image"][0]
    source = Ahead()
    reader = ImageReader(source, stored).ahead(["a", name, "b"])
    assert source.asked == [["a", "b"]]
    assert [reader.read(one) for one in ("a", name)] == [b"read ahead", b"held"]
    folder = ImageReader(ImageFolder(tmp_path))
    assert folder.ahead(["a"]) is folder
    with pytest.raises(ValueError, match="there is no folder of images"):
        ImageReader(None).read("a")


class TestBuild:
    """The same pictures, wherever they come from, build samples of the same bytes."""

    @pytest.fixture
    def files(self, tmp_path: Path, encode: Encode) -> dict[str, bytes]:
        (tmp_path / "photos").mkdir()
        files = {f"{n}.jpg": encode(n) for n in range(5)}
        for name, data in files.items():
            (tmp_path / "photos" / name).write_bytes(data)
        return files

    def frame(self, **columns: Any) -> pl.DataFrame:
        return pl.DataFrame(
            {"item_id": [1, 2, 3], "spu_id": [1, 2, 3], "category": "c", "listed_at": ["2025-01-01"] * 3, **columns}
        )

    def built(self, tmp_path: Path, frame: pl.DataFrame, images: Path | None, **options: Any) -> Dataset:
        folder = tmp_path / "tables"
        folder.mkdir(exist_ok=True)
        frame.write_parquet(folder / "products.parquet", **options)
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        return Dataset(build(folder, images, out, workers=0))

    def pictures(self, dataset: Dataset) -> list[list[bytes]]:
        reader = SampleReader(dataset.directory, "products")
        return [[s.image, *s.more] if s.image else [] for s in reader.read(np.array([1, 2, 3]))]

    def test_from_files_tars_and_tables(self, tmp_path: Path, files: dict[str, bytes]) -> None:
        expected = [[files["0.jpg"], files["1.jpg"], files["2.jpg"]], [files["3.jpg"]], []]
        lists = [["0.jpg", "1.jpg", "2.jpg"], ["3.jpg"], None]
        named = self.frame(images=lists)
        (tmp_path / "tars").mkdir()
        write_tar(tmp_path / "tars/00000.tar", {name: files[name] for name in ("0.jpg", "1.jpg")})
        write_tar(tmp_path / "tars/00001.tar", {name: files[name] for name in ("2.jpg", "3.jpg")})
        keys = self.frame(images=[["0", "00000.tar/1.jpg", "2"], ["3"], []])
        absolute = self.frame(images=[[str(tmp_path / "photos" / n) for n in names or ()] for names in lists])
        binary = pl.Series([[files[n] for n in names or ()] for names in lists], dtype=pl.List(pl.Binary))
        struct = pl.Struct({"bytes": pl.Binary, "path": pl.String})
        mixed = [
            [{"bytes": files[n], "path": n} if n != "1.jpg" else {"bytes": None, "path": n} for n in names or ()]
            for names in lists
        ]
        both = self.frame(image=["0.jpg", "3.jpg", None], images=[["1.jpg", "2.jpg"], [], None])
        for frame, images in (
            (named, "photos"),
            (absolute, "photos"),
            (both, "photos"),
            (keys, "tars"),
            (self.frame(images=binary), None),
            (self.frame(images=pl.Series(mixed, dtype=pl.List(struct))), "photos"),
        ):
            dataset = self.built(tmp_path, frame, None if images is None else tmp_path / images)
            assert self.pictures(dataset) == expected
            assert not [path for path in tmp_path.iterdir() if path.name.endswith(".pictures")]

    def test_single_pictures_in_a_table_are_read_as_bytes_or_structs(
        self, tmp_path: Path, files: dict[str, bytes]
    ) -> None:
        values = [files["0.jpg"], None, files["1.jpg"]]
        built = [self.built(tmp_path, self.frame(image=held(values, kind)), None) for kind in ("bytes", "struct")]
        assert built[0].hash == built[1].hash
        assert self.pictures(built[0]) == [[files["0.jpg"]], [], [files["1.jpg"]]]

    def test_row_groups_and_parts_of_a_table_change_nothing(self, tmp_path: Path, files: dict[str, bytes]) -> None:
        frame = self.frame(image=held([files["0.jpg"], None, files["1.jpg"]], "bytes"))
        whole = self.built(tmp_path, frame, None)
        assert self.built(tmp_path, frame, None, row_group_size=1).hash == whole.hash
        (tmp_path / "tables/products.parquet").unlink()
        (tmp_path / "tables/products.parquet").mkdir()
        for part in range(3):
            frame[part : part + 1].write_parquet(tmp_path / f"tables/products.parquet/{part}.parquet")
        assert Dataset(build(tmp_path / "tables", None, tmp_path / "parts", workers=2)).hash == whole.hash

    def test_a_broken_picture_in_a_table_is_named_with_its_row(self, tmp_path: Path, files: dict[str, bytes]) -> None:
        dataset = self.built(
            tmp_path,
            self.frame(image=held([files["0.jpg"], b"no picture", b""], "bytes")[:2].append(held([None], "bytes"))),
            None,
        )
        (lost,) = (dataset.directory / "quarantine.jsonl").read_text().splitlines()
        assert json.loads(lost)["id"] == 2 and "10 bytes of no known format" in json.loads(lost)["reason"]

    def test_a_missing_picture_within_a_list_names_its_row(self, tmp_path: Path, files: dict[str, bytes]) -> None:
        lists = pl.Series([[files["0.jpg"]], [files["1.jpg"], None], []], dtype=pl.List(pl.Binary))
        with pytest.raises(
            ValueError, match=r"products\.parquet: row 2, column 'images': .* holds a name that is miss"
        ):
            self.built(tmp_path, self.frame(images=lists), None)
        assert not [path for path in tmp_path.iterdir() if path.name.endswith(".pictures")]

    def test_the_same_picture_twice_names_its_row(self, tmp_path: Path, files: dict[str, bytes]) -> None:
        lists = pl.Series([[], [files["1.jpg"], files["1.jpg"]], []], dtype=pl.List(pl.Binary))
        with pytest.raises(ValueError, match=r"products\.parquet: row 2, column 'images': .* names a picture twice"):
            self.built(tmp_path, self.frame(images=lists), None)

    def test_names_without_a_folder_are_refused_and_held_pictures_are_not_counted(
        self, tmp_path: Path, files: dict[str, bytes]
    ) -> None:
        struct = pl.Struct({"bytes": pl.Binary, "path": pl.String})
        values = [{"bytes": files["0.jpg"], "path": None}, {"bytes": None, "path": "1.jpg"}, None]
        with pytest.raises(ValueError, match=r"products\.parquet names 1 images, but no image folder was given"):
            self.built(tmp_path, self.frame(image=pl.Series(values, dtype=struct)), None)

    def test_a_broken_tar_ends_the_build_before_anything_is_written(
        self, tmp_path: Path, files: dict[str, bytes]
    ) -> None:
        (tmp_path / "tars").mkdir()
        (tmp_path / "tars/x.tar").write_bytes(b"cut")
        with pytest.raises(ValueError, match=r"x\.tar can't be read as a tar"):
            self.built(tmp_path, self.frame(image=["0.jpg", None, None]), tmp_path / "tars")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "tables", "tars"]

    def test_files_are_read_beside_a_broken_tar(
        self, tmp_path: Path, files: dict[str, bytes], caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "photos/x.tar").write_bytes(b"cut")
        dataset = self.built(tmp_path, self.frame(image=["0.jpg", None, "1.jpg"]), tmp_path / "photos")
        assert self.pictures(dataset) == [[files["0.jpg"]], [], [files["1.jpg"]]]
        assert "x.tar can't be read as a tar" in caplog.text and "only files beside them" in caplog.text

    def test_a_parquet_table_that_is_cut_off_is_named(self, tmp_path: Path, files: dict[str, bytes]) -> None:
        (tmp_path / "tables").mkdir()
        path = tmp_path / "tables/products.parquet"
        frame = self.frame(image=held([files["0.jpg"]] * 3, "bytes"))
        frame.write_parquet(path)
        data = bytearray(path.read_bytes())
        data[200:260] = bytes(60)
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"products\.parquet"):
            build(tmp_path / "tables", None, tmp_path / "out", workers=0)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "tables"]
