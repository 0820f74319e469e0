"""Canaries: rows that measure how fresh a center is, and that nobody ever finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moonlib.center.aliases import Alias, Target, write_aliases
from moonlib.center.canary import CANARIES, append_canary, refuse_canaries
from moonlib.center.publishing import compact, publish
from moonlib.center.record import Record, make_record
from moonlib.center.rows import IdType, Rows
from moonlib.center.space import Space
from moonlib.center.view import View
from moonlib.center.writing import make_center

DIM = 4


def products(record: Record, ids: pl.Series) -> Rows:
    n = len(ids)
    vectors = np.eye(DIM, dtype=np.float32)[np.arange(n) % DIM]
    zeros = np.zeros((n, 16), np.uint8)
    nothing = pl.repeat(None, n, dtype=pl.Binary, eager=True)
    return Rows(ids, vectors, zeros, np.ones(n, np.int64), np.zeros(n, np.bool_), record.no_columns, nothing)


@pytest.fixture(params=["int64", "text"])
def record(request: pytest.FixtureRequest, tmp_path: Path) -> Record:
    """The record of a space with five products, of either type of ids."""
    center = tmp_path / "center"
    make_center(center)
    ids: IdType = request.param
    space = Space(center / "spaces" / f"a-{DIM}-float32", "a" * 16, DIM, "float32", ids=ids)
    space.directory.mkdir(parents=True)
    space.save()
    make_record(space.record)
    write_aliases(center, {"live": Alias(Target(space.name, 0))})
    record = Record(space, write=True)
    named = pl.Series(range(5)) if ids == "int64" else pl.Series(["a", "b", "c", "d", "e"])
    record.append(products(record, named))
    return record


def center_of(record: Record) -> Path:
    return record.space.directory.parents[1]


def test_a_canary_is_known_at_once_and_never_found(record: Record) -> None:
    center = center_of(record)
    before = View.open(center)
    sequence = append_canary(record, 1_700_000_000_000_000)
    view = before.refreshed()
    assert view is not before and view.sequence == sequence == 6
    assert view.arrived.tolist() == [1_700_000_000_000_000]
    assert len(view) == 5 and view.ids.equals(before.ids)
    canary = CANARIES[type(view.ids.dtype)]
    assert not view.has([canary])[0]
    found = view.search(np.ones((1, DIM), np.float32), 10)
    assert canary not in found.ids.to_list() and np.isfinite(found.scores).sum() == 5
    publish(center, record.space, kind="flat")
    after = View.open(center)
    assert len(after) == 5 and after.delta_rows == 0 and not after.has([canary])[0]


def test_only_what_is_new_has_arrived(record: Record) -> None:
    view = View.open(center_of(record))
    assert not len(view.arrived)  # all of it was there when the view was opened
    append_canary(record, 7)
    append_canary(record, 8)
    newer = view.refreshed()
    assert newer.arrived.tolist()[-1] == 8
    assert newer.refreshed() is newer


def test_what_a_compaction_or_a_publish_took_has_arrived_too(record: Record) -> None:
    center = center_of(record)
    view = View.open(center)
    takes: tuple[Callable[[Path, Space], object], ...] = (compact, publish, lambda *_: None)
    for number, take in enumerate(takes):
        named = pl.Series([100 + number]) if record.space.ids == "int64" else pl.Series([f"x{number}"])
        record.append(replace(products(record, named), received_at=np.array([50 + number])))
        take(center, record.space)
        view = view.refreshed()
        assert view.arrived.tolist() == [50 + number]
        assert view.refreshed() is view
        record.refresh()


def test_a_canary_alone_is_nothing_to_publish(record: Record) -> None:
    center = center_of(record)
    first = publish(center, record.space, kind="flat")
    record.refresh()
    before = record.number
    append_canary(record, 9)
    assert publish(center, record.space, kind="flat").snapshot == first.snapshot
    assert View.open(center).sequence == record.sequence and Record(record.space).number == before
    deleted = Rows.tombstones(record.live()[0][:1], DIM, "int8", record.no_columns, 0)
    record.append(deleted)
    assert publish(center, record.space, kind="flat").snapshot == first.snapshot + 1


def test_no_product_has_the_canarys_id(record: Record) -> None:
    for canary in CANARIES.values():
        with pytest.raises(ValueError, match="is reserved: monitoring writes rows of this id"):
            refuse_canaries(pl.Series([canary]))
    refuse_canaries(pl.Series([1, 2]))
    refuse_canaries(pl.Series(["a"]))


def test_a_space_without_products_takes_no_canary(tmp_path: Path) -> None:
    space = Space(tmp_path / "a-4-int8", "a" * 16, DIM, "int8")
    make_record(space.record)
    space.save()
    with pytest.raises(ValueError, match="has no product yet"):
        append_canary(Record(space, write=True), 1)
    assert Record(space).space.ids is None
