"""Tables to filter: small ones by hand, and the tiny marketplace's as a stage would hand them over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from moonlib.data.dataset import Dataset
from moonlib.data.tables import Tables, validate

START = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
def make_tables() -> Callable[..., Tables]:
    """Make tables of ``products`` (item → columns), ``searches`` (query, item, second), items ``shown`` and texts."""

    def make(
        products: Mapping[int, Mapping[str, Any]],
        searches: Iterable[tuple[int, int, int]],
        shown: Iterable[int] = (),
        texts: Mapping[int, str | None] | None = None,
    ) -> Tables:
        searches, shown = list(searches), list(shown)
        texts = {query: None for query, *_ in searches} | dict(texts or {})
        events = {
            "search_id": pl.int_range(len(searches), eager=True),
            "user_id": pl.repeat(0, len(searches), dtype=pl.Int64, eager=True),
            "query_id": pl.Series([query for query, *_ in searches], dtype=pl.Int64),
            "item_id": pl.Series([item for _, item, _ in searches], dtype=pl.Int64),
            "action": pl.repeat("order", len(searches), dtype=pl.String, eager=True),
            "ts": pl.Series([START + timedelta(seconds=s) for *_, s in searches], dtype=pl.Datetime("us", "UTC")),
        }
        exposures = {
            "search_id": pl.int_range(len(shown), eager=True),
            "user_id": pl.repeat(0, len(shown), dtype=pl.Int64, eager=True),
            "query_id": pl.repeat(next(iter(texts), 0), len(shown), dtype=pl.Int64, eager=True),
            "item_id": pl.Series(shown, dtype=pl.Int64),
            "position": pl.repeat(0, len(shown), dtype=pl.Int32, eager=True),
            "clicked": pl.repeat(False, len(shown), dtype=pl.Boolean, eager=True),
            "ts": pl.repeat(START, len(shown), dtype=pl.Datetime("us", "UTC"), eager=True),
        }
        defaults = {"category": "goods", "listed_at": START}
        rows = [{"item_id": item, "spu_id": item, **defaults, **columns} for item, columns in products.items()]
        attributes = pl.Series([row.pop("attributes", None) for row in rows], dtype=pl.Map(pl.String, pl.String))
        return validate(
            Tables(
                products=pl.DataFrame(rows).with_columns(attributes=attributes),
                queries=pl.DataFrame(
                    {"query_id": list(texts), "text": list(texts.values())},
                    schema={"query_id": pl.Int64, "text": pl.String},
                ),
                users=pl.DataFrame({"user_id": [0]}),
                searches=pl.DataFrame(events),
                impressions=pl.DataFrame(exposures),
            )
        )

    return make


@pytest.fixture(scope="session")
def training(tiny: Dataset) -> Tables:
    """What post-training may see of the tiny marketplace."""
    until = tiny.splits.train_until
    return Tables(
        products=tiny.splits.known(tiny.products),
        queries=tiny.queries,
        users=tiny.users,
        searches=tiny.splits.select(tiny.searches, "behaviour"),
        impressions=tiny.impressions.filter(pl.col("ts") < until, pl.col("item_id").is_in(known_ids(tiny).implode())),
    )


def known_ids(dataset: Dataset) -> pl.Series:
    """Ids of the products that training may see."""
    return dataset.splits.known(dataset.products)["item_id"]


@pytest.fixture(scope="session")
def truth(tiny: Dataset) -> Callable[[str], pl.DataFrame]:
    """Read a file of the truth about the tiny marketplace: ``truth("titles")``."""
    return lambda name: pl.read_ipc(tiny.directory / "truth" / f"{name}.arrow")
