"""What `moonlib abtest` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from moonlib.studies.abtest.outcome import ORACLE

CONTEXT = (
    "context: of MOON online, Taobao reported +20.00 % CTR, and +34.80 % on new products (arXiv 2511.11305). Those are "
    "their figures, of another shop and against another model: not comparable."
)


def tables(found: Sequence[Mapping[str, Any]]) -> Group:
    """Lay out what `abtest` returned: lifts beside the oracle's and the share of them, then the log's estimates."""
    parts: list[Any] = []
    base = found[0]["base"]
    if found[0]["method"] == "simulation":
        first = found[0]
        who = f"{first['requests']:,} fresh requests of {first['users']:,} shoppers, 95 % intervals over shoppers"
        parts.append(_lifts(f"lift of clicks over {base}: {who}", "clicks on", found))
        rates = [{"run": each["run"], **each["click_rates"]} for each in found]
        parts.append(_lifts(f"lift of the click rate of what is shown, over {base}", "impressions of", rates))
    if "logged" in found[0]:
        log = found[0]["logged"]
        table = _table(
            f"click rate had the model ordered what {log['searches']:,} searches of test days showed in random order",
            "",
            ["first position: IPS", "SNIPS", "eff. n", "all positions: IPS", "SNIPS", "eff. n", "lift of SNIPS"],
        )
        rows = [(base, "base", log), *((each["run"], "run", each["logged"]) for each in found)]
        for name, role, estimates in rows:
            cells = []
            for place in ("first position", "all positions"):
                value = estimates[place][role]
                cells += [_percent(value.get("ips"), ".2f"), _percent(value.get("snips"), ".2f")]
                cells.append(f"{value['effective_samples']:,.0f}")
            table.add_row(
                name, *cells, _percent(estimates["all positions"].get("lift"), "+.1f") if role == "run" else ""
            )
        parts.append(table)
    return Group(*parts, CONTEXT)


def _lifts(title: str, first: str, found: Sequence[Mapping[str, Any]]) -> Table:
    """A row per segment; of each run the lift and the share of the oracle's, and last the oracle's."""
    table = _table(title, first, [*(title for each in found for title in (each["run"], "of the oracle's")), ORACLE])
    for key in found[0]["lifts"]:
        cells = []
        for each in found:
            cells += [_percent(each["lifts"].get(key), "+.2f"), _percent(each["share_of_oracle"].get(key), ".0f")]
        table.add_row(key, *cells, _percent(found[0]["oracle"].get(key), "+.2f"))
    return table


def _table(title: str, first: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _percent(interval: Mapping[str, float] | None, form: str) -> str:
    """An interval in per cent; empty where there is none."""
    if interval is None or not all(map(math.isfinite, interval.values())):
        return ""
    estimate, low, high = (format(100 * interval[key], form) for key in ("estimate", "low", "high"))
    return f"{estimate} % [{low}, {high}]"
