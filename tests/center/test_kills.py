"""Bad days of a center. A writer is killed anywhere: what it acknowledged is there, nothing is torn or doubled.

Run as a script, this file is the writer: it takes the center, a seed, and the number of the operation of the file
system at which it kills itself, half-way through if that is a write.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from moonlib.artifacts.checksums import Damaged
from moonlib.center import writing
from moonlib.center.aliases import Alias, Target, find_alias, write_aliases
from moonlib.center.layout import SPACES, base_of, log_of, snapshot_numbers, snapshot_of
from moonlib.center.publishing import compact, publish, rollback
from moonlib.center.record import Current, Record, make_record
from moonlib.center.rows import Rows
from moonlib.center.snapshot import Snapshot
from moonlib.center.space import Space, find_space, space_name
from moonlib.center.view import View
from moonlib.center.writing import Busy, make_center, writing_to
from moonlib.representations.store import unit
from moonlib.testing.processes import Program
from tests.disks import full_disk

DIM = 8
IDS = 40


def new_center(path: Path) -> Space:
    """A center with one space that has no products."""
    make_center(path)
    directory = path / SPACES / space_name("f" * 16, DIM, "int8")
    space = Space(directory, "f" * 16, DIM, "int8", {"version": "integer"})
    make_record(space.record)
    space.save()
    write_aliases(path, {"live": Alias(Target(space.name, 0))})
    return space


def vectors(ids: list[int], versions: list[int]) -> np.ndarray[Any, Any]:
    """int8 vectors that tell ids and versions apart, each with the largest value of its type."""
    found = np.stack(
        [np.random.default_rng([i, v]).integers(-99, 99, DIM) for i, v in zip(ids, versions, strict=True)]
    ).astype(np.int8)
    found[:, 0] = 127
    return found


def rows_of(products: dict[int, int]) -> Rows:
    """Rows of products with a version each."""
    ids, versions = list(products), list(products.values())
    return Rows(
        pl.Series(ids, dtype=pl.Int64),
        vectors(ids, versions),
        np.repeat(np.array(versions, np.uint8)[:, None], 16, axis=1),
        np.array(versions, np.int64),
        np.zeros(len(ids), np.bool_),
        pl.DataFrame({"version": pl.Series(versions, dtype=pl.Int64)}),
        pl.Series([picture(i, v) for i, v in products.items()], dtype=pl.Binary),
    )


def picture(id: int, version: int) -> bytes:
    """Stands for a small JPEG."""
    return b"picture %d of %d;" % (version, id) * 20


def upsert(center: Path, products: dict[int, int]) -> None:
    """Append products."""
    with writing_to(center):
        record = Record(find_space(center, "f"), write=True)
        record.append(rows_of(products))


def delete(center: Path, ids: list[int]) -> None:
    """Append tombstones."""
    with writing_to(center):
        record = Record(find_space(center, "f"), write=True)
        record.append(Rows.tombstones(pl.Series(ids, dtype=pl.Int64), DIM, "int8", record.no_columns, 0))


def operations(center: Path, seed: int, known: dict[int, int]) -> Iterator[tuple[list[Any], Callable[[], object]]]:
    """Endless random changes of a center, and how they are described."""
    draw = random.Random(seed)
    version = max(known.values(), default=0) + 1
    while True:
        kind = draw.choice(["upsert", "upsert", "upsert", "delete", "publish", "compact", "rollback"])
        ids = draw.sample(range(IDS), draw.randint(1, 6))
        if kind == "upsert":
            products = dict.fromkeys(ids, version % 250)
            version += 1
            yield ["upsert", list(products.items())], lambda products=products: upsert(center, products)  # type: ignore[misc]
        elif kind == "delete":
            yield ["delete", ids], lambda ids=ids: delete(center, ids)  # type: ignore[misc]
        else:
            yield [kind], lambda kind=kind: other(center, kind)  # type: ignore[misc]


def other(center: Path, kind: str) -> None:
    """Publish, compact or roll back."""
    space = find_space(center, "f")
    try:
        {
            "publish": lambda: publish(center, space, kind="flat", keep=2),
            "compact": lambda: compact(center, space),
            "rollback": lambda: rollback(center),
        }[kind]()
    except ValueError as error:  # of a center without products, or without a publish
        assert "no products" in str(error) or "nowhere before" in str(error) or "no product with" in str(error), error


def applied(known: dict[int, int], operation: list[Any]) -> dict[int, int]:
    """Products and their versions after an operation."""
    if operation[0] == "upsert":
        return known | dict(operation[1])
    if operation[0] == "delete":
        return {id: version for id, version in known.items() if id not in operation[1]}
    return known


class Killed(BaseException):
    """Stands for the end of the process."""


CHANGES = ("write", "fsync", "fdatasync", "ftruncate", "replace", "rename", "unlink", "mkdir", "rmdir", "link")


@contextmanager
def killed_at(number: int, kill: Callable[[], None]) -> Iterator[list[int]]:
    """Kill at an operation of the file system; a write is then half done. Yields how many there were.

    Once killed nothing changes a file any more, whatever cleans up.
    """
    count, real = [0], {name: getattr(os, name) for name in CHANGES}

    def patched(name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            count[0] += 1
            if count[0] == number and name == "write":
                real["write"](args[0], bytes(args[1])[: len(args[1]) // 2])
            if count[0] >= number:
                kill()
            return real[name](*args, **options)

        return call

    for name in CHANGES:
        setattr(os, name, patched(name))
    try:
        yield count
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def check(center: Path, expected: list[dict[int, int]]) -> dict[int, int]:
    """Look at all that a reader can see; returns which of the expected states it is."""
    view = View.open(center)
    rows = view.rows(view.ids)
    found = dict(rows.select("item_id", "version").rows())
    assert found in expected, (found, expected)
    assert len(view) == len(found) == view.ids.n_unique()
    if found:
        ids, versions = list(found), list(found.values())
        scaled = unit(vectors(ids, versions))
        np.testing.assert_allclose(unit(view.lookup(ids)), scaled, atol=1e-6)
        assert [view.picture(id) for id in ids] == [picture(id, v) for id, v in found.items()]
        nearest = view.search(scaled, 1)
        np.testing.assert_allclose(nearest.scores[:, 0], 1, atol=1e-5)
        assert nearest.ids == [[id] for id in ids]
    alias, space = find_alias(center, "live"), find_space(center, "f")
    for target in (alias.now, alias.previous):
        if target is not None and target.snapshot:
            Snapshot.open(space, target.snapshot)
    return found


def test_killed_at_every_operation_of_the_file_system(tmp_path: Path) -> None:
    """In this process, where a kill is that nothing is written any more."""
    center = tmp_path / "center"
    new_center(center)
    known: dict[int, int] = {}
    draw = random.Random(0)
    steps: list[list[Any]] = [
        ["upsert", [(id, 1) for id in range(9)]],
        ["publish"],
        ["upsert", [(id, 2) for id in range(5, 12)]],
        ["delete", [0, 5, 11]],
        ["publish"],
        ["upsert", [(3, 3)]],
        ["rollback"],
        ["compact"],
    ]
    kills = 0

    def kill() -> None:
        raise Killed

    for step in steps:
        number = 0
        done = False
        while not done:
            number += draw.randint(1, 4)
            with killed_at(number, kill) as count:
                try:
                    if step[0] == "upsert":
                        upsert(center, dict(step[1]))
                    elif step[0] == "delete":
                        delete(center, step[1])
                    else:
                        other(center, str(step[0]))
                except Killed:
                    kills += 1
                done = count[0] < number
            after = applied(known, step)
            known = check(center, [after] if done else [known, after])
    assert kills > 40
    assert len(snapshot_numbers(find_space(center, "f").directory)) <= 4


def survive(center: Path, kills: int, seed: int) -> None:
    """Let so many writers be killed, one after another."""
    new_center(center)
    journal = center.parent / "journal"
    known: dict[int, int] = {}
    draw = random.Random(seed)
    for number in range(kills):
        journal.write_text("")
        writer = Program(
            [__file__, center, str(number), str(draw.randint(1, 250)), journal, json.dumps(list(known.items()))]
        )
        _, problem = writer.communicate()
        assert writer.returncode == -signal.SIGKILL, problem
        expected = [known]
        for line in journal.read_text().splitlines():
            word, operation = json.loads(line)
            begun = word == "begin"
            expected = [expected[-1], applied(expected[-1], operation)] if begun else expected[-1:]
        known = check(center, expected)


def test_killed_for_real(tmp_path: Path) -> None:
    survive(tmp_path / "center", 3, 0)


@pytest.mark.slow
def test_killed_fifty_times_for_real(tmp_path: Path) -> None:
    survive(tmp_path / "center", 50, 1)


def family(space: str, ids: list[int], versions: list[int]) -> np.ndarray[Any, Any]:
    """Unit vectors of products in one of two spaces; those of the other point the other way."""
    return unit(vectors(ids, versions)) * (1 if space.startswith("f") else -1)


def read_whole(center: Path, spaces: set[str], stop: threading.Event, seen: set[str]) -> None:
    """Read until told to stop; each view must be of one space, and hold whole upserts."""
    view = View.open(center)
    while not stop.wait(0.02):  # or readers would leave the writer no time
        view = view.refreshed()
        rows = view.rows(list(range(IDS)))
        version = rows["version"].unique().to_list()
        assert len(version) == 1 and version[0] is not None, rows
        expected = family(view.name, list(range(IDS)), version * IDS)
        np.testing.assert_allclose(unit(view.lookup(list(range(IDS)))), expected, atol=1e-6)
        found = view.search(expected[:3], 1)
        assert found.ids == [[0], [1], [2]], view.name
        np.testing.assert_allclose(found.scores[:, 0], 1, atol=1e-5)
        assert view.name.partition("@")[0] in spaces
        seen.add(view.name)


def read_during(center: Path, readers: int, upserts: int, flips: int) -> set[str]:
    """Readers while a writer upserts into two spaces and flips between them; returns what they answered from."""
    first = new_center(center)
    second = Space(center / SPACES / space_name("e" * 16, DIM, "int8"), "e" * 16, DIM, "int8", {"version": "integer"})
    make_record(second.record)
    second.save()
    ids = list(range(IDS))

    def write(version: int) -> None:
        rows = rows_of(dict.fromkeys(ids, version))
        other_way = replace(rows, vectors=-rows.vectors)
        for space, given in ((first, rows), (second, other_way)):
            with writing_to(center):
                Record(space, write=True).append(given)

    write(1)
    publish(center, first, kind="flat")
    stop, seen = threading.Event(), set[str]()
    with ThreadPoolExecutor(readers) as pool:
        running = [pool.submit(read_whole, center, {first.name, second.name}, stop, seen) for _ in range(readers)]
        try:
            for number in range(upserts):
                write(2 + number % 200)
                if number % max(1, upserts // flips) == 0:
                    if number % 3 == 2:
                        rollback(center)
                    else:
                        publish(center, second if number % 2 else first, kind="flat", keep=1)
        finally:
            stop.set()
        for reader in running:
            reader.result()
    return seen


def test_every_answer_is_of_one_space_and_snapshot(tmp_path: Path) -> None:
    assert len(read_during(tmp_path / "center", 3, 16, 8)) > 1


@pytest.mark.slow
def test_every_answer_is_of_one_space_and_snapshot_of_many(tmp_path: Path) -> None:
    assert len(read_during(tmp_path / "center", 8, 1000, 100)) > 10


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "WAIT", 0.1)
    center = tmp_path / "center"
    space = new_center(center)
    code = (
        f"from moonlib.system.lock import held\nfrom pathlib import Path\nwith held(Path({str(center / '.lock')!r})):\n"
    )
    writer = Program(["-c", code + "    print('ready', flush=True); import time; time.sleep(600)"])
    while not (center / ".lock").exists() or not (center / ".lock").read_text():
        time.sleep(0.02)
    try:
        for change in (lambda: upsert(center, {1: 1}), lambda: publish(center, space), lambda: rollback(center)):
            with pytest.raises(Busy, match=r"center is being written to by process \d+ on"):
                change()
        assert len(View.open(center)) == 0
        monkeypatch.setattr(writing, "WAIT", 600)
        with ThreadPoolExecutor(1) as pool:  # a writer that is done soon is waited for
            waiting = pool.submit(upsert, center, {1: 1})
            time.sleep(0.05)
            assert not waiting.done()
            writer.kill()  # a killed process holds nothing
            waiting.result()
    finally:
        writer.kill()
        writer.communicate()
    assert View.open(center).ids.to_list() == [1]


def test_a_full_disk_writes_nothing_and_says_what_to_do(tmp_path: Path) -> None:
    center = tmp_path / "center"
    space = new_center(center)
    upsert(center, {1: 1, 2: 1})
    publish(center, space, kind="flat")
    upsert(center, {2: 2})
    used = log_of(space.record, Current.read(space.record).logs[-1]).stat().st_size
    expected = {1: 1, 2: 2}
    with full_disk(used + 100), pytest.raises(OSError, match="make room"):
        upsert(center, {3: 3})
    assert log_of(space.record, Current.read(space.record).logs[-1]).stat().st_size == used
    check(center, [expected])
    with full_disk(100), pytest.raises(OSError, match="make room"):
        publish(center, space, kind="flat")
    assert View.open(center).snapshot == 1
    check(center, [expected])
    upsert(center, {3: 3})
    assert publish(center, space, kind="flat").snapshot == 2
    check(center, [expected | {3: 3}])


def test_a_clock_that_goes_back_changes_no_order(tmp_path: Path) -> None:
    center = tmp_path / "center"
    space = new_center(center)
    for version, received_at in ((1, 2_000), (2, 1_000), (3, -5)):
        with writing_to(center):
            rows = rows_of({7: version})
            Record(space, write=True).append(replace(rows, received_at=np.array([received_at])))
        check(center, [{7: version}])
    publish(center, space, kind="flat")
    check(center, [{7: 3}])
    assert View.open(center).received_at.tolist() == [-5]


def test_an_alias_to_what_is_gone_is_named(tmp_path: Path) -> None:
    center = tmp_path / "center"
    space = new_center(center)
    upsert(center, {1: 1})
    publish(center, space, kind="flat")
    held = View.open(center)
    write_aliases(center, {"live": Alias(Target(space.name, 9), Target(space.name, 8))})
    with pytest.raises(FileNotFoundError, match=r"snapshots/000009 is not there any more; snapshots of ffff\S+: 1"):
        View.open(center)
    with pytest.raises(ValueError, match=r"led to ffff.*@000008 before, which is not there any more"):
        rollback(center)
    write_aliases(center, {"live": Alias(Target("abcd-8-int8", 1))})
    with pytest.raises(ValueError, match="'live' leads to abcd-8-int8@000001, which is not there any more"):
        View.open(center)
    assert held.rows([1])["version"].to_list() == [1]


def test_a_reader_goes_on_with_a_snapshot_that_is_deleted(tmp_path: Path) -> None:
    center = tmp_path / "center"
    space = new_center(center)
    products = dict.fromkeys(range(IDS), 1)
    upsert(center, products)
    publish(center, space, kind="hnsw")
    view = View.open(center)
    upsert(center, {0: 2})
    publish(center, space, keep=1)
    shutil.rmtree(center / SPACES)
    ids = list(products)
    assert view.rows(ids)["version"].to_list() == [1] * IDS
    assert view.search(unit(vectors(ids, [1] * IDS)), 1).ids == [[id] for id in ids]
    assert view.picture(3) == picture(3, 1) and view.has([3, 99]).tolist() == [True, False]


def test_a_view_follows_an_alias_that_moves_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    center = tmp_path / "center"
    space = new_center(center)
    upsert(center, {1: 1})
    publish(center, space, kind="flat", keep=1)
    held = View.open(center)
    real, moves = Snapshot.open, [2, 3]

    def moved(space: Space, number: int) -> Snapshot:
        while moves:  # between the look at the alias and the look at the snapshot
            upsert(center, {1: moves.pop(0)})
            publish(center, space, kind="flat", keep=1)
        return real(space, number)

    upsert(center, {2: 1})
    publish(center, space, kind="flat", keep=1)
    monkeypatch.setattr("moonlib.center.view.Snapshot.open", moved)
    view = held.refreshed()
    assert view.rows([1, 2])["version"].to_list() == [3, 1] and view.snapshot == 4
    monkeypatch.undo()
    write_aliases(center, {"live": Alias(Target(space.name, 99))})
    for _ in range(2):  # and one that is wrong is named each time
        with pytest.raises(FileNotFoundError, match="000099"):
            view.refreshed()
    write_aliases(center, {"live": Alias(Target(space.name, 4))})
    upsert(center, {3: 1})
    assert view.refreshed().has([1, 2, 3]).all()


def test_a_rollback_answers_with_what_was_upserted_since(tmp_path: Path) -> None:
    center = tmp_path / "center"
    space = new_center(center)
    upsert(center, {1: 1, 2: 1, 3: 1})
    publish(center, space, kind="flat")
    upsert(center, {2: 2, 4: 2})
    delete(center, [1])
    publish(center, space, kind="flat")
    upsert(center, {5: 3})
    assert rollback(center).now == Target(space.name, 1)
    check(center, [{2: 2, 3: 1, 4: 2, 5: 3}])


def test_snapshots_that_an_alias_needs_are_kept(tmp_path: Path) -> None:
    center = tmp_path / "center"
    space = new_center(center)
    for version in range(1, 7):
        upsert(center, {1: version})
        publish(center, space, kind="flat", keep=2)
        if version == 1:
            publish(center, space, kind="flat", alias="canary")
    assert snapshot_numbers(space.directory) == [1, 5, 6]
    assert View.open(center, "canary").snapshot == 1
    check(center, [{1: 6}])


def test_rows_that_were_cut_off_are_passed_over_and_damage_is_not(tmp_path: Path) -> None:
    center = tmp_path / "center"
    space = new_center(center)
    for version in (1, 2, 3):
        upsert(center, {version: version})
    log = log_of(space.record, 0)
    whole = log.read_bytes()
    third = whole.rfind(b"\xffMLR")
    for length in (third + 5, third + 40, len(whole) - 1):
        log.write_bytes(whole[:length])
        check(center, [{1: 1, 2: 2}])
    upsert(center, {3: 4})  # in place of what was cut off
    check(center, [{1: 1, 2: 2, 3: 4}])
    broken = bytearray(log.read_bytes())
    broken[third - 10] ^= 1
    log.write_bytes(broken)
    for reading in (lambda: View.open(center), lambda: upsert(center, {9: 9})):
        with pytest.raises(Damaged, match=r"log-000000 is damaged: the rows at byte \d+"):
            reading()
    assert log.read_bytes() == broken


def test_a_damaged_snapshot_is_named_and_another_can_be_made(tmp_path: Path) -> None:
    center = tmp_path / "center"
    space = new_center(center)
    upsert(center, {1: 1, 2: 1})
    publish(center, space, kind="flat")
    vectors_file = snapshot_of(space.directory, 1) / "products.npy"
    content = bytearray(vectors_file.read_bytes())
    vectors_file.unlink()  # the record has it by another name
    content[-1] ^= 1
    vectors_file.write_bytes(content)
    with pytest.raises(Damaged, match=r"products\.npy is damaged.*moonlib publish"):
        View.open(center)
    upsert(center, {2: 2})
    for _ in range(2):  # and none leads to the damaged one
        upsert(center, {3: 3})
        publish(center, space, kind="flat")
    check(center, [{1: 1, 2: 2, 3: 3}])


def test_a_damaged_base_is_not_compacted(tmp_path: Path) -> None:
    center = tmp_path / "center"
    space = new_center(center)
    upsert(center, {1: 1, 2: 1})
    compact(center, space)
    file = base_of(space.record, Current.read(space.record).base) / "products.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(Damaged, match=r"products\.npy is damaged.*restore it from a backup"):
        publish(center, space)


def main(center: str, seed: str, number: str, journal: str, known: str) -> None:
    """Change a center until the end, and say in the journal what was begun and acknowledged."""
    file = os.open(journal, os.O_WRONLY | os.O_APPEND)
    say = os.write
    with killed_at(int(number), lambda: os.kill(os.getpid(), signal.SIGKILL)):
        for operation, change in operations(Path(center), int(seed), dict(json.loads(known))):
            say(file, json.dumps(["begin", operation]).encode() + b"\n")
            change()
            say(file, json.dumps(["done", operation]).encode() + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
