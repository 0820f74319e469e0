"""A shop as it is: a third of its products without a category, a third of its traffic without a query."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from moonlib.adapters.cube import Cube
from moonlib.clicks.features import Features
from moonlib.clicks.histories import Histories
from moonlib.clicks.impressions import ImpressionBatch, Impressions, Lookups, Vocabularies
from moonlib.data.contact_sheet import contact_sheet
from moonlib.data.content import Modalities, compose
from moonlib.data.dataset import Dataset
from moonlib.data.evaluation import evaluation_searches, log_orders_without_query
from moonlib.data.shards import build_once, write_dataset
from moonlib.data.splits import MOMENTS, Splits
from moonlib.data.tables import Tables, validate
from moonlib.filters.category_rebalance import CategoryRebalance
from moonlib.filters.gazetteer import Gazetteer
from moonlib.filters.similarity_dedup import SimilarityDedup
from moonlib.filters.spu_merge import SpuMerge
from moonlib.negatives.same_category import SameCategory
from moonlib.pairs.catalogue import Catalogue
from moonlib.pairs.pair_source import PairContext
from moonlib.pairs.pairs import Pairs, search_pairs
from moonlib.pairs.questions import KINDS, answerable, ask
from moonlib.pairs.searches import SearchPairs
from moonlib.predictors.mlp import MLP
from moonlib.probes.categories import Categories
from moonlib.probes.clusters import Clusters
from moonlib.probes.probe import Represented
from moonlib.representations.store import Representations
from moonlib.stages.application import ClickModel
from moonlib.stages.relevance import judged_impressions, log_labels_without_query
from moonlib.stages.represent import measured_queries
from moonlib.testing.examples import EXAMPLE_SPLITS, example_picture, example_representations, example_tables
from moonlib.testing.training import example_training_data


def third(column: str) -> pl.Expr:
    """The column, null in every third row."""
    return pl.when(pl.int_range(pl.len()) % 3 != 1).then(column).alias(column)


def gappy() -> Tables:
    tables = example_tables()
    return validate(
        replace(
            tables,
            products=tables.products.with_columns(third("category")),
            # Pages are of four impressions: a whole page has a query or none.
            impressions=tables.impressions.with_columns(
                pl.when(pl.col("search_id") % 3 != 1).then("query_id").alias("query_id")
            ),
            searches=tables.searches.with_columns(third("query_id")),
        )
    )


def written(directory: Path, tables: Tables, splits: Splits = EXAMPLE_SPLITS) -> Dataset:
    def build(draft: Path) -> None:
        write_dataset(draft, tables, example_picture, splits, name="gappy", version="1", workers=1)

    return Dataset(build_once(directory, build))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return written(tmp_path_factory.mktemp("full") / "dataset", example_tables())


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return written(tmp_path_factory.mktemp("shop") / "dataset", gappy())


@pytest.fixture(scope="module")
def stores(full: Dataset) -> tuple[Representations, Representations]:
    return example_representations(full.products["item_id"], full.queries["query_id"])["random"]


def impressions_of(
    dataset: Dataset, stores: tuple[Representations, Representations], query_history: int = 4
) -> tuple[Impressions, int]:
    rows = dataset.splits.select(dataset.impressions, "test")
    vocabularies = Vocabularies.of(dataset, dataset.splits.select(dataset.impressions, "train"))
    found = Impressions(rows, Lookups.of(dataset, vocabularies, *stores), history=6, query_history=query_history)
    return found, len(vocabularies.query)


def test_impressions_without_a_query_have_none(
    full: Dataset, shop: Dataset, stores: tuple[Representations, Representations]
) -> None:
    rows = shop.splits.select(shop.impressions, "test")
    everything = np.arange(len(rows))
    batch, known = (impressions_of(dataset, stores)[0][everything] for dataset in (shop, full))
    feed = torch.from_numpy(rows["query_id"].is_null().to_numpy())
    assert 0 < feed.sum() < len(feed)
    assert (batch.query[feed] == -1).all() and (batch.query[~feed] >= 0).all()
    assert not batch.has_query[feed].any() and not batch.query_vector[feed].any()
    assert torch.equal(batch.query_vector[~feed], known.query_vector[~feed])
    for name in ("history", "history_mask", "history_vectors", "target", "target_vector"):
        assert torch.equal(getattr(batch, name), getattr(known, name)), f"{name}: what was done stays done"


def test_past_queries_are_those_that_were_asked(shop: Dataset) -> None:
    """By a loop over a user's actions, newest first."""
    asked, acted = Histories(shop.searches, "query_id"), Histories(shop.searches, "item_id")
    for row in shop.splits.select(shop.impressions, "test").head(60).iter_rows(named=True):
        past = shop.searches.filter(pl.col("user_id") == row["user_id"], pl.col("ts") < row["ts"]).sort("ts")
        moment = int(row["ts"].timestamp() * 1_000_000)
        for histories, key in ((asked, "query_id"), (acted, "item_id")):
            ids, mask = histories.before(*(np.array([row[n]]) if n != "ts" else np.array([moment]) for n in WHEN), 50)
            assert ids[mask].tolist() == past[key].drop_nulls().to_list()[::-1]


WHEN = ("user_id", "ts", "search_id")


def test_the_click_model_sees_no_query_at_all(shop: Dataset, stores: tuple[Representations, Representations]) -> None:
    found, queries = impressions_of(shop, stores, query_history=0)
    torch.manual_seed(0)
    sizes = {"user": 50, "item": 500, "category": 50, "merchant": 50, "query": queries}
    model = ClickModel(Cube(), MLP([4]), sizes, 3, 8).eval()
    batch: ImpressionBatch = found[np.arange(len(found))]
    feed = batch.query < 0
    behaviours = model.behaviours(batch)
    assert not behaviours.query_id[feed].any() and behaviours.query_id[~feed].any(dim=1).all()
    # What stands in the rows of the table of queries, that of the unknown too, is of no account to a feed.
    before = model(batch)
    with torch.no_grad():
        assert model.query is not None
        model.query.weight += 100
    after = model(batch)
    assert torch.equal(after[feed], before[feed]) and not torch.isclose(after[~feed], before[~feed]).any()


def test_a_feature_of_the_query_is_missing_where_there_is_none(shop: Dataset) -> None:
    train, rows = (shop.splits.select(shop.impressions, split) for split in ("train", "test"))
    features = Features.fit(shop, train, {"queries.text": "categorical", "impressions.position": "numeric"})
    batch = features.of(rows).batch(np.arange(len(rows)))
    feed = rows["query_id"].is_null().to_numpy()
    assert not batch.categorical[feed].any() and batch.categorical[~feed].any()


def test_pairs_are_made_of_what_was_asked(shop: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def represent(pairs: Pairs, item_ids: NDArray[np.int64], name: str) -> tuple[Representations, Representations]:
        return example_representations(pl.Series(item_ids), pl.Series(np.unique(pairs.query_id)))["random"]

    searches = shop.splits.select(shop.searches, "behaviour")
    filters = [SpuMerge(), CategoryRebalance(), SimilarityDedup()]
    with caplog.at_level(logging.INFO, "moonlib"):
        pairs, seen = SearchPairs().pairs(PairContext(shop, tmp_path, True, represent))
        assert f"searches without a query, which make no pair: {searches['query_id'].null_count()} of" in caplog.text
        filtered, _ = SearchPairs(filters=filters).pairs(PairContext(shop, tmp_path, True, represent))
    wanted = searches.drop_nulls("query_id").select("query_id", "item_id").unique().sort("query_id", "item_id")
    assert list(zip(pairs.query_id.tolist(), pairs.item_id.tolist(), strict=True)) == wanted.rows()
    assert seen["query_id"].null_count() == 0 and search_pairs(searches).query_id.tolist() == pairs.query_id.tolist()
    assert 0 < len(filtered) <= len(pairs)


def test_without_any_query_there_are_no_pairs(shop: Dataset, tmp_path: Path) -> None:
    tables = gappy()
    none = written(
        tmp_path / "d", replace(tables, searches=tables.searches.with_columns(query_id=pl.lit(None, pl.Int64)))
    )
    with pytest.raises(ValueError, match=r"none of the \d+ searches to learn from has a query_id.*posttrain null"):
        SearchPairs().pairs(PairContext(none, tmp_path, True, None))  # type: ignore[arg-type]


def test_filters_leave_events_without_a_query(shop: Dataset) -> None:
    tables = gappy()
    unasked = tables.searches.filter(pl.col("query_id").is_null())
    for filter in (SpuMerge(), CategoryRebalance()):
        left = filter(tables).tables.searches
        assert left.filter(pl.col("query_id").is_null()).equals(unasked)
    bare = replace(tables, products=tables.products.with_columns(category=pl.lit(None, pl.String)))
    assert CategoryRebalance()(bare).tables.searches.equals(tables.searches), "no category is over-represented"
    assert (Gazetteer.fit(bare.products).names["attribute"] != "category").all()
    held = CategoryRebalance(1.0)(tables).tables.searches
    none = tables.products.filter(pl.col("category").is_null())["item_id"].implode()
    assert held.filter(pl.col("item_id").is_in(none)).equals(tables.searches.filter(pl.col("item_id").is_in(none)))


def test_items_without_a_category_are_nobodys_hard_negatives(shop: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    catalogue = Catalogue.of(shop.products)
    none = set(shop.products.filter(pl.col("category").is_null())["item_id"])
    assert set(catalogue.item_id[catalogue.category == -1].tolist()) == none
    sampler = SameCategory(3)
    sampler.setup(replace(example_training_data(8), catalogue=catalogue))
    pairs = Pairs(catalogue.item_id, catalogue.item_id, catalogue.item_id[:, None], "product")
    proposed = sampler.propose(pairs, 0, np.random.default_rng(0))
    category = dict(zip(catalogue.item_id.tolist(), catalogue.category.tolist(), strict=True))
    for own, others in zip(catalogue.item_id.tolist(), proposed.tolist(), strict=True):
        assert set(others) == {own} if own in none else {category[item] for item in others} == {category[own]}
    sampler.setup(replace(example_training_data(8), catalogue=replace(catalogue, category=catalogue.category * 0 - 1)))
    assert (sampler.propose(pairs, 0, np.random.default_rng(0)) == catalogue.item_id[:, None]).all()
    assert "same_category: no product has a category: nothing to propose" in caplog.text


def test_probes_look_at_products_that_have_a_category(
    shop: Dataset, stores: tuple[Representations, Representations]
) -> None:
    with_category = shop.products.drop_nulls("category")["item_id"].to_numpy()
    moved = np.array(stores[0].vectors)
    moved[~np.isin(stores[0].ids, with_category)] = 7  # whatever those without are
    for probe in (Categories(), Clusters()):
        found = [
            probe(Represented(shop, s, stores[1], "test")) for s in (stores[0], Representations(stores[0].ids, moved))
        ]
        assert found[0] == found[1] and found[0]


def test_nothing_is_asked_about_a_category_that_is_not_there(shop: Dataset) -> None:
    can = answerable(shop.products, KINDS, {})
    rng = np.random.default_rng(0)
    for row, possible in zip(shop.products.to_dicts(), can, strict=True):
        row["attributes"] = dict(row["attributes"] or ())
        for kind, able in zip(KINDS, possible, strict=True):
            if able:
                assert ask(kind, row, rng).answer.strip()
            if kind in ("subject", "category") and able:
                assert row["category"] is not None


def test_a_rich_text_is_what_there_is() -> None:
    rich = Modalities.parse("rich")
    row = {"item_id": 1, "title": "mug", "category": None, "attributes": {"colour": "red"}}
    assert compose(row, None, rich).text == "mug red"
    assert compose(row | {"title": None, "attributes": None}, None, rich).text is None
    products = gappy().products
    expected = [
        compose(row | {"attributes": dict(row["attributes"] or ())}, None, rich).text is not None
        for row in products.to_dicts()
    ]
    assert rich.available(products).tolist() == expected
    assert not rich.available(products.with_columns(title=pl.lit(""), category=pl.lit(None, pl.String))).all()


def test_evaluation_leaves_out_what_was_not_asked(shop: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    orders = shop.splits.select(shop.searches, "test").filter(pl.col("action") == "order")
    assert 0 < orders["query_id"].null_count() < len(orders)
    asked = evaluation_searches(shop, "test")
    assert set(asked["search_id"]) == set(orders.drop_nulls("query_id")["search_id"])
    measured = measured_queries(shop)
    assert measured.dtype == np.int64 and set(measured.tolist()) <= set(shop.queries["query_id"])
    with caplog.at_level(logging.INFO, "moonlib"):
        judged = judged_impressions(shop, "test")
        log_labels_without_query(shop)
        log_orders_without_query(shop)
    assert judged["query_id"].null_count() == 0
    assert "impressions with a relevance label and without a query, which are left out: " in caplog.text
    unasked = orders["query_id"].null_count()
    said = f"orders of the test days without a query, which recall leaves out: {unasked} of {len(orders)}"
    assert said in caplog.messages


def test_the_contact_sheet_shows_what_was_asked(shop: Dataset, tmp_path: Path) -> None:
    contact_sheet(shop, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products and logs as CSV, without spu_id, category, listed_at and query_id; sessions go on across midnight."""
    folder = tmp_path_factory.mktemp("messy")
    tables = example_tables()
    (folder / "photos").mkdir()
    images = [None if name is None else f"{name}.jpg" for name in tables.products["image"]]
    for name in tables.products["image"].drop_nulls():
        (folder / "photos" / f"{name}.jpg").write_bytes(example_picture("products", name))
    products = tables.products.select(pl.col("item_id").alias("sku"), "title", "price", pl.Series("image", images))
    late = pl.when(pl.col("position") > 1).then(pl.col("ts") + pl.duration(hours=3)).otherwise("ts").alias("ts")
    (folder / "tables").mkdir()
    products.write_csv(folder / "tables/feed.csv", separator=";")
    tables.impressions.with_columns(late).drop("query_id", "relevance").write_csv(folder / "tables/shown.csv")
    tables.searches.drop("query_id", "region").write_csv(folder / "tables/orders.csv")
    return folder


def test_a_messy_shop_from_the_command_line(messy: Path, cli: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Map, build, check and fit, with no line of code."""
    tables = [messy / "tables" / name for name in ("feed.csv", "shown.csv", "orders.csv")]
    mapped = cli("data", "map", *tables)
    assert mapped.returncode == 0, mapped.stderr
    (messy / "map.yaml").write_text(mapped.stdout, encoding="utf-8")
    splits = [moment.isoformat() for moment in (getattr(EXAMPLE_SPLITS, name) for name in MOMENTS)]
    options = ["--images", messy / "photos", "--map", messy / "map.yaml", "--splits", *splits]
    built = cli("data", "build", messy / "tables", *options, "--out", messy / "data")
    assert built.returncode == 0, built.stderr
    for said in ("has no spu_id", "has no category", "has no listed_at", "impressions) has no query_id"):
        assert said in built.stdout + built.stderr
    dataset = Dataset(messy / "data")
    assert dataset.sessions.height > 0
    checked = cli("data", "check", messy / "data")
    assert checked.returncode == 0, checked.stdout
    fitted = cli(
        "fit",
        "--config=iter1",
        "--name=messy",
        f"--data={{class_path: shards, init_args: {{path: {messy / 'data'}}}}}",
        "--encoder.init_args.image={class_path: convnet, init_args: {image_size: 32, width: 8}}",
        "--encoder.init_args.text={class_path: transformer, init_args: {vocab_size: 300, width: 32, depth: 1}}",
        "--encoder.init_args.dim=32",
        "--stages.pretrain.trainer.max_steps=2",
        "--stages.pretrain.data.batch_size=16",
        "--stages.pretrain.data.workers=0",
        "--stages.represent.data.workers=0",
        "--stages.application.module.init_args.adapter=cube",
        cwd=messy,
    )
    assert fitted.returncode == 0, fitted.stderr
    results = json.loads((messy / "runs/messy/results.json").read_text())
    assert "ctr/auc" in results and not any("_search/" in key for key in results)
