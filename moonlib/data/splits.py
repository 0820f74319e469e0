"""When behaviour, training, validation and test days end."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import polars as pl

Split = Literal["behaviour", "train", "valid", "test"]

FRACTIONS = {"behaviour": 0.6, "train": 0.267, "valid": 0.033, "test": 0.1}
"""The default share of the events' time range that each split covers, in this order."""

MOMENTS = ("behaviour_until", "train_until", "valid_until", "test_until")

DAY = timedelta(days=1)

_READER = {"searches": "posttrain", "impressions": "application"}
"""Name, in the shipped recipes, of the stage that needs a table."""


@dataclass(frozen=True)
class Splits:
    """Four moments (UTC) that cut the events by time. Each interval includes its start and excludes its end.

    ========= =============================== ==============================================
    split     ts in                           read by
    ========= =============================== ==============================================
    behaviour (beginning, behaviour_until)    post-training, from ``searches``
    train     [behaviour_until, train_until)  the CTR model, from ``impressions``
    valid     [train_until, valid_until)      selection
    test      [valid_until, test_until)       the numbers, once per run
    ========= =============================== ==============================================

    Tokenizers and encoders see products listed before ``train_until``; a product listed later is *new*.

    A session that goes on across one of the moments, say midnight, belongs to one split as a whole: events of a
    ``search_id`` go by the first of them. That needs all events: a dataset's splits know them, see `with_sessions`.

    Attributes:
        behaviour_until: end of behaviour.
        train_until: end of training.
        valid_until: end of validation.
        test_until: end of test.
        sessions: returns the sessions that go on across a moment, see `crossing`; None where nothing is known of them.

    Example:
        >>> day = [datetime(2025, 1, d, tzinfo=UTC) for d in (1, 7, 8, 10)]
        >>> Splits(*day).window("valid")[1].day
        8
    """

    behaviour_until: datetime
    train_until: datetime
    valid_until: datetime
    test_until: datetime
    sessions: Callable[[], pl.DataFrame] | None = field(default=None, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        previous: datetime | None = None
        for name in MOMENTS:
            moment: datetime = getattr(self, name)
            if moment.tzinfo is None:
                raise ValueError(f"splits: {name}: {moment.isoformat()} has no time zone; add one, such as +00:00")
            moment = moment.astimezone(UTC)
            if previous is not None and moment < previous:
                order = " <= ".join(MOMENTS)
                raise ValueError(f"splits: {name}: {moment.isoformat()} is too early; expected {order}")
            object.__setattr__(self, name, moment)
            previous = moment

    @classmethod
    def by_fractions(cls, searches: pl.Series, impressions: pl.Series) -> Splits:
        """Cut the time range of events by `FRACTIONS`.

        Where impressions begin only after the end of behaviour, as where a shop keeps months of actions and days of
        impressions, behaviour ends where they begin, and the other splits share the rest in their proportions.

        Args:
            searches: times, Datetime [N].
            impressions: times, Datetime [M]; one of the two is not empty.

        Example:
            >>> months = pl.datetime_range(datetime(2025, 1, 1), datetime(2025, 7, 1), eager=True, time_zone="UTC")
            >>> Splits.by_fractions(months, months[-20:]).train_until.date()
            datetime.date(2025, 6, 24)
        """
        events = pl.concat([searches, impressions])
        start, end, shown = events.min(), events.max(), impressions.min()
        assert isinstance(start, datetime) and isinstance(end, datetime), "no events"
        end = _after(end)
        behaviour, train, valid = list(itertools.accumulate(FRACTIONS.values()))[:3]
        length = end - start
        if isinstance(shown, datetime) and shown > start + behaviour * length:
            length = (end - shown) / (1 - behaviour)
            start = end - length
        return cls(start + behaviour * length, start + train * length, start + valid * length, end)

    @classmethod
    def all_training(cls, products: pl.DataFrame) -> Splits:
        """Cut nothing off: every product is known in training and there are no events to hold out."""
        last = products["listed_at"].max()
        assert isinstance(last, datetime), "no products"
        return cls(*[_after(last)] * 4)

    @classmethod
    def of_day(cls, day: str) -> Splits:
        """Train on one day and test on the next; there are no validation days.

        Args:
            day: the first moment of its 24 hours, ISO 8601; UTC where it says no time zone.

        Raises:
            ValueError: it is no moment.

        Example:
            >>> Splits.of_day("2025-01-05").test_until.isoformat()
            '2025-01-07T00:00:00+00:00'
        """
        try:
            start = datetime.fromisoformat(day)
        except ValueError:
            example = "write one such as 2025-01-05 or 2025-01-05T16:00+00:00"
            raise ValueError(f"day: {day!r} is no moment; {example}") from None
        start = start if start.tzinfo else start.replace(tzinfo=UTC)
        return cls(start, start + DAY, start + DAY, start + 2 * DAY)

    @classmethod
    def from_json(cls, moments: dict[str, str]) -> Splits:
        """Read what `to_json` wrote."""
        if unknown := [name for name in moments if name not in MOMENTS]:
            raise ValueError(f"splits: no moment {unknown[0]!r}; they are {', '.join(MOMENTS)}")
        return cls(*(datetime.fromisoformat(moments[name]) for name in MOMENTS))

    def to_json(self) -> dict[str, str]:
        """Return the four moments as ISO 8601 text."""
        return {name: getattr(self, name).isoformat() for name in MOMENTS}

    def with_sessions(self, sessions: Callable[[], pl.DataFrame]) -> Splits:
        """The same splits, which know the sessions that cross them.

        Args:
            sessions: called when events are selected; returns what `crossing` does.
        """
        return replace(self, sessions=sessions)

    def window(self, split: Split) -> tuple[datetime | None, datetime]:
        """Return a split's start (None: no bound) and end."""
        if split == "behaviour":
            return None, self.behaviour_until
        starts = {"train": "behaviour_until", "valid": "train_until", "test": "valid_until"}
        return getattr(self, starts[split]), getattr(self, f"{split}_until")

    @property
    def moments(self) -> list[datetime]:
        """The four moments, in their order."""
        return [getattr(self, name) for name in MOMENTS]

    def select(self, events: pl.DataFrame, split: Split) -> pl.DataFrame:
        """Return the events of a split, in their order; there may be none."""
        start, end = self.window(split)
        inside = pl.col("ts") < end if start is None else (pl.col("ts") < end) & (pl.col("ts") >= start)
        chosen = events.select(inside).to_series()
        if self.sessions is not None and "search_id" in events.columns and (crossing := self.sessions()).height:
            rows = events.select(self._may_be_late(crossing).arg_true()).to_series()
            begun = events.select("search_id", "ts")[rows].join(crossing, "search_id", "left", maintain_order="left")
            begun = begun.select(ts=pl.coalesce(pl.col("began").cast(events.schema["ts"]), "ts"))
            chosen = chosen.scatter(rows, begun.select(inside).to_series())
        return events.filter(chosen)

    def _may_be_late(self, crossing: pl.DataFrame) -> pl.Expr:
        """Whether an event is so soon after a moment that it may be of a session from before."""
        late = pl.lit(False)
        for moment in set(self.moments):
            ended = crossing.filter(pl.col("began") < moment)["ended"].max()
            late |= pl.col("ts").is_between(moment, ended) if ended is not None else pl.lit(False)
        return late

    def known(self, products: pl.DataFrame) -> pl.DataFrame:
        """Return the products that training may see: those listed before ``train_until``."""
        return products.filter(pl.col("listed_at") < self.train_until)

    def check(self, events: pl.DataFrame, split: Split, table: str) -> pl.DataFrame:
        """Return the events of a split as `select` does, and refuse a split without any.

        Args:
            events: searches or impressions.
            split: which part is needed.
            table: what to call ``events`` in the error.

        Raises:
            ValueError: no event falls into the split.
        """
        chosen = self.select(events, split)
        if chosen.is_empty():
            if events.is_empty():
                raise ValueError(
                    f"the dataset has no {table}, and a stage of the recipe reads them: leave it out "
                    f"(--stages.{_READER[table]} null), or build the dataset again with {table}"
                )
            start, end = self.window(split)
            window = f"before {end.isoformat()}" if start is None else f"in [{start.isoformat()}, {end.isoformat()})"
            raise ValueError(
                f"the {split} split of {table} is empty: no row has ts {window}; the {events.height} rows run from "
                f"{events['ts'].min()!s} to {events['ts'].max()!s}. Set other splits when building the dataset "
                "(--splits BEHAVIOUR TRAIN VALID TEST)"
            )
        return chosen


def crossing(splits: Splits, tables: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Find the sessions that have events before and after one of the moments.

    Args:
        splits: the moments.
        tables: searches and impressions, columns search_id and ts; a session may have events in both.

    Returns:
        One row per such session, mostly none: search_id, ``began`` and ``ended``, its first and last ts.

    Example:
        >>> day = [datetime(2025, 1, d, tzinfo=UTC) for d in (1, 7, 8, 10)]
        >>> ts = [datetime(2025, 1, 6, 23, tzinfo=UTC), datetime(2025, 1, 7, 1, tzinfo=UTC)]
        >>> crossing(Splits(*day), [pl.DataFrame({"search_id": [5, 5], "ts": ts})])["search_id"].to_list()
        [5]
    """
    tables = [table.select("search_id", "ts") for table in tables]
    moments = [getattr(splits, name) for name in MOMENTS]
    passed = pl.sum_horizontal((pl.col("ts") >= moment).cast(pl.UInt8) for moment in moments).alias("passed")
    # Of rows that follow each other and are alike, such as those of a page, one is enough: hashing is what costs.
    another = (pl.col("search_id") != pl.col("search_id").shift()) | (pl.col("passed") != pl.col("passed").shift())
    parts = [table.select("search_id", passed).filter(another.fill_null(True)) for table in tables]
    spans = pl.concat(parts).group_by("search_id").agg(low=pl.col("passed").min(), high=pl.col("passed").max())
    found = spans.filter(pl.col("low") < pl.col("high"))["search_id"]
    tables = tables if found.len() else [table.clear() for table in tables]
    rows = pl.concat([table.filter(pl.col("search_id").is_in(found.implode())) for table in tables])
    ends = rows.group_by("search_id").agg(began=pl.col("ts").min(), ended=pl.col("ts").max())
    return ends.sort("search_id")


def _after(moment: datetime) -> datetime:
    """The next microsecond; of the last one there is, itself."""
    return min(moment, datetime.max.replace(tzinfo=UTC) - timedelta(microseconds=1)) + timedelta(microseconds=1)
