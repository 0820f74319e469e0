"""The top of the page: one sentence and a few numbers about the last run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from moonlib.metrics.bootstrap import Interval
from moonlib.metrics.key import MetricKey
from moonlib.stages.represent import INITIAL
from moonlib.studies.report.evidence import SEARCH_TASKS, Evidence
from moonlib.studies.report.inputs import Report, continued
from moonlib.studies.report.parts import Tile
from moonlib.studies.report.studies import abtests
from moonlib.studies.report.words import (
    ends,
    number,
    signed,
    spoken,
)


def verdict(report: Report) -> tuple[str, list[Tile]]:
    """One sentence and a few numbers about the last run."""
    last, previous = report.last, report.previous(report.last)
    measured = report.of(last)
    tiles: list[Tile] = []
    words: dict[str, list[str]] = {"better": [], "worse": [], "": []}
    key = next((f"{task}/recall@10" for task in SEARCH_TASKS if f"{task}/recall@10" in last.results), "")
    if key:
        own = measured.interval(key, last.represent)
        gain = measured.difference(key, last.represent, previous.represent if previous else None)
        what = spoken(MetricKey.parse(key).task)
        tiles.append(
            Tile(
                f"{what.capitalize()}, recall@10",
                f"{number(100 * last.results[key], 1)}\u00a0%",
                ends(own, 100, 1),
                _change(gain, previous, 100, 1, " points"),
                report.tone(key, gain),
                "of the searches that ended in an order show what was ordered among their first ten products",
            )
        )
        if gain:
            words[report.tone(key, gain)].append(f"{what} recall")
    elif last.represent is None:
        report.missing.append(("Recall", f"{last.label} has no finished represent stage; {continued(last)}"))
    if "ctr/auc" in last.results:
        own = measured.interval("ctr/auc", last.application)
        gain = measured.difference("ctr/auc", last.application, previous.application if previous else None)
        tiles.append(
            Tile(
                "Click model, AUC",
                number(last.results["ctr/auc"]),
                ends(own),
                _change(gain, previous, 1, 4, ""),
                report.tone("ctr/auc", gain),
                "chance that a clicked product is ranked above one that was not; 0.5 is guessing",
            )
        )
        if gain:
            words[report.tone("ctr/auc", gain)].append("click AUC")
        tiles += _share_tile(report)
    elif last.application is None:
        report.missing.append(("Click metrics", f"{last.label} has no finished application stage; {continued(last)}"))
    tiles += _lift_tile(report)
    if previous and any(words.values()):
        said = [f"{tone} in {_and(what)}" for tone, what in words.items() if tone and what]
        said += [f"no difference shown in {_and(words[''])}"] if words[""] else []
        sentence = f"Against {previous.label}, on the same test days: {'; '.join(said)}."
    elif previous:
        sentence = f"Against {previous.label}: nothing that both were measured on."
    elif (parent := report.parent(last)) is not None:
        sentence = (
            f"It continues {parent.label}, whose data is another: no interval compares the two; Lineage has "
            "the numbers of both."
        )
    elif len(report.runs) > 1:
        sentence = (
            f"The run before it, {report.runs[-2].label}, is on other data: the two are not compared. "
            "Give runs on the same data one after the other."
        )
    else:
        sentence = "One run: its numbers stand beside its baselines. Give the run before it too, and they are compared."
    return sentence + _below_initial(report), tiles


def _below_initial(report: Report) -> str:
    """Say where the last run is below the weights that its encoder started from, by an interval."""
    last, measured = report.last, report.of(report.last)
    initial = last.reference("represent", INITIAL)
    keys = [f"{task}/recall@{k}" for task in SEARCH_TASKS for k in (1, 10)]
    gains = {key: measured.difference(key, last.represent, initial) for key in keys if key in last.results}
    lower = [
        f"{key} {signed(gain.estimate)} {ends(gain, sign=True)}"
        for key, gain in gains.items()
        if gain and gain.high < 0
    ]
    return f" Below the weights that training started from: {_and(lower)}." if lower else ""


def _change(gain: Interval | None, previous: Evidence | None, scale: float, digits: int, unit: str) -> str:
    if gain is None or previous is None:
        return ""
    return (
        f"{signed(gain.estimate * scale, digits)}{unit} {ends(gain, scale, digits, sign=True)} against {previous.label}"
    )


def _and(words: Sequence[str]) -> str:
    return " and ".join(words)


def _share_tile(report: Report) -> list[Tile]:
    last = report.last
    base, top = (last.reference("application", prefix) for prefix in ("baseline", "oracle"))
    share = report.of(last).share("ctr/auc", last.application, base, top)
    if base is None or top is None:
        report.missing.append(("Share of the gap", "only a simulated data set has an oracle to compare with"))
    if share is None or not math.isfinite(share.estimate):
        return []
    return [
        Tile(
            "Share of the gap",
            f"{number(100 * share.estimate, 0)}\u00a0%",
            ends(share, 100, 0),
            "",
            "",
            "of the AUC between a click model of ids alone and one that knows the true attributes of every product",
        )
    ]


def _lift_tile(report: Report) -> list[Tile]:
    last = report.last
    tests = abtests(last)
    if not tests:
        return []
    previous = report.previous(last)
    test = next((t for t in tests if previous and t.base == previous.run.name), tests[0])
    lift = test.lifts.get("all") or next(iter(test.lifts.values()), None)
    if lift is None:
        return []
    sign = "better" if lift.low > 0 else "worse" if lift.high < 0 else ""
    share = test.share.get("all")
    reached = f"; {number(100 * share.estimate, 0)}\u00a0% of the oracle's" if share else ""
    return [
        Tile(
            "Simulated A/B, clicks" if test.method == "simulation" else "A/B from the log, clicks",
            f"{signed(100 * lift.estimate, 1)}\u00a0%",
            ends(lift, 100, 1, sign=True),
            f"against {test.base}{reached}",
            sign,
            "more clicks when simulated shoppers see what this run ranks first"
            if test.method == "simulation"
            else "more clicks had this run ordered what was shown by chance (SNIPS)",
        )
    ]
