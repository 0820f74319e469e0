"""Joins concurrent requests into batches that one thread works on."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Job = TypeVar("Job")
Answer = TypeVar("Answer")


class QueueFull(Exception):
    """As many requests are in progress as the queue allows."""


class TimedOut(Exception):
    """A request's deadline has passed before it was answered."""


@dataclass
class _Waiting(Generic[Job, Answer]):
    job: Job
    deadline: float
    future: asyncio.Future[Answer]
    since: float = field(default_factory=time.perf_counter)


class Batcher(Generic[Job, Answer]):
    """Joins jobs of concurrent requests into batches for one thread.

    A batch takes what waits, up to its size. It waits for more only while requests are on their way that have entered
    `place` and not submitted their job yet, and no longer than ``wait_ms``: a lone request never waits. A job whose
    deadline has passed, or whose client is gone, is not worked on.

    Args:
        work: takes jobs and returns one answer, or one exception, per job, in order; called in the batcher's thread.
        batch: jobs of a batch, at most.
        wait_ms: how long a batch waits for jobs on their way, in milliseconds.
        queue: requests in progress, at most.
        seen: called per batch with the time that each job has waited, in seconds.

    Example:
        >>> async def doubled() -> int:
        ...     batcher = Batcher(lambda jobs: [2 * job for job in jobs])
        ...     with batcher.place() as place:
        ...         return await place.submit(21, timeout=1)
        >>> asyncio.run(doubled())
        42
    """

    def __init__(
        self,
        work: Callable[[Sequence[Job]], Sequence[Answer | Exception]],
        batch: int = 32,
        wait_ms: float = 5.0,
        queue: int = 256,
        seen: Callable[[Sequence[float]], None] = lambda _: None,
    ) -> None:
        self._work, self._seen = work, seen
        self._batch, self._wait, self._queue = batch, wait_ms / 1000, queue
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting[Job, Answer]] = deque()
        self._in_progress = 0
        self._on_their_way = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="encode", daemon=True)
        self._thread.start()

    @property
    def in_progress(self) -> int:
        """Requests that have a place."""
        return self._in_progress

    @contextmanager
    def place(self) -> Iterator[Place[Job, Answer]]:
        """Hold a place in the queue, from a request's arrival to its answer; entered in the event loop.

        Raises:
            QueueFull: none is left.
        """
        if self._in_progress >= self._queue or self._closed:
            raise QueueFull(f"{self._in_progress} queries are in progress; try again in a moment")
        place = Place(self)
        self._in_progress += 1  # the event loop's thread alone writes it
        self._comes()
        try:
            yield place
        finally:
            self._in_progress -= 1
            place.leave()

    def _comes(self) -> None:
        with self._changed:
            self._on_their_way += 1

    def _arrives(self, waiting: _Waiting[Job, Answer] | None) -> None:
        with self._changed:
            self._on_their_way -= 1
            if waiting is not None:
                self._waiting.append(waiting)
            self._changed.notify()

    def close(self) -> None:
        """Work on what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while jobs := self._next():
            started = time.perf_counter()
            self._seen([started - each.since for each in jobs])
            answers = self._answers([each.job for each in jobs])
            by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Answer], Answer | Exception]]] = {}
            for each, answer in zip(jobs, answers, strict=True):
                by_loop.setdefault(each.future.get_loop(), []).append((each.future, answer))
            for loop, answered in by_loop.items():
                try:
                    loop.call_soon_threadsafe(_settle, answered)
                except RuntimeError:  # the loop has ended, and nobody waits
                    log.debug("%d answers came after the server's end", len(answered))

    def _answers(self, jobs: Sequence[Job]) -> Sequence[Answer | Exception]:
        try:
            return self._work(jobs)
        except Exception as error:
            if len(jobs) == 1:
                log.exception("a job failed")
                return [error]
        return [answer for job in jobs for answer in self._answers([job])]  # whichever fails, fails alone

    def _next(self) -> list[_Waiting[Job, Answer]]:
        """The next batch; empty at the end."""
        with self._changed:
            while True:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                until = time.monotonic() + self._wait
                while self._on_their_way > 0 and len(self._waiting) < self._batch and not self._closed:
                    if (left := until - time.monotonic()) <= 0:
                        break
                    self._changed.wait(left)
                now = time.monotonic()
                taken: list[_Waiting[Job, Answer]] = []
                while self._waiting and len(taken) < self._batch:
                    each = self._waiting.popleft()
                    if each.deadline > now and not each.future.cancelled():
                        taken.append(each)
                if taken or self._closed:
                    return taken


def _settle(answered: Sequence[tuple[asyncio.Future[Answer], Answer | Exception]]) -> None:
    for future, answer in answered:
        if future.done():  # its client has been told that it took too long
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)


class Place(Generic[Job, Answer]):
    """A request's place in the queue of a `Batcher`."""

    def __init__(self, batcher: Batcher[Job, Answer]) -> None:
        self._batcher = batcher
        self._on_its_way = True

    async def submit(self, job: Job, timeout: float) -> Answer:
        """Hand over a job and wait for its answer.

        Args:
            job: what to work on.
            timeout: seconds that it may take.

        Raises:
            TimedOut: it took longer.
            Exception: what the work raised, or returned in place of an answer.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.leave(_Waiting(job, time.monotonic() + timeout, future))
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise TimedOut from None

    def leave(self, waiting: _Waiting[Job, Answer] | None = None) -> None:
        """Be on the way no longer: with a job, or without one."""
        if self._on_its_way:
            self._on_its_way = False
            self._batcher._arrives(waiting)
