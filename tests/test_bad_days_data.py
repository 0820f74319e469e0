"""Bad days of the data: damaged shards, full disks, strange tables. Nothing is lost; the message says what to do."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from moonlib.artifacts.checksums import SUMS
from moonlib.cli import main
from moonlib.clicks.histories import Histories
from moonlib.config import merge as recipe_merge
from moonlib.data.build import build
from moonlib.data.check import check
from moonlib.data.dataset import BrokenShard, Dataset
from moonlib.data.images import UnreadableImage, decode_image
from moonlib.data.jpeg import to_jpeg
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import SampleReader
from moonlib.data.splits import Split
from moonlib.encoders.timm_tower import TimmTower
from moonlib.encoders.tokenizer import load_or_fit_tokenizer
from moonlib.encoders.weights import load_weights, save_weights
from moonlib.representations.store import Representations
from moonlib.runs.iteration import fit
from moonlib.runs.tables import spread_table
from moonlib.system.console import Terminal
from moonlib.testing.data import forget_checksums, write_pictures
from moonlib.testing.processes import run_program
from tests.disks import full_disk

LOWEST, HIGHEST = -(2**63), 2**63 - 1
ROOT = Path(__file__).parent.parent
SHORT = [
    "--encoder.init_args.text.init_args.vocab_size=400",
    "--encoder.init_args.image.init_args.image_size=32",
    "--stages.pretrain.trainer.max_steps=2",
    "--stages.pretrain.data.batch_size=16",
    "--stages.pretrain.data.workers=0",
    "--stages.posttrain.trainer.max_steps=2",
    "--stages.posttrain.data.batch_size=16",
    "--stages.posttrain.data.workers=0",
    "--stages.represent.data.workers=0",
]
"""iter2, shortened."""

Tables = dict[str, pl.DataFrame]


@dataclass
class Shop:
    """A part of the tiny marketplace as its owner has it: tables in memory, pictures in a folder."""

    tables: Tables
    images: Path
    source: Dataset
    scratch: Path

    def build(self, name: str, drop: Sequence[str] = (), **tables: pl.DataFrame) -> Path:
        """Build a dataset from these tables, some of them replaced or left out."""
        folder = self.scratch / name / "tables"
        folder.mkdir(parents=True)
        for table, rows in (self.tables | tables).items():
            if table not in drop:
                rows.write_parquet(folder / f"{table}.parquet")
        return build(folder, self.images, self.scratch / name / "data", splits=self.source.splits, workers=1)


@pytest.fixture(scope="module")
def shop(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    scratch = tmp_path_factory.mktemp("shop")
    (scratch / "images").mkdir()
    users = tiny.users.filter(pl.col("user_id").rank() % 3 == 0)
    products = tiny.products.filter(pl.col("spu_id").rank("dense") % 2 == 0)
    tables: Tables = {"users": users, "products": products}
    for name in ("searches", "impressions"):
        events = tiny.table(name).join(users.select("user_id"), on="user_id", how="semi", maintain_order="left")
        tables[name] = events.join(products.select("item_id"), on="item_id", how="semi", maintain_order="left")
    used = pl.concat([tables["searches"]["query_id"], tables["impressions"]["query_id"]])
    tables["queries"] = tiny.queries.filter(pl.col("query_id").is_in(used.implode()))
    for name in ("products", "queries"):
        tables[name] = write_pictures(tiny, name, tables[name], scratch / "images")
    return Shop(tables, scratch / "images", tiny, scratch)


@pytest.fixture(scope="module")
def whole(shop: Shop) -> Path:
    """The shop's dataset as it should be."""
    return shop.build("whole")


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def run(data: Path, runs: Path, *overrides: str, recipe: str = "iter2") -> dict[str, float]:
    """Fit the shortened recipe to a dataset; return what results.json holds."""
    source = f"--data={{class_path: shards, init_args: {{path: {data}}}}}"
    done = fit(ROOT / f"recipes/{recipe}.yaml", [*SHORT, source, *overrides], runs=runs)
    results: dict[str, float] = json.loads((done / "results.json").read_text())
    assert results and np.isfinite(list(results.values())).all()
    return results


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """Run a command that must end with exit code 2 and one line."""
    capsys.readouterr()
    assert main(list(map(str, words))) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("moonlib: ")]
    return line


def fit_words(data: Path, runs: Path, *overrides: str) -> list[str]:
    source = f"--data={{class_path: shards, init_args: {{path: {data}}}}}"
    return ["fit", "--config", str(ROOT / "recipes/iter2.yaml"), "--runs", str(runs), source, *SHORT, *overrides]


# Shards that are cut off, missing or exchanged


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_by_one_byte(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [cut_in_half, cut_by_one_byte, empty, remove])
@pytest.mark.parametrize(
    "shard", ["products-000000.tar", "products-000000.arrow", "queries-000000.tar", "searches-000000.tar"]
)
def test_a_cut_or_missing_shard_is_named_by_fit_and_by_check(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], shard: str, damage: Callable[[Path], None]
) -> None:
    damage(copy / "shards" / shard)
    name = str(copy / "shards")
    if damage is not remove or shard.startswith("products-000000.tar"):
        name = str(copy / "shards" / shard)
    line = refused(capsys, *fit_words(copy, tmp_path / "runs"))
    assert name in line and "copy the dataset again, or remove it and build it again" in line
    (problem,) = check(copy).problems
    assert name in problem and "build it again" in problem
    assert main(["data", "check", str(copy)]) == 1


def exchange(left: Path, right: Path) -> None:
    left.rename(left.with_suffix(".x"))
    right.rename(left)
    left.with_suffix(".x").rename(right)


def index(path: Path) -> pl.DataFrame:
    return pl.read_ipc(path.read_bytes())


def write_index(path: Path, rows: pl.DataFrame) -> None:
    rows.write_ipc(path, compat_level=pl.CompatLevel.oldest())


def test_an_index_that_is_not_of_its_tar_is_refused_at_once(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_checksums(copy)  # which would notice it before
    exchange(copy / "shards/products-000000.tar", copy / "shards/queries-000000.tar")
    line = refused(capsys, *fit_words(copy, tmp_path / "runs"))
    assert "products-000000.tar has" in line and "by its index; copy the dataset again" in line
    exchange(copy / "shards/products-000000.arrow", copy / "shards/queries-000000.arrow")
    line = refused(capsys, *fit_words(copy, tmp_path / "runs"))
    assert "products-000000.arrow is no index of products (it has no column 'item_id')" in line
    assert not (tmp_path / "runs/.stages").exists() or not list((tmp_path / "runs/.stages").glob("*/weights*"))


@pytest.mark.parametrize("workers", ["0", "1"])
def test_exchanged_rows_of_an_index_stop_the_run_and_are_no_wrong_images(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    forget_checksums(copy)  # which would notice it before
    path = copy / "shards/products-000000.arrow"
    rows = index(path)
    write_index(path, rows.with_columns(pl.col("item_id").reverse()))
    line = refused(capsys, *fit_words(copy, tmp_path / "runs", f"--stages.pretrain.data.workers={workers}"))
    assert "products-000000.tar: item_id" in line and "the index points at '" in line and "build it again" in line
    assert "products-000000.tar: item_id" in check(copy).problems[0]


def test_an_image_offset_of_another_product_is_refused(copy: Path) -> None:
    forget_checksums(copy)  # which would notice it before
    path = copy / "shards/products-000000.arrow"
    rows = index(path)
    write_index(path, rows.with_columns(pl.col("jpg_offset", "jpg_size").shift(1).fill_null(strategy="backward")))
    with pytest.raises(BrokenShard, match="its offsets are of no tar that moonlib wrote"):
        SampleReader(copy, "products")


def test_a_row_of_another_product_is_refused(copy: Path) -> None:
    forget_checksums(copy)  # which would notice it before
    first = index(copy / "shards/products-000000.arrow").row(0, named=True)
    tar = copy / "shards/products-000000.tar"
    data = bytearray(tar.read_bytes())
    row = slice(first["json_offset"], first["json_offset"] + first["json_size"])
    data[row] = data[row].replace(str(first["item_id"]).encode(), b"1".ljust(len(str(first["item_id"]))))
    tar.write_bytes(data)
    with pytest.raises(BrokenShard, match=f"item_id {first['item_id']}: the index points at the row of 1"):
        SampleReader(copy, "products").read(np.array([first["item_id"]]))
    data[row] = b"x" * first["json_size"]
    tar.write_bytes(data)
    with pytest.raises(BrokenShard, match=f"item_id {first['item_id']}: its row is damaged"):
        SampleReader(copy, "products").read(np.array([first["item_id"]]))


# Damaged images


def damage_images(dataset: Path, table: str, number: int) -> list[int]:
    """Overwrite the first images with zeros, of which their checksums know nothing; return their ids."""
    forget_checksums(dataset)
    path = dataset / f"shards/{table}-000000.arrow"
    rows = index(path).filter(pl.col("jpg_size") > 0).head(number)
    with path.with_suffix(".tar").open("r+b") as tar:
        for start, size in rows.select("jpg_offset", "jpg_size").iter_rows():
            tar.seek(start)
            tar.write(bytes(size))
    return rows["item_id" if table == "products" else "query_id"].to_list()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_too_many_damaged_images_stop_the_run_with_the_path_of_their_list(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    damaged = damage_images(copy, "products", 100)
    options = [f"--stages.pretrain.data.workers={workers}", "--stages.pretrain.trainer.max_steps=5"]
    line = refused(capsys, *fit_words(copy, tmp_path / "runs", *options))
    assert "samples cannot be read, more than the 10 tolerated; they are listed in " in line
    listed = Path(line.split("they are listed in ")[1].split(" Last: ")[0].rstrip("."))
    entries = Quarantine(listed, total=0).entries()
    assert 11 <= len(entries) <= 32  # a worker may be a batch ahead
    assert {id for _, id in entries} <= set(damaged)
    problem = check(copy).problems[0]
    first = ", ".join(map(str, sorted(damaged)[:3]))
    assert "broken products" in problem and f": 100 ({first}, …); " in problem


def test_a_few_damaged_images_are_left_out_and_told_of(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = damage_images(copy, "products", 5)
    run(copy, tmp_path / "runs", "--stages.application=null", "--stages.posttrain=null")
    listed = tmp_path / "runs/iter2/represent/quarantine.jsonl"
    assert {id for _, id in Quarantine(listed, total=0).entries()} == set(damaged)
    printed = capsys.readouterr().out
    assert f"5 samples could not be read, see {listed.resolve()}" in printed


# Full disks


NO_ROOM = "File too large; make room (df -h shows what is full), then run the same command again"


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("size", [2_000, 400_000])
def test_a_build_without_room_leaves_nothing_and_succeeds_with_it(
    shop: Shop, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int, workers: str
) -> None:
    assert (whole / "shards/products-000000.tar").stat().st_size > size
    moments = shop.source.splits.to_json().values()
    out = tmp_path / "data"
    words = ["data", "build", whole.parent / "tables", "--images", shop.images, "--out", out, "--workers", workers]
    with full_disk(size):
        line = refused(capsys, *words, "--splits", *moments)
    assert line == f"moonlib: {out}: {NO_ROOM}"
    assert list(tmp_path.iterdir()) == []
    assert main([*map(str, words), "--splits", *moments]) == 0
    assert files(out) == files(whole)


def test_a_build_without_room_for_its_events(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = tmp_path / "tables"
    tables.mkdir()
    item = shop.tables["products"].head(1).drop("image", "images")
    item.write_parquet(tables / "products.parquet")
    pl.DataFrame({"user_id": np.arange(50_000)}).write_parquet(tables / "users.parquet")
    words = ["data", "build", tables, "--out", tmp_path / "data"]
    with full_disk(100_000):
        assert NO_ROOM in refused(capsys, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["tables"]
    assert main(list(map(str, words))) == 0
    assert Dataset(tmp_path / "data").users.height == 50_000


def test_a_marketplace_without_room(tiny: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "make", "tiny", "--out", tmp_path]
    for size in (100_000, 700_000):  # too little for the pictures, and for the shards
        with full_disk(size):
            line = refused(capsys, *words)
        assert line == f"moonlib: {tmp_path / tiny.directory.name}: {NO_ROOM}"
        assert list(tmp_path.iterdir()) == []
    assert main(list(map(str, words))) == 0
    assert files(tmp_path / tiny.directory.name) == files(tiny.directory)


def test_a_quarantine_without_room_loses_no_line(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(path, total=10)
    quarantine.record("products", 1, "torn")
    for size in (path.stat().st_size, path.stat().st_size + 20):
        with full_disk(size), pytest.raises(OSError, match=r"File too large|No space left") as error:
            quarantine.record("products", 2, "torn")
        assert error.value.filename == str(path)
        assert quarantine.entries() == {("products", 1): "torn"}
    quarantine.record("products", 2, "torn")
    quarantine.record("products", 3, "torn")
    assert [id for _, id in Quarantine(path, total=10).entries()] == [1, 2, 3]


def test_a_tokenizer_without_room(tiny: Dataset, tmp_path: Path) -> None:
    with full_disk(1_000), pytest.raises(OSError, match="File too large; make room") as error:
        load_or_fit_tokenizer(tiny.products, tmp_path, 400)
    assert error.value.filename == str(tmp_path / "tokenizer.json")
    assert list(tmp_path.iterdir()) == []
    fitted = load_or_fit_tokenizer(tiny.products, tmp_path, 400)
    assert load_or_fit_tokenizer(tiny.products, tmp_path, 400).to_str() == fitted.to_str()


def test_weights_without_room_leave_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(torch.nn.Linear(10, 10), path)
    before = path.read_bytes()
    for size in (0, 300, 4_000_000):
        with full_disk(size), pytest.raises(OSError, match="File too large; make room") as error:
            save_weights(torch.nn.Linear(2000, 1000), path)
        assert error.value.filename == str(path)
        assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before
    save_weights(torch.nn.Linear(2000, 1000), path)
    assert path.stat().st_size > 8_000_000


READ_ONLY = """
import os, sys
import moonlib.data.build, moonlib.sources.marketplace.source
from moonlib.cli import main
from moonlib.runs.tables import spread_table
from moonlib.system.console import Terminal
os.setgid(65534); os.setuid(65534)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
def test_a_directory_that_may_not_be_written(whole: Path, shop: Shop, tmp_path: Path) -> None:
    place = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    try:
        place.chmod(0o755)
        shutil.copytree(whole.parent / "tables", place / "tables")
        shutil.copytree(shop.images, place / "images")
        words = ["data", "build", place / "tables", "--images", place / "images", "--out", place / "out"]
        for command in (words, ["data", "make", "tiny", "--out", place]):
            done = run_program(["-c", READ_ONLY, *command])
            assert done.returncode == 2, done.stderr
            assert done.stderr.count("\n") == 1 and done.stderr.endswith(": Permission denied\n"), done.stderr
            assert str(place) in done.stderr
        assert sorted(path.name for path in place.iterdir()) == ["images", "tables"]
    finally:
        shutil.rmtree(place)


# Files of strangers


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_malicious_pickle_is_never_executed(tmp_path: Path, tiny: Dataset) -> None:
    touched = tmp_path / "touched"
    for name, save in (
        ("weights.safetensors", torch.save),
        ("products.npy", lambda value, path: np.save(path, np.array([value], dtype=object), allow_pickle=True)),
    ):
        save(Payload(touched), tmp_path / name)
    with pytest.raises(ValueError, match=r"weights\.safetensors is not a safetensors file"):
        load_weights(torch.nn.Linear(2, 2), tmp_path / "weights.safetensors")
    np.save(tmp_path / "products.ids.npy", np.arange(1))
    with pytest.raises(ValueError, match=r"allow_pickle|Python objects|products\.npy"):
        Representations.open(tmp_path, "products")
    shutil.copy(tmp_path / "weights.safetensors", tmp_path / "weights.pth")
    for name in ("weights.safetensors", "weights.pth"):
        with pytest.raises(ValueError, match=f"{name} holds no weights that can be read safely"):
            TimmTower("test_vit", checkpoint=tmp_path / name).setup()
    assert not touched.exists()


def test_no_file_of_the_library_loads_pickles_or_unsafe_yaml() -> None:
    """`torch.load` only with weights_only=True, `numpy.load` without pickles, YAML by a safe loader."""
    found = []
    for path in [*ROOT.glob("moonlib/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            call, options = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            unsafe = (
                (call in ("torch.load", "load_state_dict") and options.get("weights_only") != "True")
                or options.get("allow_pickle", "False") != "False"
                or options.get("trust_remote_code", "False") != "False"
                or call in ("eval", "exec", "pickle.load", "yaml.unsafe_load", "yaml.full_load", "joblib.load")
                or (call == "pickle.loads" and "pickle.dumps" not in ast.unparse(node.args[0]))
                or (call == "yaml.load" and "_Loader" not in ast.unparse(node.args[1]))
            )
            if unsafe:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert found == []
    assert issubclass(recipe_merge._Loader, yaml.SafeLoader)


# What little a team may have


NOTHING = pl.lit(None, dtype=pl.String)
NO_BOX = pl.lit(None, dtype=pl.List(pl.Float32))


def without(table: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """Empty some columns of products or queries; without an image there is no box either."""
    emptied = {name: pl.lit(None, dtype=table.schema[name]) for name in columns}
    return table.with_columns(**emptied, **({"box": NO_BOX} if "image" in columns else {}))


def test_no_query_images(shop: Shop, tmp_path: Path) -> None:
    results = run(shop.build("no_query_images", queries=without(shop.tables["queries"], "image")), tmp_path)
    assert "text_search/recall@10" in results and "ctr/auc" in results
    assert not any("image_search" in key for key in results)


def test_no_query_texts(shop: Shop, tmp_path: Path) -> None:
    results = run(shop.build("no_query_texts", queries=without(shop.tables["queries"], "text")), tmp_path)
    assert "image_search/recall@10" in results and "ctr/auc" in results
    assert not any("text_search" in key for key in results)


def remedied(capsys: pytest.CaptureFixture[str], data: Path, runs: Path, problem: str, *keys: str) -> dict[str, float]:
    """The recipe is refused with a problem, and runs with other keys."""
    assert problem in refused(capsys, *fit_words(data, runs))
    shutil.rmtree(runs)
    return run(data, runs, *keys)


def test_no_searches(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = shop.build("no_searches", drop=["searches"])
    problem = (
        "the dataset has no searches, and a stage of the recipe reads them: leave it out (--stages.posttrain null)"
    )
    results = remedied(capsys, data, tmp_path / "runs", problem, "--stages.posttrain=null")
    assert "ctr/auc" in results and not any("recall" in key for key in results)


def test_no_impressions(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = shop.build("no_impressions", drop=["impressions"])
    problem = "has no impressions, and a stage of the recipe reads them: leave it out (--stages.application null)"
    results = remedied(capsys, data, tmp_path / "runs", problem, "--stages.application=null")
    assert "image_search/recall@10" in results


def test_nothing_but_products(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = shop.build("products_only", drop=["queries", "users", "searches", "impressions"])
    assert "the dataset has no searches" in refused(capsys, *fit_words(data, tmp_path / "runs"))
    shutil.rmtree(tmp_path / "runs")
    source = f"--data={{class_path: shards, init_args: {{path: {data}}}}}"
    overrides = [*SHORT, source, "--stages.posttrain=null", "--stages.application=null"]
    done = fit(ROOT / "recipes/iter2.yaml", overrides, runs=tmp_path / "runs")
    assert json.loads((done / "results.json").read_text()) == {}
    products = Representations.open(done / "represent", "products")
    assert np.array_equal(products.ids, shop.tables["products"]["item_id"].sort().to_numpy())
    assert np.isfinite(products.vectors).all() and (products.vectors != 0).any(axis=1).all()


def test_texts_only(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = {
        "products": without(shop.tables["products"], "image", "images"),
        "queries": without(shop.tables["queries"], "image"),
    }
    known = len(shop.source.splits.known(shop.tables["products"]))
    results = remedied(
        capsys,
        shop.build("texts_only", **tables),
        tmp_path / "runs",
        f"pairs can serve 'image -> title', 'image -> image': queries are {known} products, 0 with an image, {known} "
        f"with a text; items are {known} products, 0 with an image, {known} with a text. Set data.tasks of this stage",
        "--encoder.init_args.image=null",
        "--stages.pretrain.data.tasks={title -> rich: 1.0}",
        "--stages.posttrain.data.tasks={text -> title: 1.0}",
    )
    assert "text_search/recall@10" in results and "ctr/auc" in results
    assert not any("image_search" in key for key in results)


def test_images_only(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = {
        "products": without(shop.tables["products"], "title", "attributes"),
        "queries": without(shop.tables["queries"], "text"),
    }
    known = len(shop.source.splits.known(shop.tables["products"]))
    results = remedied(
        capsys,
        shop.build("images_only", **tables),
        tmp_path / "runs",
        f"{known} with an image, 0 with a text. Set data.tasks of this stage to tasks that read what there is",
        "--encoder.init_args.text=null",
        "--stages.pretrain.data.tasks={image -> image: 1.0}",
        "--stages.posttrain.data.tasks={image -> image: 1.0}",
    )
    assert "image_search/recall@10" in results and "ctr/auc" in results
    assert not any("text_search" in key for key in results)


def test_some_products_and_queries_with_neither_image_nor_text(shop: Shop, tmp_path: Path) -> None:
    products, queries = shop.tables["products"], shop.tables["queries"]
    blank = {
        name: table.with_columns(
            pl.when(pl.int_range(pl.len()) % 5 > 0).then(pl.col(column)).alias(column)
            for column in ("image", "box", *(("images", "title") if name == "products" else ("text",)))
        )
        for name, table in (("products", products), ("queries", queries))
    }
    data = shop.build("neither", **blank)
    assert check(data).ok
    results = run(data, tmp_path)
    assert "image_search/recall@10" in results and "ctr/auc" in results
    stored = Representations.open(tmp_path / "iter2/represent", "products")
    vectors = stored.vectors[stored.rows(blank["products"]["item_id"].to_numpy())]
    assert ((vectors == 0).all(axis=1) == blank["products"]["title"].is_null().to_numpy()).all()


# What training has never seen


def test_unseen_categories_languages_merchants_and_shoppers_at_test_time(shop: Shop, tmp_path: Path) -> None:
    splits, products = shop.source.splits, shop.tables["products"]
    new = pl.col("listed_at") >= splits.train_until
    later = pl.col("ts") >= splits.valid_until
    products = products.with_columns(
        category=pl.when(new).then(pl.lit("Космос/Ракеты")).otherwise("category"),
        title=pl.when(new).then(pl.lit("صاروخ فضائي 🚀")).otherwise("title"),
        merchant_id=pl.when(new).then(pl.lit(LOWEST)).otherwise("merchant_id"),
        price=pl.when(new).then(pl.lit(1e300)).otherwise("price"),
    )
    tables = {
        name: shop.tables[name].with_columns(user_id=pl.when(later).then(pl.lit(HIGHEST)).otherwise("user_id"))
        for name in ("searches", "impressions")
    }
    users = pl.concat([shop.tables["users"], shop.tables["users"].head(1).with_columns(user_id=pl.lit(HIGHEST))])
    texts = pl.when(pl.col("text").is_not_null() & (pl.int_range(pl.len()) % 2 == 0))
    queries = shop.tables["queries"].with_columns(text=texts.then(pl.lit("საიდუმლო")).otherwise("text"))
    results = run(shop.build("unseen", products=products, users=users, queries=queries, **tables), tmp_path)
    assert {"ctr/auc", "ctr/auc@new", "ctr/gauc", "ctr/logloss", "text_search/recall@10"} <= set(results)
    assert 0 < results["ctr/logloss"] < 5


# Clocks


def test_clocks_that_are_wrong_are_reported_and_no_history_sees_the_future(shop: Shop, tmp_path: Path) -> None:
    searches, impressions = shop.tables["searches"], shop.tables["impressions"]
    alone = pl.col("search_id").is_unique()
    searches = pl.concat([searches.filter(alone), searches.filter(~alone)])
    days = {"past": datetime(1, 1, 1, tzinfo=UTC), "future": datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)}
    shown = searches.join(impressions.select("search_id").unique(), on="search_id", how="semi")
    early = shown["search_id"][-1]
    row = pl.int_range(pl.len())
    odd = pl.when(row == 0).then(pl.lit(days["past"])).when(row == 1).then(pl.lit(days["future"]))
    hours = pl.when(pl.col("search_id") == early).then(pl.col("ts") - pl.duration(hours=8)).otherwise("ts")
    searches = searches.filter(pl.col("search_id") != early).with_columns(ts=odd.otherwise("ts"))
    searches = pl.concat([searches, shown.filter(pl.col("search_id") == early).with_columns(ts=hours)])
    searches = pl.concat([searches, searches.tail(1)]).sample(fraction=1.0, shuffle=True, seed=0)
    impressions = impressions.with_columns(ts=odd.otherwise("ts")).sample(fraction=1.0, shuffle=True, seed=1)
    data = shop.build("clocks", searches=searches, impressions=pl.concat([impressions, impressions.head(2)]))
    found = check(data)
    warnings = "\n".join([*found.warnings, *found.problems])
    for said in (
        "search_ids of searches after the last split, which are never read: 1 (",
        "search_ids whose events are a day or more apart, and all belong to the split of the first: 1 (",
        "search_ids of searches before 1995, as of a clock that was not set: 1 (",
        "search_ids of impressions before 1995, as of a clock that was not set: 1 (",
        f"search_ids of searches with rows that stand there more than once: 1 ({early})",
        "search_ids of impressions with rows that stand there more than once: ",
        f"clocks or time zones that differ, such that histories may tell the future: 1 ({early})",
        "before they were listed",
    ):
        assert said in warnings
    run(data, tmp_path, "--stages.pretrain=null", "--stages.posttrain=null")
    histories = Histories(Dataset(data).searches)
    asked = impressions.head(150)
    when = asked["ts"].dt.epoch("us").to_numpy()
    found, mask = histories.before(asked["user_id"].to_numpy(), when, asked["search_id"].to_numpy(), 20)
    for i, (user, search, ts) in enumerate(asked.select("user_id", "search_id", "ts").iter_rows()):
        past = searches.filter(pl.col("user_id") == user, pl.col("ts") < ts, pl.col("search_id") != search)
        assert set(found[i, mask[i]].tolist()) <= set(past["item_id"].to_list())
        assert mask[i].sum() == min(20, past.select("search_id", "item_id").n_unique())


def test_splits_that_a_wrong_clock_makes_useless_are_told_of(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    impressions = shop.tables["impressions"]
    odd = pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(datetime(9999, 12, 31, tzinfo=UTC))).otherwise("ts")
    folder = shop.scratch / "useless"
    folder.mkdir()
    for table, rows in (shop.tables | {"impressions": impressions.with_columns(ts=odd)}).items():
        rows.write_parquet(folder / f"{table}.parquet")
    assert main(["data", "build", str(folder), "--images", str(shop.images), "--out", str(folder / "out")]) == 0
    printed = capsys.readouterr().out
    assert "warning: the train split of impressions is empty: no row has ts in [" in printed
    assert "to 9999-12-31 00:00:00+00:00. Set other splits when building the dataset (--splits BEHAVIOUR" in printed


# Ids at the ends of int64


def to_the_ends(ids: pl.Series) -> pl.Series:
    """Map ids, in order, to others among which are both ends of int64, -1 and 0."""
    old = ids.unique().sort().to_list()
    below = sum(id < 0 for id in old)
    assert 1 < below < len(old) - 1
    new = [*old]
    new[:2], new[below - 1 : below + 1], new[-2:] = [LOWEST, LOWEST + 1], [-1, 0], [HIGHEST - 1, HIGHEST]
    return pl.Series(new, dtype=pl.Int64).gather(pl.Series(old).search_sorted(ids))


def test_ids_at_the_ends_of_int64_give_the_same_results_and_return_exactly(shop: Shop, tmp_path: Path) -> None:
    """Nothing but the order of ids matters: renamed in order, all results stay what they were, to the bit.

    Except for which of several pictures a visit draws: products have one here.
    """
    tables = shop.tables | {"products": shop.tables["products"].drop("images")}
    single = shop.build("one picture", products=tables["products"])
    keys = {"item_id": "products", "query_id": "queries", "user_id": "users", "spu_id": "products"}
    renamed: dict[str, tuple[pl.Series, pl.Series]] = {}
    for key, owner in keys.items():
        ids = tables[owner][key].unique()
        renamed[key] = ids, to_the_ends(ids)
    searched = pl.concat([tables["searches"]["search_id"], tables["impressions"]["search_id"]]).unique()
    renamed["search_id"] = searched, to_the_ends(searched)
    sold = tables["products"]["merchant_id"].drop_nulls().unique()
    renamed["merchant_id"] = sold, to_the_ends(sold)
    for name, rows in tables.items():
        for key, (old, new) in renamed.items():
            if key in rows.columns:
                rows = rows.with_columns(pl.col(key).replace_strict(old, new, return_dtype=pl.Int64))
        tables[name] = rows
    data = shop.build("ends", **tables)
    written = Dataset(data)
    for name, rows in tables.items():
        for key in set(renamed) & set(rows.columns):
            assert written.table(name)[key].equals(rows[key])
    assert {LOWEST, -1, 0, HIGHEST} <= set(SampleReader(data, "products").ids.tolist())
    # The one thing that may read an id's own value is a text; the tables' order of rows is the same.
    expected = run(single, tmp_path / "before")
    assert run(data, tmp_path / "after") == expected
    before, after = (
        pl.read_parquet(tmp_path / name / "iter2/application/predictions.parquet") for name in ("before", "after")
    )
    assert after.schema["item_id"] == pl.Int64
    for key in ("search_id", "user_id", "item_id"):
        old, new = renamed[key]
        before = before.with_columns(pl.col(key).replace_strict(old, new, return_dtype=pl.Int64))
    assert after.equals(before)
    assert {LOWEST, HIGHEST} <= set(Representations.open(tmp_path / "after/iter2/represent", "queries").ids.tolist())


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        (pl.Series([2**63], dtype=pl.UInt64), "row 1, column 'item_id': 9223372036854775808 is not an int64"),
        (pl.Series([1.0]), "column 'item_id': Float64 is not an int64; write it as int64 or text"),
        (pl.Series(["1.0"]), "row 1, column 'item_id': '1.0' is not an int64"),
        (pl.Series([None], dtype=pl.Int64), "row 1, column 'item_id': the value is missing"),
    ],
)
def test_ids_that_are_no_int64_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ids: pl.Series, problem: str
) -> None:
    products = pl.DataFrame({"item_id": ids, "spu_id": [1], "category": ["x"], "listed_at": ["2025-01-01"]})
    products.write_parquet(tmp_path / "products.parquet")
    line = refused(capsys, "data", "build", tmp_path, "--out", tmp_path / "out")
    assert line.startswith(f"moonlib: products.parquet: {problem}")
    assert not (tmp_path / "out").exists()


# Another encoder's weights


def test_weights_of_another_encoder_stop_the_run_that_meets_them(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = [f"--stages.{name}=null" for name in ("represent", "application")]
    run_only = [*later, "--stages.posttrain=null"]
    assert main([*fit_words(whole, tmp_path, *run_only), "--name", "first"]) == 0
    weights = (tmp_path / "first/pretrain").resolve() / "weights.safetensors"
    save_weights(torch.nn.Linear(2, 2), weights)
    (weights.parent / SUMS).unlink()
    line = refused(capsys, *fit_words(whole, tmp_path, *later), "--name", "second")
    assert line.startswith(f"moonlib: {weights.relative_to(weights.parents[2])}") or str(weights) in line
    assert "belongs to another encoder: it lacks '" in line
    assert "give the recipe the encoder that these weights are of, or remove them and train again" in line
    torch.save({"weight": torch.zeros(2)}, weights)
    line = refused(capsys, *fit_words(whole, tmp_path, *later), "--name", "second")
    assert f"{weights.name} is not a safetensors file" in line


# Damaged pictures


def picture(kind: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(out, kind, exif=exif, **options)
    return out.getvalue()


PICTURES = {
    "JPEG": picture("JPEG", quality=80),
    "progressive JPEG": picture("JPEG", progressive=True),
    "PNG": picture("PNG"),
    "WebP": picture("WEBP"),
}


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(sorted(PICTURES)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=4),
    kept=st.floats(0, 1),
    cut=st.booleans(),
)
def test_a_picture_with_flipped_bits_is_decoded_or_refused(
    kind: str, flips: list[tuple[float, int]], kept: float, cut: bool
) -> None:
    data = bytearray(PICTURES[kind])
    for place, bit in flips:
        data[int(place * len(data))] ^= 1 << bit
    spoiled = bytes(data[: int(kept * len(data))] if cut else data)
    try:
        decoded = decode_image(spoiled, size=16)
        assert decoded.shape == (3, 16, 16) and decoded.dtype == torch.uint8
    except UnreadableImage as error:
        assert "0x" not in str(error)
    try:
        kept_or_encoded = to_jpeg(spoiled, 512)
    except ValueError as error:
        assert "picture" in str(error) or "pixels" in str(error)
    else:
        assert decode_image(kept_or_encoded).ndim == 3


def of_one_class(shop: Shop, *splits: Split, clicked: bool = False) -> pl.DataFrame:
    """The shop's impressions, all or none of those of some days clicked."""
    rows = shop.tables["impressions"]
    within = [shop.source.splits.window(split) for split in splits]
    inside = pl.any_horizontal((pl.col("ts") >= start) & (pl.col("ts") < end) for start, end in within)
    return rows.with_columns(clicked=pl.when(inside).then(clicked).otherwise("clicked"))


def strict(file: Path) -> Any:
    """Read JSON as any other tool does: without NaN and infinity."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{file}: {word} is no JSON")

    return json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)


def test_metrics_that_test_days_without_a_click_do_not_define_are_left_out_and_told(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shop.build("unclicked", impressions=of_one_class(shop, "test"))
    runs = tmp_path / "runs"
    assert main(["data", "check", str(data), "--samples", "5"]) == 0
    assert "no impression of the test days was clicked" in " ".join(capsys.readouterr().out.split())
    segments = "--stages.application.data.segments=[products.category]"
    assert main(fit_words(data, runs, segments)) == 0
    out = capsys.readouterr().out
    run = runs / "iter2"
    for file in run.rglob("*.json"):
        strict(file)
    results = strict(run / "results.json")
    assert {"ctr/logloss", "ctr/ece", "ctr/logloss@new", "valid/ctr/auc", "image_search/recall@10"} <= set(results)
    left_out = {"ctr/auc", "ctr/gauc", "ctr/ne", "ctr/pcoc", "ctr/auc@new"}
    assert not left_out & set(results)
    for link in ("application", "application.baseline", "application.baseline.shuffled"):
        file = run / link / "undefined.json"
        assert left_out <= set(strict(file))
        assert f"unclicked ones), see {file.parent.resolve()}/undefined.json" in out
    assert "ctr/pcoc, " in out and "(it needs a clicked row)" in out
    # Read by whatever reads results, without an AUC.
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "not defined, and so not among the results: ctr/auc" in page and "no finished application" not in page
    assert main(["export", str(run), str(tmp_path / "export")]) == 0
    card = (tmp_path / "export/README.md").read_text(encoding="utf-8")
    assert "ctr/auc" in card and "not defined, and so not among the results" in card
    assert main(["fit", "--debug", "limit", *fit_words(data, runs, segments)[1:]]) == 0


def test_a_table_of_seeds_shows_a_dash_for_what_one_of_them_lacks() -> None:
    console = Terminal(80, file=io.StringIO())
    console.print(spread_table({"a": {"ctr/auc": 0.5, "ctr/ece": 0.25}, "b": {"ctr/ece": 0.75}}))
    assert isinstance(console.file, io.StringIO)
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["ctr/auc", "–", "–", "0.5000", "–"] in rows
    assert ["ctr/ece", "0.5000", "0.3536", "0.2500", "0.7500"] in rows


def test_validation_days_with_nothing_but_clicks_leave_the_test_days_alone(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shop.build("all clicked", impressions=of_one_class(shop, "valid", clicked=True))
    results = run(data, tmp_path / "runs")
    assert "ctr/auc" in results and "valid/ctr/pcoc" in results and "valid/ctr/auc" not in results
    assert "every impression of the valid days was clicked: AUC" in " ".join(check(data, samples=5).warnings)
