from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from moonlib.artifacts.layout import RunLayout
from moonlib.artifacts.reading import Unreadable
from moonlib.cli import main
from moonlib.config.recipe import RecipeError, load
from moonlib.data.dataset import Dataset
from moonlib.data.shards import build_once, write_dataset
from moonlib.data.splits import Splits
from moonlib.metrics.ctr import ctr_metrics
from moonlib.runs.days import DayResult, days_of, days_table, label_of, read_days
from moonlib.runs.iteration import fit
from moonlib.runs.run import Run
from moonlib.runs.runner import Runner
from moonlib.runs.step import Step
from moonlib.studies.report.page import report
from moonlib.system.interruption import Interrupted
from moonlib.testing.examples import START, example_picture, example_tables

RECIPE = """
seed: 3
data: {class_path: shards, init_args: {path: %s}}
stages:
  application:
    module:
      class_path: application
      init_args: {adapter: id_only, predictor: {class_path: mlp, init_args: {hidden: [8]}}}
    data: {batch_size: 16, history: 4}
    trainer: {max_epochs: 2, accelerator: cpu}
"""


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def data(folder: Path, train_until: float) -> Path:
    """A shop whose training days are from day 2 on, with a validation day and what is left of the ten as test days."""
    splits = Splits(day(2), day(train_until), day(train_until + 1), day(10))

    def build(draft: Path) -> None:
        write_dataset(draft, example_tables(), example_picture, splits, name="example", version="1", workers=1)

    return build_once(folder, build)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets, of which the second has two more training days, and a recipe of each."""
    place = tmp_path_factory.mktemp("days")
    for name, train_until in (("week1", 5), ("week2", 7)):
        (place / f"{name}.yaml").write_text(RECIPE % data(place / f"data/{name}", train_until))
    return place


@pytest.fixture(scope="module")
def week1(place: Path) -> Path:
    return fit(place / "week1.yaml", runs=place / "runs", days=0)


def results(run: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((run / "results.json").read_text())
    return found


def weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(run / name / "weights.safetensors")


def test_each_day_is_a_stage_that_starts_from_the_day_before(week1: Path, place: Path) -> None:
    links = RunLayout.of(week1).day_links
    assert [link.name for link in links] == ["2024-01-03", "2024-01-04", "2024-01-05"]
    identities = [json.loads((link / "identity.json").read_text()) for link in links]
    assert "from" not in identities[0]
    for before, identity in zip(links, identities[1:], strict=False):
        assert identity["from"] == before.resolve().name
    assert all(identity["config"]["trainer"]["max_epochs"] == 1 for identity in identities)
    dataset = Dataset(place / "data/week1")
    for number, link in enumerate(links):
        tested = pl.read_parquet(link / "predictions.parquet")
        shown = dataset.impressions.filter(pl.col("ts").is_between(day(3 + number), day(4 + number), closed="left"))
        assert tested["search_id"].to_list() == shown["search_id"].to_list()


def test_the_results_of_the_days_and_their_mean_are_among_those_of_the_run(week1: Path) -> None:
    found, days = results(week1), read_days(RunLayout.of(week1))
    assert [each.day for each in days] == ["2024-01-03", "2024-01-04", "2024-01-05"]
    for each in days:
        predictions = pl.read_parquet(week1 / "days" / each.day / "predictions.parquet")
        expected = ctr_metrics(predictions)
        assert each.n == len(predictions)
        for name in ("auc", "gauc", "logloss"):
            assert each.metrics[name] == found[f"daily/{name}@{each.day}"] == pytest.approx(expected[name])
    for name in ("auc", "gauc", "logloss"):
        assert found[f"daily/{name}"] == pytest.approx(sum(each.metrics[name] for each in days) / 3)
    legend = json.loads((week1 / "legend.json").read_text())
    assert legend["metrics"]["daily/auc"] == {"title": "AUC", "higher_is_better": True}
    assert legend["rows"]["daily/n@2024-01-04"] == days[1].n
    assert json.loads((week1 / "costs.json").read_text())["days/2024-01-04"]["reused"] is False


def test_the_model_of_all_days_at_once_stands_beside_where_it_predicted_the_same_day(week1: Path, place: Path) -> None:
    """The validation day, whole, is the day after the last training day."""
    *others, last = read_days(RunLayout.of(week1))
    assert all(each.at_once is None for each in others) and last.at_once is not None
    for name in ("auc", "gauc", "logloss"):
        assert last.at_once[name] == pytest.approx(results(week1)[f"valid/ctr/{name}"])
    dataset = Dataset(place / "data/week1")
    assert last.n == len(dataset.splits.select(dataset.impressions, "valid"))


def test_days_that_are_there_are_reused_and_a_run_without_them_is_the_same(
    week1: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = results(week1)
    fit(place / "week1.yaml", runs=week1.parent, days=3)
    out = capsys.readouterr().out
    assert out.count("reused") >= 6 and "tested on the next day" in out
    assert results(week1) == before
    plain = fit(place / "week1.yaml", runs=tmp_path)
    of_days = {key for key in before if key.startswith("daily/")}
    assert results(plain) == {key: value for key, value in before.items() if key not in of_days}


def test_appended_days_go_on_where_the_earlier_ones_ended(
    week1: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    week2 = fit(place / "week2.yaml", [f"--stages.application.from={week1}"], runs=place / "runs", days=0)
    links = RunLayout.of(week2).day_links
    assert [link.name for link in links] == ["2024-01-06", "2024-01-07"]
    last = RunLayout.of(week1).day_links[-1]
    assert "embeddings carried over, new, left: user " in capsys.readouterr().out
    # The same model as that of five days in a row, of which it was given the first three.
    whole = fit(place / "week2.yaml", runs=place / "runs", name="whole", days=5)
    assert all(
        torch.equal(value, weights(whole, f"days/{last.name}")[name])
        for name, value in weights(week1, f"days/{last.name}").items()
    )
    for link in links:
        there = weights(whole, f"days/{link.name}")
        assert all(torch.equal(value, there[name]) for name, value in weights(week2, f"days/{link.name}").items())
        assert results(week2)[f"daily/auc@{link.name}"] == results(whole)[f"daily/auc@{link.name}"]
    assert week2.name == "week2" and Run(week2).recipe.stages["application"].source == str(week1)


def test_a_kill_between_two_days_and_in_the_middle_of_one_leaves_the_same_models(
    week1: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_step = Runner.run_step

    def cut(self: Runner, step: Step) -> dict[str, float]:
        if step.link == "days/2024-01-04":
            os.kill(os.getpid(), signal.SIGTERM)  # arrives after the first step of the training
        return run_step(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(Runner, "run_step", cut)
        with pytest.raises(Interrupted):
            fit(place / "week1.yaml", runs=tmp_path, days=0, checkpoint_seconds=0)
    assert not (tmp_path / "week1/days/2024-01-05").exists()
    resumed = fit(place / "week1.yaml", runs=tmp_path, days=0)
    assert results(resumed) == results(week1)
    for link in RunLayout.of(week1).day_links:
        there = weights(resumed, f"days/{link.name}")
        assert all(torch.equal(value, there[name]) for name, value in weights(week1, f"days/{link.name}").items())


def test_a_replaced_run_keeps_no_days(week1: Path, place: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run = fit(place / "week1.yaml", runs=runs, days=1)
    assert RunLayout.of(run).day_links and (run / "days.json").exists()
    fit(place / "week1.yaml", ["--seed=4"], runs=runs, replace=True)
    assert not (run / "days").exists() and not (run / "days.json").exists()


def test_a_day_without_clicks_has_no_auc_and_one_without_impressions_is_left_out(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = example_tables()
    quiet = pl.col("ts").is_between(day(4), day(5), closed="left")
    shown = tables.impressions.filter(~pl.col("ts").is_between(day(2), day(3), closed="left"))
    tables = replace(tables, impressions=shown.with_columns(clicked=pl.col("clicked") & ~quiet))

    def build(draft: Path) -> None:
        splits = Splits(day(2), day(5), day(6), day(10))
        write_dataset(draft, tables, example_picture, splits, name="example", version="1", workers=1)

    (tmp_path / "recipe.yaml").write_text(RECIPE % build_once(tmp_path / "data", build))
    run = fit(tmp_path / "recipe.yaml", runs=tmp_path / "runs", days=0)
    out = capsys.readouterr().out
    assert [link.name for link in RunLayout.of(run).day_links] == ["2024-01-04", "2024-01-05"]
    assert "days/2024-01-03" in out and "left out  it has no impressions" in out
    first, second = read_days(RunLayout.of(run))
    assert first.n > 0
    assert first.metrics.keys() == {"logloss"} and second.metrics.keys() == {"auc", "gauc", "logloss"}
    assert "not defined, and so not among the results: ctr/auc" in out and "it needs rows of both classes" in out
    assert results(run)["daily/auc"] == second.metrics["auc"]


def test_the_report_draws_auc_by_day_over_the_weeks(week1: Path, place: Path, tmp_path: Path) -> None:
    week2 = fit(place / "week2.yaml", [f"--stages.application.from={week1}"], runs=place / "runs", days=0)
    page = report([week1, week2], tmp_path / "report.html").read_text()
    section = page[page.index('id="days"') :]
    assert "AUC on the day after the one trained on: week2 " in section and "on average over 3 days" in section
    assert "days since 2024-01-04" in section and "all days at once" in section
    for run in (week1, week2):
        for each in read_days(RunLayout.of(run)):
            assert f"{each.metrics['auc']:.4f}" in section and each.tested in section
    plain = report([fit(place / "week1.yaml", runs=tmp_path)]).read_text()
    assert 'id="days"' not in plain


# --- bad input


def test_days_that_the_data_does_not_have_are_refused(week1: Path, place: Path, tmp_path: Path) -> None:
    for days, options, message in (
        (4, [], r"--days 4: there are 3 whole training days, from 2024-01-03T00:00:00\+00:00 to 2024-01-06"),
        (-1, [], "--days -1: expected a number of days"),
        (0, [f"--stages.application.from={week1}"], "was trained until 2024-01-06.*: append days to the data"),
    ):
        runs = place / "runs" if options else tmp_path
        with pytest.raises(ValueError, match=message):
            fit(place / "week1.yaml", options, runs=runs, name="other", days=days)


def test_a_recipe_without_an_application_is_refused_before_anything_is_written(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["fit", "--config", str(place / "week1.yaml"), "--runs", str(tmp_path / "runs"), "--days"]
    assert main([*config, "--stages.application.module=relevance", "--stages.application.data=null"]) != 0
    assert "--days trains an application day by day, and the recipe has none: add one" in capsys.readouterr().err
    assert main([*config, "--debug", "limit"]) != 0
    assert "--debug on a part of it: leave one of them out" in capsys.readouterr().err
    recipe = (place / "week1.yaml").read_text()
    second = recipe[recipe.index("  application:") :].replace("  application:", "  another:")
    (tmp_path / "two.yaml").write_text(recipe + second)
    with pytest.raises(RecipeError, match="trains one application day by day, and the recipe has application, another"):
        fit(tmp_path / "two.yaml", runs=tmp_path / "runs", days=0)
    assert not (tmp_path / "runs").exists()


def test_days_is_no_name_of_a_stage(place: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text((place / "week1.yaml").read_text().replace("  application:", "  days:"))
    with pytest.raises(RecipeError, match="days"):
        load(tmp_path / "recipe.yaml")


def test_a_file_of_days_that_is_none_is_named(week1: Path, tmp_path: Path) -> None:
    shutil.copy(week1 / "days.json", tmp_path / "days.json")
    layout = RunLayout(tmp_path, tmp_path)
    assert len(read_days(layout)) == 3
    for content in ('{"days": [{"day": 1}]}', "{}", "["):
        (tmp_path / "days.json").write_text(content)
        with pytest.raises(Unreadable, match=r"days\.json"):
            read_days(layout)


# --- days and tables


def moments(*numbers: float) -> Splits:
    return Splits(*map(day, numbers))


@pytest.mark.parametrize(
    ("splits", "count", "since", "expected"),
    [
        (moments(0, 10, 11, 12), 0, None, [3, 4, 5, 6, 7, 8, 9]),
        (moments(8, 10, 11, 12), 0, None, [8, 9]),
        (moments(0, 10, 11, 12), 2, None, [8, 9]),
        (moments(0, 10, 11, 12), 0, 1, list(range(1, 10))),
        (moments(0, 10, 11, 12), 2, 1, [8, 9]),
        (moments(0.5, 10, 11, 12), 9, None, list(range(1, 10))),
        (moments(0, 10.25, 11, 12), 2, 7.5, [8.25, 9.25]),
    ],
)
def test_days_are_counted_back_from_the_end_of_training(
    splits: Splits, count: int, since: float | None, expected: list[float]
) -> None:
    assert days_of(splits, count, None if since is None else day(since)) == list(map(day, expected))


def test_a_day_is_called_by_the_date_of_its_middle() -> None:
    for hour, expected in ((0, "2025-01-05"), (16, "2025-01-06"), (8, "2025-01-05")):
        assert label_of(datetime(2025, 1, 5, hour, tzinfo=UTC)) == expected


def test_the_table_shows_a_dash_for_what_is_not_defined() -> None:
    found = [
        DayResult("2025-01-05", "2025-01-06", 1200, {"auc": 0.5, "gauc": 0.25, "logloss": 0.75}),
        DayResult("2025-01-06", "2025-01-07", 7, {"logloss": 0.25}, {"auc": 0.625}),
    ]
    rows: list[Any] = list(days_table("run", found).rows)
    assert rows[0] == ("2025-01-05", ["2025-01-06", "1,200", "0.5000", "0.2500", "0.7500", "–"])
    assert rows[1] == ("2025-01-06", ["2025-01-07", "7", "–", "–", "0.2500", "0.6250"])
    assert rows[2] == ("mean", ["", "1,207", "0.5000", "0.2500", "0.5000", ""])
