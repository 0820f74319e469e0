"""A writer is killed anywhere: what it acknowledged is there, nothing is torn or doubled, and the alias is whole.

Run as a script, this file is the writer: it takes the center, a seed, and the number of the operation of the file system
at which it kills itself, half-way through if that is a write.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from moonlib.center.aliases import Alias, Target, find_alias, write_aliases
from moonlib.center.layout import SPACES, snapshot_numbers
from moonlib.center.publishing import compact, publish, rollback
from moonlib.center.record import Record, make_record
from moonlib.center.rows import Rows
from moonlib.center.snapshot import Snapshot
from moonlib.center.space import Space, find_space, space_name
from moonlib.center.view import View
from moonlib.center.writing import make_center, writing_to
from moonlib.representations.store import unit
from moonlib.testing.processes import Program

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
        return known | {id: version for id, version in operation[1]}
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
        assert nearest.ids.to_list() == ids
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
    steps = [
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
            number += draw.randint(1, 3)
            with killed_at(number, kill) as count:
                try:
                    if step[0] == "upsert":
                        upsert(center, dict(step[1]))  # type: ignore[arg-type]
                    elif step[0] == "delete":
                        delete(center, step[1])  # type: ignore[arg-type]
                    else:
                        other(center, str(step[0]))
                except Killed:
                    kills += 1
                done = count[0] < number
            after = applied(known, step)
            known = check(center, [after] if done else [known, after])
    assert kills > 60
    assert len(snapshot_numbers(find_space(center, "f").directory)) <= 4


def survive(center: Path, kills: int, seed: int) -> None:
    """Let so many writers be killed, one after another."""
    new_center(center)
    journal = center.parent / "journal"
    known: dict[int, int] = {}
    draw = random.Random(seed)
    for number in range(kills):
        journal.write_text("")
        writer = Program([__file__, center, str(number), str(draw.randint(1, 250)), journal, json.dumps(list(known.items()))])
        _, problem = writer.communicate()
        assert writer.returncode == -signal.SIGKILL, problem
        expected = [known]
        for line in journal.read_text().splitlines():
            word, operation = json.loads(line)
            if word == "begin":
                expected = [expected[-1], applied(expected[-1], operation)]
            else:
                expected = expected[-1:]
        known = check(center, expected)


def test_killed_for_real(tmp_path: Path) -> None:
    survive(tmp_path / "center", 3, 0)


@pytest.mark.slow
def test_killed_fifty_times_for_real(tmp_path: Path) -> None:
    survive(tmp_path / "center", 50, 1)


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
