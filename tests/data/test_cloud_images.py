"""Images at URLs: one object at a time, many at once, and what can't be read in quarantine."""

from __future__ import annotations

import io
import json
import pickle
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

import moonlib
from moonlib.artifacts.checksums import SUMS
from moonlib.artifacts.layout import QUARANTINE
from moonlib.cli.app import main
from moonlib.data import cloud_images
from moonlib.data.build import build
from moonlib.data.check import check
from moonlib.data.cloud_images import CloudImages, image_place
from moonlib.data.content import Modalities
from moonlib.data.dataset import Dataset
from moonlib.data.image_sources import ImageFolder
from moonlib.data.reader import SampleReader
from moonlib.embedding.tables import TableReader
from moonlib.sources.shards import Shards
from moonlib.system.remote import USER_AGENT, Refused, RemoteError

pytest.importorskip("fsspec")


def _jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of tables, and one of images."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "images" / "more pictures").mkdir(parents=True)
    names = [f"more pictures/{i} [1].jpg" if i % 2 else f"{i}.jpg" for i in range(70)]
    for i, name in enumerate(names):
        (tmp_path / "images" / name).write_bytes(_jpeg(i))
    products = pl.DataFrame(
        {
            "item_id": range(70),
            "spu_id": range(70),
            "title": [f"product {i}" for i in range(70)],
            "category": "a/b",
            "listed_at": "2025-01-01",
            "image": names,
        }
    )
    products.write_csv(tmp_path / "tables" / "products.csv")
    return tmp_path


class _Shop(BaseHTTPRequestHandler):
    """Serves images; a status, a redirect, or an image that comes at the second try."""

    asked: Counter[str] = Counter()  # noqa: RUF012
    agents: set[str] = set()  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        self.agents.add(self.headers["User-Agent"])
        name = self.path.rpartition("/")[2].partition("?")[0]
        flaky = name.startswith("flaky") and self.asked[self.path] == 1
        status = 503 if flaky else int(name[:3]) if name[:3] in ("403", "404", "302") else 200
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "file:///etc/passwd")
        body = _jpeg(1) if status == 200 else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def shop() -> Iterator[str]:
    """The address of a shop's images."""
    pytest.importorskip("aiohttp")
    _Shop.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Shop)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def contents(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def test_a_dataset_built_from_a_bucket_is_the_one_built_from_local_files(files: Path, bucket: str) -> None:
    from s3fs import S3FileSystem

    system = S3FileSystem()
    system.pipe({f"{bucket}/t/{path.name}": path.read_bytes() for path in (files / "tables").iterdir()})
    system.pipe({f"{bucket}/i/{name}": data for name, data in contents(files / "images").items()})
    system.pipe(f"{bucket}/t/readme/large.bin", b"no table, and not downloaded")
    build(files / "tables", files / "images", files / "local" / "shop")
    build(f"{bucket}/t", f"{bucket}/i", files / "cloud" / "shop", workers=2)
    local = contents(files / "local" / "shop")
    assert contents(files / "cloud" / "shop") == local
    assert build(f"{bucket}/t", f"{bucket}/i", f"{bucket}/data/shop") == f"{bucket}/data/shop"
    there = Dataset(f"{bucket}/data/shop")
    assert contents(there.directory) == local and there.hash == Dataset(files / "local" / "shop").hash
    assert repr(there).startswith(f"Dataset('{bucket}/data/shop': shop")
    assert check(f"{bucket}/data/shop").ok
    assert Shards(f"{bucket}/data/shop").prepare(files) == there.directory
    with pytest.raises(FileExistsError, match=f"{bucket}/data/shop exists"):
        build(files / "tables", files / "images", f"{bucket}/data/shop")


def test_a_dataset_is_a_dataset_once_all_of_it_is_there(
    files: Path, download_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    put_file = MemoryFileSystem.put_file
    written: list[str] = []

    def failing(self: Any, lpath: str, rpath: str, **options: Any) -> None:
        written.append(rpath.rpartition("/")[2])
        if len(written) == 4:
            raise ConnectionResetError("gone")
        put_file(self, lpath, rpath, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", failing)
    with pytest.raises(RemoteError, match=r"memory://half/shop can't be written \(gone\)"):
        build(files / "tables", files / "images", "memory://half/shop")
    assert len(written) == 4 and not {"dataset.json", SUMS} & set(written)
    with pytest.raises(ValueError, match=r"memory://half/shop is no dataset: it has no dataset.json"):
        Dataset("memory://half/shop")


def test_damage_in_a_bucket_is_found_and_named(files: Path, download_cache: Path) -> None:
    import fsspec

    build(files / "tables", files / "images", "memory://damaged/shop")
    system = fsspec.filesystem("memory")
    data = system.cat_file("/damaged/shop/shards/products-000000.arrow")
    system.pipe("/damaged/shop/shards/products-000000.arrow", data[:-1] + b"x")
    with pytest.raises(
        ValueError, match=r"products-000000.arrow is damaged: .*; it is a copy of memory://damaged/shop"
    ):
        Shards("memory://damaged/shop").prepare(files)
    assert not check("memory://damaged/shop").ok


def test_an_image_that_is_not_there_is_quarantined(files: Path, download_cache: Path) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    system.pipe({f"/photos/{name}": data for name, data in contents(files / "images").items() if name != "8.jpg"})
    dataset = Dataset(build(files / "tables", "memory://photos", files / "out"))
    (line,) = (dataset.directory / QUARANTINE).read_text().splitlines()
    entry = json.loads(line)
    assert (entry["id"], entry["image"]) == (8, "8.jpg") and "memory://photos/8.jpg: there is no such" in entry[
        "reason"
    ]
    assert SampleReader(dataset.directory, "products").has_image.sum() == 69


def test_tables_that_a_map_names_and_frames_come_from_a_url(
    files: Path, download_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import fsspec

    products = pl.read_csv(files / "tables" / "products.csv", infer_schema=False)
    system = fsspec.filesystem("memory")
    table = products.rename({"item_id": "sku"}).write_csv(separator="|").encode()
    system.pipe({"/feeds/daily/feed.dat": table, "/feeds/other/large.dat": b"not downloaded"})
    columns = {name: "sku" if name == "item_id" else name for name in products.columns}
    described = {"products": {"file": "daily/feed.dat", "delimiter": "|", "columns": columns}}
    system.pipe({"/maps/map.yaml": yaml.safe_dump(described).encode(), "/maps/feed.csv": products.write_csv().encode()})
    local = Dataset(build(files / "tables", files / "images", files / "local"))
    mapped = Dataset(build("memory://feeds", files / "images", files / "mapped", map="memory://maps/map.yaml"))
    assert mapped.hash == local.hash
    assert [path.name for path in download_cache.rglob("*.dat")] == ["feed.dat"]
    framed = moonlib.build("memory://maps/feed.csv", out=files / "framed", images=files / "images")
    assert Dataset(framed).hash == local.hash
    assert main(["data", "map", "memory://maps/feed.csv"]) == 0
    assert "item_id: item_id" in capsys.readouterr().out


def test_a_place_that_refuses_access_ends_the_build(files: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(Refused, match=f"{bucket}/i/.*jpg: access was refused"):
        build(files / "tables", f"{bucket}/i", files / "out")
    assert not (files / "out").exists()


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/secret.jpg", "file:///etc/passwd", "s3://other/x.jpg", "a/../../b"]
)
def test_names_lead_nowhere_else(name: str, download_cache: Path) -> None:
    images = CloudImages("memory://photos")
    with pytest.raises(ValueError, match="the name leads out of memory://photos"):
        images.read(name)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("https://cdn/a.jpg", "URLs are read with --images https"),
        ("00000.tar/000000017.jpg", "tars are read from a local folder; copy them there"),
    ],
)
def test_names_that_are_read_elsewhere_say_how(name: str, remedy: str, tmp_path: Path, download_cache: Path) -> None:
    with pytest.raises(ValueError, match=remedy):
        CloudImages("memory://photos").read(name)
    if "://" in name:
        with pytest.raises(ValueError, match="--images https"):
            ImageFolder(tmp_path).read(name)


@pytest.mark.parametrize(
    "name", ["file:///etc/passwd", "photos/a.jpg", "s3://bucket/a.jpg", "data:image/png;base64,AA"]
)
def test_only_web_addresses_are_read_as_urls_of_their_own(name: str) -> None:
    pytest.importorskip("aiohttp")
    with pytest.raises(ValueError, match=r"it is no https:// URL"):
        CloudImages("https").read(name)


def test_a_feed_names_images_by_url(files: Path, shop: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cloud_images, "_TRIES", 2)
    tables, names = files / "tables" / "products.csv", [f"{shop}/{i}.jpg?v={i % 3}" for i in range(70)]
    names[3] = f"{shop}/flaky.jpg"
    pl.read_csv(tables).with_columns(image=pl.Series(names)).write_csv(tables)
    dataset = Dataset(build(files / "tables", "https", files / "out"))
    assert not (dataset.directory / QUARANTINE).exists()
    assert SampleReader(dataset.directory, "products").has_image.all()
    assert _Shop.asked["/flaky.jpg"] == 2 and _Shop.agents == {USER_AGENT}


def test_lists_of_urls_of_products_whose_ids_are_text(files: Path, shop: str, tmp_path: Path) -> None:
    products = pl.DataFrame({"item_id": ["A-1", "007"], "images": [[f"{shop}/404.jpg", f"{shop}/b.jpg"], None]})
    directory = moonlib.build(products, images="https", out=tmp_path / "data")
    dataset = Dataset(directory)
    entry = json.loads((dataset.directory / QUARANTINE).read_text())
    assert (entry["id"], entry["image"]) == ("A-1", f"{shop}/404.jpg")
    number = dataset.ids["item"].encode(pl.Series(["A-1"])).to_numpy()
    (sample,) = SampleReader(directory, "products").read(number)
    assert sample.image == _jpeg(1) and sample.more == () and sample.row["images"] == [f"{shop}/b.jpg"]
    products.write_parquet(files / "products.parquet")
    quarantine, copy = tmp_path / "q.jsonl", tmp_path / "copy.arrow"
    reader = TableReader(files / "products.parquet", "products", "https", Modalities.parse("image"), quarantine, copy)
    (sample,) = reader.read(number)
    assert sample.image == _jpeg(1) and list(reader.quarantine.entries()) == [("products", "A-1")]


@pytest.mark.parametrize(
    ("name", "why", "asked"),
    [("404.jpg", "there is no such", 1), ("403.jpg", "access was refused", 1), ("302.jpg", "", 2)],
)
def test_a_web_image_that_can_not_be_read(
    name: str, why: str, asked: int, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud_images, "_TRIES", 2)
    images = CloudImages("https").prefetched([f"{shop}/{name}?token=hush", f"{shop}/fine.jpg"])
    assert images.read(f"{shop}/fine.jpg") == _jpeg(1)
    with pytest.raises(ValueError, match=f"{shop}/{name}.*{why}") as raised:
        images.read(f"{shop}/{name}?token=hush")
    assert "hush" not in str(raised.value) and "root:" not in str(raised.value)
    assert _Shop.asked[f"/{name}?token=hush"] == asked


def test_tables_to_embed_read_images_from_a_url(files: Path, download_cache: Path, tmp_path: Path) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe({f"/embed/{name}": data for name, data in contents(files / "images").items()})
    readers = [
        TableReader(
            files / "tables" / "products.csv",
            "products",
            place,
            Modalities.parse("title+image"),
            tmp_path / f"{number}.jsonl",
            tmp_path / f"{number}.arrow",
        )
        for number, place in enumerate([files / "images", "memory://embed"])
    ]
    local, cloud = (reader.read(np.array([5, 69, 0])) for reader in readers)
    assert local == cloud and all(sample.image for sample in cloud)
    assert pickle.loads(pickle.dumps(readers[1])).read(np.array([5])) == local[:1]


def test_places_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert image_place("https") == "https" and image_place("s3://b/i") == "s3://b/i"
    with pytest.raises(ValueError, match="photos is no folder of images"):
        image_place("photos")
    (tmp_path / "https").mkdir()
    assert image_place("https") == Path("https"), "a local folder of that name is what it was"


def test_a_build_that_fails_shows_no_signature(files: Path, shop: str) -> None:
    tables = files / "tables" / "products.csv"
    names = [f"{shop}/404.jpg?X-Amz-Signature=hush{i}" for i in range(70)]
    pl.read_csv(tables).with_columns(image=pl.Series(names)).write_csv(tables)
    with pytest.raises(ValueError, match=f"70 of 70 images can't be read.*{shop}/404.jpg") as raised:
        build(files / "tables", "https", files / "out")
    assert "hush" not in str(raised.value) and not (files / "out").exists()
