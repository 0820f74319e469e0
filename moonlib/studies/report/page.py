"""Lays the sections out as one HTML file: no script, no font, no picture and no style from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import moonlib
from moonlib.artifacts.directories import write_text
from moonlib.artifacts.layout import REPORT, is_read
from moonlib.runs.descent import descent_of
from moonlib.studies.report.evidence import labels, measure, read, telling
from moonlib.studies.report.figures import Figure
from moonlib.studies.report.inputs import Report
from moonlib.studies.report.parts import Card, Table, Tile
from moonlib.studies.report.sections import sections
from moonlib.studies.report.sheets import Sheet
from moonlib.studies.report.verdict import verdict
from moonlib.system.remote import is_url, local_copy, local_only, without_credentials
from moonlib.system.terminal import visible


def report(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write what runs found, and what each brings over the one before, on one self-contained page.

    Read are the runs' own files, their data where it still lies (for pictures and categories), and what the other
    studies left: ``exchange.json`` and ``*/scale.json`` beside the first run, ``abtest/*.json`` and ``drift/*.json`` in
    a run. What is missing is left out, and the page says how to get it; so is what can't be read, and the page says
    why. The same files give the same bytes.

    Args:
        runs: run directories or their URLs, in the order of the iterations; a run that came from another one here, such
            as that of the week before, stands behind it in any case. A run is compared with the one that it continues,
            or else with the one before it, if both are on the same data.
        out: the file; by default ``report.html`` in the run if it is one, and beside the first of several.

    Returns:
        The file.

    Raises:
        RunError: one of them is no run directory.
        ValueError: none is given, or one is given twice.

    Example: ``report(["runs/iter2", "runs/iter3"])`` returns ``Path("runs/report.html")``.
    """
    if out is None and (urls := [str(run) for run in runs if is_url(run)]):
        raise ValueError(f"{without_credentials(urls[0])}: a report is not written there; say where, with --out")
    out = None if out is None else local_only(out, "a report")
    places = [local_copy(run, is_read) for run in runs]
    if not places:
        raise ValueError("give at least one run directory")
    resolved = [place.resolve() for place in places]
    twice = next((place for i, place in enumerate(places) if resolved[i] in resolved[:i]), None)
    if twice is not None:
        raise ValueError(f"{twice} is given twice; a run is compared with the one before it")
    found = [read(place, label) for place, label in zip(places, labels(places), strict=True)]
    descent = descent_of([run.run for run in found])
    found.sort(key=lambda run: descent.order.index(run.run.directory))
    of_data = {run.dataset: [other for other in found if other.dataset == run.dataset] for run in found}
    told = Report(found, {dataset: measure(of) for dataset, of in of_data.items()}, places[0].parent, descent)
    path = out or (places[0] if len(places) == 1 else places[0].parent) / REPORT
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page(told))
    return path


def page(told: Report) -> str:
    """The page of a report."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("moonlib.studies.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.tests["card"] = lambda part: isinstance(part, Card)
    environment.tests["table"] = lambda part: isinstance(part, Table)
    environment.tests["sheet"] = lambda part: isinstance(part, Sheet)
    environment.tests["figures"] = lambda part: isinstance(part, list) and isinstance(part[0], Figure)
    environment.filters["breakable"] = breakable
    sentence, tiles = "The numbers of the last run can't be told here: see what is missing.", list[Tile]()
    with telling(told.tell("Verdict")):
        sentence, tiles = verdict(told)
    parts = sections(told)
    problems = [(run.label, problem) for run in told.runs for problem in dict.fromkeys(run.problems)]
    values: dict[str, Any] = {
        "style": Markup((Path(__file__).parent / "style.css").read_text(encoding="utf-8")),
        "title": " · ".join(run.label for run in told.runs),
        "last": told.last.label,
        "runs": [run.label for run in told.runs],
        "sentence": sentence,
        "tiles": tiles,
        "sections": parts,
        "missing": list(dict.fromkeys([*problems, *told.missing])),
        "version": moonlib.__version__,
    }
    text = visible(environment.get_template("page.html").render(values))
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # JSON can hold halves of characters


def breakable(key: str) -> Markup:
    """A dotted key that may be broken after each dot and underscore.

    Example:
        >>> breakable("a.b<c")
        Markup('a.<wbr>b&lt;c')
    """
    return Markup(jinja2.utils.markupsafe.escape(key).replace(".", Markup(".<wbr>")).replace("_", Markup("_<wbr>")))
