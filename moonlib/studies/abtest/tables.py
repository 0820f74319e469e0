"""Tables that `moonlib abtest` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from moonlib.metrics.bootstrap import Interval
from moonlib.studies.abtest.outcome import ORACLE, Lifts
from moonlib.studies.abtest.result import ABTest, Policy

CONTEXT = (
    "context: of MOON online, Taobao reported +20.00 % CTR, and +34.80 % on new products (arXiv 2511.11305). Those are "
    "their figures, of another shop and against another model: not comparable."
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
        table = _table(
            f"click rate had the model ordered what {log.searches:,} searches of test days showed in random order",
            "",
            ["first position: IPS", "SNIPS", "eff. n", "all positions: IPS", "SNIPS", "eff. n", "lift of SNIPS"],
        )
        table.add_row(base, *_policy(log.first_position.base), *_policy(log.all_positions.base), "")
        for each in found:
            if each.logged:
                first_position, all_positions = each.logged.first_position, each.logged.all_positions
                lift = _percent(all_positions.lift, "+.1f")
                table.add_row(each.run, *_policy(first_position.run), *_policy(all_positions.run), lift)
        parts.append(table)
    return Group(*parts, CONTEXT)


def _policy(of: Policy) -> tuple[str, str, str]:
    """Both estimates of a model's click rate, and how many decisions they rest on."""
    return _percent(of.ips, ".2f"), _percent(of.snips, ".2f"), f"{of.effective_samples:,.0f}"


def _lifts(title: str, first: str, found: Sequence[tuple[str, Lifts]]) -> Table:
    """A row per segment; of each run the lift and the share of the oracle's, and last the oracle's."""
    table = _table(title, first, [*(title for run, _ in found for title in (run, "of the oracle's")), ORACLE])
    one = found[0][1]
    for key in one.lifts:
        cells = []
        for _, each in found:
            cells += [_percent(each.lifts.get(key), "+.2f"), _percent(each.share_of_oracle.get(key), ".0f")]
        table.add_row(key, *cells, _percent(one.oracle.get(key), "+.2f"))
    return table


def _table(title: str, first: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _percent(interval: Interval | None, form: str) -> str:
    """An interval in per cent; empty where there is none."""
    if interval is None:
        return ""
    estimate, low, high = (format(100 * value, form) for value in (interval.estimate, interval.low, interval.high))
    return f"{estimate} % [{low}, {high}]"
