"""Queries that came together, answered together: encoded in one batch, and searched at once where they can be."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moonlib.center.view import View
from moonlib.center.where import Where
from moonlib.serving.errors import Refused
from moonlib.serving.served import Served

if TYPE_CHECKING:
    from moonlib.encoders.encoder import ContentBatch


@dataclass(frozen=True)
class Query:
    """One query.

    Attributes:
        served: what it is answered from.
        k: products wanted.
        content: what the encoder takes, one row; None where ``vector`` is given.
        vector: float32 [D].
        where: filters on kept columns.
        like: id of a product that is not to be among the hits.
    """

    served: Served
    k: int
    content: ContentBatch | None = None
    vector: NDArray[np.float32] | None = None
    where: Where | None = None
    like: int | str | None = None


@dataclass(frozen=True)
class Hits:
    """Products found for a query, the nearest first.

    Attributes:
        ids: of the products.
        scores: cosines.
        rows: their kept columns.
        pictured: whether they have a picture.
    """

    ids: list[int] | list[str]
    scores: list[float]
    rows: list[dict[str, Any]]
    pictured: list[bool]


def answer_queries(
    queries: Sequence[Query],
    observe: Callable[[str, float], None] = lambda *_: None,
    offer: Callable[[View, NDArray[np.float32], Where | None], None] = lambda *_: None,
) -> list[Hits | Exception]:
    """Encode and search.

    Args:
        queries: of any views and encoders; those of one are encoded, and searched without filters, together.
        observe: called with ``encode`` or ``search`` and how many seconds that took.
        offer: called with the view, the vector and the filter of each query that was answered.

    Returns:
        Hits, or what was wrong, for each query.
    """
    answers: list[Hits | Exception] = [Refused(500, "error", "not answered")] * len(queries)
    groups: dict[int, list[int]] = {}
    for number, query in enumerate(queries):
        groups.setdefault(id(query.served), []).append(number)
    for members in groups.values():
        asked = [queries[number] for number in members]
        vectors = _vectors(asked, observe)
        seen: list[bool] = np.any(vectors, axis=1).tolist()
        for row in (row for row, sees in enumerate(seen) if not sees):
            answers[members[row]] = Refused(422, "nothing_seen", "the encoder sees nothing in this query")
        together = [row for row, query in enumerate(asked) if seen[row] and query.where is None]
        apart = [[row] for row, query in enumerate(asked) if seen[row] and query.where is not None]
        for rows in [*([together] if together else []), *apart]:
            started = time.perf_counter()
            try:
                found: Sequence[Hits | Exception] = _searched([asked[row] for row in rows], vectors[rows])
            except ValueError as error:  # of a filter, whose query stands alone
                if len(rows) > 1:
                    raise
                found = [Refused(422, "bad_filter", f"where: {error}", "where")]
            observe("search", time.perf_counter() - started)
            for row, each in zip(rows, found, strict=True):
                answers[members[row]] = each
                if isinstance(each, Hits):
                    offer(asked[row].served.view, vectors[row], asked[row].where)
    return answers


def _vectors(queries: Sequence[Query], observe: Callable[[str, float], None]) -> NDArray[np.float32]:
    """float32 [n, D], one per query of the same view."""
    served = queries[0].served
    vectors = np.zeros((len(queries), served.view.space.dim), np.float32)
    rows, contents = [], []
    for row, query in enumerate(queries):
        if query.vector is not None:
            vectors[row] = query.vector
        if query.content is not None:
            rows.append(row)
            contents.append(query.content)
    if contents:
        started = time.perf_counter()
        vectors[rows] = served.encode(contents)
        observe("encode", time.perf_counter() - started)
    return vectors


def _searched(queries: Sequence[Query], vectors: NDArray[np.float32]) -> list[Hits]:
    """Hits of queries of one view and one filter."""
    view = queries[0].served.view
    k = max(query.k + (query.like is not None) for query in queries)
    found = view.search(vectors, k, where=queries[0].where)
    rows = found.rows[found.rows >= 0]
    pictured = view.pictured(rows).tolist()
    columns = view.columns_of(rows).to_dicts() or [{}] * len(rows)
    hits, start = [], 0
    for query, ids, scores in zip(queries, found.ids, found.scores.tolist(), strict=True):
        some = [at for at, id in enumerate(ids) if query.like is None or id != query.like][: query.k]
        hits.append(
            Hits(
                [ids[at] for at in some],
                [scores[at] for at in some],
                [columns[start + at] for at in some],
                [pictured[start + at] for at in some],
            )
        )
        start += len(ids)
    return hits
