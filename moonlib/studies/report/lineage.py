"""Changes of each iteration, in words and in its recipe."""

from __future__ import annotations

from typing import Any

import yaml

from moonlib.config.recipe import diff
from moonlib.studies.report.evidence import Evidence
from moonlib.studies.report.inputs import Report
from moonlib.studies.report.parts import Card, Section, Table, TableCell
from moonlib.studies.report.words import (
    brief,
)


def lineage(report: Report) -> Section:
    """Changes of each iteration."""
    cards = []
    for i, run in enumerate(report.runs):
        before = report.runs[i - 1] if i else None
        config = run.run.config
        changes = config.get("changes")
        table = None
        if before is not None:
            found = [change for change in diff(before.run.config, config) if not change[0].startswith("changes")]
            table = _differences(found, before, run)
        facts = f"data {run.dataset[:12] or 'unknown'}, {brief(config.get('data'))}; seed {config.get('seed', 0)}"
        if before is not None and report.previous(run) is None:
            facts += f". Other data than {before.label}: not compared with it"
        relaxed = [str(name) for name, stage in config["stages"].items() if _reads_train_days(stage)]
        if relaxed:
            facts += f". {', '.join(relaxed)}: reads searches of the days that the click model trains on (until: train)"
        cards.append(
            Card(
                run.label,
                facts + ".",
                [(str(key), str(value)) for key, value in changes.items()] if isinstance(changes, dict) else [],
                table,
                before.label if before else "",
                yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100),
            )
        )
    lead = "What each iteration changed, in words and in its recipe, against the run before it."
    return Section("lineage", "Lineage", lead, cards)


def _reads_train_days(stage: Any) -> bool:
    data = stage.get("data") if isinstance(stage, dict) else None
    return isinstance(data, dict) and data.get("until") == "train"


def _differences(found: list[tuple[str, Any, Any]], before: Evidence, run: Evidence) -> Table:
    groups: dict[str, list[tuple[str, list[TableCell]]]] = {}
    for key, old, new in found:
        parts = key.split(".")
        group, rest = "", key
        if parts[0] == "stages" and len(parts) > 2:
            group, rest = parts[1], ".".join(parts[2:])
            if group not in before.run.config["stages"]:
                group += " (new stage)"
            elif group not in run.run.config["stages"]:
                group += " (no more)"
        short = rest.replace(".init_args", "").removesuffix(".class_path")
        groups.setdefault(group, []).append((short, [TableCell(brief(old)), TableCell(brief(new))]))
    return Table(
        f"Keys of the recipe that differ from {before.label}'s; init_args and class_path are left out",
        ["key", before.label, run.label],
        list(groups.items()),
        texts=True,
    )
