"""Status of a center."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from moonlib.center.aliases import read_aliases, write_aliases
from moonlib.center.canary import append_canary
from moonlib.center.publishing import publish, rollback
from moonlib.center.record import Record
from moonlib.center.space import Space
from moonlib.center.status import read_status, size_of
from moonlib.cli.center import status_tables
from moonlib.system.console import Terminal

from .test_canary import center_of, products, record  # noqa: F401


@pytest.fixture
def center(record: Record) -> Path:  # noqa: F811
    """A center of two snapshots, five products and one row that is newer."""
    center, space = center_of(record), record.space
    publish(center, space, kind="flat")
    for _ in range(2):
        record.refresh()
        record.append(products(record, record.live()[0][:1]))
        publish(center, space, kind="flat")
    record.refresh()
    append_canary(record, 1)
    return center


def test_it_says_what_is_there(center: Path) -> None:
    status = read_status(center)
    (space,) = status.spaces
    assert (space.products, space.delta, space.tombstones, space.sequence) == (5, 1, 1, 8)
    assert [each.number for each in space.snapshots] == [1, 2, 3]
    assert [each.aliases for each in space.snapshots] == [(), (), ("live",)]
    assert [each.previous for each in space.snapshots] == [(), ("live",), ()]
    assert {(each.products, each.kind) for each in space.snapshots} == {(5, "flat")}
    assert str(status.aliases["live"].now) == f"{space.name}@000003"
    assert not status.unreachable
    assert abs(datetime.now(UTC) - space.written) < timedelta(minutes=5)
    # A base and its snapshot share their files.
    folders = [path for path in center.rglob("*") if path.is_dir()]
    assert (
        space.bytes
        == size_of([center / "spaces" / space.name])
        < sum(file.stat().st_size for folder in folders for file in folder.iterdir() if file.is_file())
    )
    assert json.loads(json.dumps(status.to_json()))["spaces"][0]["products"] == 5
    rollback(center)
    assert [each.aliases for each in read_status(center).spaces[0].snapshots] == [(), ("live",), ()]


def test_what_nobody_needs_is_named(center: Path) -> None:
    (space,) = read_status(center).spaces
    assert [each.place.name for each in read_status(center, keep=1).unreachable] == ["000001"]
    place = center / "spaces" / space.name
    (place / "snapshots" / "000009.partial").mkdir()
    (place / "record" / "base-000099.partial").mkdir()
    (center / "spaces" / ".space.partial").mkdir()
    names = [each.place.name for each in read_status(center).unreachable]
    assert sorted(names) == [".space.partial", "000009.partial", "base-000099.partial"]
    shutil.copytree(place, center / "spaces" / "b-4-float32")
    whys = {each.place.name: each.why for each in read_status(center).unreachable}
    assert whys["b-4-float32"] == "no alias leads to it, now or before: remove the folder"
    write_aliases(center, {**read_aliases(center), "next": read_aliases(center)["live"]})
    assert read_status(center).spaces[0].snapshots[-1].aliases == ("live", "next")


def test_the_tables_fit_eighty_columns(
    center: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    (space,) = read_status(center).spaces
    long = "3f2ab1c09d77-128-int8"
    (center / "spaces" / space.name).rename(center / "spaces" / long)
    Space.open(center / "spaces" / long)
    aliases = json.loads((center / "aliases.json").read_text().replace(space.name, long))
    (center / "aliases.json").write_text(json.dumps(aliases))
    for table in status_tables(read_status(center, keep=1), datetime.now(UTC) + timedelta(hours=3)):
        Terminal().print(table)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for word in (long, f"{long}@000003", "live", "(live)", "flat", "5", "3 h", "the next publish removes"):
        assert word in printed


def test_a_folder_that_is_no_center_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is no center: it has no center.json; make one with `moonlib upsert"):
        read_status(tmp_path)
