from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from polars.testing import assert_frame_equal

from moonlib.data.dataset import Dataset
from moonlib.data.reader import SampleReader
from moonlib.data.tables import Tables, validate
from moonlib.sources.marketplace.source import Marketplace
from moonlib.sources.marketplace.world import World

SPLITS = ("behaviour", "train", "valid", "test")


def truth(dataset: Dataset, name: str) -> pl.DataFrame:
    assert dataset.truth is not None
    return pl.read_ipc(dataset.truth / f"{name}.arrow")


def auc(score: NDArray[np.float64], clicked: NDArray[np.bool_]) -> float:
    """The share of (clicked, not clicked) pairs in the right order, pair by pair."""
    better = score[clicked][:, None] - score[~clicked][None, :]
    return float((better > 0).mean() + 0.5 * (better == 0).mean())


def test_a_build_is_a_function_of_size_and_seed(tiny: Dataset, tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from moonlib.sources.marketplace.source import Marketplace\n"
    script += "if __name__ == '__main__': print(Marketplace('tiny', seed=0).prepare(Path(sys.argv[1])))"
    environment = {**os.environ, "PYTHONHASHSEED": "4321", "OMP_NUM_THREADS": "1", "TZ": "Asia/Shanghai"}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, env=environment)
    (directory,) = tmp_path.iterdir()
    again = Dataset(directory)
    assert directory.name == tiny.directory.name
    assert again.hash == tiny.hash
    assert tiny.truth is not None and again.truth is not None
    for file in sorted(tiny.truth.iterdir()):
        assert (again.truth / file.name).read_bytes() == file.read_bytes(), file.name


def test_prepare_builds_once(tiny: Dataset) -> None:
    written = (tiny.directory / "dataset.json").stat().st_mtime_ns
    assert Marketplace("tiny", seed=0).prepare(tiny.directory.parent) == tiny.directory
    assert (tiny.directory / "dataset.json").stat().st_mtime_ns == written


def test_a_dataset_is_shards_and_truth_and_nothing_else(tiny: Dataset) -> None:
    assert {path.name for path in tiny.directory.iterdir()} == {"moonlib.sha256", "dataset.json", "shards", "truth"}


def test_seeds_are_different_worlds() -> None:
    one, two = World.simulate("tiny", 0), World.simulate("tiny", 1)
    assert one.listings.title[:20] != two.listings.title[:20]
    assert not np.array_equal(one.catalogue.latent[:20], two.catalogue.latent[:20])


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="size 'huge' is none of tiny, small, medium, large"):
        Marketplace("huge")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed -1 is negative"):
        Marketplace("tiny", seed=-1)


def test_the_tables_are_valid(tiny: Dataset) -> None:
    tables = Tables(tiny.products, tiny.queries, tiny.users, tiny.searches, tiny.impressions)
    assert_frame_equal(validate(tables).searches, tiny.searches)


def test_tiny_is_tiny(tiny: Dataset) -> None:
    assert 250 <= tiny.counts["products"] <= 400
    assert tiny.counts["users"] == 150
    assert 1_300 <= tiny.queries["image"].count() <= 2_500
    assert 10_000 <= tiny.counts["impressions"] <= 15_000
    assert {tiny.splits.check(tiny.impressions, split, "impressions").height > 300 for split in SPLITS[1:]} == {True}
    assert tiny.splits.select(tiny.impressions, "behaviour").is_empty()
    assert tiny.splits.select(tiny.searches, "behaviour").height > 20_000


def test_queries_are_kept_of_the_last_thirty_days(tiny: Dataset) -> None:
    kept = tiny.splits.behaviour_until - timedelta(days=18)
    assert tiny.searches["ts"].min() < kept - timedelta(days=175)  # type: ignore[operator]
    early, late = tiny.searches.filter(pl.col("ts") < kept), tiny.searches.filter(pl.col("ts") >= kept)
    assert early["query_id"].null_count() == early.height > 15_000
    assert 0.2 < late["query_id"].is_null().mean() < 0.45  # type: ignore[operator]


def test_a_page_of_the_feed_has_no_query(tiny: Dataset) -> None:
    feed = tiny.impressions.filter(pl.col("query_id").is_null())
    assert 0.25 < feed.height / tiny.impressions.height < 0.42
    assert feed["relevance"].is_null().all()
    asked = tiny.impressions.drop_nulls("query_id")
    assert not feed["search_id"].is_in(asked["search_id"].unique().implode()).any()


def test_queries_are_photos_texts_or_both(tiny: Dataset) -> None:
    text, image = tiny.queries["text"].is_not_null(), tiny.queries["image"].is_not_null()
    assert (text | image).all()
    assert (tiny.queries["text"].drop_nulls() != "").all()
    assert 0.6 < image.mean() < 0.8
    assert (text & image).sum() > 200 < (text & ~image).sum()


def test_every_search_and_photo_stays_in_its_split(tiny: Dataset) -> None:
    events = pl.concat(
        [
            tiny.splits.select(frame, split).select("search_id", "query_id", split=pl.lit(split))
            for frame in (tiny.searches, tiny.impressions)
            for split in SPLITS
        ]
    )
    assert events.height == tiny.searches.height + tiny.impressions.height
    assert events.group_by("search_id").agg(pl.col("split").n_unique())["split"].max() == 1
    assert (
        events.drop_nulls("query_id").group_by("query_id").agg(pl.col("search_id").n_unique())["search_id"].max() == 1
    )
    assert tiny.queries["image"].drop_nulls().is_unique().all()


def test_a_share_of_the_test_impressions_shows_new_products(tiny: Dataset) -> None:
    shown = tiny.splits.select(tiny.impressions, "test").join(tiny.products, on="item_id")
    assert 0.1 < (shown["listed_at"] >= tiny.splits.train_until).mean() < 0.3


def test_nothing_is_shown_before_it_is_listed(tiny: Dataset) -> None:
    shown = tiny.impressions.join(tiny.products.select("item_id", "listed_at"), on="item_id")
    assert (shown["listed_at"] < shown["ts"]).all()


def test_actions_follow_what_was_shown(tiny: Dataset) -> None:
    logged = tiny.searches.filter(pl.col("ts") >= tiny.splits.behaviour_until)
    joined = logged.join(tiny.impressions, on=["search_id", "item_id"], how="left", suffix="_shown")
    assert (joined["ts"] > joined["ts_shown"]).all()
    assert joined["clicked"].all()
    clicks = logged.filter(pl.col("action") == "click")
    assert clicks.height == tiny.impressions["clicked"].sum()
    first = tiny.searches.group_by("search_id", "item_id").agg(pl.col("action").sort_by("ts").first())
    assert set(first["action"]) == {"click"}
    assert set(tiny.searches["action"]) == {"click", "cart", "order"}


def test_times_are_ordered_and_not_rounded(tiny: Dataset) -> None:
    for frame in (tiny.searches, tiny.impressions):
        assert frame["ts"].is_sorted()
        assert frame["ts"].dt.microsecond().n_unique() > 100


@pytest.mark.parametrize("key", ["item_id", "spu_id", "user_id", "query_id", "search_id", "merchant_id"])
def test_ids_use_all_of_int64(tiny: Dataset, key: str) -> None:
    tables = (tiny.products, tiny.users, tiny.queries, tiny.impressions)
    ids = next(frame[key] for frame in tables if key in frame.columns).unique()
    assert (ids < 0).any() and (ids > 0).any()
    assert (ids.abs() > 2**53).mean() > 0.9
    assert (ids.cast(pl.Float64).cast(pl.Int64, strict=False) != ids).fill_null(True).mean() > 0.9


def test_positions_run_from_the_top(tiny: Dataset) -> None:
    pages = tiny.impressions.group_by("search_id").agg(
        pl.col("position").sort(), pl.col("item_id").n_unique().alias("items"), pl.len()
    )
    assert (pages["items"] == pages["len"]).all()
    assert all(page == list(range(len(page))) for page in pages["position"].to_list())


def test_a_share_of_the_traffic_is_shuffled_and_says_so(tiny: Dataset) -> None:
    pages = tiny.impressions.group_by("search_id").agg(
        pl.col("propensity").first(), pl.col("propensity").n_unique().alias("kinds"), pl.len()
    )
    assert pages["kinds"].max() == 1
    assert 0.04 < pages["propensity"].is_not_null().mean() < 0.11
    assert (pages["propensity"] * pages["len"] <= 1).drop_nulls().all()


def test_some_impressions_are_judged(tiny: Dataset) -> None:
    assert set(tiny.impressions["relevance"].drop_nulls()) == {0.0, 1.0, 2.0, 3.0}
    assert 0.05 < tiny.impressions["relevance"].is_not_null().mean() < 0.15


def test_titles_come_in_both_languages(tiny: Dataset) -> None:
    for texts in (tiny.products["title"], tiny.queries["text"].drop_nulls()):
        chinese, latin = texts.str.contains(r"\p{Han}"), texts.str.contains(r"[A-Za-z]{3}")
        assert min((chinese & ~latin).mean(), (latin & ~chinese).mean()) > 0.25


def test_the_truth_is_aligned_with_the_tables(tiny: Dataset) -> None:
    impressions = truth(tiny, "impressions")
    assert_frame_equal(impressions.select("search_id", "item_id"), tiny.impressions.select("search_id", "item_id"))
    assert_frame_equal(truth(tiny, "products").select("item_id", "spu_id"), tiny.products["item_id", "spu_id"])
    assert truth(tiny, "queries")["query_id"].equals(tiny.queries["query_id"])
    assert truth(tiny, "titles")["item_id"].equals(tiny.products["item_id"])
    for name in ("products", "queries"):
        lengths = np.linalg.norm(np.stack(truth(tiny, name)["latent"].to_numpy()), axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-5)


def test_pictures_have_true_boxes_and_those_of_a_detector(tiny: Dataset) -> None:
    for table in (tiny.products, tiny.queries):
        true = truth(tiny, "products" if "item_id" in table.columns else "queries")["box"]
        assert (true.is_not_null() == table["image"].is_not_null()).all()
        both = pl.DataFrame({"true": true, "found": table["box"]}).filter(pl.col("true").is_not_null())
        assert 0.02 < both["found"].is_null().mean() < 0.16
        off = both.drop_nulls().select(pl.col("found").list.first() - pl.col("true").list.first()).to_series().abs()
        assert off.max() > 0 and off.median() < 0.1
        assert table.filter(pl.col("image").is_null())["box"].is_null().all()


def test_products_have_one_to_four_pictures(tiny: Dataset) -> None:
    assert tiny.products["images"].list.first().equals(tiny.products["image"], check_names=False)
    assert set(tiny.products["images"].list.len()) == {1, 2, 3, 4}
    several = tiny.products.filter(pl.col("images").list.len() > 1)
    assert 0.5 < several.height / tiny.products.height < 0.7
    reader = SampleReader(tiny.directory, "products")
    first = reader.read(several["item_id"].head(3).to_numpy())
    assert [1 + len(sample.more) for sample in first] == several["images"].head(3).list.len().to_list()
    assert all(len({sample.image, *sample.more}) == 1 + len(sample.more) for sample in first)


def test_duplicates_repeat_a_product_under_another_title_and_merchant(tiny: Dataset) -> None:
    pairs = truth(tiny, "duplicates")
    columns = tiny.products.select("item_id", "spu_id", "title", "merchant_id", "image", "listed_at")
    both = pairs.join(columns, on="item_id").join(
        columns, left_on="original_id", right_on="item_id", suffix="_of_original"
    )
    assert both.height == pairs.height > 30
    assert (both["spu_id"] == both["spu_id_of_original"]).all()
    assert (both["merchant_id"] != both["merchant_id_of_original"]).all()
    assert (both["title"] != both["title_of_original"]).mean() > 0.98
    assert (both["image"] != both["image_of_original"]).all()


def test_the_true_probability_is_the_ceiling(tiny: Dataset) -> None:
    test = tiny.impressions["ts"] >= tiny.splits.valid_until
    shown = truth(tiny, "impressions").with_columns(tiny.impressions["clicked"]).filter(test)
    ceiling = auc(shown["p_click"].to_numpy(), shown["clicked"].to_numpy())
    blind = auc(shown["p_click_no_position"].to_numpy(), shown["clicked"].to_numpy())
    assert 0.72 < blind < ceiling < 0.88
    everything = truth(tiny, "impressions")["p_click"].to_numpy()
    spread = np.sqrt((everything * (1 - everything)).sum()) / len(everything)
    assert abs(everything.mean() - tiny.impressions["clicked"].mean()) < 4 * spread


def test_true_latents_find_what_was_ordered(tiny: Dataset) -> None:
    photos = tiny.queries.filter(pl.col("image").is_not_null()).select("query_id")
    orders = tiny.splits.select(tiny.searches, "test").filter(pl.col("action") == "order").join(photos, on="query_id")
    spu_of = dict(tiny.products.select("item_id", "spu_id").iter_rows())
    latent_of = dict(truth(tiny, "queries").select("query_id", "latent").iter_rows())
    gallery = np.stack(truth(tiny, "products")["latent"].to_numpy())
    hits = []
    for query, item, ts in orders.select("query_id", "item_id", "ts").iter_rows():
        listed = (tiny.products["listed_at"] <= ts).to_numpy()
        scores = np.where(listed, gallery @ np.array(latent_of[query], dtype=np.float32), -np.inf)
        best = tiny.products["item_id"].gather(np.argsort(-scores)[:10])
        hits.append(spu_of[item] in {spu_of[i] for i in best})
    assert len(hits) > 50
    assert np.mean(hits) > 0.95
