"""A dataset of which a part was declared: that part is there, and all else is an error that says who and what."""

from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moonlib.data.content import Modalities
from moonlib.data.dataset import Dataset
from moonlib.data.digests import digests
from moonlib.data.reader import SampleReader, UndeclaredPicture
from moonlib.data.reads import EVERYTHING, Reads
from moonlib.data.restricted import RestrictedDataset, Undeclared
from moonlib.data.shards import write_dataset
from moonlib.data.splits import MOMENTS, Split, Splits
from moonlib.data.tables import Tables
from moonlib.testing.examples import EXAMPLE_SPLITS, START, example_dataset, example_picture, example_tables


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return example_dataset(tmp_path_factory.mktemp("shop") / "dataset")


def restricted(dataset: Dataset, reads: Reads) -> RestrictedDataset:
    return RestrictedDataset(dataset, reads, "stage pretrain")


def test_declared_columns_are_there_and_others_are_an_error_that_says_who_and_what(shop: Dataset) -> None:
    view = restricted(shop, Reads.of(products=["title", "price"], moments=["train_until"]))
    assert set(view.products.columns) == {"item_id", "title", "price"}
    assert view.table("products", ("price",)).equals(shop.table("products", ("price",)))
    assert view.arrow("products").equals(shop.arrow("products").select(view.products.columns))
    assert "merchant_id" in view.columns("products")
    for read, what in (
        (lambda: view.table("products", ("item_id", "merchant_id")), "reads the column 'merchant_id' of products"),
        (lambda: view.searches, "reads the table searches"),
        (lambda: view.splits.test_until, "reads the split date test_until"),
        (lambda: view.splits.window("valid"), "reads the split date valid_until"),
        (lambda: view.truth, "reads the truth of the simulation"),
        (lambda: view.with_queries(shop.queries), "reads queries that the dataset does not have"),
        (lambda: SampleReader(view, "queries"), "reads the table queries"),
        (lambda: view.image_digests("products"), "reads the pictures of products"),
    ):
        with pytest.raises(Undeclared, match=f"^stage pretrain {what}, and has not declared it.* the method `reads`"):
            read()  # type: ignore[no-untyped-call]
    assert view.splits.train_until == shop.splits.train_until
    assert view.splits.known(pl.DataFrame({"listed_at": [START]})).height == 1


def test_samples_hold_what_is_declared(shop: Dataset) -> None:
    ids = shop.products["item_id"].to_numpy()
    title = SampleReader(restricted(shop, Reads.content("products", [Modalities.parse("title")])), "products")
    both = SampleReader(restricted(shop, Reads.content("products", [Modalities.parse("title+image")])), "products")
    whole = SampleReader(shop.directory, "products").read(ids)
    for reader in (both, pickle.loads(pickle.dumps(both))):
        samples = reader.read(ids)
        assert [sample.image for sample in samples] == [sample.image for sample in whole]
        assert [dict(sample.row) for sample in samples] == [
            {key: sample.row[key] for key in ("item_id", "title", "image", "box") if key in sample.row}
            for sample in whole
        ]
    (sample,) = title.read(ids[:1])
    assert isinstance(sample.image, UndeclaredPicture)
    for row in (sample.row, sample.row | {"box": None}, pickle.loads(pickle.dumps(sample.row))):
        for read in (lambda row=row: row["price"], lambda row=row: row.get("price", 0.0)):
            with pytest.raises(Undeclared, match="stage pretrain reads the column 'price' of products"):
                read()
        assert "price" not in row and row.get("title") == whole[0].row["title"]


def test_rows_of_later_days_are_not_there(shop: Dataset) -> None:
    reads = Reads.of(products=["listed_at"], searches=["query_id", "item_id"], queries=["text"], users=[])
    view, until = restricted(shop, reads.before("behaviour_until")), shop.splits.behaviour_until
    searches = shop.searches.filter(pl.col("ts") < until)
    assert view.searches.equals(searches.select(view.searches.columns)) and 0 < len(searches) < len(shop.searches)
    assert view.products["item_id"].to_list() == shop.products.filter(pl.col("listed_at") < until)["item_id"].to_list()
    named = shop.queries["query_id"].is_in(searches["query_id"].unique().implode())
    assert view.queries["query_id"].equals(shop.queries["query_id"].filter(named)) and not named.all()
    assert view.users["user_id"].is_in(searches["user_id"].implode()).all()
    assert view.counts["products"] == shop.counts["products"] and "impressions" not in view.counts
    reader, late = SampleReader(view, "products"), shop.products.filter(pl.col("listed_at") >= until)["item_id"]
    reader.read(view.products["item_id"].to_numpy())
    assert not np.isin(late.to_numpy(), reader.ids).any() and len(reader) == view.products.height
    assert len(reader.has_image) == len(reader.pictures) == len(reader)
    with pytest.raises(Undeclared, match=rf"stage pretrain reads item_id {late[0]} of products, a row of later days"):
        reader.read(late.to_numpy()[:1])


def test_a_product_that_an_early_event_names_is_there_whenever_it_was_listed(tmp_path: Path) -> None:
    tables = example_tables()
    late = tables.products.filter(pl.col("listed_at") > START)["item_id"][0]
    searches = tables.searches.with_columns(item_id=pl.when(pl.col("search_id") == 0).then(late).otherwise("item_id"))
    dataset = written(tmp_path, replace(tables, searches=searches))
    alone, named = Reads.of(products=[]).before("train_until"), Reads.of(searches=["item_id"]).before("behaviour_until")
    assert late not in restricted(dataset, alone).products["item_id"]
    assert late in restricted(dataset, alone | named).products["item_id"]


def test_a_session_that_goes_on_beyond_a_declared_date_stays_whole(tmp_path: Path) -> None:
    tables = example_tables()
    # The last search before the end of behaviour goes on for an hour after it, and others go on beyond the other dates.
    rows = []
    for moment in (EXAMPLE_SPLITS.behaviour_until, EXAMPLE_SPLITS.train_until, EXAMPLE_SPLITS.valid_until):
        last = tables.searches.filter(pl.col("ts") < moment).sort("ts").tail(1)
        rows.append(last.with_columns(ts=pl.lit(moment + timedelta(hours=1)).cast(last.schema["ts"])))
    dataset = written(tmp_path, replace(tables, searches=pl.concat([tables.searches, *rows])))
    assert len(dataset.sessions) == 3
    splits: dict[Split, Reads] = {
        "behaviour": Reads.of(searches=["action"], moments=["behaviour_until"]).before("behaviour_until"),
        "train": Reads.of(searches=["action"], moments=["behaviour_until", "train_until"]).before("train_until"),
        "valid": Reads.of(searches=["action"], moments=["train_until", "valid_until"]).before("valid_until"),
    }
    for split, reads in splits.items():
        view, expected = restricted(dataset, reads), dataset.splits.select(dataset.searches, split)
        assert view.splits.select(view.searches, split).equals(expected.select(view.searches.columns))
        assert 0 < len(view.sessions) < 3 and "sessions" in digests(dataset, reads)
    # Where a session ends that crosses no declared date, and begins later, is not looked at.
    before = digests(dataset, splits["behaviour"])
    further = rows[2].with_columns(pl.col("ts") + timedelta(hours=1))
    grown = written(tmp_path / "grown", replace(tables, searches=pl.concat([tables.searches, *rows, further])))
    assert digests(grown, splits["behaviour"]) == before and digests(grown, splits["valid"]) != digests(
        dataset, splits["valid"]
    )


def test_other_splits_show_no_more_rows(shop: Dataset) -> None:
    reads = Reads.of(products=["listed_at"], searches=["item_id"], moments=["behaviour_until"])
    view = restricted(shop, reads.before("behaviour_until"))
    products, searches = view.products, view.searches
    later = Splits(*(getattr(shop.splits, moment) + timedelta(days=3) for moment in MOMENTS))
    for other in (view.with_splits(later), pickle.loads(pickle.dumps(view.with_splits(later)))):
        assert other.splits.test_until == later.test_until
        assert other.products.equals(products) and other.searches.equals(searches)
        assert other.sessions.is_empty()
    assert restricted(shop, Reads.of(products=[])).with_splits(later).sessions.is_empty()


def test_rows_before_a_moment_are_digested_by_the_splits_that_are_given(shop: Dataset) -> None:
    reads = Reads.of(searches=["item_id"]).before("behaviour_until")
    later = Splits(*(getattr(shop.splits, moment) + timedelta(days=1) for moment in MOMENTS))
    assert digests(shop.with_splits(later), reads) != digests(shop, reads)


def test_it_can_be_sent_to_another_process(shop: Dataset) -> None:
    view = restricted(shop, Reads.of(products=["title"], searches=[]).before("train_until"))
    again = pickle.loads(pickle.dumps(view))
    assert again.products.equals(view.products) and again.searches.equals(view.searches)
    with pytest.raises(Undeclared, match="stage pretrain"):
        again.table("users")


def test_everything_is_the_dataset_itself(shop: Dataset) -> None:
    view = restricted(shop, EVERYTHING)
    assert all(view.table(table).equals(shop.table(table)) for table in shop.counts)
    assert view.splits.to_json() == shop.splits.to_json() and view.truth is None
    (sample,) = SampleReader(view, "products").read(np.array([1001]))
    assert sample == SampleReader(shop, "products").read(np.array([1001]))[0]


def written(folder: Path, tables: Tables) -> Dataset:
    folder.mkdir(exist_ok=True)
    (folder / "data").mkdir()
    write_dataset(folder / "data", tables, example_picture, EXAMPLE_SPLITS, name="shop", version="1", workers=1)
    return Dataset(folder / "data")
