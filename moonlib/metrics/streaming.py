"""AUC and GAUC of predictions that do not fit in memory, exact.

What comes sorted is measured in one pass; what does not is sorted on disk first. The other metrics need nothing of the
kind: log loss, NE, RCE and PCOC are sums, which their classes keep.

Chunks are any iterable of tuples of tensors, of any lengths. From Parquet, for instance::

    lazy = pl.scan_parquet("predictions.parquet").select("probability", "clicked", "user_id")
    value = external_gauc(tuple(column.to_torch() for column in part) for part in lazy.collect_batches())
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from moonlib.metrics.external_sort import ROWS, external_sort
from moonlib.metrics.gauc import SingleClass, Weighting, check_single_class, check_users, check_weighting, user_auc
from moonlib.metrics.rows import check_scores


def streaming_auc(chunks: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Compute `auc` of rows that are sorted by score, in one pass and the memory of a chunk.

    Args:
        chunks: ``scores`` [n] and ``labels`` [n], 0 or 1; scores never fall, from chunk to chunk neither.

    Returns:
        float64 scalar; NaN where one class is missing.

    Raises:
        ValueError: if a score is lower than the one before, and as `auc`.

    Example:
        >>> first = torch.tensor([0.1, 0.4]), torch.tensor([0, 0])
        >>> second = torch.tensor([0.4, 0.8]), torch.tensor([1, 1])
        >>> streaming_auc([first, second]).item()
        0.875
    """
    below = won = positives = torch.zeros((), dtype=torch.float64)
    # The highest score so far, whose rows may go on in the next chunk, and what is known of it.
    score = clicked = unclicked = torch.zeros(0, dtype=torch.float64)
    for scores, labels in _ascending(_checked(chunks), 0, "score", "external_auc"):
        levels, level = torch.cat([score, scores]).unique_consecutive(return_inverse=True)
        none = torch.zeros(len(levels), dtype=torch.float64)
        clicked = none.index_add(0, level, torch.cat([clicked, labels]))
        unclicked = none.index_add(0, level, torch.cat([unclicked, 1 - labels]))
        up_to = below + unclicked.cumsum(0)
        won = won + (clicked * (up_to - unclicked / 2))[:-1].sum()
        below = below + unclicked[:-1].sum()
        positives = positives + clicked[:-1].sum()
        score, clicked, unclicked = levels[-1:], clicked[-1:], unclicked[-1:]
    won = won + (clicked * (below + unclicked / 2)).sum()
    return won / ((positives + clicked.sum()) * (below + unclicked.sum()))


def streaming_gauc(
    chunks: Iterable[tuple[Tensor, Tensor, Tensor]],
    weighting: Weighting = "impressions",
    single_class: SingleClass = "dropped",
) -> Tensor:
    """Compute `gauc` of rows that are sorted by user, in one pass and the memory of a chunk and the largest user.

    Users ascend, so that one who comes back is noticed without remembering all of them.

    Args:
        chunks: ``scores`` [n], ``labels`` [n], 0 or 1, and ``users`` int64 [n]; users never fall, from chunk to chunk
            neither. A user's rows may go on in the next chunks.
        weighting: how much a user weighs, see `gauc`.
        single_class: what becomes of users with one class, see `gauc`.

    Returns:
        float64 scalar; NaN where all users are dropped or weigh nothing.

    Raises:
        ValueError: if a user is lower than the one before, and as `gauc`.

    Example:
        >>> first = torch.tensor([0.9, 0.8]), torch.tensor([1, 0]), torch.tensor([1, 1])
        >>> second = torch.tensor([0.7, 0.6, 0.5]), torch.tensor([1, 1, 0]), torch.tensor([1, 2, 2])
        >>> streaming_gauc([first, second], "unweighted").item()
        0.75
    """
    check_weighting(weighting)
    check_single_class(single_class)
    total = mass = torch.zeros((), dtype=torch.float64)
    unfinished: list[list[Tensor]] = []

    def finish() -> None:
        nonlocal total, mass
        if unfinished:
            scores, labels, users = (torch.cat(column) for column in zip(*unfinished, strict=True))
            per_user = user_auc(scores, labels, users, single_class)
            weights = per_user.weights(weighting)
            total = total + (weights * per_user.auc).sum()
            mass = mass + weights.sum()
            unfinished.clear()

    for rows in _ascending(_checked(chunks), 2, "user", "external_gauc"):
        users = rows[2]
        first_of_last = int(torch.searchsorted(users, users[-1:]))
        if not unfinished or users[-1] != unfinished[-1][2][-1]:
            unfinished.append([column[:first_of_last] for column in rows])
            finish()
        # Cloned, because a part would keep the whole chunk, and the caller may use its memory again.
        unfinished.append([column[first_of_last:].clone() for column in rows])
    finish()
    return total / mass


def external_auc(
    chunks: Iterable[tuple[Tensor, Tensor]], rows: int = ROWS, directory: str | Path | None = None
) -> Tensor:
    """Compute `auc` of rows in any order, at most so many of which are in memory.

    Args:
        chunks: ``scores`` [n] and ``labels`` [n], 0 or 1.
        rows: how many rows are sorted at once, see `external_sort`.
        directory: where a temporary file of 9 bytes per row goes, see `external_sort`.

    Returns:
        float64 scalar; NaN where one class is missing.

    Raises:
        ValueError: as `auc`, naming the chunk.
        OSError: if there is no room for the temporary file; names the directory.

    Example:
        >>> first = torch.tensor([0.8, 0.4]), torch.tensor([1, 0])
        >>> second = torch.tensor([0.4, 0.1]), torch.tensor([1, 0])
        >>> external_auc([first, second]).item()
        0.875
    """
    return streaming_auc((scores, labels) for scores, labels in _sorted(chunks, 0, rows, directory))


def external_gauc(
    chunks: Iterable[tuple[Tensor, Tensor, Tensor]],
    weighting: Weighting = "impressions",
    single_class: SingleClass = "dropped",
    rows: int = ROWS,
    directory: str | Path | None = None,
) -> Tensor:
    """Compute `gauc` of rows in any order, at most so many of which are in memory, and the largest user.

    Args:
        chunks: ``scores`` [n], ``labels`` [n], 0 or 1, and ``users`` int64 [n].
        weighting: how much a user weighs, see `gauc`.
        single_class: what becomes of users with one class, see `gauc`.
        rows: how many rows are sorted at once, see `external_sort`.
        directory: where a temporary file of 17 bytes per row goes, see `external_sort`.

    Returns:
        float64 scalar; NaN where all users are dropped or weigh nothing.

    Raises:
        ValueError: as `gauc`, naming the chunk.
        OSError: if there is no room for the temporary file; names the directory.

    Example:
        >>> first = torch.tensor([0.9, 0.6, 0.8]), torch.tensor([1, 1, 0]), torch.tensor([1, 2, 1])
        >>> second = torch.tensor([0.5, 0.7]), torch.tensor([0, 1]), torch.tensor([2, 1])
        >>> external_gauc([first, second], "unweighted").item()
        0.75
    """
    ordered = ((scores, labels, users) for scores, labels, users in _sorted(chunks, 2, rows, directory))
    return streaming_gauc(ordered, weighting, single_class)


def _checked(chunks: Iterable[Sequence[Tensor]]) -> Iterator[list[Tensor]]:
    """Scores and labels as float64, and users if there are any, of each chunk that has rows."""
    for number, (scores, labels, *users) in enumerate(chunks):
        try:
            scores, labels = check_scores(scores, labels)
            for ids in users:
                check_users(ids, scores)
        except ValueError as error:
            raise ValueError(f"chunk {number}: {error}") from error
        if len(scores):
            yield [column.detach().cpu() for column in (scores, labels, *users)]


def _ascending(chunks: Iterable[list[Tensor]], by: int, name: str, otherwise: str) -> Iterator[list[Tensor]]:
    """Pass chunks on whose rows ascend by a column."""
    last: Tensor | None = None
    for rows in chunks:
        values = rows[by] if last is None else torch.cat([last, rows[by]])
        falls = (values[1:] < values[:-1]).nonzero()
        if len(falls):
            before, after = values[falls[0, 0]].item(), values[falls[0, 0] + 1].item()
            raise ValueError(
                f"{name} {after} comes after {name} {before}, but rows must ascend by {name}; "
                f"sort them, or use {otherwise}, which does"
            )
        last = values[-1:].clone()
        yield rows


def _sorted(
    chunks: Iterable[Sequence[Tensor]], by: int, rows: int, directory: str | Path | None
) -> Iterator[list[Tensor]]:
    """All rows in order of a column, by way of the disk."""
    arrays = (
        [scores.numpy(), labels.bool().numpy(), *(ids.numpy() for ids in users)]
        for scores, labels, *users in _checked(chunks)
    )
    for ordered in external_sort(arrays, by, rows, directory):
        yield [torch.from_numpy(column) for column in ordered]
