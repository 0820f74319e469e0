"""A shop whose ids are text, from its tables to what serves it; beside the same shop with the numbers 0, 1, 2, …"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from moonlib.artifacts.checksums import Damaged, verify_all
from moonlib.cli import main
from moonlib.data.build import build
from moonlib.data.check import check
from moonlib.data.dataset import BrokenShard, Dataset
from moonlib.data.ids import FAMILIES
from moonlib.data.reader import SampleReader
from moonlib.data.stream import stream
from moonlib.data.tables import SCHEMAS, Tables
from moonlib.inference.catalogue import embed
from moonlib.inference.searching import index, search
from moonlib.metrics.ctr import ctr_metrics
from moonlib.pairs.questions import read_questions
from moonlib.representations.index import BrokenIndex, Index
from moonlib.representations.store import Representations
from moonlib.runs.iteration import fit
from moonlib.runs.run import Run
from moonlib.studies.paired import recall_gain
from moonlib.studies.report.page import report
from moonlib.testing.data import with_ranked_ids, with_text_ids
from moonlib.testing.examples import EXAMPLE_SPLITS, example_picture, example_tables

RECIPE = [
    "--encoder.init_args.image={class_path: convnet, init_args: {image_size: 32, width: 8}}",
    "--encoder.init_args.text={class_path: transformer, init_args: {vocab_size: 300, width: 32, depth: 1}}",
    "--encoder.init_args.dim=32",
    "--stages.pretrain.trainer.max_steps=2",
    "--stages.pretrain.data.batch_size=32",
    "--stages.pretrain.data.workers=0",
    "--stages.posttrain.trainer.max_steps=2",
    "--stages.posttrain.data.batch_size=32",
    "--stages.posttrain.data.workers=0",
    "--stages.posttrain.module.init_args.filters=[spu_merge]",
    "--stages.represent.data.workers=0",
    "--stages.application.trainer.max_epochs=1",
    "--stages.application.data.batch_size=100",
    "--stages.application.data.segments=[products.merchant_id]",
]


@dataclass(frozen=True)
class Shop:
    """A shop's files and what moonlib made of them."""

    tables: Path
    images: Path
    data: Path
    run: Path


def write(tables: Tables, folder: Path) -> Path:
    """Write tables as Parquet, and the pictures that they name."""
    (folder / "images").mkdir(parents=True)
    (folder / "tables").mkdir()
    for table in SCHEMAS:
        if tables[table].height:
            tables[table].write_parquet(folder / "tables" / f"{table}.parquet")
    for table in ("products", "queries"):
        for name in tables[table]["image"].drop_nulls():
            (folder / "images" / name).write_bytes(example_picture(table, name))
    return folder


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shop]:
    """The shop with text ids, and with numbers in the same order."""
    made = {}
    for kind, change in (("text", with_text_ids), ("int64", with_ranked_ids)):
        folder = write(change(example_tables()), tmp_path_factory.mktemp("shop") / kind)
        data = build(folder / "tables", folder / "images", folder / "data", splits=EXAMPLE_SPLITS, workers=1)
        source = f"--data={{class_path: shards, init_args: {{path: {data}}}}}"
        run = fit("iter2", [*RECIPE, source], runs=folder / "runs")
        made[kind] = Shop(folder / "tables", folder / "images", data, run)
    return made


@pytest.fixture
def text(shops: dict[str, Shop]) -> Shop:
    """The shop with text ids."""
    return shops["text"]


@pytest.fixture
def copied(text: Shop, tmp_path: Path) -> Path:
    """A dataset with text ids, to change."""
    tables = text.tables
    return build(tables, text.images, tmp_path / "copied", splits=EXAMPLE_SPLITS, workers=1)


def texts(column: str, ids: pl.Series) -> pl.Series:
    return (pl.select(pl.lit(f"{FAMILIES[column]} ") + ids.cast(pl.String).str.zfill(6))).to_series().alias(column)


def test_a_dataset_holds_numbers_and_the_ids_beside_them(shops: dict[str, Shop]) -> None:
    dataset, numbers = Dataset(shops["text"].data), Dataset(shops["int64"].data)
    described = json.loads((shops["text"].data / "dataset.json").read_text())
    assert described["ids"]["item"]["kind"] == "text" and described["ids"]["item"]["count"] == 96
    plain = json.loads((shops["int64"].data / "dataset.json").read_text())
    assert "ids" not in plain and not (shops["int64"].data / "ids").exists()
    assert dataset.hash != numbers.hash and not numbers.ids
    for table in dataset.counts:
        assert dataset.table(table).equals(numbers.table(table))
        columns = [name for name in dataset.table(table).columns if name in FAMILIES]
        read = pl.read_parquet(shops["text"].tables / f"{table}.parquet")
        assert dataset.ids.decoded(dataset.table(table), *columns).select(columns).equals(read.select(columns))
    assert not verify_all(dataset.directory)


def test_the_same_tables_give_the_same_dataset_however_their_rows_are_ordered(text: Shop, tmp_path: Path) -> None:
    again = build(text.tables, text.images, tmp_path / "again", splits=EXAMPLE_SPLITS)
    assert Dataset(again).hash == Dataset(text.data).hash
    (tmp_path / "turned").mkdir()
    for file in text.tables.iterdir():
        pl.read_parquet(file).reverse().write_parquet(tmp_path / "turned" / file.name)
    turned = Dataset(build(tmp_path / "turned", text.images, tmp_path / "out", splits=EXAMPLE_SPLITS))
    assert turned.products.reverse().equals(Dataset(text.data).products)
    parts = ((directory / "ids" / "item-000000.arrow").read_bytes() for directory in (again, turned.directory))
    assert len({*parts}) == 1


def test_other_ids_are_another_dataset(text: Shop, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    for file in text.tables.iterdir():
        frame = pl.read_parquet(file)
        if "user_id" in frame.columns:
            frame = frame.with_columns(pl.col("user_id").str.replace("user", "shopper"))
        frame.write_parquet(tmp_path / "tables" / file.name)
    assert Dataset(build(tmp_path / "tables", text.images, tmp_path / "out")).hash != Dataset(text.data).hash


def test_training_and_measuring_do_not_depend_on_what_the_ids_are(shops: dict[str, Shop]) -> None:
    text, numbers = (Run(shops[kind].run) for kind in ("text", "int64"))
    expected = {key.replace("merchant_id=", "merchant_id=merchant 00000"): v for key, v in numbers.results.items()}
    assert text.results == expected and any("merchant_id=merchant 000004" in key for key in expected)
    for mine, theirs in zip(text.representations(), numbers.representations(), strict=True):
        assert np.array_equal(mine.ids, theirs.ids) and np.array_equal(mine.vectors, theirs.vectors)
        assert theirs.names is None and mine.names is not None
        assert mine.names.equals(texts(mine.names.name, pl.Series(theirs.ids)))


@pytest.mark.parametrize("file", ["application/predictions", "represent/searches", "posttrain/searches"])
def test_tables_of_stages_have_the_shops_ids(shops: dict[str, Shop], file: str) -> None:
    found, numbers = (pl.read_parquet(shops[kind].run / f"{file}.parquet") for kind in ("text", "int64"))
    columns = [name for name in found.columns if name in FAMILIES]
    assert {"search_id", "user_id", "item_id"} <= {*columns}
    assert_frame_equal(found, numbers.with_columns(texts(name, numbers[name]) for name in columns))


def test_tables_of_stages_are_measured_as_those_with_numbers(shops: dict[str, Shop]) -> None:
    predicted = [pl.read_parquet(shops[kind].run / "application/predictions.parquet") for kind in ("text", "int64")]
    assert ctr_metrics(predicted[0]) == ctr_metrics(predicted[1])
    gains = [recall_gain(shops[kind].run, shops[kind].run, "represent.baseline.chance") for kind in ("text", "int64")]
    assert gains[0] == gains[1]


def test_a_report_draws_and_measures_the_same(shops: dict[str, Shop], tmp_path: Path) -> None:
    pages = [report([shops[kind].run], tmp_path / f"{kind}.html").read_text() for kind in ("text", "int64")]
    assert pages[0].count("<svg") == pages[1].count("<svg") > 3
    assert pages[0].count("data:image/jpeg") == pages[1].count("data:image/jpeg") > 20


def test_embeddings_of_a_dataset_and_of_a_table_have_the_shops_ids(text: Shop, tmp_path: Path) -> None:
    products = text.tables / "products.parquet"
    of_table = embed(text.run, products, tmp_path / "table", images=text.images, workers=0)
    of_data = embed(text.run, text.data, tmp_path / "data", queries=text.data, workers=0)
    ids = pl.read_parquet(products)["item_id"].sort()
    for place in (of_table, of_data):
        names = pl.read_parquet(place / "products.ids.parquet")
        assert names.columns == ["item_id"] and names["item_id"].equals(ids)
        store, own = Representations.open(place, "products"), Run(text.run).representations()[0]
        assert np.allclose(store.vectors, own.vectors, atol=1e-4) and store.names is not None
        assert not verify_all(place)
    assert pl.read_parquet(of_data / "queries.ids.parquet").columns == ["query_id"]
    parquet = embed(text.run, products, tmp_path / "parquet", images=text.images, format="parquet", workers=0)
    table = pl.read_parquet(parquet / "products.parquet")
    assert table["item_id"].equals(ids) and np.array_equal(table["vector"].to_numpy(), store.vectors) is not None
    assert sorted(path.name for path in parquet.glob("products*")) == ["products.parquet"]


def test_a_catalogue_of_integers_as_text_stays_text_where_the_shop_has_text(text: Shop, tmp_path: Path) -> None:
    frame = pl.DataFrame({"item_id": ["10", "9"], "title": ["red mug", "blue bag"]})
    frame.write_csv(tmp_path / "new.csv")
    out = embed(text.run, tmp_path / "new.csv", tmp_path / "csv", workers=0)
    assert pl.read_parquet(out / "products.ids.parquet")["item_id"].to_list() == ["10", "9"]
    frame.with_columns(pl.col("item_id").cast(pl.Int64)).write_parquet(tmp_path / "new.parquet")
    out = embed(text.run, tmp_path / "new.parquet", tmp_path / "int64", workers=0)
    assert np.load(out / "products.ids.npy").tolist() == [9, 10] and not (out / "products.ids.parquet").exists()


def test_an_embedding_is_resumed_with_its_ids(text: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"images": text.images, "workers": 0, "batch_size": 32}
    whole = embed(text.run, text.tables / "products.parquet", tmp_path / "whole", **arguments)  # type: ignore[arg-type]

    class Cut(Exception):
        pass

    def cut(table: str, rows: int, total: int) -> None:
        if 0 < rows < total:
            raise Cut

    with pytest.raises(Cut):
        embed(text.run, text.tables / "products.parquet", tmp_path / "cut", **arguments, progress=cut)  # type: ignore[arg-type]
    resumed = embed(text.run, text.tables / "products.parquet", tmp_path / "cut", **arguments)  # type: ignore[arg-type]
    for name in ("products.npy", "products.ids.npy", "products.ids.parquet"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()


def test_searches_find_the_shops_ids(text: Shop, tmp_path: Path) -> None:
    photo = text.images / "3-1-23"
    hits = search(text.run, image=photo, k=5)
    products = pl.read_parquet(text.tables / "products.parquet")
    titles = dict(products.select("item_id", "title").iter_rows())
    assert hits and all(isinstance(hit.item_id, str) and hit.row["title"] == titles[hit.item_id] for hit in hits)
    assert all(hit.row["item_id"] == hit.item_id and hit.row["spu_id"].startswith("spu 0") for hit in hits)
    # A part of the catalogue: its numbers are not those of the dataset.
    products.filter(pl.col("item_id") >= "item 000030").write_parquet(tmp_path / "part.parquet")
    vectors = embed(text.run, tmp_path / "part.parquet", tmp_path / "part", images=text.images, workers=0)
    for kind in ("flat", "hnsw", "ivf"):
        built = index(vectors, kind)
        assert pl.read_parquet(f"{built.path}.ids.parquet")["item_id"].min() >= "item 000030"  # type: ignore[operator]
        found = search(text.run, image=photo, k=5, index=built.path)
        assert [hit.row["title"] for hit in found] == [titles[str(hit.item_id)] for hit in found]
        assert min(str(hit.item_id) for hit in found) >= "item 000030" and len(found) == 5
        new = search(text.run, image=photo, k=99, index=built.path, new_only=True)
        listed = products.filter(pl.col("listed_at") >= EXAMPLE_SPLITS.train_until, pl.col("item_id") >= "item 000030")
        assert {hit.item_id for hit in new} <= {*listed["item_id"]} and new


def test_an_index_whose_ids_are_lost_or_changed_is_refused(text: Shop, tmp_path: Path) -> None:
    built = index(text.run, "flat", tmp_path / "x.faiss")
    names = tmp_path / "x.faiss.ids.parquet"
    kept = names.read_bytes()
    names.unlink()
    with pytest.raises(BrokenIndex, match=r"x\.faiss\.ids\.parquet is missing"):
        Index.open(built.path)
    names.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(BrokenIndex, match=r"x\.faiss is broken \(x\.faiss\.ids\.parquet"):
        Index.open(built.path)
    names.write_bytes(kept)
    assert Index.open(built.path).names is not None


def test_products_of_a_shop_with_other_ids_are_not_taken_for_its_own(shops: dict[str, Shop], tmp_path: Path) -> None:
    numbers = shops["int64"].tables / "products.parquet"
    vectors = embed(shops["text"].run, numbers, tmp_path / "v", images=shops["int64"].images, workers=0)
    built = index(vectors, "flat")
    hits = search(shops["text"].run, text="mug", k=3, index=built.path)
    assert hits and all(isinstance(hit.item_id, int) and not hit.row for hit in hits)
    assert not search(shops["text"].run, text="mug", k=3, index=built.path, new_only=True)


def test_the_command_line_speaks_the_shops_ids(text: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str | Path) -> str:
        assert main(list(map(str, words))) == 0
        return capsys.readouterr().out

    assert "item 0000" in said("search", text.run, "--image", text.images / "3-1-23", "--sheet", tmp_path / "hits.png")
    said("export", text.run, tmp_path / "shipped")
    assert json.loads((tmp_path / "shipped/config.json").read_text())["text_ids"] == ["products", "queries"]
    products = text.tables / "products.parquet"
    said(
        "embed",
        tmp_path / "shipped",
        "--products",
        products,
        "--images",
        text.images,
        "--out",
        tmp_path / "v",
        "--workers",
        "0",
    )
    said("index", tmp_path / "v", "--kind", "flat")
    found = said("search", tmp_path / "shipped", "--text", "mug", "--index", tmp_path / "v/products.flat.faiss")
    assert "item 0000" in found
    evaluated = tmp_path / "evaluated.json"
    said("evaluate", text.run, "--data", text.data, "--out", evaluated, "--workers", "0")
    results = json.loads(evaluated.read_text())["results"]
    assert results["image_search/recall@10"] == Run(text.run).results["image_search/recall@10"]
    assert "\nok" in said("data", "check", text.data, "--sheet", tmp_path / "sheet.png")


def test_unreadable_images_are_named_by_the_shops_ids(text: Shop, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for image in text.images.iterdir():
        (tmp_path / "images" / image.name).write_bytes(image.read_bytes())
    row = pl.read_parquet(text.tables / "products.parquet").drop_nulls("image").row(3, named=True)
    (tmp_path / "images" / row["image"]).write_bytes(b"no picture")
    data = build(text.tables, tmp_path / "images", tmp_path / "data", splits=EXAMPLE_SPLITS)
    (line,) = map(json.loads, (data / "quarantine.jsonl").read_text().splitlines())
    assert line["id"] == row["item_id"]
    out = embed(text.run, text.tables / "products.parquet", tmp_path / "v", images=tmp_path / "images", workers=0)
    (line,) = map(json.loads, (out / "products.quarantine.jsonl").read_text().splitlines())
    assert line["id"] == row["item_id"]


def test_a_stream_has_the_shops_ids_in_its_rows(text: Shop) -> None:
    products = pl.read_parquet(text.tables / "products.parquet")
    samples = list(stream(text.data))
    rows = [json.loads(sample["json"]) for sample in samples]
    assert [row["item_id"] for row in rows] == products["item_id"].to_list()
    assert [row["merchant_id"] for row in rows] == products["merchant_id"].to_list()
    assert [sample["__key__"] for sample in samples] == [
        str(number) for number in Dataset(text.data).products["item_id"]
    ]


def test_a_check_names_what_it_finds_as_the_shop_does(text: Shop, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    for file in text.tables.iterdir():
        frame = pl.read_parquet(file)
        if file.stem == "searches":
            frame = frame.with_columns(search_id=pl.lit("search 000007 "))
        frame.write_parquet(tmp_path / "tables" / file.name)
    found = check(build(tmp_path / "tables", text.images, tmp_path / "out", splits=EXAMPLE_SPLITS))
    (long,) = [line for line in found.problems if line.startswith("search_ids whose events are a day or more apart")]
    assert ": 1 (search 000007 ); " in long
    assert any("search ids with spaces around them: 1, such as 'search 000007 '" in line for line in found.warnings)


def test_errors_of_a_reader_name_the_shops_ids(text: Shop) -> None:
    reader = SampleReader(text.data, "products")
    assert "item_id item 000003: " in str(reader._broken(3, 0, "it is damaged"))


@pytest.mark.parametrize("change", ["cut", "changed", "gone"])
def test_a_broken_mapping_is_noticed(copied: Path, change: str) -> None:
    file = copied / "ids" / "item-000000.arrow"
    data = file.read_bytes()
    if change == "gone":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2] if change == "cut" else data.replace(b"item 000007", b"item 000008"))
    with pytest.raises((Damaged, BrokenShard), match=r"item-000000\.arrow|0 of 96 item ids are there"):
        _ = Dataset(copied).ids
    assert any("item-000000.arrow" in problem for problem in check(copied).problems)
    (copied / "moonlib.sha256").unlink()
    with pytest.raises(BrokenShard, match=r"item-000000\.arrow is broken|0 of 96 item ids are there"):
        _ = Dataset(copied).ids


def test_questions_name_products_as_the_shop_does(text: Shop, tmp_path: Path) -> None:
    dataset = Dataset(text.data)
    rows = {
        "item_id": ["item 000002", "other", "item 000002"],
        "question": ["a?", "b?", "c?"],
        "answer": ["1", "2", "3"],
    }
    pl.DataFrame(rows).write_csv(tmp_path / "q.csv")
    found = read_questions(tmp_path / "q.csv", dataset.products["item_id"], dataset.ids)
    assert found == {2: [("a?", "1"), ("c?", "3")]}
    pl.DataFrame(rows).with_columns(item_id=pl.Series([1, 2, 3])).write_parquet(tmp_path / "q.parquet")
    with pytest.raises(ValueError, match="column 'item_id': is Int64, and the item ids of the data are text"):
        read_questions(tmp_path / "q.parquet", dataset.products["item_id"], dataset.ids)


def test_an_older_moonlib_would_refuse_the_dataset(text: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moonlib.data.dataset.FORMATS", (1,))
    with pytest.raises(ValueError, match="this moonlib reads formats 1, not 2"):
        Dataset(text.data)
