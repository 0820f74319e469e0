"""Daily training in the order of time, and a test on the next day: progressive validation of a click model.

`moonlib fit --days` trains the recipe's application once more, a day after the other: one pass over the impressions of
day d, starting from the model of day d - 1, then a test on day d + 1. What is known is known as of the end of day d.
Each day is an ordinary stage in a directory that its fingerprint names: it is resumed and reused as any.

A day is 24 hours, counted back from the end of the training days. The first one starts from scratch, or from the model
that the stage's key ``from`` names; of a run that was trained by day, from its last day. So appended days go on where
the earlier ones ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from math import isfinite
from pathlib import Path
from statistics import mean
from typing import Literal

import polars as pl

from moonlib.artifacts.checksums import again
from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import IDENTITY, PREDICTIONS, VOCABULARIES, RunLayout, day_link, is_finished
from moonlib.artifacts.reading import Unreadable, numbers, read_mapping, read_table
from moonlib.clicks.saved_vocabularies import DESCRIPTION, Description
from moonlib.config.merge import RecipeError
from moonlib.config.recipe import Recipe, StageRecipe, fingerprint
from moonlib.config.warm_start import FROM, stage_at
from moonlib.data.dataset import Dataset
from moonlib.data.evaluation import EVALUATED
from moonlib.data.splits import DAY, Splits
from moonlib.metrics.counts import noted_rows, rows_key
from moonlib.metrics.ctr import ctr_metrics
from moonlib.metrics.key import MetricKey
from moonlib.metrics.metric import Meaning
from moonlib.runs.lineage import Lineage
from moonlib.runs.results import Legend
from moonlib.runs.runner import Runner
from moonlib.runs.step import StageOrigin, Step
from moonlib.runs.tables import cell
from moonlib.stages.application import Application
from moonlib.system import processes
from moonlib.system.fitted_table import FittedTable

TASK = "daily"
"""Task of the results by day: ``daily/auc@2025-01-05`` of the model of a day, ``daily/auc`` their mean."""

MEASURED = {"auc": "AUC", "gauc": "GAUC", "logloss": "log loss"}
"""Metrics of a day, and their headings."""

DEFAULT_DAYS = 7
"""Days that are trained on by default, where no earlier model says where to begin."""


@dataclass(frozen=True)
class DayResult:
    """Test of the model of a day on the day after it.

    Attributes:
        day: the date of the day that it was trained on.
        tested: the date of the day after.
        n: impressions of that day.
        metrics: by the names in `MEASURED`; one that the day does not define is left out.
        at_once: of the same impressions, what the run's application found that was trained on all days at once; None
            where the day is not among those that it was evaluated on.
    """

    day: str
    tested: str
    n: int
    metrics: Mapping[str, float]
    at_once: Mapping[str, float] | None = None


def daily_stage(recipe: Recipe) -> str:
    """Name of the stage that is trained day by day.

    Raises:
        RecipeError: the recipe has no application, or several.
    """
    found = [name for name, stage in recipe.stages.items() if issubclass(stage.cls, Application)]
    if not found:
        raise RecipeError("--days trains an application day by day, and the recipe has none: add one", ("stages",))
    if len(found) > 1:
        problem = f"--days trains one application day by day, and the recipe has {', '.join(found)}"
        raise RecipeError(f"{problem}: leave out all but one (--stages.{found[0]} null)", ("stages",))
    return found[0]


def require_days(recipe: Recipe, days: int | None) -> None:
    """Refuse what can't be trained day by day, before anything is loaded.

    Raises:
        ValueError: ``days`` is below 0.
        RecipeError: see `daily_stage`.
    """
    if days is not None:
        daily_stage(recipe)
        if days < 0:
            raise ValueError(f"--days {days}: expected a number of days, at least 1")


def days_of(splits: Splits, count: int, since: datetime | None = None) -> list[datetime]:
    """The days to train on, each by its first moment.

    Args:
        splits: of the dataset.
        count: how many of the last training days; 0 for those after ``since``, or, without it, the last `DEFAULT_DAYS`.
        since: end of the days that the model to start from was trained on; None without one.

    Raises:
        ValueError: there are not as many.

    Example:
        >>> day = [datetime.fromisoformat(f"2025-01-{d:02}T00:00+00:00") for d in (1, 4, 5, 6)]
        >>> [day.day for day in days_of(Splits(*day), 2)]
        [2, 3]
    """
    begin, end = max(splits.behaviour_until, since or splits.behaviour_until), splits.train_until
    there = max(0, (end - begin) // DAY)
    window = f"from {begin.isoformat()} to {end.isoformat()}"
    if not there and since is not None:
        raise ValueError(
            f"--days: the model to start from was trained until {since.isoformat()}, and the training days end at "
            f"{end.isoformat()}: append days to the data, or leave `{FROM}` out"
        )
    if count > there or not there:
        raise ValueError(
            f"--days {count or ''}".rstrip() + f": there are {there} whole training days, {window}: ask for fewer, or "
            "build the dataset with other splits (--splits BEHAVIOUR TRAIN VALID TEST)"
        )
    count = count or (there if since is not None else min(there, DEFAULT_DAYS))
    return [end - k * DAY for k in range(count, 0, -1)]


def label_of(day: datetime) -> str:
    """The date of a day: that of its middle, so that midnight may be anywhere in the world.

    Example:
        >>> label_of(datetime.fromisoformat("2025-01-05T16:00+00:00"))  # midnight in Shanghai
        '2025-01-06'
    """
    return (day + timedelta(hours=12)).date().isoformat()


def of_day(stage: StageRecipe, day: datetime) -> StageRecipe:
    """The stage of one day: one pass over it, and nothing that is measured on validation days."""
    left_out = (FROM, "validate", "keep")
    section = {key: value for key, value in stage.written.items() if key not in left_out}
    trainer = {key: value for key, value in section["trainer"].items() if key != "max_steps"}
    data = {**section["data"], "day": day.isoformat()}
    return StageRecipe(stage.name, {**section, "data": data, "trainer": {**trainer, "max_epochs": 1}})


def source_of(stage: StageRecipe, step: Step) -> StageOrigin | None:
    """The model that the first day starts from: of the run that the recipe names, that of its last day, if it has any.

    Args:
        stage: of the recipe.
        step: the run's own, trained on all days at once.
    """
    if stage.source is None or step.origin is None:
        return None
    run, _ = stage_at(stage.source, stage.name, ("stages", stage.name, FROM))
    days = [link.resolve() for link in RunLayout.of(run).day_links if is_finished(link)]
    return origin_of(days[-1].name, RunLayout.of(run)) if days else step.origin


def origin_of(name: str, run: RunLayout) -> StageOrigin:
    """A finished stage to start from, by the name of its directory."""
    directory = run.stages / name
    return StageOrigin(directory, fingerprint(read_mapping(directory / IDENTITY)))


def trained_until(origin: StageOrigin | None) -> datetime | None:
    """End of the days that a model was trained on; None without one, and where it did not note it."""
    file = None if origin is None else origin.directory / VOCABULARIES / DESCRIPTION
    return Description.read(file).trained_until if file is not None and file.is_file() else None


def train_by_day(
    runner: Runner, stage: StageRecipe, main: Step, lineage: Lineage, count: int
) -> tuple[dict[str, float], Legend]:
    """Train an application day by day, and write ``days.json`` of the run after each.

    Args:
        runner: knows the run.
        stage: the application.
        main: the same, trained on all days at once.
        lineage: what it reads.
        count: how many days, see `days_of`.

    Returns:
        Results by their keys, and what they mean.

    Raises:
        ValueError: there are not as many days, or there is nothing to train on.
    """
    origin = source_of(stage, main)
    since = trained_until(origin)
    days = days_of(runner.dataset.splits, count, since)
    if since is not None and days[0] > since:
        runner.show(f"{'':28s} days from {since.isoformat()} to {days[0].isoformat()} are not trained on")
    found: list[DayResult] = []
    for day in days:
        if impressions_of(runner.dataset, day, "train").is_empty():
            runner.show(f"{day_link(label_of(day)):28s} {'left out':>10s}  it has no impressions")
            continue
        step = replace(runner.step(of_day(stage, day), lineage, origin=origin), link=day_link(label_of(day)))
        if processes.is_first():
            (runner.run.directory / step.link).parent.mkdir(exist_ok=True)
            metrics = runner.run_step(step)
            rows = noted_rows(runner.run.stages / step.fingerprint)
            found.append(result_of(runner.dataset, day, metrics, rows, runner.run.stages / main.fingerprint))
            write_json(runner.run.days, {"days": [asdict(each) for each in found], "mean": means(found)})
        else:
            runner.accompany(step)
        origin = StageOrigin(runner.run.stages / step.fingerprint, step.fingerprint)
        runner.interruption.check()
    return results_of(found), legend_of(found, main.module.meanings())


def impressions_of(dataset: Dataset, day: datetime, split: Literal["train", "test"]) -> pl.DataFrame:
    """Impressions of a day, ``train``, or of the day after it, ``test``."""
    one = dataset.with_splits(Splits.of_day(day.isoformat()))
    return one.splits.select(one.impressions, split)


def result_of(
    dataset: Dataset, day: datetime, metrics: Mapping[str, float], rows: Mapping[str, int], main: Path
) -> DayResult:
    """Collect what the model of a day was measured to be, beside the model of all days at once.

    Args:
        dataset: the data.
        day: that it was trained on.
        metrics: that its stage returned.
        rows: how many rows they are of.
        main: directory of the application that was trained on all days at once.
    """
    found = {name: metrics[f"ctr/{name}"] for name in MEASURED if f"ctr/{name}" in metrics}
    at_once = predicted_at_once(dataset, day, main)
    return DayResult(label_of(day), label_of(day + DAY), rows.get("ctr/n", 0), found, at_once)


def predicted_at_once(dataset: Dataset, day: datetime, main: Path) -> dict[str, float] | None:
    """Metrics, on the day after a day, of an application; None where it did not predict all of that day."""
    tested = impressions_of(dataset, day, "test").select("search_id", "user_id", "item_id").unique()
    evaluated = pl.concat([dataset.splits.select(dataset.impressions, split) for split in EVALUATED])
    rows = evaluated.select("search_id", "user_id", "item_id").with_row_index().join(tested, tested.columns, "semi")
    if rows.is_empty() or len(rows.select(tested.columns).unique()) < len(tested):
        return None
    predictions = read_table(main / PREDICTIONS, ["probability", "clicked", "user_id"])
    part = predictions[rows["index"].sort()]
    return {name: value for name, value in ctr_metrics(part).items() if name in MEASURED and isfinite(value)}


def means(found: Sequence[DayResult]) -> dict[str, float]:
    """Mean of each metric over the days that define it."""
    values = {name: [each.metrics[name] for each in found if name in each.metrics] for name in MEASURED}
    return {name: mean(of) for name, of in values.items() if of}


def results_of(found: Sequence[DayResult]) -> dict[str, float]:
    """Results by their keys: of each day, and their mean."""
    results = {str(MetricKey(task=TASK, name=name)): value for name, value in means(found).items()}
    for each in found:
        for name, value in each.metrics.items():
            results[str(MetricKey(task=TASK, name=name, segment=each.day))] = value
    return results


def legend_of(found: Sequence[DayResult], meanings: Mapping[str, Meaning]) -> Legend:
    """Titles and directions of the results, and how many impressions they are of.

    Args:
        found: the days.
        meanings: of the application's own results.
    """
    named = {f"{TASK}/{name}": meanings[f"ctr/{name}"] for name in MEASURED if f"ctr/{name}" in meanings}
    rows = {rows_key(MetricKey(task=TASK, name="n", segment=each.day)): each.n for each in found}
    return Legend({}, named, {f"{TASK}/n": sum(rows.values()), **rows})


def without_days(results: Mapping[str, float]) -> dict[str, float]:
    """Results without those by day, which have a table of their own."""
    return {key: value for key, value in results.items() if MetricKey.parse(key).task != TASK}


def read_days(run: RunLayout) -> list[DayResult]:
    """Read the results by day of a run; none of one that was not trained by day.

    Raises:
        Unreadable: the file is broken.
        Damaged: its content is not what was written.
    """
    if not run.days.exists():
        return []
    found = read_mapping(run.days)
    try:
        days = [DayResult(**each) for each in found["days"]]
        for each in days:
            date.fromisoformat(each.day), date.fromisoformat(each.tested)
            numbers(each.metrics, run.days), numbers(each.at_once or {}, run.days), int(each.n)
        return days
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"{run.days} holds no results by day ({error!r}); {again(run.days)}") from None


def days_table(name: str, found: Sequence[DayResult]) -> FittedTable:
    """A row per day, and their mean.

    Args:
        name: of the run.
        found: the days.
    """
    beside = any(each.at_once is not None for each in found)
    rows = [
        (
            each.day,
            [
                each.tested,
                f"{each.n:,}",
                *(cell(each.metrics.get(metric)) for metric in MEASURED),
                *([cell((each.at_once or {}).get("auc"))] if beside else []),
            ],
        )
        for each in found
    ]
    mean_of, total = means(found), sum(each.n for each in found)
    values = [cell(mean_of.get(metric)) for metric in MEASURED]
    rows.append(("mean", ["", f"{total:,}", *values, *([""] if beside else [])]))
    headings = ["tested on", "n", *MEASURED.values(), *(["AUC, all days at once"] if beside else [])]
    return FittedTable(f"{name}: trained day by day, tested on the next day", "trained on", headings, rows, repeated=2)
