"""Whatever becomes of a run's files, the report is written; the other readers end in one sentence."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from moonlib.artifacts.checksums import SUMS
from moonlib.artifacts.costs import read_costs
from moonlib.artifacts.reading import read_numbers
from moonlib.cli.errors import is_users, message
from moonlib.studies.abtest.arm import Arm
from moonlib.studies.paired import auc_gain, predictions, recall_gain, searches
from moonlib.studies.report import report
from moonlib.studies.report.evidence import curve

VALUES: list[Any] = [
    *(None, True, -1, 0, 1e308, -1e308, float("nan"), float("inf"), 10**400, 2**63, 0.5, "", "a", "0.5", "\ud800"),
    *("\x1b[2J\0", "<b>", "/", "..", "x" * 300, [], [1], [[]], [None], {}, {"a": {}}, {"": None}, {"estimate": "x"}),
]
FOREIGN = [
    *(b"", b"\n", b"{", b"[]", b"{}", b"3", b'"a"', b"null", b"[" * 50_000, b"\xff\xfe\0", b"PAR1PAR1", b"\x93NUMPY"),
    *(b"<html>", b"step\n1,2,3\n", b"step,loss\nx,y\n", b"step,loss\n1,\0\n", b'{"a": 1}\n{"a": 1}\n', b"a: &a [*a]\n"),
    *(b"stages: {1: 2, '': null}\n", b"stages: {/etc: {module: {class_path: 3}}}\n", b"!!python/object:os.system {}\n"),
    b"{'descr': '<f4'}",
]
READ = ("searches.parquet", "predictions.parquet", "metrics.json", "identity.json", "csv/metrics.csv")
"""Of a stage of the recipe: what the report can't do without, so that it says what is wrong with it."""


@pytest.fixture(scope="module")
def studied(lineage: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs with all that a report reads; copy it to change it."""
    place = tmp_path_factory.mktemp("studied") / "runs"
    shutil.copytree(lineage[0].parent, place, symlinks=True, ignore=shutil.ignore_patterns("third", "logs"))
    interval = {"estimate": 0.02, "low": 0.01, "high": 0.03}
    metrics = {"image_search/recall@10": 0.2, "ctr/auc": 0.5}
    points = [{"run": "first", "stage": "posttrain", "step": step, "metrics": metrics} for step in (1, 2)]
    rate = {"intermediate": "image_search/recall@10", "downstream": "ctr/auc", "spearman": 0.9, "loo_error": 0.01}
    rate |= {**interval, "points": 9, "runs": 2}
    exchange = {"split": "test", "points": points, "rates": [rate], "steer_by": {"ctr/auc": rate | {"sure": 0.9}}}
    (place / "exchange.json").write_text(json.dumps(exchange))
    fit = {"parameters": {"E": interval, "A": interval, "alpha": interval}, "verdict": "a power law"}
    grid = [{"x": {"pairs": x}, "seed": 0, "y": 0.9 - x**-0.5, "run": "r"} for x in (10, 100, 1000)]
    scale = {"study": "pairs", "axes": ["pairs"], "units": {"pairs": ""}, "metric": "recall", "goal": "max"}
    (place / "pairs").mkdir()
    (place / "pairs/scale.json").write_text(json.dumps({**scale, "points": grid, "fit": fit, "more": [scale]}))
    (place / "second/abtest").mkdir()
    test = {"base": "first", "run": "second", "users": 40, "method": "simulation", "lifts": {"all": interval}}
    test |= {"oracle": {"all": interval}, "share_of_oracle": {"all": interval}}
    (place / "second/abtest/first.json").write_text(json.dumps(test))
    (place / "second/drift").mkdir()
    moved = {"mean": 0.1, "median": 0.1, "p90": 0.2, "p99": 0.3}
    part = {"products": 40, "moved": moved, "overlap": interval, "searches": {"new on old": 9}}
    part |= {"recall": {"new on old": interval}}
    drift = {"old": "first", "new": "second", "k": 10, "everything": part, "segments": {"new": part}, "added": part}
    (place / "second/drift/first.json").write_text(json.dumps(drift))
    return place


def files(place: Path) -> list[str]:
    """What may be harmed: the runs' and studies' files, and those of the stages that they link to."""
    found = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    found |= {
        (run / file.relative_to(run)).relative_to(place).as_posix()
        for run in (place / "first", place / "second")
        for stage in run.iterdir()
        if stage.is_symlink()
        for file in stage.rglob("*")
        if file.is_file()
    }
    return sorted(name for name in found if not name.startswith(".stages") and not name.endswith(".lock"))


def nested(draw: st.DrawFn, value: Any) -> Any:
    """A JSON or YAML value with another one somewhere in it."""
    if draw(st.integers(0, 3)) == 0 or not isinstance(value, dict | list) or not value:
        return draw(st.sampled_from(VALUES))
    if isinstance(value, dict):
        key = draw(st.sampled_from(sorted(value, key=str)))
        if draw(st.integers(0, 7)) == 0:
            return {other: each for other, each in value.items() if other != key}
        return {**value, key: nested(draw, value[key])}
    at = draw(st.integers(0, len(value) - 1))
    return [*value[:at], nested(draw, value[at]), *value[at + 1 :]]


def table(draw: st.DrawFn, data: bytes) -> bytes:
    """A Parquet file with another column, order, type or value."""
    found = pl.read_parquet(io.BytesIO(data))
    name = draw(st.sampled_from(found.columns))
    how = draw(st.sampled_from(["drop", "text", "null", "none", "nan", "negative", "list", "clear", "rename", "short"]))
    column = found[name]
    number = column.cast(pl.Float64, strict=False)
    changed: dict[str, Callable[[], pl.DataFrame]] = {
        "drop": lambda: found.drop(name),
        "text": lambda: found.with_columns(column.cast(pl.String)),
        "null": lambda: found.with_columns(pl.Series(name, [None, *column.to_list()[1:]], dtype=column.dtype)),
        "none": lambda: found.with_columns(pl.lit(None).alias(name)),
        "nan": lambda: found.with_columns((number * float("nan")).alias(name)),
        "negative": lambda: found.with_columns((-number).alias(name)),
        "list": lambda: found.with_columns(pl.concat_list(name).alias(name)),
        "clear": found.clear,
        "rename": lambda: found.rename({name: "other"}),
        "short": lambda: found.head(3),
    }
    out = io.BytesIO()
    changed[how]().write_parquet(out)
    return out.getvalue()


@st.composite
def harm(draw: st.DrawFn, data: bytes, name: str, others: list[bytes]) -> bytes | None:
    """What becomes of a file: other content, or None for a folder in its place."""
    kinds = ["empty", "cut", "flip", "foreign", "exchange", "folder"]
    kinds += ["value"] * 8 if name.endswith((".json", ".yaml")) else ["table"] * 8 if name.endswith(".parquet") else []
    kind = draw(st.sampled_from(kinds))
    place = draw(st.integers(0, max(len(data) - 1, 0)))
    if kind == "value":
        value = nested(draw, yaml.safe_load(data) if name.endswith(".yaml") else json.loads(data))
        if name.endswith(".json"):
            return json.dumps(value).encode()
        return yaml.dump(value, allow_unicode=False, Dumper=yaml.SafeDumper).encode()
    if kind == "table":
        return table(draw, data)
    if kind == "flip":
        return data[:place] + bytes([data[place] ^ 1 << draw(st.integers(0, 7))]) + data[place + 1 :] if data else b"\1"
    foreign = draw(st.sampled_from(FOREIGN if kind == "foreign" else others))
    return {"empty": b"", "cut": data[:place], "foreign": foreign, "exchange": foreign}.get(kind)


@dataclass
class Harm:
    """Harms files of a folder, and mends them afterwards.

    Attributes:
        place: the folder.
        names: of the files in it.
        before: what files held that are harmed.
    """

    place: Path
    names: list[str]
    before: dict[Path, bytes] = field(default_factory=dict)

    def draw(self, draw: st.DrawFn) -> list[tuple[str, bool]]:
        """Harm one file or two; returns their names, and whether checksums tell of them."""
        found = []
        for _ in range(draw(st.sampled_from([1, 1, 2]))):
            # First what kind of file, so that those of the many stages are no likelier than a run's own.
            kind = draw(st.sampled_from(sorted({Path(name).name for name in self.names})))
            name = draw(st.sampled_from([name for name in self.names if Path(name).name == kind]))
            file = (self.place / name).resolve()
            if file in self.before:  # of a stage that two runs share
                continue
            sums = next((above / SUMS for above in file.parents[:2] if (above / SUMS).is_file()), None)
            sealed = sums is not None and draw(st.integers(0, 3)) == 0
            data = self.before[file] = file.read_bytes()
            after = draw(harm(data, name, [(self.place / other).read_bytes() for other in self.others(draw)]))
            if sums is not None and not sealed and sums not in self.before:
                self.before[sums] = sums.read_bytes()
                sums.unlink()
            file.unlink(missing_ok=True)
            if after is None:
                file.mkdir()
            else:
                file.write_bytes(after)
            if after != data:
                found.append((name, sealed))
        return found

    def others(self, draw: st.DrawFn) -> list[str]:
        """Another file that is whole."""
        name = draw(st.sampled_from(self.names))
        return [name if (self.place / name).is_file() else "pairs/scale.json"]

    def mend(self) -> None:
        for file, data in self.before.items():
            if file.is_dir():
                file.rmdir()
            file.write_bytes(data)
        self.before.clear()


@pytest.fixture(scope="module")
def target(studied: Path) -> Harm:
    return Harm(studied, files(studied))


# Whoever sees one fail wants to know soon: to make a failing example small takes minutes.
@settings(max_examples=20, deadline=None, phases=[Phase.generate])
@given(st.data())
def test_the_report_never_stops(target: Harm, data: st.DataObject) -> None:
    try:
        found = data.draw(st.composite(target.draw)())
        runs = (
            [target.place / "first", target.place / "second"] if data.draw(st.booleans()) else [target.place / "second"]
        )
        page = report(runs, target.place.parent / "report.html").read_text(encoding="utf-8")
    finally:
        target.mend()
    assert page.endswith("</html>\n") and "<h1" in page
    for name, sealed in found:
        if sealed and re.fullmatch(rf"second/(posttrain|represent|application)/({'|'.join(READ)})", name):
            assert re.search(rf"/{Path(name).name} (is damaged|is no )", page)


@settings(max_examples=75, deadline=None)
@given(st.data())
def test_the_other_readers_end_in_one_sentence(target: Harm, data: st.DataObject) -> None:
    first, second = target.place / "first", target.place / "second"
    readers: list[Callable[[], object]] = [
        lambda: searches(second / "represent"),
        lambda: recall_gain(second, first),
        lambda: predictions(second / "application", "valid"),
        lambda: auc_gain(second / "application", first / "application"),
        lambda: Arm.at(second).predictions(),
        lambda: Arm.at(second / "application.baseline").predictions(),
        lambda: read_costs(second / "costs.json"),
        lambda: read_numbers(second / "represent/metrics.json"),
        lambda: curve(second / "posttrain/csv/metrics.csv"),
    ]
    try:
        data.draw(st.composite(target.draw)())
        for read in readers:
            try:
                read()
            except Exception as error:
                assert is_users(error), repr(error)
                assert message(error) and "\n" not in message(error)
    finally:
        target.mend()
