"""Joins concurrent requests into batches: each is prepared by some thread, and all of a batch are worked on by one."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)

Job = TypeVar("Job")
Answer = TypeVar("Answer")


class QueueFull(Exception):
    """As many requests are in progress as the queue allows."""


class TimedOut(Exception):
    """A request's deadline has passed before it was answered."""


@dataclass
class _Request(Generic[Job, Answer]):
    prepare: Callable[[], Job]
    deadline: float
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Answer]
    job: Any = None
    ready: float = 0.0

    @property
    def given_up(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.future.done() or time.monotonic() > self.deadline


class Batcher(Generic[Job, Answer]):
    """Joins jobs of concurrent requests into batches for one thread.

    A request's job is prepared first, by one of several threads; from there it goes to the batches without coming by
    the event loop again. A batch takes what is prepared, up to its size. It waits for more only while others are being
    prepared, and no longer than ``wait_ms``: a lone request never waits. A request whose deadline has passed, or whose
    client is gone, is not worked on.

    Args:
        work: takes jobs and returns one answer, or one exception, per job, in order; called in the batcher's thread.
        threads: that prepare.
        batch: jobs of a batch, at most.
        wait_ms: how long a batch waits for jobs that are being prepared, in milliseconds.
        queue: requests in progress, at most.
        seen: called per batch with the time that each job has waited, in seconds.

    Example:
        >>> async def doubled() -> int:
        ...     batcher = Batcher(lambda jobs: [2 * job for job in jobs])
        ...     return await batcher.submit(lambda: 21, timeout=1)
        >>> asyncio.run(doubled())
        42
    """

    def __init__(
        self,
        work: Callable[[Sequence[Job]], Sequence[Answer | Exception]],
        threads: int = 1,
        batch: int = 32,
        wait_ms: float = 5.0,
        queue: int = 256,
        seen: Callable[[Sequence[float]], None] = lambda _: None,
    ) -> None:
        self._work, self._seen = work, seen
        self._batch, self._wait, self._queue = batch, wait_ms / 1000, queue
        self._changed = threading.Condition()
        self._unprepared: SimpleQueue[_Request[Job, Answer] | None] = SimpleQueue()
        self._ready: deque[_Request[Job, Answer]] = deque()
        self._in_progress = 0
        self._on_their_way = 0
        self._closed = False
        preparing = [(self._prepare, f"prepare_{number}") for number in range(threads)]
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in [*preparing, (self._run, "encode")]
        ]
        for thread in self._threads:
            thread.start()

    @property
    def in_progress(self) -> int:
        """Requests that wait for their answers."""
        return self._in_progress

    async def submit(self, prepare: Callable[[], Job], timeout: float) -> Answer:
        """Hand over a request and wait for its answer.

        Args:
            prepare: makes the job; called in a thread.
            timeout: seconds that it may take.

        Raises:
            QueueFull: as many are in progress as may be, or the batcher is closed.
            TimedOut: it took longer.
            Exception: what ``prepare`` or the work raised, or returned in place of an answer.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        with self._changed:  # so that nothing is put behind what ends the threads
            if self._in_progress >= self._queue or self._closed:
                raise QueueFull(f"{self._in_progress} queries are in progress; try again in a moment")
            self._in_progress += 1
            self._on_their_way += 1
            self._unprepared.put(_Request(prepare, time.monotonic() + timeout, loop, future))
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise TimedOut from None
        finally:
            with self._changed:
                self._in_progress -= 1

    def close(self) -> None:
        """Work on what waits, then end the threads."""
        with self._changed:
            self._closed = True
            for _ in self._threads[:-1]:
                self._unprepared.put(None)
        for thread in self._threads[:-1]:
            thread.join()
        with self._changed:
            self._changed.notify()
        self._threads[-1].join()

    def _prepare(self) -> None:
        while (request := self._unprepared.get()) is not None:
            prepared = False
            if not request.given_up:
                try:
                    request.job = request.prepare()
                    prepared = True
                except Exception as error:
                    _answer([(request, error)])
            with self._changed:
                self._on_their_way -= 1
                if prepared:
                    request.ready = time.perf_counter()
                    self._ready.append(request)
                self._changed.notify()

    def _run(self) -> None:
        while requests := self._next():
            started = time.perf_counter()
            self._seen([started - each.ready for each in requests])
            _answer(list(zip(requests, self._answers([each.job for each in requests]), strict=True)))

    def _answers(self, jobs: Sequence[Job]) -> Sequence[Answer | Exception]:
        try:
            return self._work(jobs)
        except Exception as error:
            if len(jobs) == 1:
                log.exception("a job failed")
                return [error]
        return [answer for job in jobs for answer in self._answers([job])]  # whichever fails, fails alone

    def _next(self) -> list[_Request[Job, Answer]]:
        """The next batch; empty at the end."""
        with self._changed:
            while True:
                while not self._ready and not (self._closed and self._on_their_way == 0):
                    self._changed.wait()
                until = time.monotonic() + self._wait
                while self._on_their_way > 0 and len(self._ready) < self._batch and not self._closed:
                    if (left := until - time.monotonic()) <= 0:
                        break
                    self._changed.wait(left)
                taken: list[_Request[Job, Answer]] = []
                while self._ready and len(taken) < self._batch:
                    each = self._ready.popleft()
                    if not each.given_up:
                        taken.append(each)
                if taken or (self._closed and self._on_their_way == 0):
                    return taken


def _answer(answered: Sequence[tuple[_Request[Job, Answer], Answer | Exception]]) -> None:
    """Hand answers to those who wait, all of an event loop at once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Answer], Answer | Exception]]] = {}
    for request, answer in answered:
        by_loop.setdefault(request.loop, []).append((request.future, answer))
    for loop, those in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, those)
        except RuntimeError:  # the loop has ended, and nobody waits
            log.debug("%d answers came after the server's end", len(those))


def _settle(answered: Sequence[tuple[asyncio.Future[Answer], Answer | Exception]]) -> None:
    for future, answer in answered:
        if future.done():  # its client has been told that it took too long
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
