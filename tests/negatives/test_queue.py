from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from moonlib.losses.info_nce import InfoNCE
from moonlib.negatives.masks import positive_and_ignore
from moonlib.negatives.negative_sampler import Candidates
from moonlib.negatives.queue import Queue
from moonlib.testing import check_negative_sampler
from moonlib.testing.processes import process_group, run_processes
from moonlib.testing.training import example_training_data

DIM = 4
DATA = example_training_data(DIM)  # made once, and not by a forked child, where polars would wait for ever


def new_queue(size: int) -> Queue:
    queue = Queue(size)
    queue.setup(DATA)
    return queue


def batch(first: int, count: int) -> Candidates:
    """Items of ascending numbers, each with a vector, SPU and category that follow from its number."""
    number = torch.arange(first, first + count)
    vectors = number[:, None] + torch.arange(DIM) / 10
    return Candidates(vectors, 2**62 + number, -(2**62) - number // 2, number % 3)


@pytest.mark.parametrize("size", [1, 5, 4096])
def test_it_keeps_the_promises_of_a_negative_sampler(size: int) -> None:
    check_negative_sampler(lambda: Queue(size))


@settings(deadline=None)
@given(st.integers(1, 12), st.lists(st.integers(0, 20), max_size=12))
def test_holds_the_last_items_whatever_the_sizes_of_the_batches(size: int, counts: list[int]) -> None:
    queue, kept, first = new_queue(size), deque[int](maxlen=size), 0
    for count in [*counts, 1]:
        extended = queue.extend(batch(first, count))
        stored = extended.item_id[count:] - 2**62
        assert sorted(stored.tolist()) == list(kept)
        expected = [batch(number, 1) for number in stored.tolist()]
        for name in ("representations", "item_id", "spu_id", "category"):
            rows = [getattr(one, name) for one in [batch(first, count), *expected]]
            assert torch.equal(getattr(extended, name), torch.cat(rows))
        kept.extend(range(first, first + count))
        first += count


def test_hard_negatives_go_in_and_what_other_samplers_added_does_not() -> None:
    queue, loaded = new_queue(10), batch(0, 3)
    strangers = batch(100, 2)
    queue.extend(loaded.extended(strangers.representations, strangers.item_id, strangers.spu_id, strangers.category))
    assert torch.equal(queue.extend(batch(3, 1)).item_id[1:], loaded.item_id)


def test_a_restored_queue_goes_on_as_if_nothing_had_been() -> None:
    whole, before, first = new_queue(7), new_queue(7), 0
    for count in (3, 3, 4):
        whole.extend(batch(first, count))
        before.extend(batch(first, count))
        first += count
    after = new_queue(7)
    after.load_state_dict(before.state_dict())
    for count in (2, 9, 5):
        ours, theirs = whole.extend(batch(first, count)), after.extend(batch(first, count))
        assert torch.equal(ours.item_id, theirs.item_id)
        assert torch.equal(ours.representations, theirs.representations)
        first += count


def test_a_full_queue_equals_one_big_batch() -> None:
    torch.manual_seed(0)
    encoded = Candidates(torch.randn(24, DIM), torch.arange(24) % 20, torch.arange(24) % 10, torch.zeros(24).long())
    queries, query_item = F.normalize(torch.randn(6, DIM), dim=1), encoded.item_id[18:]

    def part(rows: slice) -> Candidates:
        names = ("representations", "item_id", "spu_id", "category")
        return Candidates(*(getattr(encoded, name)[rows] for name in names))

    def loss(pool: Candidates) -> torch.Tensor:
        masks = positive_and_ignore(query_item[:, None], query_item[:, None] % 10, pool.item_id, pool.spu_id)
        return InfoNCE()(queries @ F.normalize(pool.representations, dim=1).T, *masks)

    queue = new_queue(18)
    for start in (0, 6, 12):
        queue.extend(part(slice(start, start + 6)))
    pool = queue.extend(part(slice(18, 24)))
    assert len(pool.item_id) == 24
    torch.testing.assert_close(loss(pool), loss(part(slice(None))), rtol=1e-5, atol=1e-6)


def test_nothing_is_stored_in_evaluation() -> None:
    queue = new_queue(8)
    queue.extend(batch(0, 3))
    queue.eval()
    for _ in range(2):
        assert torch.equal(queue.extend(batch(3, 4)).item_id, torch.cat([batch(3, 4).item_id, batch(0, 3).item_id]))
    assert int(queue.pushed) == 3


def test_stored_items_get_no_gradient_and_are_read_before_they_are_overwritten() -> None:
    queue = new_queue(4)
    weights = []
    for first in (0, 4, 8):
        weight = torch.full((), 2.0, requires_grad=True)
        items = batch(first, 4)
        pool = queue.extend(Candidates(weight * items.representations, items.item_id, items.spu_id, items.category))
        stored = pool.representations[4:].clone()
        (pool.representations**2).sum().backward()
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, 2 * 2.0 * (items.representations**2).sum())
        assert torch.equal(pool.representations[4:], stored)
        weights.append(weight)
    grads = [float(weight.grad) for weight in weights if weight.grad is not None]
    assert grads == pytest.approx([float(4 * (batch(first, 4).representations ** 2).sum()) for first in (0, 4, 8)])


def test_half_precision_is_stored_in_float32_and_returned_as_it_came() -> None:
    queue, items = new_queue(4), batch(0, 2)
    items.representations = items.representations.bfloat16()
    queue.extend(items)
    assert queue.representations.dtype == torch.float32
    assert queue.extend(items).representations.dtype == torch.bfloat16


def _process(rank: int, directory: str) -> None:
    with process_group(rank, directory):
        queue, first = new_queue(8), 0
        for _ in range(3):
            queue.extend(batch(first, 2) if rank == 0 else batch(first + 2, 3))
            first += 5
        torch.save(queue.state_dict(), f"{directory}/{rank}.pt")


def test_every_process_holds_what_one_would(tmp_path: Path) -> None:
    run_processes(_process, str(tmp_path))
    one = new_queue(8)
    for first in (0, 5, 10):
        one.extend(batch(first, 5))
    for rank in range(2):
        held = torch.load(tmp_path / f"{rank}.pt")
        assert held.keys() == one.state_dict().keys()
        assert all(torch.equal(held[name], value) for name, value in one.state_dict().items())


def test_a_queue_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        Queue(0)
