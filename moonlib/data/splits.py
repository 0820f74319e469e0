"""When behaviour, training, validation and test days end."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Literal

import polars as pl

Split = Literal["behaviour", "train", "valid", "test"]

FRACTIONS = {"behaviour": 0.6, "train": 0.267, "valid": 0.033, "test": 0.1}
"""The default share of the events' time range that each split covers, in this order."""

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

    Example:
        >>> day = [datetime(2025, 1, d, tzinfo=UTC) for d in (1, 7, 8, 10)]
        >>> Splits(*day).window("valid")[1].day
        8
    """

    behaviour_until: datetime
    train_until: datetime
    valid_until: datetime
    test_until: datetime

    def __post_init__(self) -> None:
        previous: datetime | None = None
        for f in fields(self):
            moment: datetime = getattr(self, f.name)
            if moment.tzinfo is None:
                raise ValueError(f"splits: {f.name}: {moment.isoformat()} has no time zone; add one, such as +00:00")
            moment = moment.astimezone(UTC)
            if previous is not None and moment < previous:
                order = " <= ".join(f.name for f in fields(self))
                raise ValueError(f"splits: {f.name}: {moment.isoformat()} is too early; expected {order}")
            object.__setattr__(self, f.name, moment)
            previous = moment

    @classmethod
    def by_fractions(cls, events: pl.Series) -> Splits:
        """Cut the time range of events by `FRACTIONS`.

        Args:
            events: times of searches and impressions, Datetime [N]; not empty.
        """
        start, end = events.min(), events.max()
        assert isinstance(start, datetime) and isinstance(end, datetime), "no events"
        end = _after(end)
        behaviour, train, valid = list(itertools.accumulate(FRACTIONS.values()))[:3]
        length = end - start
        return cls(start + behaviour * length, start + train * length, start + valid * length, end)

    @classmethod
    def all_training(cls, products: pl.DataFrame) -> Splits:
        """Cut nothing off: every product is known in training and there are no events to hold out."""
        last = products["listed_at"].max()
        assert isinstance(last, datetime), "no products"
        return cls(*[_after(last)] * 4)

    @classmethod
    def from_json(cls, moments: dict[str, str]) -> Splits:
        """Read what `to_json` wrote."""
        return cls(**{name: datetime.fromisoformat(moment) for name, moment in moments.items()})

    def to_json(self) -> dict[str, str]:
        """Return the four moments as ISO 8601 text."""
        return {f.name: getattr(self, f.name).isoformat() for f in fields(self)}

    def window(self, split: Split) -> tuple[datetime | None, datetime]:
        """Return a split's start (None: no bound) and end."""
        return {
            "behaviour": (None, self.behaviour_until),
            "train": (self.behaviour_until, self.train_until),
            "valid": (self.train_until, self.valid_until),
            "test": (self.valid_until, self.test_until),
        }[split]

    def select(self, events: pl.DataFrame, split: Split) -> pl.DataFrame:
        """Return the events of a split, in their order; there may be none."""
        start, end = self.window(split)
        inside = pl.col("ts") < end
        return events.filter(inside if start is None else inside & (pl.col("ts") >= start))

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


def _after(moment: datetime) -> datetime:
    """The next microsecond; of the last one there is, itself."""
    return min(moment, datetime.max.replace(tzinfo=UTC) - timedelta(microseconds=1)) + timedelta(microseconds=1)
