"""Requests joined into batches."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from moonlib.serving.batcher import Batcher, QueueFull, TimedOut

T = TypeVar("T")


class Worker:
    """Doubles numbers, once it may; notes its batches. A negative number breaks its batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may = threading.Event()
        self.began = threading.Event()

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        self.began.set()
        assert self.may.wait(30)
        self.batches.append(list(jobs))
        if any(job < 0 for job in jobs):
            raise ValueError("negative")
        return [2 * job for job in jobs]


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a thread of its own: a browser that another test opened has a running loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


async def ask(batcher: Batcher[int, int], job: int, timeout: float = 30) -> int:
    return await batcher.submit(lambda: job, timeout)


def test_what_comes_while_a_batch_is_worked_on_is_joined() -> None:
    async def main() -> None:
        first = asyncio.create_task(ask(batcher, 1))
        await asyncio.to_thread(worker.began.wait)
        others = [asyncio.create_task(ask(batcher, n)) for n in range(2, 9)]
        await asyncio.sleep(0.05)
        worker.may.set()
        assert await asyncio.gather(first, *others) == [2 * n for n in range(1, 9)]

    worker = Worker()
    batcher = Batcher(worker, batch=4)
    run(main())
    batcher.close()
    assert worker.batches == [[1], [2, 3, 4, 5], [6, 7, 8]]


def test_a_lone_request_does_not_wait_and_one_on_its_way_is_waited_for() -> None:
    async def alone() -> float:
        started = time.perf_counter()
        await ask(batcher, 1)
        return time.perf_counter() - started

    async def two() -> None:
        late = asyncio.create_task(batcher.submit(slowly, 30))
        soon = asyncio.create_task(ask(batcher, 1))
        await asyncio.sleep(0.05)
        prepared.set()
        assert await asyncio.gather(soon, late) == [2, 4]

    def slowly() -> int:
        assert prepared.wait(30)
        return 2

    prepared = threading.Event()

    worker = Worker()
    worker.may.set()
    batcher = Batcher(worker, threads=2, wait_ms=20_000)
    assert run(alone()) < 10
    run(two())
    assert worker.batches == [[1], [1, 2]]
    batcher.close()


def test_a_request_that_cannot_be_prepared_fails_alone_and_holds_up_nobody() -> None:
    def broken() -> int:
        raise KeyError("its picture was broken")

    async def main() -> None:
        with pytest.raises(KeyError):
            await batcher.submit(broken, 30)
        assert await ask(batcher, 5) == 10

    worker = Worker()
    worker.may.set()
    batcher = Batcher(worker, wait_ms=1e9)
    run(asyncio.wait_for(main(), 30))
    batcher.close()


def test_who_has_timed_out_is_not_worked_on() -> None:
    async def main() -> None:
        first = asyncio.create_task(ask(batcher, 1))
        await asyncio.to_thread(worker.began.wait)
        with pytest.raises(TimedOut):
            await ask(batcher, 2, timeout=0.01)
        last = asyncio.create_task(ask(batcher, 3))
        await asyncio.sleep(0.01)
        worker.may.set()
        assert await asyncio.gather(first, last) == [2, 6]

    worker = Worker()
    batcher = Batcher(worker)
    run(main())
    batcher.close()
    assert worker.batches == [[1], [3]]


def test_a_full_queue_refuses_and_has_places_again() -> None:
    async def main() -> None:
        waiting = [asyncio.create_task(ask(batcher, n)) for n in range(3)]
        await asyncio.sleep(0.01)
        with pytest.raises(QueueFull):
            await ask(batcher, 3)
        worker.may.set()
        await asyncio.gather(*waiting)
        assert batcher.in_progress == 0
        assert await ask(batcher, 4) == 8

    worker = Worker()
    batcher = Batcher(worker, queue=3)
    run(main())
    batcher.close()


def test_whatever_breaks_a_batch_fails_alone() -> None:
    async def main() -> list[int | BaseException]:
        first = asyncio.create_task(ask(batcher, 0))
        await asyncio.to_thread(worker.began.wait)
        others = [asyncio.create_task(ask(batcher, n)) for n in (1, -2, 3)]
        await asyncio.sleep(0.05)
        worker.may.set()
        await first
        return await asyncio.gather(*others, return_exceptions=True)

    worker = Worker()
    batcher = Batcher(worker)
    good, bad, other = run(main())
    assert (good, other) == (2, 6)
    assert isinstance(bad, ValueError)
    batcher.close()


def test_closing_answers_what_waits_and_takes_no_more() -> None:
    async def main() -> None:
        waiting = [asyncio.create_task(ask(batcher, n)) for n in range(3)]
        await asyncio.to_thread(worker.began.wait)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.sleep(0.01)
        worker.may.set()
        assert await asyncio.gather(*waiting) == [0, 2, 4]
        await closing
        with pytest.raises(QueueFull):
            await ask(batcher, 1)

    worker = Worker()
    batcher = Batcher(worker)
    run(main())
