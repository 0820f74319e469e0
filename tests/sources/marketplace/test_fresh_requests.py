"""Fresh requests are more of the same world, and change nothing of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import simplejpeg

from moonlib.data.dataset import Dataset
from moonlib.sources.marketplace.fashion import DAYS
from moonlib.sources.marketplace.fresh_requests import FreshRequests, draw_requests, marketplace_of
from moonlib.sources.marketplace.market import SHOWN
from moonlib.sources.marketplace.world import MICROSECONDS_PER_DAY, World
from moonlib.testing.data import forget_checksums


@pytest.fixture(scope="module")
def fresh(world: World) -> FreshRequests:
    return draw_requests(world, 3000)


def test_they_are_new_and_of_the_datasets_products_and_users(fresh: FreshRequests, tiny: Dataset) -> None:
    rows = fresh.impressions
    assert rows.schema == tiny.impressions.schema
    assert rows["item_id"].is_in(tiny.products["item_id"].implode()).all()
    assert rows["user_id"].is_in(tiny.users["user_id"].implode()).all()
    for frame in (tiny.impressions, tiny.searches):
        assert not rows["search_id"].is_in(frame["search_id"].unique().implode()).any()
    assert not fresh.queries["query_id"].is_in(tiny.queries["query_id"].implode()).any()
    start, end = tiny.splits.window("test")
    assert rows.filter((pl.col("ts") < start) | (pl.col("ts") >= end)).is_empty()
    assert (rows["ts"] >= rows.join(tiny.products, on="item_id", maintain_order="left")["listed_at"]).all()
    days = rows.group_by("search_id").agg(pl.col("ts").first().dt.date())["ts"].value_counts()["count"]
    assert days.to_list() == [1000, 1000, 1000]
    assert rows.group_by("search_id").agg(pl.col("item_id").is_duplicated().any())["item_id"].any() is False
    assert (rows["position"] == 0).all() and not rows["clicked"].any() and rows["propensity"].is_null().all()


def test_a_products_bid_and_price_are_its_own(fresh: FreshRequests, tiny: Dataset) -> None:
    joined = fresh.impressions.join(tiny.products, on="item_id", how="left", maintain_order="left")
    np.testing.assert_array_equal(fresh.price, joined["price"].to_numpy())
    bids = tiny.impressions.group_by("item_id").agg(logged=pl.col("bid").first())
    both = fresh.impressions.join(bids, on="item_id")
    assert both["bid"].equals(both["logged"]) or (both["bid"] == both["logged"]).all()


def test_shoppers_click_as_the_simulations_do(world: World, fresh: FreshRequests) -> None:
    """Shown as the production ranker shows, fresh candidates are clicked and bought as often as the logged ones."""
    c, t = world.catalogue, world.traffic
    item = np.searchsorted(np.sort(ids := item_ids(world)), fresh.impressions["item_id"].to_numpy())
    item = np.argsort(ids)[item]
    rng = np.random.default_rng(0)
    query = fresh.latent[fresh.request]
    score = 10 * (query * c.latent[item]).sum(axis=1) + 0.3 * c.popularity[item] + rng.gumbel(size=len(item))
    order = np.lexsort((-score, fresh.request))
    place = np.empty(len(item), dtype=np.int64)
    place[order] = np.arange(len(item)) - np.searchsorted(fresh.request, fresh.request)
    shown = place < SHOWN
    rate = fresh.p_click(np.minimum(place, SHOWN - 1))[shown].mean()
    logged = (t.ts[t.search] // MICROSECONDS_PER_DAY >= DAYS - 3) & np.isnan(t.propensity)
    first = np.isin(t.search, first_searches(world))
    assert rate == pytest.approx(t.p_click[logged & first].mean(), rel=0.08)
    anywhere = fresh.p_click(np.zeros_like(place))
    assert anywhere[shown].mean() > 1.5 * anywhere[~shown].mean()


def item_ids(world: World) -> np.ndarray:
    from moonlib.sources.marketplace.ids import WorldIds

    return WorldIds(world).item


def first_searches(world: World) -> np.ndarray:
    """Of each user and day the earliest: those that a fresh request stands for."""
    t = world.traffic
    frame = pl.DataFrame({"search": np.arange(len(t.user)), "user": t.user, "day": world.day, "ts": t.ts})
    frame = frame.filter(t.intended >= 0)
    return frame.sort("ts").group_by("user", "day", maintain_order=True).first()["search"].to_numpy()


def test_position_lowers_a_click_as_it_does_in_the_log(world: World, fresh: FreshRequests) -> None:
    n = len(fresh.request)
    top, ninth = fresh.p_click(np.zeros(n, dtype=np.int64)), fresh.p_click(np.full(n, 8))
    logit = np.log(top / (1 - top)) - np.log(ninth / (1 - ninth))
    np.testing.assert_allclose(logit, 0.45 * np.log2(9))


def test_a_draw_is_a_function_of_its_seed_and_leaves_the_world_alone(world: World) -> None:
    one, again, other = (draw_requests(world, 60, seed) for seed in (0, 0, 1))
    assert one.impressions.equals(again.impressions) and one.queries.equals(again.queries)
    np.testing.assert_array_equal(one.uniform, again.uniform)
    assert one.shots.take(3) == again.shots.take(3)
    assert not one.impressions.equals(other.impressions)
    untouched = World.simulate("tiny", 0)
    for field in fields(untouched.traffic):
        if field.name != "told":
            np.testing.assert_array_equal(getattr(untouched.traffic, field.name), getattr(world.traffic, field.name))


def test_queries_have_the_photo_and_the_text_of_their_own(fresh: FreshRequests) -> None:
    some = replace(fresh, queries=fresh.queries.head(40))
    ids = some.queries["query_id"].to_numpy()[::-1]
    samples = some.samples.read(ids)
    assert [sample.id for sample in samples] == ids.tolist()
    for sample in samples:
        assert (sample.image is None) == (sample.row["image"] is None)
        assert sample.image or sample.row["box"] is None
        assert sample.image or sample.row["text"]
        if sample.image:
            assert simplejpeg.decode_jpeg(sample.image).shape == (64, 64, 3)
        if sample.row["box"]:
            x0, y0, x1, y1 = sample.row["box"]
            assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
    boxes = [sample.row["box"] for sample in samples if sample.image]
    assert 0 < sum(box is not None for box in boxes) <= len(boxes)


def test_candidates_are_in_no_order(fresh: FreshRequests, tiny: Dataset) -> None:
    """Equal scores stay in the order of the candidates, which must favour nobody."""
    joined = fresh.impressions.join(tiny.products, on="item_id", how="left", maintain_order="left")
    first = np.r_[True, np.diff(fresh.request) > 0]
    age = (joined["ts"] - joined["listed_at"]).dt.total_hours().to_numpy()
    assert age[first].mean() == pytest.approx(age.mean(), rel=0.1)


def test_a_world_is_known_by_its_dataset(world: World, tiny: Dataset, tmp_path: Path) -> None:
    found = marketplace_of(tiny)
    assert found is not None
    np.testing.assert_array_equal(found.traffic.p_click, world.traffic.p_click)
    forget_checksums(Path(shutil.copytree(tiny.directory, tmp_path / "copy")))
    file = tmp_path / "copy/dataset.json"
    described = json.loads(file.read_text())
    others = [("my-shop", "1"), ("marketplace-tiny-0", "0"), ("marketplace-tiny-1", "1"), ("marketplace-tiny-x", "1")]
    for name, version in others:
        file.write_text(json.dumps(described | {"name": name, "version": version}))
        assert marketplace_of(Dataset(tmp_path / "copy")) is None


def test_too_few(world: World) -> None:
    with pytest.raises(ValueError, match="2 requests: there are 3 test days"):
        draw_requests(world, 2)
