"""A finished application that scores requests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from moonlib.center.aliases import read_aliases
from moonlib.data.dataset import Dataset
from moonlib.data.reader import SampleReader
from moonlib.runs.run import RunError
from moonlib.serving.score_request import BadRequest
from moonlib.serving.scoring import OtherSnapshot, Scorer
from tests.centers import publish

Request = dict[str, Any]


@pytest.fixture(scope="module")
def scorer(center_application: Path) -> Scorer:
    return Scorer.open(center_application)


@pytest.fixture(scope="module")
def shown(center_application: Path, tiny: Dataset) -> pl.DataFrame:
    """Impressions of the test days, with what the application has predicted of them."""
    test = tiny.splits.select(tiny.impressions, "test")
    predicted = pl.read_parquet(center_application / "application/predictions.parquet").filter(split="test")
    assert test["item_id"].equals(predicted["item_id"])
    return test.with_columns(predicted["probability"])


def request_of(page: pl.DataFrame, dataset: Dataset) -> Request:
    """The request that asks what the impressions of one search ask."""
    first = page.row(0, named=True)
    done = dataset.searches.filter(user_id=first["user_id"])
    return {
        "user": {"user_id": first["user_id"]},
        "query": None if first["query_id"] is None else {"query_id": first["query_id"]},
        "ts": first["ts"],
        "search_id": first["search_id"],
        "history": done.select("item_id", "ts", "search_id", "query_id", "action").to_dicts(),
        "candidates": [
            {"item_id": row["item_id"], "impression": {"position": row["position"]}} for row in page.to_dicts()
        ],
    }


@pytest.fixture
def request_(shown: pl.DataFrame, tiny: Dataset) -> Request:
    """A request of a user with a history and a query of text."""
    texts = tiny.queries.filter(pl.col("image").is_null())["query_id"]
    page = next(
        page
        for _, page in shown.filter(pl.col("query_id").is_in(texts.implode())).group_by(
            "search_id", maintain_order=True
        )
        if len(tiny.searches.filter(pl.col("user_id") == page["user_id"][0], pl.col("ts") < page["ts"].min())) > 3
        and page["ts"].n_unique() == 1
    )
    return request_of(page, tiny)


def test_it_says_what_the_application_has_predicted(scorer: Scorer, shown: pl.DataFrame, tiny: Dataset) -> None:
    pages = list(shown.group_by("search_id", "ts", maintain_order=True))[:40]
    assert sum(len(request_of(page, tiny)["history"]) for _, page in pages) > 100
    for _, page in pages:
        found = scorer.score(request_of(page, tiny))
        np.testing.assert_allclose(found.probabilities, page["probability"], rtol=1e-5)
        assert not found.missing.keys() - {"item_id", "user_id"}  # which training had not seen


def test_a_run_without_a_center_is_scored_with_its_own_vectors(unbroken: Path, tiny: Dataset) -> None:
    scorer = Scorer.open(unbroken)
    test = tiny.splits.select(tiny.impressions, "test")
    predicted = pl.read_parquet(unbroken / "application/predictions.parquet").filter(split="test")
    for _, page in list(test.with_columns(predicted["probability"]).group_by("search_id", "ts", maintain_order=True))[
        :10
    ]:
        found = scorer.score(request_of(page, tiny))
        np.testing.assert_allclose(found.probabilities, page["probability"], rtol=1e-5)
        assert found.snapshot is None
    with pytest.raises(OtherSnapshot, match="was trained without a center, and not on a@000001"):
        scorer.require("a@000001")


def test_what_is_given_goes_over_what_is_known(scorer: Scorer, request_: Request, tiny: Dataset) -> None:
    before = scorer.score(request_).probabilities
    other = tiny.products.filter(pl.col("item_id") == request_["candidates"][1]["item_id"]).row(0, named=True)
    given = {name: other[name] for name in ("category", "merchant_id", "price", "region", "attributes")}
    changed = scorer.score({**request_, "candidates": [request_["candidates"][0] | given, *request_["candidates"][1:]]})
    assert changed.probabilities[0] != before[0]
    np.testing.assert_array_equal(changed.probabilities[1:], before[1:])
    same = [each | {"price": None} for each in request_["candidates"]]
    np.testing.assert_array_equal(scorer.score({**request_, "candidates": same}).probabilities, before)


def test_a_text_that_was_asked_before_is_the_query_that_asked_it(
    scorer: Scorer, request_: Request, tiny: Dataset
) -> None:
    text = tiny.queries.filter(query_id=request_["query"]["query_id"])["text"][0]
    by_id, by_text = scorer.score(request_), scorer.score({**request_, "query": {"text": text}})
    np.testing.assert_allclose(by_text.probabilities, by_id.probabilities, rtol=1e-5)
    assert by_text.missing == by_id.missing


def test_another_query_is_encoded_as_the_spaces_queries_were(scorer: Scorer, request_: Request, tiny: Dataset) -> None:
    """A known text or photo, sent anew, has the known query's vector; a photo's box is not sent."""
    by_text = tiny.queries.filter(pl.col("image").is_null())["query_id"].head(10)
    by_photo = tiny.queries.filter(pl.col("image").is_not_null(), pl.col("box").is_null())["query_id"].head(10)
    ids = pl.concat([by_text, by_photo]).unique().sort().to_numpy()
    vectors = scorer._vectors
    assert vectors is not None
    kept = vectors.of_queries(ids).vectors.astype(np.float32)
    samples = SampleReader(tiny, "queries").read(ids)
    found = np.concatenate([vectors.encode(each.image, each.row["text"]) for each in samples]).astype(np.float32)
    np.testing.assert_allclose(found, kept, atol=1)
    photo = tiny.queries.filter(pl.col("image").is_not_null())["query_id"].head(1).to_numpy()
    (sample,) = SampleReader(tiny, "queries").read(photo)
    assert "queries.vector" not in scorer.score({**request_, "query": {"image": sample.image}}).missing


def test_what_is_missing_is_said(scorer: Scorer, request_: Request) -> None:
    nothing = scorer.score({"candidates": [{"item_id": -5}, request_["candidates"][0]]})
    assert nothing.missing == {
        "history": 1,
        "impressions.position": 1,
        "item_id": 1,
        "products.attributes": 1,
        "products.category": 1,
        "products.merchant_id": 1,
        "products.price": 1,
        "products.region": 1,
        "products.vector": 1,
        "user_id": 1,
        "users.age": 1,
    }
    events = [{key: value for key, value in event.items() if key != "search_id"} for event in request_["history"]]
    events[0] |= {"item_id": -5, "query": "nobody asked this", "query_id": None}
    missing = scorer.score({**request_, "history": events}).missing
    assert missing["history.search_id"] == len(events)
    assert missing["history.query"] == missing["history.vector"] == 1
    assert scorer.score({**request_, "candidates": []}).probabilities.shape == (0,)


def test_only_what_was_done_before_counts(scorer: Scorer, request_: Request) -> None:
    before = scorer.score(request_).probabilities
    later = {"item_id": request_["history"][0]["item_id"], "ts": request_["ts"], "search_id": 1}
    own = later | {"ts": "2020-01-01T00:00:00Z", "search_id": request_["search_id"]}
    more = [*request_["history"], later, own]
    np.testing.assert_array_equal(scorer.score({**request_, "history": more}).probabilities, before)
    early = own | {"search_id": 1}
    assert not np.array_equal(scorer.score({**request_, "history": [early]}).probabilities, before)


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        ({"candidate": []}, "request.candidate", "is unknown; did you mean 'candidates'"),
        ({"candidates": None}, "candidates", "is missing"),
        ({"candidates": [7]}, "candidates.0", "expected an object, got 7"),
        ({"candidates": [{"item_id": "7"}]}, "candidates.0.item_id", "expected an integer"),
        ({"candidates": [{"item_id": True}]}, "candidates.0.item_id", "expected an integer"),
        ({"candidates": [{"item_id": 2**63}]}, "candidates.0.item_id", "expected an integer"),
        ({"candidates": [{}]}, "candidates.0.item_id", "expected an integer"),
        ({"candidates": [{"item_id": 7}, {"item_id": 7}]}, "candidates.1.item_id", "7 stands twice"),
        ({"candidates": [{"item_id": 7, "prize": 2}]}, "candidates.0.prize", "did you mean 'price'"),
        ({"candidates": [{"item_id": 7}, {"item_id": 8, "price": "x"}]}, "candidates.1.price", "expected Float64"),
        ({"candidates": [{"item_id": 7, "impression": {"place": 1}}]}, "candidates.impression.0.place", "no column"),
        ({"candidates": [{"item_id": 7, "impression": 3}]}, "candidates.0.impression", "expected an object"),
        ({"user": {"user_id": "u"}}, "user.user_id", "expected an integer"),
        ({"user": {"agee": 3}}, "user.agee", "did you mean 'age'"),
        ({"user": []}, "user", "expected an object"),
        ({"query": {}}, "query", "needs a query_id, a text or an image"),
        ({"query": {"query_id": 1, "text": "x"}}, "query.text", "give the query_id"),
        ({"query": {"text": 7}}, "query.text", "expected text"),
        ({"query": {"image": b"<html>"}}, "query.image", ""),
        ({"history": [{"item_id": 7}]}, "history.0.ts", "is missing"),
        ({"history": [{"item_id": 7, "ts": "2025-01-01"}]}, "history.0.ts", "with its time zone"),
        ({"history": [{"item_id": 7, "ts": 5}]}, "history.0.ts", "with its time zone"),
        ({"history": [{"ts": "2025-01-01T00:00:00Z"}]}, "history.0.item_id", "expected an integer"),
        ({"history": [{"item_id": 7, "time": 5}]}, "history.0.time", "is unknown"),
        ({"ts": "yesterday"}, "ts", "with its time zone"),
    ],
)
def test_a_wrong_request_is_told(scorer: Scorer, request_: Request, change: Request, field: str, problem: str) -> None:
    with pytest.raises(BadRequest) as told:
        scorer.score(request_ | change)
    assert told.value.field == field and problem in str(told.value)


def test_another_snapshot_is_refused(scorer: Scorer, request_: Request) -> None:
    assert scorer.snapshot is not None
    assert scorer.score({**request_, "snapshot": scorer.snapshot}).snapshot == scorer.snapshot
    other = scorer.snapshot.replace("@000001", "@000002")
    with pytest.raises(OtherSnapshot, match=f"was trained on {scorer.snapshot}, and not on {other}"):
        scorer.score({**request_, "snapshot": other})


def test_a_center_that_lost_the_snapshot_or_holds_another_of_its_name_is_refused(
    center_application: Path, tmp_path: Path, finished_run: Path
) -> None:
    center = tmp_path / "center"
    with pytest.raises(RunError, match="the center that application was trained on is not there any more"):
        Scorer.open(center_application, center=center)
    shutil.copytree(center_application.parent / "center", center)
    assert Scorer.open(center_application, center=center).snapshot == str(read_aliases(center)["live"].now)
    shutil.rmtree(center)
    (encoder,) = (center_application.parent / "center" / "spaces").glob("*/encoder")
    publish(center, finished_run, products=200, encoder=encoder)
    with pytest.raises(OtherSnapshot, match="holds other vectors than those"):
        Scorer.open(center_application, center=center)
    shutil.rmtree(next(center.glob("spaces/*/snapshots/000001")))
    with pytest.raises(OtherSnapshot, match=r"has no snapshot .*@000001"):
        Scorer.open(center_application, center=center)


def test_what_is_no_click_model_is_refused(center_application: Path) -> None:
    with pytest.raises(ValueError, match="reads shuffled vectors"):
        Scorer.open(center_application, link="application.baseline.shuffled")
    with pytest.raises(ValueError, match="reads truth vectors"):
        Scorer.open(center_application, link="application.ceiling")
    with pytest.raises(RunError, match="no stage 'rank'"):
        Scorer.open(center_application, link="rank")
    ids = Scorer.open(center_application, link="application.baseline")
    assert ids.snapshot is None and len(ids.score({"candidates": [{"item_id": 1}]}).probabilities) == 1
