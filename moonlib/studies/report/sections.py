"""The sections of the page, in their order."""

from __future__ import annotations

from collections.abc import Callable

from moonlib.studies.report.clicks import calibration, categories
from moonlib.studies.report.days import days
from moonlib.studies.report.drift import drift
from moonlib.studies.report.evidence import telling
from moonlib.studies.report.inputs import Report
from moonlib.studies.report.lineage import lineage
from moonlib.studies.report.metrics import metrics
from moonlib.studies.report.parts import Section
from moonlib.studies.report.sheets import Pictures, Sheet, sheets
from moonlib.studies.report.stages import costs, data, training
from moonlib.studies.report.studies import abtest, exchange, scaling


def retrieval(report: Report) -> Section | None:
    """Contact sheets of the last run, and of every run that can be compared."""
    found: list[Sheet] = []
    pictures: dict[str, Pictures] = {}
    for run in report.runs[::-1]:
        previous = report.previous(run)
        if run.represent is None or (previous is None and run is not report.last):
            continue
        drawn: list[Sheet] = []
        with telling(report.tell(f"Pictures of {run.label}")):
            drawn = sheets(run, previous, pictures)
        found += drawn if run is report.last else drawn[1:]
    found = [sheet for sheet in found if sheet.searches]
    if not found:
        return None
    lead = (
        "What was searched with, and the ten products that come first; a thick frame and a tick mark what was ordered, "
        "or another variant of it. Which searches are shown follows from their ids alone."
    )
    return Section("retrieval", "Retrieval", lead, list(found))


SECTIONS: dict[str, Callable[[Report], Section | None]] = {
    "Metrics": metrics,
    "Day by day": days,
    "Lineage": lineage,
    "Drift": drift,
    "A/B test": abtest,
    "Exchange rate": exchange,
    "Scaling": scaling,
    "Retrieval": retrieval,
    "Categories": categories,
    "Calibration": calibration,
    "Training": training,
    "Filters and quarantine": data,
    "Costs": costs,
}
"""Functions that write the sections, in their order."""


def sections(report: Report) -> list[Section]:
    """All sections that there is something to say in, in their order; why one can't be written is told."""
    found: list[Section | None] = []
    for title, written in SECTIONS.items():
        with telling(report.tell(title)):
            found.append(written(report))
    return [section for section in found if section]
