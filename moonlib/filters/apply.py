"""Runs filters one after the other and keeps account of every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

from moonlib.data.tables import OPTIONAL_TABLES, SCHEMAS, Tables
from moonlib.filters.filter import Encoded, Filter

TableReport = TypedDict("TableReport", {"in": int, "out": int, "removed": dict[str, int]})
"""Rows of a table before and after a filter, and how many it removed for which reason."""


class FilterReport(TypedDict):
    """Effect of one filter on each table; plain data, ready for JSON."""

    filter: str
    tables: dict[str, TableReport]


def apply_filters(
    filters: Sequence[Filter], tables: Tables, encoded: Callable[[], Encoded] | None = None
) -> tuple[Tables, list[FilterReport]]:
    """Apply filters in turn, each to what the one before has left.

    Args:
        filters: may be empty.
        tables: what training may see: products listed and events before the end of training.
        encoded: makes the representations of the products and queries of ``tables``. It is called once, when the first
            filter that reads them is reached, and not at all if there is none.

    Returns:
        The tables that are left, and a report of each filter, in order.

    Raises:
        ValueError: a filter reads representations and ``encoded`` is missing; a filter removes the last search; or a
            filter's account of what it removed does not agree with the rows that are left. The message names it.
    """
    representations: Encoded | None = None
    reports: list[FilterReport] = []
    for filter in filters:
        name = f"{type(filter).__module__}.{type(filter).__qualname__}"
        if filter.reads_representations and representations is None:
            if encoded is None:
                raise ValueError(f"{name} reads the representations of an encoder, and there is none before this stage")
            representations = encoded()
        result = filter(tables, representations if filter.reads_representations else None)
        counts: dict[str, TableReport] = {}
        for table in SCHEMAS:
            rows, left = tables[table].height, result.tables[table].height
            if table in OPTIONAL_TABLES and not rows:
                continue
            removed = dict(result.removed.get(table, {}))
            if rows != left + sum(removed.values()):
                account = removed or "nothing"
                raise ValueError(f"{name}: {table}: {rows} rows in, {left} out, but it says it removed {account}")
            counts[table] = {"in": rows, "out": left, "removed": removed}
        reports.append({"filter": name, "tables": counts})
        searches = counts["searches"]
        if searches["in"] and not searches["out"]:
            reasons = "; ".join(f"{reason}: {rows}" for reason, rows in searches["removed"].items())
            before = " that the filters before it had left" if len(reports) > 1 else ""
            raise ValueError(
                f"{name} removed all {searches['in']} searches{before} ({reasons}), so there is nothing to train on: "
                "loosen its arguments, or take it out of the stage's filters"
            )
        tables = result.tables
    return tables, reports
