"""Which queries are one: those of one text, however often they were asked."""

from __future__ import annotations

from typing import Protocol

import polars as pl

from moonlib.data.dataset import Dataset
from moonlib.data.ids import Ids

_IS_TEXT = pl.col("image").is_null() & pl.col("text").is_not_null()


class SameQueries(Protocol):
    """Knows which queries are one."""

    def of(self, query_id: Ids) -> Ids:
        """The id that stands for each query, int64 of the same shape."""
        ...


class QueryIds:
    """Queries of one text, and no photo, are one: each has the id of the first of them."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        alike = pl.col("query_id").first().over("text", pl.col("image").is_null())
        one = pl.when(_IS_TEXT).then(alike).otherwise("query_id")
        queries = self._read().select("query_id", one=one).sort("query_id")
        self._query_id, self._one = queries["query_id"].to_numpy(), queries["one"].to_numpy()

    def _read(self) -> pl.DataFrame:
        return self._dataset.table("queries", ("query_id", "text", "image"))

    def of(self, query_id: Ids) -> Ids:
        """The id that stands for each query, int64 of the same shape; the tables were checked: every id is there."""
        return self._one[self._query_id.searchsorted(query_id)]

    def texts(self, query_id: Ids) -> pl.Series:
        """The text of each query [N]; null for one with a photo, and for one without a text."""
        known = self._read().select("query_id", text=pl.when(_IS_TEXT).then("text"))
        asked = pl.DataFrame({"query_id": query_id}, schema={"query_id": pl.Int64})
        return asked.join(known, on="query_id", how="left", maintain_order="left")["text"]

    def find(self, texts: pl.Series) -> pl.Series:
        """The id that stands for the queries of each text, int64 [N]; null for a text that nobody has asked."""
        known = self._read().filter(_IS_TEXT).group_by("text", maintain_order=True).agg(pl.col("query_id").first())
        return pl.DataFrame({"text": texts}).join(known, on="text", how="left", maintain_order="left")["query_id"]

    def ids_of_texts(self) -> dict[str, int]:
        """The id that stands for the queries of each text."""
        known = self._read().filter(_IS_TEXT).group_by("text", maintain_order=True).agg(pl.col("query_id").first())
        return dict(zip(known["text"].to_list(), known["query_id"].to_list(), strict=True))
