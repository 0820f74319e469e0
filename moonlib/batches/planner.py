"""Plans, in the main process, which pairs make each batch; loader workers only fetch and preprocess them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from moonlib.batches.views import ITEM, QUERY, view_draws
from moonlib.data.ids import Ids
from moonlib.negatives.negative_sampler import NegativeSampler
from moonlib.pairs.pairs import Pairs

log = logging.getLogger(__name__)

MICROSECONDS_OF_A_DAY = 86_400_000_000

# Independent random streams of one seed.
_ORDER, _CHOICES, _AUGMENTATION = range(3)


@dataclass(frozen=True)
class BatchPlan:
    """Plan of one step: the rows that one process loads.

    Attributes:
        step: position in the run, from 0.
        rows: int64 [Q], rows of the pairs.
        query_ids: int64 [Q].
        item_ids: int64 [Q].
        extra_ids: int64 [E], items that negative samplers asked for.
        extra_rows: int64 [E], for which row of the batch.
        task: int64 [Q], index of each row's task.
        seed: seeds the augmentation of this batch.
        query_views: uint64 [Q], which picture of each query is read, where it has several, see
            `moonlib.batches.views`; None for the main one.
        item_views: uint64 [Q + E], the same for the items and then the extra ones.
    """

    step: int
    rows: Ids
    query_ids: Ids
    item_ids: Ids
    extra_ids: Ids
    extra_rows: Ids
    task: Ids
    seed: int
    query_views: NDArray[np.uint64] | None = None
    item_views: NDArray[np.uint64] | None = None


@dataclass(frozen=True)
class Recent:
    """How many of the pairs that are trained on are new ones.

    An epoch is all pairs of the last days and as many older ones as the share leaves room for, drawn anew in each
    epoch; where there are fewer older ones, all of them.

    Args:
        days: that are new, counted back from the newest pair.
        share: of the new pairs in each epoch, above 0 and at most 1.

    Raises:
        ValueError: one of them is out of its bounds.
    """

    days: int
    share: float

    def __post_init__(self) -> None:
        if self.days < 1:
            raise ValueError(f"recent.days: expected at least 1, got {self.days}")
        if not 0 < self.share <= 1:
            raise ValueError(f"recent.share: expected a share above 0 and at most 1, got {self.share}")

    def among(self, pairs: Pairs) -> NDArray[np.bool_]:
        """Tell which pairs are new, bool [P].

        Raises:
            ValueError: the pairs don't know how old they are.
        """
        if pairs.ts is None:
            raise ValueError("data.recent: these pairs don't say how old they are (Pairs.ts): leave it out")
        return pairs.ts > pairs.ts.max(initial=0) - self.days * MICROSECONDS_OF_A_DAY


class BatchPlanner(Sampler[BatchPlan]):
    """Yields one plan per step; use as ``DataLoader(dataset, sampler=planner, batch_size=None)``.

    The pairs of an epoch are permuted as a function of (seed, epoch); epochs follow one another without a seam, and
    step s takes slots s · B to (s + 1) · B of that endless sequence, so that no pair is lost between epochs. Each row
    draws its task by weight among those it can serve, and one picture of each product and query that has several, anew
    in each epoch. Rank r takes slots r, r + R, … of each global batch. So a step
    is a function of (pairs, tasks, negatives, seed, step) only: resuming is starting at another step, and any number
    of ranks or workers sees the same global batches.

    Args:
        pairs: P pairs.
        tasks: weight of each task, T of them.
        eligible: bool [P, T], which pair can serve which task (`moonlib.pairs.pairs.serviceable`). Pairs that can
            serve none are left out; their number is logged.
        batch_size: pairs of the global batch, B.
        negatives: asked in turn for items to load with a batch.
        recent: how many of an epoch's pairs are new ones; None for all pairs alike.
        seed: of the run.
        steps: number of steps of the run, those before ``start_step`` included.
        start_step: first step to plan; those before it were done earlier.
        epoch: the trainer's epoch that starts there. A trainer that is told to end its epochs early
            (``limit_train_batches``) begins every other one at step 0 again.
        rank: this process's number.
        world_size: number of processes, R.

    Raises:
        ValueError: a weight is negative or all are 0, no pair can serve a task of positive weight, or ``batch_size``
            is less than ``world_size``.
    """

    def __init__(
        self,
        pairs: Pairs,
        tasks: Mapping[str, float],
        eligible: NDArray[np.bool_],
        batch_size: int,
        negatives: Sequence[NegativeSampler] = (),
        *,
        recent: Recent | None = None,
        seed: int,
        steps: int,
        start_step: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        weights = np.array(list(tasks.values()), dtype=np.float64)
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise ValueError(f"task weights must be numbers >= 0, not all 0: {dict(tasks)}")
        if batch_size < world_size:
            raise ValueError(f"batch_size {batch_size} leaves some of {world_size} processes without a pair")
        self._usable = np.flatnonzero((eligible & (weights > 0)).any(axis=1))
        if not len(self._usable):
            raise ValueError(f"none of {len(pairs)} pairs can serve any of the tasks {', '.join(map(repr, tasks))}")
        if len(self._usable) < len(pairs):
            log.info("%d of %d pairs can serve no task and are left out", len(pairs) - len(self._usable), len(pairs))
        self._older, self._older_of_epoch = np.empty(0, dtype=np.int64), 0
        if recent is not None:
            new = recent.among(pairs)[self._usable]
            self._usable, self._older = self._usable[new], self._usable[~new]
            self._older_of_epoch = _room_for_older(recent, len(self._usable), len(self._older))
        self.pairs = pairs
        self.batch_size = batch_size
        self.steps = steps
        self.start_step, self.epoch = start_step, epoch
        self._weights = weights
        self._eligible = eligible
        self._negatives = list(negatives)
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        """Number of steps of the whole run, as Lightning counts them, not of what is left of it."""
        return self.steps

    def __iter__(self) -> Iterator[BatchPlan]:
        return map(self.plan, range(self.start_step, self.steps))

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch of the trainer; Lightning calls this at the start of each."""
        if epoch != self.epoch:
            self.epoch, self.start_step = epoch, 0

    @property
    def pairs_per_epoch(self) -> int:
        """Number of pairs that can serve a task; with a share of new ones, of those that an epoch has."""
        return len(self._usable) + self._older_of_epoch

    def plan(self, step: int) -> BatchPlan:
        """Plan this process's part of one step."""
        rows = self._slots(step * self.batch_size, (step + 1) * self.batch_size)
        rng = np.random.default_rng([self._seed, _CHOICES, step])
        bounds = (self._eligible[rows] * self._weights).cumsum(axis=1)
        task = (rng.random((len(rows), 1)) * bounds[:, -1:] >= bounds).sum(axis=1)
        items = self.pairs.item_id[rows]
        proposals = [sampler.propose(self.pairs[rows], step, rng) for sampler in self._negatives]
        mine = slice(self._rank, None, self._world_size)
        extra = np.concatenate([np.empty((len(rows), 0), dtype=np.int64), *proposals], axis=1)[mine]
        asked = extra != items[mine, None]
        query_ids, extra_rows = self.pairs.query_id[rows[mine]], np.nonzero(asked)[0]
        item_ids = np.concatenate([items[mine], extra[asked]])
        epochs = (step * self.batch_size + np.arange(len(rows), dtype=np.int64)[mine]) // self.pairs_per_epoch
        item_epochs = np.concatenate([epochs, epochs[extra_rows]])
        augmentation = np.random.SeedSequence([self._seed, _AUGMENTATION, step, self._rank])
        return BatchPlan(
            step=step,
            rows=rows[mine],
            query_ids=query_ids,
            item_ids=items[mine],
            extra_ids=extra[asked],
            extra_rows=extra_rows,
            task=task[mine],
            seed=int(augmentation.generate_state(1)[0]),
            query_views=view_draws(self._seed, epochs, query_ids, QUERY),
            item_views=view_draws(self._seed, item_epochs, item_ids, ITEM),
        )

    def _slots(self, start: int, stop: int) -> Ids:
        """Return the rows of the pairs at these slots of the endless sequence of epochs."""
        size = self.pairs_per_epoch
        parts = []
        while start < stop:
            epoch, offset = divmod(start, size)
            end = min(stop, (epoch + 1) * size)
            parts.append(self._permutation(epoch)[offset : offset + end - start])
            start = end
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> Ids:
        if epoch != self._epoch:
            rng, usable = np.random.default_rng([self._seed, _ORDER, epoch]), self._usable
            if self._older_of_epoch:
                usable = np.concatenate([usable, rng.choice(self._older, self._older_of_epoch, replace=False)])
            self._order = rng.permutation(usable)
            self._epoch = epoch
        return self._order


def _room_for_older(recent: Recent, new: int, older: int) -> int:
    """How many older pairs an epoch has beside the new ones.

    Raises:
        ValueError: no pair is new.
    """
    if not new:
        raise ValueError(
            f"data.recent: none of the {older} pairs that can serve a task is of the last {recent.days} days: give "
            "more days, or leave it out"
        )
    room = round(new * (1 - recent.share) / recent.share)
    if room > older:
        log.warning(
            "data.recent: there are %d older pairs beside %d of the last %d days, so that the share of these is %.2f "
            "and not %.2f",
            *(older, new, recent.days, new / (new + older), recent.share),
        )
    return min(room, older)
