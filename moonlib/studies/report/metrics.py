"""Every metric of the test days, beside baselines and upper bounds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

from moonlib.metrics.key import MetricKey
from moonlib.metrics.undefined import is_of_validation, sentences
from moonlib.runs.days import TASK as DAILY
from moonlib.runs.results import TASKS, beside
from moonlib.studies.report.evidence import Evidence
from moonlib.studies.report.figures import Figure, PlotAxis, Row, forest, swatch
from moonlib.studies.report.inputs import Report, headline_keys
from moonlib.studies.report.parts import Section, Table, TableCell
from moonlib.studies.report.words import (
    SEGMENTS,
    bare,
    ends,
    number,
    signed,
    spoken,
)


def metrics(report: Report) -> Section:
    """Every metric of the test days, with intervals and the change against the run before."""
    section = Section(
        "metrics",
        "Metrics",
        "Test days, the newest run first. Below a value: its change against the run before it on the same data, with "
        "the 95\u00a0% interval of a paired bootstrap over shoppers; or its own interval. ▲ better and ▼ worse: the "
        "interval of the change leaves out zero.",
    )
    figures = [found for found in (_standing(report, key) for key in headline_keys(report)) if found]
    if figures:
        section.parts.append(figures)
    tasks = dict.fromkeys(
        key.task or key.name
        for run in report.runs
        for key in run.legend.own(run.results).values()
        if key.task != DAILY  # which has a section of its own
    )
    for task in sorted(tasks, key=lambda task: TASKS.index(task) if task in TASKS else len(TASKS)):
        section.parts.append(_metric_table(report, task))
    for run in report.runs:
        of_test = {key: why for key, why in run.undefined.items() if not is_of_validation(key)}
        report.missing += [("Metrics", f"{run.label}: {sentence}") for sentence in sentences(of_test)]
    return section


def _kind(report: Report, key: str) -> str:
    return "application" if report.legend.key(key).task == "ctr" else "represent"


def _stage(report: Report, run: Evidence, key: str) -> Path | None:
    return run.application if _kind(report, key) == "application" else run.represent


def _standing(report: Report, key: str) -> Figure | None:
    """The runs on the last run's data between their baselines and their upper bounds."""
    last, measured = report.last, report.of(report.last)
    rows = []
    for prefix, title in last.legend.baselines_first.items():
        if (value := last.results.get(beside(last.legend.key(key), prefix))) is not None:
            found = measured.interval(key, last.reference(_kind(report, key), prefix))
            rows.append((value, Row(title, found or bare(value), number(value, 3), style=3)))
    for run in report.peers():
        if (value := run.results.get(key)) is not None:
            found = measured.interval(key, _stage(report, run, key))
            rows.append((value, Row(run.label, found or bare(value), number(value, 3), style=0)))
    if len(rows) < 2:
        return None
    rows.sort(key=lambda row: row[0])
    task = spoken(last.legend.key(key).task)
    unit = f"{report.metric_name(key)}, {task if task != 'ctr' else 'clicks'}, test days"
    about = f"{unit}, ascending: " + "; ".join(f"{row.label} {row.text}" for _, row in rows)
    legend = [(swatch(0), "runs"), (swatch(3), "baselines and upper bounds")]
    caption = "With 95 % intervals over shoppers, where rows were kept. Oracle and baselines are the last run's."
    return Figure(
        f"{task.capitalize() if task != 'ctr' else 'Clicks'}: {report.metric_name(key)}",
        forest([row for _, row in rows], PlotAxis(unit), about),
        caption,
        legend,
    )


def _metric_table(report: Report, task: str) -> Table:
    """A row per metric and segment, a column per run, and the last run's references."""
    found = {text: key for run in report.runs for text, key in run.legend.own(run.results).items()}
    of_task = [(text, key) for text, key in found.items() if (key.task or key.name) == task]
    keys = dict(sorted(of_task, key=lambda each: _order(report, each[1])))
    segments: dict[str, list[str]] = {segment: [] for segment in SEGMENTS}
    for text, parsed in keys.items():
        segments.setdefault(parsed.segment if str(parsed.whole) in keys else "", []).append(text)
    newest_first = report.runs[::-1]
    last = report.last
    titles = {
        prefix: title
        for prefix, title in last.legend.baselines_first.items()
        if any(beside(key, prefix) in last.results for key in keys.values())
    }
    groups = []
    for segment, of_segment in segments.items():
        rows = []
        for key in of_segment:
            cells = [_metric_cell(report, run, key) for run in newest_first]
            cells += [TableCell(number(last.results.get(beside(keys[key], prefix))) or "–") for prefix in titles]
            rows.append((report.metric_name(str(keys[key].whole) if segment else key), cells))
        if task == "ctr" and not segment and (share := _share_row(report)):
            rows.append(share)
        if rows:
            groups.append((_segment_name(segment), rows))
    name = {"ctr": "Clicks"}.get(task, spoken(task).capitalize())
    measured = any(key in report.of(run) for run in report.runs for key in keys)
    caption = f"{name}, test days"
    if not measured:
        caption += "; no intervals, which need the rows that searches.parquet and predictions.parquet keep"
    caption += _lower(report, keys.values())
    if titles:
        caption += f"; {', '.join(titles.values())}: of {last.label}"
        caption += "".join(f"; {sentence}" for sentence in last.legend.chosen(task, titles))
    return Table(caption, ["", *(run.label for run in newest_first), *titles.values()], groups)


def _lower(report: Report, keys: Iterable[MetricKey]) -> str:
    """Of which metrics less is better."""
    meanings = [report.legend.meaning(key) for key in keys]
    titles = dict.fromkeys(meaning.title.partition(",")[0] for meaning in meanings if meaning.higher_is_better is False)
    return f"; less is better: {', '.join(titles)}" if titles else ""


def _share_row(report: Report) -> tuple[str, list[TableCell]] | None:
    """The share of the gap between ids alone and its own oracle that each run has closed."""
    cells = []
    for run in report.runs[::-1]:
        base, top = (run.reference("application", prefix) for prefix in ("baseline", "oracle"))
        share = report.of(run).share("ctr/auc", run.application, base, top)
        known = share is not None and math.isfinite(share.estimate)
        cells.append(
            TableCell(number(100 * share.estimate, 1), ends(share, 100, 1)) if share and known else TableCell("")
        )
    return ("share of the gap, %", cells) if any(cell.text for cell in cells) else None


def _metric_cell(report: Report, run: Evidence, key: str) -> TableCell:
    value = run.results.get(key)
    if value is None:
        return TableCell("–", "not defined" if key in run.undefined else "")
    measured, previous = report.of(run), report.previous(run)
    gain = measured.difference(key, _stage(report, run, key), _stage(report, previous, key)) if previous else None
    if gain is None:
        own = measured.interval(key, _stage(report, run, key))
        return TableCell(number(value), ends(own))
    if gain.estimate == gain.low == gain.high == 0:
        return TableCell(number(value), "the same")
    return TableCell(number(value), f"{signed(gain.estimate)} {ends(gain, sign=True)}", report.tone(key, gain))


def _segment_name(segment: str) -> str:
    """How a segment is called.

    Example:
        >>> _segment_name("new"), _segment_name("32d")
        ('new products', 'first 32 dimensions')
    """
    dimensions = re.fullmatch(r"(\d+)d", segment)
    return f"first {dimensions[1]} dimensions" if dimensions else SEGMENTS.get(segment, segment)


def _order(report: Report, key: MetricKey) -> tuple[int, int, str]:
    names = [measured.partition("@")[0] for measured in report.legend.metrics]
    name = key.measured.partition("@")[0]
    numbers = [int(digits) for digits in re.findall(r"\d+", str(key))]
    return (names.index(name) if name in names else len(names), numbers[0] if numbers else 0, str(key))
