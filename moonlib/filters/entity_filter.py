"""Pairs of which neither side is too vague to learn from."""

from __future__ import annotations

import polars as pl

from moonlib.data.reads import Reads
from moonlib.data.tables import Tables
from moonlib.filters.filter import Encoded, Filter, Filtered, without_searches
from moonlib.filters.gazetteer import Gazetteer


class EntityFilter(Filter):
    """Removes searches whose query or item title names too few entities, such as "gift" or "new arrival, best price".

    Entities are found with a `Gazetteer` of the catalogue's attribute values and leaf categories. Only texts are
    judged: a photo query is judged by the item's title alone, an item without title by the query's text alone, and a
    pair without any text stays. What goes is vague, not wrong: a word that is not so names an entity like any other.

    Args:
        min_entities: a text that names fewer distinct entities is too vague; at least 1.

    Raises:
        ValueError: if ``min_entities`` is below 1.

    Source: MOON (arXiv 2511.11305), Stage 2, second phase: a pair whose query or title names fewer than two entities
    is dropped. MOON recognises entities with a NER model; the gazetteer, and what happens where a text is missing, are
    our choice.
    """

    def __init__(self, min_entities: int = 2) -> None:
        if min_entities < 1:
            raise ValueError(f"min_entities must be at least 1, got {min_entities}")
        self.min_entities = min_entities

    def reads(self) -> Reads:
        """See `Filter.reads`."""
        return Reads.of(
            products=["title", "category", "attributes"], queries=["text"], searches=["query_id", "item_id"]
        )

    def __call__(self, tables: Tables, encoded: Encoded | None = None) -> Filtered:
        """Filter; see `Filter`."""
        gazetteer = Gazetteer.fit(tables.products)
        events = tables.searches.select("query_id", "item_id")
        for table, key, text in (("queries", "query_id", "text"), ("products", "item_id", "title")):
            texts = (
                tables[table]
                .select(key, text)
                .join(events.select(key), on=key, how="semi")
                .filter(pl.col(text).str.strip_chars().str.len_bytes() > 0)
            )
            counts = texts.select(key, gazetteer.count(texts[text]).alias(table))
            events = events.join(counts, on=key, how="left", maintain_order="left")
        few = f"names fewer than {self.min_entities} {'entity' if self.min_entities == 1 else 'entities'}"
        why = (
            pl.when(pl.col("queries") < self.min_entities)
            .then(pl.lit(f"the query {few}"))
            .when(pl.col("products") < self.min_entities)
            .then(pl.lit(f"the title {few}"))
        )
        return without_searches(tables, events.select(why.alias("why")).to_series())
