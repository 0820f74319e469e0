"""A/B tests on the tiny marketplace, through the command line and as a function."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from moonlib.artifacts.checksums import SUMS, Damaged
from moonlib.cli import main
from moonlib.cli.errors import is_users
from moonlib.data.dataset import Dataset
from moonlib.metrics.bootstrap import Interval, resampled_sums
from moonlib.runs.run import Run, RunError
from moonlib.sources.marketplace.fresh_requests import draw_requests
from moonlib.sources.marketplace.market import BIAS, SHOWN
from moonlib.sources.marketplace.world import World
from moonlib.studies.abtest import abtest
from moonlib.studies.abtest.arm import Arm
from moonlib.studies.abtest.outcome import ORACLE, Lifts, Outcome
from moonlib.studies.abtest.result import ABTest, Logged, LoggedPositions, Policy, Simulation
from moonlib.studies.abtest.simulated import expected_clicks, measures_of, rank
from moonlib.studies.abtest.tables import tables
from moonlib.system.console import Terminal


@pytest.fixture(scope="module")
def found(unbroken: Path, tmp_path_factory: pytest.TempPathFactory) -> list[ABTest]:
    """The run, its oracle representation and its own baseline against the baseline."""
    base = unbroken / "application.baseline"
    runs = [unbroken, unbroken / "application.oracle", unbroken / "application.baseline.shuffled", base]
    return abtest(base, runs, requests=240, out=tmp_path_factory.mktemp("abtest"))


def test_the_command_line_prints_a_table_and_writes_a_file_that_a_second_call_writes_again(
    capsys: pytest.CaptureFixture[str], unbroken: Path, tmp_path: Path, found: list[ABTest]
) -> None:
    words = ["abtest", unbroken / "application.baseline", unbroken, "--requests", 240, "--out", tmp_path / "out"]
    assert main([*map(str, words)]) == 0
    printed = capsys.readouterr().out
    file = tmp_path / "out/iter2/iter2.baseline.json"
    assert str(file) in printed
    for word in ("oracle", "bottom-tier merchants", "revenue per mille", "SNIPS", "not comparable", "240 fresh"):
        assert word in printed, word
    written = json.loads(file.read_text())
    assert (written["base"], written["run"], written["method"]) == ("iter2.baseline", "iter2", "simulation")
    assert written["requests"] == 240 and 60 < written["users"] <= 150
    assert {"all", "new", "tail", "revenue per mille"} <= set(written["lifts"]) == set(written["oracle"])
    for part in (written["lifts"], written["oracle"], written["click_rates"]["lifts"], written["leaves"]["lifts"]):
        for interval in part.values():
            assert interval["low"] <= interval["estimate"] <= interval["high"]
    # Beside other runs a run's figures are the same.
    same = {key: value for key, value in found[0].to_json().items() if key != "seconds"}
    assert same == {key: value for key, value in written.items() if key != "seconds"}


def test_a_model_against_itself_is_exactly_zero(found: list[ABTest]) -> None:
    itself = found[3].to_json()
    assert itself["run"] == itself["base"] == "iter2.baseline"
    for lifts in (itself["lifts"], itself["sampled"], itself["click_rates"]["lifts"], itself["leaves"]["lifts"]):
        assert lifts
        assert all(set(interval.values()) == {0.0} for interval in lifts.values())
    assert set(itself["share_of_oracle"]["all"].values()) == {0.0}
    assert set(itself["logged"]["all positions"]["lift"].values()) == {0.0}


def test_nobody_ranks_better_than_the_oracle(found: list[ABTest]) -> None:
    for each in (test.to_json() for test in found):
        assert each["oracle"] == found[0].to_json()["oracle"]
        assert each["oracle"]["all"]["low"] > max(0, each["lifts"]["all"]["high"])
        assert each["share_of_oracle"]["all"]["high"] < 1
        rate = each["ctr"]
        assert each["lifts"]["all"]["estimate"] == pytest.approx(rate["run"]["estimate"] / rate["base"]["estimate"] - 1)
        share = each["lifts"]["all"]["estimate"] / each["oracle"]["all"]["estimate"]
        assert each["share_of_oracle"]["all"]["estimate"] == pytest.approx(share)


def test_sampled_clicks_agree_with_the_expected_and_say_less(found: list[ABTest]) -> None:
    def width(interval: Interval) -> float:
        return interval.high - interval.low

    for each in found[:3]:
        assert each.simulation
        expected, sampled = each.simulation.clicks.lifts["all"], each.simulation.sampled["all"]
        assert width(expected) < 0.7 * width(sampled)
        assert abs(expected.estimate - sampled.estimate) < width(sampled)


def test_lifts_by_hand(world: World, tiny: Dataset) -> None:
    """Two arms, request by request: rank, show nine, add up the probabilities of what is clicked where."""
    fresh = draw_requests(world, 90)
    rng = np.random.default_rng(0)
    measures, leaves = measures_of(tiny, fresh)
    until = tiny.splits.train_until
    listed = dict(tiny.products.select("item_id", "listed_at").iter_rows())
    price = dict(tiny.products.select("item_id", "price").iter_rows())
    items = fresh.impressions["item_id"].to_list()
    totals: dict[tuple[str, str], float] = {}
    clicks = {}
    for arm in ("base", ORACLE):
        score = fresh.appeal.wish if arm == ORACLE else rng.random(len(items)).round(1)
        place = rank(score, fresh.request)
        clicks[arm] = expected_clicks(fresh, place)
        for request in range(90):
            rows = [row for row in range(len(items)) if fresh.request[row] == request]
            best = sorted(rows, key=lambda row: -score[row])[:SHOWN]
            for position, row in enumerate(best):
                p_click = 1 / (1 + math.exp(1.5 - fresh.appeal.wish[row] - BIAS[position]))
                p_order = 1 / (1 + math.exp(-fresh.appeal.buy[row]))
                for name, worth in (
                    ("all", 1.0),
                    ("new", float(listed[items[row]] >= until)),
                    ("revenue per mille", p_order * price[items[row]]),
                ):
                    totals[arm, name] = totals.get((arm, name), 0) + p_click * worth
    users = fresh.impressions["user_id"].to_numpy()
    lifts = Outcome.of(clicks, measures, users).against("base", ORACLE).lifts
    for name in ("all", "new", "revenue per mille"):
        by_hand = totals[ORACLE, name] / totals["base", name] - 1
        assert lifts[name].estimate == pytest.approx(by_hand, rel=1e-9), name
    departments = [value for name, value in measures.items() if name.startswith("department=")]
    assert (sum(departments) == 1).all() and (sum(leaves.values()) == 1).all()


def test_bottom_tier_merchants_are_a_third_and_have_the_fewest_clicks(world: World, tiny: Dataset) -> None:
    fresh = draw_requests(world, 300)
    bottom = measures_of(tiny, fresh)[0]["bottom-tier merchants"]
    merchant = fresh.impressions.join(tiny.products, on="item_id", how="left", maintain_order="left")["merchant_id"]
    low, high = set(merchant.filter(bottom == 1)), set(merchant.filter(bottom == 0))
    assert not low & high
    train = tiny.splits.select(tiny.impressions, "train").filter("clicked").join(tiny.products, on="item_id")
    clicks = dict(train["merchant_id"].value_counts().iter_rows())
    assert max(clicks.get(each, 0) for each in low) <= min(clicks.get(each, 0) for each in high)
    assert len(low) <= tiny.products["merchant_id"].n_unique() // 3


def test_resampled_sums_equal_gathering_rows_by_hand() -> None:
    rng = np.random.default_rng(0)
    values, users = rng.random((2, 40)), rng.integers(8, size=40) + 2**60
    interval = resampled_sums(values, users, samples=30, seed=4).interval(lambda sums: sums[0] / sums[1])
    again, ratios = np.random.default_rng(4), []
    for _ in range(30):
        drawn = np.unique(users)[again.integers(8, size=8)]
        a, b = sum(values[:, users == user].sum(axis=1) for user in drawn)
        ratios.append(a / b)
    assert interval.estimate == pytest.approx(values[0].sum() / values[1].sum())
    assert [interval.low, interval.high] == pytest.approx(list(np.quantile(ratios, [0.025, 0.975])))
    with pytest.raises(ValueError, match=r"expected values \[K, n\]"):
        resampled_sums(values, users[:5])
    with pytest.raises(ValueError, match="NaN"):
        resampled_sums(values * np.nan, users)


def test_what_has_no_model_is_refused(unbroken: Path, finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is the true click probability and no model"):
        abtest(unbroken / "application.ceiling", [unbroken])
    with pytest.raises(RunError, match="its recipe has no application"):
        abtest(unbroken, [finished_run])
    with pytest.raises(RunError, match="is no application"):
        abtest(unbroken, [unbroken / "represent"])
    with pytest.raises(RunError, match="there is no such run directory"):
        abtest(unbroken, [tmp_path / "nowhere"])
    with pytest.raises(RunError, match=r"application\.nothing"):
        Run(unbroken).reopen("application.nothing", Run(unbroken).dataset())


@pytest.fixture
def elsewhere(unbroken: Path, tiny: Dataset, tmp_path: Path) -> Path:
    """The run with its data under another name, so that nobody knows what its shoppers would have done."""
    shutil.copytree(unbroken.parent, tmp_path / "runs", symlinks=True, ignore=shutil.ignore_patterns(".data", ".lock"))
    data = tmp_path / "runs/.data/shop"
    shutil.copytree(tiny.directory, data)
    described = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(described | {"name": "shop"}))
    (data / SUMS).unlink()
    return tmp_path / "runs/iter2"


def test_a_log_with_propensities_answers_where_nobody_can_be_simulated(elsewhere: Path, tiny: Dataset) -> None:
    (found,) = abtest(elsewhere / "application.baseline", [elsewhere])
    assert found.file == elsewhere / "abtest/iter2.baseline.json"
    written = json.loads(found.file.read_text())
    assert written["method"] == "snips" and "oracle" not in written
    log = written["logged"]
    test = tiny.splits.select(tiny.impressions, "test").filter(pl.col("propensity").is_not_null())
    assert log["searches"] == test["search_id"].n_unique() and log["users"] == test["user_id"].n_unique()
    assert written["lifts"] == {"all": log["all positions"]["lift"]}
    # By hand: a click counts as often as there were places for its item, where the model puts it as well.
    predicted = pl.read_parquet(elsewhere / "application/predictions.parquet").filter(split="test")
    rows = test.join(predicted.select("search_id", "item_id", "probability"), on=["search_id", "item_id"])
    weights = clicks = 0
    for _, part in rows.group_by("search_id"):
        shown = part.sort("position")
        best = shown.sort("probability", descending=True)["item_id"].to_list()
        for at, (item, clicked) in enumerate(shown.select("item_id", "clicked").iter_rows()):
            if best[at] == item:
                weights += len(shown)
                clicks += len(shown) * clicked
    assert log["all positions"]["run"]["snips"]["estimate"] == pytest.approx(clicks / weights)
    assert log["all positions"]["run"]["ips"]["estimate"] == pytest.approx(clicks / len(rows))
    printed = Console(width=200, record=True)
    printed.print(tables([found]))
    assert "SNIPS" in printed.export_text()


def test_without_either_it_is_refused_and_said_why(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Run(elsewhere).dataset()
    dataset.impressions = dataset.impressions.with_columns(propensity=pl.lit(None, dtype=pl.Float64))
    monkeypatch.setattr(Run, "dataset", lambda self: dataset)
    with pytest.raises(ValueError, match="no dataset of this version's marketplace, and no test-day impression has a"):
        abtest(elsewhere / "application.baseline", [elsewhere])
    assert not (elsewhere / "abtest").exists()


def test_runs_of_other_data_are_refused(elsewhere: Path, unbroken: Path) -> None:
    for identity in ((elsewhere / "application").resolve(),):
        described = json.loads((identity / "identity.json").read_text())
        (identity / "identity.json").write_text(
            json.dumps(described | {"dataset": "0" * 64, "reads": {"dataset": "0" * 64}})
        )
        (identity / SUMS).unlink()
    with pytest.raises(RunError, match="but from other data"):
        abtest(unbroken / "application.baseline", [elsewhere])


def test_arms_are_named_by_run_and_reference(unbroken: Path) -> None:
    assert Arm.at(unbroken).name == "iter2"
    assert Arm.at(unbroken / "application").name == "iter2"
    assert Arm.at(unbroken / "application.baseline.shuffled").name == "iter2.baseline.shuffled"


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda table: table.cast({"probability": pl.String}), "'probability' holds String, and should hold floats"),
        (lambda table: table.drop("search_id"), "has no column 'search_id'"),
        (lambda table: table.with_columns(probability=pl.lit(float("nan"))), "a probability is nan"),
        (lambda table: table.head(7), "its predictions are not of the test days"),
        (None, "is no Parquet file that can be read"),
    ],
)
def test_predictions_that_are_none_end_in_one_sentence(
    elsewhere: Path, harm: Callable[[pl.DataFrame], pl.DataFrame] | None, told: str
) -> None:
    file = (elsewhere / "application").resolve() / "predictions.parquet"
    (file.parent / SUMS).unlink()
    file.write_bytes(b"") if harm is None else harm(pl.read_parquet(file)).write_parquet(file)
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        abtest(elsewhere / "application.baseline", [elsewhere])
    assert is_users(caught.value) and not (elsewhere / "abtest").exists()


def test_predictions_of_which_a_bit_has_changed_are_damaged(elsewhere: Path) -> None:
    file = (elsewhere / "application").resolve() / "predictions.parquet"
    data = file.read_bytes()
    file.write_bytes(data[:900] + bytes([data[900] ^ 1]) + data[901:])
    with pytest.raises(Damaged, match=r"predictions\.parquet is damaged"):
        abtest(elsewhere / "application.baseline", [elsewhere])


def test_tables_of_long_names_fit_80_columns() -> None:
    names = [f"emoji-small-catalogue-heads-first-seed{seed:02}" for seed in range(3)]
    interval = Interval(0.123456, -1.012345, 2.345678)
    segments = dict.fromkeys(("all", "new", "tail", "revenue per mille"), interval)
    lifts = Lifts(segments, segments, segments)
    simulation = Simulation(2600, 6000, 60_000, 0, {}, {}, lifts, lifts, {}, lifts)
    policy = Policy(interval, interval, 12_345.6, 98_765)
    positions = LoggedPositions(policy, policy, interval)
    logged = Logged(9000, 2600, positions, positions)
    dataset = cast("Dataset", None)
    found = [ABTest(names[0], name, dataset, 0.0, simulation, logged, Path("a.json")) for name in names[1:]]
    file = io.StringIO()
    Terminal(file=file, force_terminal=True, color_system=None, _environ={"COLUMNS": "80"}).print(tables(found))
    lines = file.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines) and "…" not in file.getvalue()
    assert all(name in file.getvalue() for name in names)
    assert any("+12.35 % [-101.23, +234.57]" in line and "12 % [-101, 235]" in line for line in lines)
    assert any("12,346" in line for line in lines)
