"""Daily training: AUC of the model of each day, on the day after it."""

from __future__ import annotations

from datetime import date

from moonlib.runs.days import DayResult, means, read_days
from moonlib.studies.report.evidence import Evidence, telling
from moonlib.studies.report.figures import Figure, PlotAxis, PlotSeries, legend, xy
from moonlib.studies.report.inputs import Report
from moonlib.studies.report.parts import Section, Table, TableCell
from moonlib.studies.report.words import number


def days(report: Report) -> Section | None:
    """AUC by day of the runs whose application was trained day by day, over all weeks of theirs."""
    found: list[tuple[Evidence, list[DayResult]]] = []
    for run in report.runs[::-1]:
        with telling(run.problems.append):
            if of_run := [day for day in read_days(run.run.layout) if "auc" in day.metrics]:
                found.append((run, of_run))
    if not found:
        return None
    first = min(date.fromisoformat(each.tested) for _, of_run in found for each in of_run)
    series, at_once = [], []
    for style, (run, of_run) in enumerate(found):
        series.append(PlotSeries(run.label, _points(first, of_run, "metrics"), style=style, line=True))
        if points := _points(first, of_run, "at_once"):
            at_once.append(PlotSeries(f"{run.label}, all days at once", points, style=style + len(found)))
    about = "AUC on the day after the one trained on: " + "; ".join(
        f"{run.label} {number(means(of_run)['auc'], 3)} on average over {len(of_run)} days" for run, of_run in found
    )
    axes = PlotAxis(f"days since {first.isoformat()}"), PlotAxis("AUC of the day")
    drawn = [*series, *at_once]
    lead = (
        "The application once more, trained a day after the other, each from the model of the day before and with one "
        "pass, and tested on the next day: what a shop sees that trains every night."
    )
    rows = [
        (
            each.day,
            [
                TableCell(run.label),
                TableCell(each.tested),
                TableCell(f"{each.n:,}"),
                *(TableCell(number(each.metrics.get(name)) or "–") for name in ("auc", "gauc", "logloss")),
                TableCell(number((each.at_once or {}).get("auc")) or "–"),
            ],
        )
        for run, of_run in found
        for each in of_run
    ]
    headings = ["trained on", "run", "tested on", "n", "AUC", "GAUC", "log loss", "AUC, all days at once"]
    table = Table("Clicks by day; less is better: log loss", headings, [("", rows)])
    return Section(
        "days", "Day by day", lead, [[Figure("AUC by day", xy(drawn, *axes, about), "", legend(drawn))], table]
    )


def _points(first: date, days: list[DayResult], which: str) -> list[tuple[float, float]]:
    """AUC by the number of the day that was tested on."""
    values = [
        ((date.fromisoformat(each.tested) - first).days, (getattr(each, which) or {}).get("auc")) for each in days
    ]
    return [(float(day), value) for day, value in values if value is not None]
