"""Tables that `moonlib abtest` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group

from moonlib.metrics.bootstrap import Interval
from moonlib.studies.abtest.outcome import ORACLE, Lifts
from moonlib.studies.abtest.result import ABTest, Policy
from moonlib.system.fitted_table import FittedTable

CONTEXT = (
    "context: of MOON online, Taobao reported +20.00 % CTR, and +34.80 % on new products (arXiv 2511.11305): "
    "cumulative, over five iterations in three years, of another shop and against another model: not comparable."
)


def tables(found: Sequence[ABTest]) -> Group:
    """Lay out what `abtest` returned: lifts beside the oracle's and the share of them, then the log's estimates."""
    parts: list[Any] = []
    base = found[0].base
    simulated = [(each.run, each.simulation) for each in found if each.simulation]
    if simulated:
        first = simulated[0][1]
        who = f"{first.requests:,} fresh requests of {first.users:,} shoppers, 95 % intervals over shoppers"
        clicks = [(run, each.clicks) for run, each in simulated]
        parts.append(_lifts(f"lift of clicks over {base}: {who}", "clicks on", clicks))
        rates = [(run, each.click_rates) for run, each in simulated]
        parts.append(_lifts(f"lift of the click rate of what is shown, over {base}", "impressions of", rates))
    if log := found[0].logged:
        rows: list[tuple[str, Sequence[str]]] = [
            *_policies(base, log.first_position.base, log.all_positions.base),
        ]
        for each in found:
            if each.logged:
                rows += _policies(each.run, each.logged.first_position.run, each.logged.all_positions.run)
                rows.append(("  lift", ["", _percent(each.logged.all_positions.lift, "+.1f"), ""]))
        title = f"click rate had the model ordered what {log.searches:,} searches of test days showed in random order"
        parts.append(FittedTable(title, "model", ["IPS", "SNIPS", "effective n"], rows))
    return Group(*parts, CONTEXT)


def _policies(name: str, first: Policy, every: Policy) -> list[tuple[str, Sequence[str]]]:
    """Rows of a model: the estimates from the first position, and from all."""
    return [(name, ()), ("  first position", _policy(first)), ("  all positions", _policy(every))]


def _policy(of: Policy) -> tuple[str, str, str]:
    """Both estimates of a model's click rate, and how many decisions they rest on."""
    return _percent(of.ips, ".2f"), _percent(of.snips, ".2f"), f"{of.effective_samples:,.0f}"


def _lifts(title: str, first: str, found: Sequence[tuple[str, Lifts]]) -> FittedTable:
    """A row per segment and run, with the lift and the share of the oracle's, and the oracle's own."""
    rows: list[tuple[str, Sequence[str]]] = []
    one = found[0][1]
    for key in one.lifts:
        rows.append((key, ()))
        for run, each in found:
            share = _percent(each.share_of_oracle.get(key), ".0f")
            rows.append((f"  {run}", [_percent(each.lifts.get(key), "+.2f"), share]))
        rows.append((f"  {ORACLE}", [_percent(one.oracle.get(key), "+.2f"), ""]))
    return FittedTable(title, first, ["lift", "of the oracle's"], rows)


def _percent(interval: Interval | None, form: str) -> str:
    """An interval in per cent; empty where there is none."""
    if interval is None:
        return ""
    estimate, low, high = (format(100 * value, form) for value in (interval.estimate, interval.low, interval.high))
    return f"{estimate} % [{low}, {high}]"
