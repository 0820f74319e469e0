"""Where events go, and what happens to a split without any."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta, timezone
from typing import get_args

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlib.data.splits import Split, Splits, crossing
from moonlib.data.tables import Tables, empty

_START = datetime(2025, 1, 1, tzinfo=UTC)


def _events(hours: list[int]) -> pl.DataFrame:
    times = [_START + timedelta(hours=hour) for hour in hours]
    return pl.DataFrame({"ts": times}, schema={"ts": pl.Datetime("us", "UTC")})


@given(st.lists(st.integers(0, 100), min_size=1), st.lists(st.integers(0, 100), min_size=4, max_size=4))
def test_every_event_before_the_end_falls_into_exactly_one_split(hours: list[int], ends: list[int]) -> None:
    splits = Splits(*(_START + timedelta(hours=end) for end in sorted(ends)))
    events = _events(hours)
    parts = [splits.select(events, split)["ts"].to_list() for split in get_args(Split)]
    assert sorted(itertools.chain(*parts)) == sorted(time for time in events["ts"] if time < splits.test_until)
    for earlier, later in itertools.pairwise(parts):
        assert not earlier or not later or max(earlier) < min(later)


def test_an_interval_includes_its_start_and_excludes_its_end(splits: Splits) -> None:
    events = pl.DataFrame({"ts": [splits.train_until - timedelta(microseconds=1), splits.train_until]})
    assert splits.select(events, "train")["ts"].to_list() == events["ts"][:1].to_list()
    assert splits.select(events, "valid")["ts"].to_list() == events["ts"][1:].to_list()


def test_training_knows_what_was_listed_before_its_end(shop: Tables, splits: Splits) -> None:
    assert splits.known(shop.products)["item_id"].to_list() == shop.products["item_id"].to_list()[:3]


def test_fractions_of_the_time_range() -> None:
    events = _events(list(range(1000)))
    for shown in (events[:0], events[:500], events[599:]):
        splits = Splits.by_fractions(events["ts"], shown["ts"])
        counts = [splits.select(events, split).height for split in get_args(Split)]
        assert sum(counts) == 1000
        assert counts == pytest.approx([600, 267, 33, 100], abs=1)


@given(st.integers(700, 998))
def test_behaviour_lasts_until_impressions_begin(first: int) -> None:
    """The rest is theirs, whoever comes first in the tables."""
    events = _events(list(range(1000)))
    shown = events[first:]
    splits = Splits.by_fractions(events["ts"], shown["ts"])
    assert splits.behaviour_until == shown["ts"][0]
    counts = [splits.select(shown, split).height for split in ("train", "valid", "test")]
    assert sum(counts) == len(shown)
    assert counts == pytest.approx([len(shown) * share for share in (0.6675, 0.0825, 0.25)], abs=1.01)
    assert splits == Splits.by_fractions(events["ts"][:first], shown["ts"])


def test_without_events_every_product_is_known(shop: Tables) -> None:
    assert Splits.all_training(shop.products).known(shop.products).height == 4


def test_json_keeps_the_moments(splits: Splits) -> None:
    assert Splits.from_json(splits.to_json()) == splits


def test_zones_are_converted() -> None:
    moment = datetime(2025, 1, 1, 8, tzinfo=timezone(timedelta(hours=8)))
    assert Splits(*[moment] * 4).behaviour_until == _START
    assert Splits(*[moment] * 4).to_json()["test_until"] == "2025-01-01T00:00:00+00:00"


def test_moments_out_of_order_are_refused(splits: Splits) -> None:
    with pytest.raises(ValueError, match=r"valid_until: .* is too early; expected behaviour_until <= train_until"):
        Splits(splits.behaviour_until, splits.train_until, splits.behaviour_until, splits.test_until)


def test_a_moment_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="behaviour_until: 2025-01-01T00:00:00 has no time zone"):
        Splits(*[datetime(2025, 1, 1)] * 4)


def test_an_empty_split_says_what_there_is(shop: Tables, splits: Splits) -> None:
    assert splits.check(shop.impressions, "train", "impressions").height == 2
    with pytest.raises(ValueError) as error:
        splits.check(shop.searches, "train", "searches")
    assert "the train split of searches is empty: no row has ts in [2025-01-07" in str(error.value)
    assert "the 3 rows run from 2025-01-02 12:00:00+00:00 to 2025-01-10" in str(error.value)
    assert "(--splits BEHAVIOUR TRAIN VALID TEST)" in str(error.value)
    with pytest.raises(ValueError, match=r"the dataset has no searches, .*leave it out \(--stages\.posttrain null\)"):
        splits.check(empty("searches"), "behaviour", "searches")


events_of_sessions = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40), st.booleans()), max_size=30)


@given(events_of_sessions, st.lists(st.integers(0, 40), min_size=4, max_size=4))
def test_a_session_belongs_to_the_split_of_its_first_event(rows: list[tuple[int, int, bool]], ends: list[int]) -> None:
    """By the definition, over both tables; what crosses nothing goes where it went before."""
    moments = Splits(*(_START + timedelta(hours=end) for end in sorted(ends)))
    schema = {"search_id": pl.Int64, "ts": pl.Datetime("us", "UTC")}
    tables = [
        pl.DataFrame([(s, _START + timedelta(hours=h)) for s, h, t in rows if t == table], schema=schema, orient="row")
        for table in (False, True)
    ]
    sessions = crossing(moments, tables)
    first, last = ({s: f(h for o, h, _ in rows if o == s) for s, _, _ in rows} for f in (min, max))

    def place(hour: int) -> int:
        return sum(hour >= end for end in ends)

    assert set(sessions["search_id"]) == {s for s in first if place(first[s]) < place(last[s])}
    splits = moments.with_sessions(lambda: sessions)
    for events in tables:
        for number, split in enumerate(get_args(Split)):
            times = list(events.iter_rows())
            wanted = [row for row in times if place(first[row[0]]) == number]
            assert list(splits.select(events, split).iter_rows()) == wanted
        no_ids = events.drop("search_id")
        assert splits.select(no_ids, "train").equals(moments.select(no_ids, "train"))


def test_without_sessions_across_an_end_events_are_selected_as_before(shop: Tables, splits: Splits) -> None:
    assert crossing(splits, [shop.searches, shop.impressions]).is_empty()
    known = splits.with_sessions(lambda: crossing(splits, [shop.searches, shop.impressions]))
    assert known == splits and known.to_json() == splits.to_json()
    for split in get_args(Split):
        assert known.select(shop.impressions, split).equals(splits.select(shop.impressions, split))
