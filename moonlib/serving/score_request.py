"""A request to score candidates: checked, with ids as numbers, and behaviours as a table of events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.clicks.vocabulary import fingerprints
from moonlib.config.merge import hint
from moonlib.data.ids import Ids, ShopIds

REQUEST = ("candidates", "history", "query", "search_id", "snapshot", "ts", "user")
EVENT = ("action", "item_id", "query", "query_id", "search_id", "ts")
"""The keys of an event of the history. A model reads no ``action``; it may stand there."""
IMPRESSION = "impression"
"""The key of a candidate for columns of its impression."""

NOBODY = -(2**63)
"""The number of a user or a query that is none of the run's data."""

MICROSECONDS = pl.Datetime("us", "UTC")


class BadRequest(ValueError):
    """A request that cannot be scored.

    Attributes:
        field: the part of the request that is wrong, such as ``candidates.3.price``.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


@dataclass(frozen=True)
class ScoreRequest:
    """A request; see `moonlib.serving.scoring.Scorer.score` for what its parts mean.

    Attributes:
        content: the JSON values.
        ids: the shop's, of the run's data.

    Raises:
        BadRequest: a part is unknown, missing or of another type; see also the properties, which are read once.
    """

    content: Mapping[str, Any]
    ids: ShopIds

    def __post_init__(self) -> None:
        refuse_unknown("request", self.content, REQUEST)

    @cached_property
    def candidates(self) -> list[Mapping[str, Any]]:
        """The candidates, one mapping each."""
        return mappings(self.content.get("candidates"), "candidates")

    @cached_property
    def names(self) -> pl.Series:
        """The candidates' ids as the shop writes them [n]."""
        return self._named("item_id", [each.get("item_id") for each in self.candidates], "candidates")

    @cached_property
    def items(self) -> Ids:
        """The candidates' ids, int64 [n]."""
        items = numbers(self.ids, "item_id", self.names)
        values, first = np.unique(items, return_index=True)
        if len(values) < len(items):
            again = int(np.setdiff1d(np.arange(len(items)), first)[0])
            raise BadRequest(f"candidates.{again}.item_id", f"{self.names[again]!r} stands twice")
        return items

    @cached_property
    def impressions(self) -> list[Mapping[str, Any]]:
        """Columns of the impression of each candidate."""
        found = [each.get(IMPRESSION) or {} for each in self.candidates]
        for row, each in enumerate(found):
            if not isinstance(each, Mapping):
                raise BadRequest(f"candidates.{row}.{IMPRESSION}", f"expected an object, got {each!r}")
        return found

    @cached_property
    def user(self) -> Mapping[str, Any]:
        """The user's id and columns; empty for nobody that is known."""
        return mapping(self.content.get("user"), "user")

    @cached_property
    def user_id(self) -> Ids:
        """The user's id, int64 [1]; that of no user where none is given."""
        given = self.user.get("user_id")
        if given is None:
            return np.array([NOBODY])
        return numbers(self.ids, "user_id", self._named("user_id", [given], "user", single=True))

    @cached_property
    def query(self) -> Mapping[str, Any] | None:
        """The present query; None for a page without one."""
        if self.content.get("query") is None:
            return None
        found = mapping(self.content["query"], "query")
        given = [key for key in ("query_id", "text", "image") if found.get(key) is not None]
        if "query_id" in given and len(given) > 1:
            raise BadRequest(f"query.{given[1]}", "give the query_id of a query of the run's data, or text and image")
        if not given:
            raise BadRequest("query", "needs a query_id, a text or an image; leave it out for a page without a query")
        if found.get("image") is not None and not isinstance(found["image"], bytes):
            raise BadRequest("query.image", "expected the bytes of an image file")
        if found.get("text") is not None and not isinstance(found["text"], str):
            raise BadRequest("query.text", f"expected text, got {found['text']!r}")
        texts("text", [found.get("text")], "query")
        return found

    @cached_property
    def query_id(self) -> int | None:
        """The present query's id, where it is given by its id."""
        if self.query is None or self.query.get("query_id") is None:
            return None
        return int(
            numbers(self.ids, "query_id", self._named("query_id", [self.query["query_id"]], "query", single=True))[0]
        )

    @cached_property
    def ts(self) -> datetime:
        """The moment that is asked about."""
        return moment(self.content.get("ts") or datetime.now(UTC), "ts")

    @cached_property
    def events(self) -> pl.DataFrame:
        """The history: ``item_id``, ``name`` (the shop's id), ``query_id``, ``query`` (its text) and ``ts``."""
        events = mappings(self.content.get("history") or [], "history")
        for row, event in enumerate(events):
            refuse_unknown(f"history.{row}", event, EVENT)
            if event.get("query_id") is not None and event.get("query") is not None:
                raise BadRequest(f"history.{row}.query", "give query_id or query, not both")
            if not isinstance(event.get("query", ""), str | None):
                raise BadRequest(f"history.{row}.query", f"expected text, got {event['query']!r}")
            if event.get("ts") is None:
                raise BadRequest(f"history.{row}.ts", "is missing; when did it happen?")
        names = self._named("item_id", [event.get("item_id") for event in events], "history")
        asked = self._named("query_id", [event.get("query_id") for event in events], "history", null=True)
        moments = [moment(event["ts"], f"history.{row}.ts") for row, event in enumerate(events)]
        return pl.DataFrame(
            {
                "item_id": pl.Series(numbers(self.ids, "item_id", names), dtype=pl.Int64),
                "name": names,
                "query_id": nullable(self.ids, "query_id", asked),
                "query": texts("query", [event.get("query") for event in events], "history"),
                "ts": pl.Series(moments, dtype=MICROSECONDS),
            }
        )

    @cached_property
    def searches(self) -> tuple[Ids, int, int]:
        """The search of each event, int64 [events]; the present one; and how many events do not say theirs.

        Searches are numbered in the order of their ids. An event that does not say its search has one of its own.
        """
        events = mappings(self.content.get("history") or [], "history")
        given = [event.get("search_id") for event in events]
        known = np.array([each is not None for each in given], dtype=np.bool_)
        present = self.content.get("search_id")
        if present is not None:
            self._named("search_id", [present], "request", single=True)
        values = [each for each in given if each is not None] + ([] if present is None else [present])
        _, ranks = np.unique(
            numbers(self.ids, "search_id", self._named("search_id", values, "history")), return_inverse=True
        )
        found = len(values) + np.arange(len(events))
        found[known] = ranks[: known.sum()]
        return found, -1 if present is None else int(ranks[-1]), int((~known).sum())

    def _named(
        self, column: str, values: Sequence[Any], field: str, *, null: bool = False, single: bool = False
    ) -> pl.Series:
        """Ids as the shop writes them: int64 or text."""
        text = self.ids.of(column) is not None
        kind: type = str if text else int
        for row, value in enumerate(values):
            if value is None and null:
                continue
            fits = type(value) is kind and (not isinstance(value, int) or -(2**63) <= value < 2**63)
            if not fits:
                place = field if single else f"{field}.{row}"
                expected = "text" if text else "an integer"
                raise BadRequest(f"{place}.{column}", f"expected {expected}, as the run's data has it, got {value!r}")
        return texts(column, values, field) if text else pl.Series(column, values, dtype=pl.Int64)


def refuse_unknown(field: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse keys that are none.

    Raises:
        BadRequest: naming the first.
    """
    for key in given:
        if key not in known:
            raise BadRequest(f"{field}.{key}", f"is unknown; {hint(str(key), known)}")


def mapping(value: Any, field: str) -> Mapping[str, Any]:
    """An object of JSON; an empty one for null."""
    if value is not None and not isinstance(value, Mapping):
        raise BadRequest(field, f"expected an object, got {value!r}")
    return value or {}


def mappings(value: Any, field: str) -> list[Mapping[str, Any]]:
    """A list of objects of JSON."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise BadRequest(field, "is missing" if value is None else f"expected a list, got {value!r}")
    for row, each in enumerate(value):
        if not isinstance(each, Mapping):
            raise BadRequest(f"{field}.{row}", f"expected an object, got {each!r}")
    return list(value)


def moment(value: Any, field: str) -> datetime:
    """A moment: a datetime or a text of ISO 8601, with its time zone."""
    found: datetime | None
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        found = None if found.tzinfo is None else found.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        found = None
    if found is None:
        raise BadRequest(field, f"expected a moment with its time zone, as in 2025-01-31T12:00:00Z, got {value!r}")
    return found


def texts(name: str, values: Sequence[str | None], field: str) -> pl.Series:
    """A column of texts."""
    try:
        return pl.Series(name, values, dtype=pl.String)
    except UnicodeEncodeError:  # half of a surrogate pair
        raise BadRequest(f"{field}.{name}", "is no valid text") from None


def numbers(ids: ShopIds, column: str, names: pl.Series) -> Ids:
    """The numbers of the shop's ids [n], int64; text that the data lacks gets a negative one."""
    known = ids.of(column)
    if known is None:
        return names.to_numpy()
    found = known.encode(names)
    if found.null_count():
        # One text has one number wherever it stands in a request; those of the data are not negative.
        other = -1 - (fingerprints(names) >> np.uint64(1)).astype(np.int64)
        other = np.maximum(other, NOBODY + 1)
        found = pl.select(pl.coalesce(found, pl.Series(other))).to_series()
    return found.to_numpy()


def nullable(ids: ShopIds, column: str, names: pl.Series) -> pl.Series:
    """`numbers` of ids some of which are null, which stay null."""
    found: NDArray[np.int64] = numbers(ids, column, names.drop_nulls())
    rows = names.is_not_null().arg_true()
    return pl.repeat(None, len(names), dtype=pl.Int64, eager=True).scatter(rows, pl.Series(found, dtype=pl.Int64))
