"""Click probabilities of candidates, from a finished application: what ``POST /v1/score`` answers.

A request says what a click model is asked when a page is shown: who looks, what they did before, what they asked for,
and what could be shown. Columns that the model reads and the request does not give are looked up in the run's data.
What is in neither counts as missing, and the answer says how often.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from numpy.typing import NDArray

from moonlib.artifacts.layout import IDENTITY
from moonlib.artifacts.reading import read_mapping
from moonlib.center.base import Base
from moonlib.center.layout import SNAPSHOT, SPACES, snapshot_of
from moonlib.center.space import Space
from moonlib.clicks.histories import Histories
from moonlib.clicks.impressions import Behaviours, ImpressionReader, Impressions, ItemFeatures, Lookups
from moonlib.clicks.query_ids import QueryIds
from moonlib.config.merge import hint
from moonlib.data.categories import with_levels
from moonlib.data.content import compose
from moonlib.data.dataset import Dataset
from moonlib.data.ids import Ids
from moonlib.data.images import UnreadableImage
from moonlib.data.tables import KEYS
from moonlib.encoders.encoder import Encoder
from moonlib.exports.folder import Export
from moonlib.representations.store import Representations
from moonlib.runs.center import content_of
from moonlib.runs.parents import CENTER_OF
from moonlib.runs.run import Run, RunError
from moonlib.serving.score_request import (
    IMPRESSION,
    MICROSECONDS,
    NOBODY,
    BadRequest,
    ScoreRequest,
)
from moonlib.stages.application import Application
from moonlib.system.disk import is_panic

READ = ("category", "merchant_id", "price")
"""Columns of products that every click model reads."""


class OtherSnapshot(ValueError):
    """A request, or a center, of other vectors than those that the click model was trained on."""


@dataclass(frozen=True)
class Scores:
    """Answer to a request.

    Attributes:
        probabilities: of a click of each candidate, float64 [n], in their order.
        snapshot: ``space@snapshot`` of the vectors; None for those of the run itself, or for a model that reads none.
        missing: what the model reads and was neither given nor known, such as ``users.age``, and of how many rows.
    """

    probabilities: NDArray[np.float64]
    snapshot: str | None
    missing: dict[str, int]


class Scorer:
    """A finished application that scores requests. Make it with `open`.

    Attributes:
        run: its run directory.
        link: the stage, such as ``application``.
        snapshot: ``space@snapshot`` of the center whose vectors it was trained on; None without a center.

    Args:
        run: the run.
        link: the stage.
        module: the application, with its weights.
        read: how it reads impressions.
        vectors: of products and queries; None for a model that reads none.
    """

    def __init__(
        self, run: Run, link: str, module: Application, read: ImpressionReader, vectors: Vectors | None
    ) -> None:
        self.run, self.link = run.directory, link
        self.snapshot = None if vectors is None else vectors.snapshot
        self._module, self._vectors = module, vectors
        dataset = module.context.dataset
        self._ids = dataset.ids
        features = read.features.columns if read.features else ()
        columns = {table: {each.name for each in features if each.table == table} for table in (*KEYS, "impressions")}
        self._known = {table: KnownRows(dataset, table, columns[table]) for table in ("users", "queries")}
        self._known["products"] = KnownRows(dataset, "products", columns["products"] | set(READ))
        shown = dataset.table("impressions", ("search_id", "item_id", *sorted(columns["impressions"])))
        self._shown = shown.select(sorted(columns["impressions"])).clear()
        self._known_columns = {table: dataset.columns(table) for table in (*KEYS, "impressions")}
        self._query_ids = QueryIds(dataset)
        self._texts = self._query_ids.ids_of_texts()
        self._device = module.context.trainer.strategy.root_device
        module.model.to(self._device).eval()
        # What the data knows of every event is not needed any more: each request brings its own.
        nothing = Behaviours(Histories(dataset.searches.clear()), np.zeros(0, np.int64), None)
        self._lookups = replace(read.lookups, items=nothing, queries=nothing)
        self._read = replace(read, lookups=self._lookups)

    @classmethod
    def open(
        cls,
        run: str | Path,
        *,
        link: str = "application",
        center: str | Path | None = None,
        encoders: Mapping[str, Encoder] = {},
    ) -> Scorer:
        """Open a finished application.

        Args:
            run: a run directory. Its data must be there.
            link: the stage of the run.
            center: where the center is whose vectors the application was trained on; by default where the run notes it.
            encoders: encoders that are open already, by their fingerprints. Another one is opened when a query comes
                that the run's data does not have.

        Raises:
            RunError: there is no such application, it has not finished, or its data is gone.
            OtherSnapshot: the center has not got the snapshot that the application was trained on.
            ValueError: the stage is no application, or one that reads shuffled or true vectors.
        """
        source = Run(run)
        module, context = source.reopen(link, source.dataset())
        if not isinstance(module, Application):
            raise ValueError(f"{run}: {link} is a stage {type(module).__name__}, and no application that could score")
        if module.representation == "truth" or (module.adapter.reads_content and module.representation != "learned"):
            raise ValueError(f"{run}: {link} reads {module.representation} vectors, and is no model to serve")
        products, queries = module.read_representations(context)
        read = module.load(context, products, queries)
        noted = read_mapping(context.directory / IDENTITY).get("center")
        vectors: Vectors | None = None
        if products is not None and queries is not None:
            if noted is None:
                vectors = RunVectors(source, products, queries, encoders)
            else:
                vectors = CenterVectors.open(source, link, center, noted, queries, encoders)
        return cls(source, link, module, read, vectors)

    def require(self, snapshot: str) -> None:
        """Refuse vectors that the click model was not trained on.

        Args:
            snapshot: ``space@snapshot``.

        Raises:
            OtherSnapshot: the model was trained on others.
        """
        if snapshot != self.snapshot:
            trained = f"on {self.snapshot}" if self.snapshot else "without a center"
            raise OtherSnapshot(
                f"the click model {self.run.name} was trained {trained}, and not on {snapshot}: ask for candidates of "
                "that, or fit the application again"
            )

    def score(self, request: Mapping[str, Any]) -> Scores:
        """Score the candidates of a request.

        Args:
            request: JSON values, where a moment may also be a datetime, and an image is bytes:

                - ``candidates``: mappings of ``item_id``, columns of products, and ``impression``, a mapping of columns
                  of impressions such as ``position``;
                - ``user``: mapping of ``user_id`` and columns of users; none for a user that is not known;
                - ``query``: mapping of ``query_id``, or of ``text``, ``image`` or both, and columns of queries; none
                  for a page without a query;
                - ``history``: mappings of ``item_id``, ``ts``, and where there are ``search_id``, ``action``, and
                  ``query_id`` or ``query`` (its text). What one search led to of an item counts once;
                - ``ts``: the moment that is asked about; now by default. Only events before it count;
                - ``search_id``: the present search, whose own events don't count;
                - ``snapshot``: the ``space@snapshot`` that the candidates come from, which must be the model's.

        Raises:
            BadRequest: naming the field that is wrong.
            OtherSnapshot: see ``snapshot``.
        """
        asked, missing = ScoreRequest(request, self._ids), dict[str, int]()
        if request.get("snapshot") is not None:
            self.require(str(request["snapshot"]))
        items, n = asked.items, len(asked.items)
        query = self._query_number(asked)
        products = self._rows("products", items, asked.candidates, "candidates", missing, (IMPRESSION,))
        frames = {
            "products": products,
            "users": self._rows("users", asked.user_id, [asked.user], "user", missing),
            "queries": self._rows("queries", query, [_columns_of(asked.query)], "query", missing),
            "impressions": self._impression_columns(asked, missing),
        }
        features = None
        if self._read.features is not None:
            one = np.zeros(n, dtype=np.intp)
            places = {"products": np.arange(n), "impressions": np.arange(n), "users": one, "queries": one}
            try:
                features = self._read.features.given(frames, places)
            except ValueError as error:
                raise BadRequest("candidates", str(error)) from error
        behaviours, search_id = self._events(asked, missing)
        lookups = self._lookups_of(asked, products, behaviours, query, missing)
        impressions = pl.DataFrame(
            {
                "search_id": np.full(n, search_id),
                "user_id": np.repeat(asked.user_id, n),
                "query_id": pl.repeat(None if asked.query is None else int(query[0]), n, dtype=pl.Int64, eager=True),
                "item_id": items,
                "ts": pl.repeat(asked.ts, n, dtype=MICROSECONDS, eager=True),
                "clicked": np.zeros(n, dtype=np.bool_),
            }
        )
        found = self._read.with_lookups(impressions, lookups, features)
        if asked.user.get("user_id") is None:
            found.user[:] = 0
        if n and not found.user[0]:
            missing["user_id"] = 1
        if unknown := int((found.target == 0).sum()):
            missing["item_id"] = unknown
        return Scores(self._probabilities(found), self.snapshot, dict(sorted(missing.items())))

    @torch.inference_mode()
    def _probabilities(self, impressions: Impressions) -> NDArray[np.float64]:
        n, at_once = len(impressions), 4 * self._module.context.data.batch_size
        logits = [torch.zeros(0, dtype=torch.float64)]
        for start in range(0, n, at_once):
            batch = impressions[np.arange(start, min(start + at_once, n))]
            logits.append(self._module.model(move_data_to_device(batch, self._device)).double().cpu())
        found: NDArray[np.float64] = torch.cat(logits).sigmoid().numpy()
        return found

    def _query_number(self, asked: ScoreRequest) -> Ids:
        """The present query's id, int64 [1]: that of the data's query of the same text where no other is given."""
        if asked.query_id is not None or asked.query is None or asked.query.get("image") is not None:
            return np.array([NOBODY if asked.query_id is None else asked.query_id])
        return np.array([self._texts.get(str(asked.query["text"]), NOBODY)])

    def _rows(
        self,
        table: str,
        ids: Ids,
        given: Sequence[Mapping[str, Any]],
        field: str,
        missing: dict[str, int],
        others: Collection[str] = (),
    ) -> pl.DataFrame:
        """The columns that the model reads of rows of a table: as they are given, or else as the run's data has them.

        Args:
            table: its name.
            ids: of the rows, int64 [n].
            given: columns of each row.
            field: of the request, for errors.
            missing: what is in neither is counted here.
            others: keys that are no columns.
        """
        known = self._known[table]
        found, there = known.find(ids)
        single = field in ("user", "query")
        self._refuse_columns(table, given, field, (*others, KEYS[table]), single)
        for name in known.columns:
            values = self._given(table, name, known.types[name], given, field, single)
            if values is not None:
                found = found.with_columns(pl.coalesce(values, pl.col(name)).alias(name))
            lacking = ~there if values is None else ~there & values.is_null().to_numpy()
            if lacking.any() and not (table == "queries" and name in ("text", "image")):
                missing[f"{table}.{name}"] = int(lacking.sum())
        return found

    def _impression_columns(self, asked: ScoreRequest, missing: dict[str, int]) -> pl.DataFrame:
        """The columns that the model reads of impressions, as they are given."""
        field = f"candidates.{IMPRESSION}"
        self._refuse_columns("impressions", asked.impressions, field, (), False)
        n = len(asked.items)
        ids = [pl.Series("search_id", np.zeros(n, np.int64)), pl.Series("item_id", asked.items)]
        found = pl.DataFrame([*ids, *(column.clear(n) for column in self._shown)])
        for name in self._shown.columns:
            values = self._given("impressions", name, self._shown.schema[name], asked.impressions, field, False)
            if values is not None:
                found = found.with_columns(values.alias(name))
            if lacking := found[name].null_count():
                missing[f"impressions.{name}"] = lacking
        return found

    def _refuse_columns(
        self, table: str, given: Sequence[Mapping[str, Any]], field: str, others: Collection[str], single: bool
    ) -> None:
        known = [*self._known_columns[table], *others]
        for key in set().union(*given) - set(known):
            row = next(row for row, each in enumerate(given) if key in each)
            place = field if single else f"{field}.{row}"
            raise BadRequest(f"{place}.{key}", f"is no column of {table} in the run's data; {hint(str(key), known)}")

    def _given(
        self, table: str, name: str, dtype: pl.DataType, given: Sequence[Mapping[str, Any]], field: str, single: bool
    ) -> pl.Series | None:
        """A column of what is given, null where it is not; None where it is given of no row."""
        values = [each.get(name) for each in given]
        rows = [row for row, value in enumerate(values) if value is not None]
        if not rows:
            return None
        shops = self._ids.of(name)
        try:
            column = pl.Series(name, values, dtype=pl.String if shops is not None else dtype, strict=True)
        except BaseException as error:  # polars panics at some values
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            row = next((row for row in rows if not _fits(values[row], dtype)), rows[0])
            place = field if single else f"{field}.{row}"
            raise BadRequest(f"{place}.{name}", f"expected {dtype}, got {values[row]!r}") from error
        if dtype.is_float() and not column.is_finite().fill_null(True).all():
            row = int(column.is_finite().fill_null(True).not_().arg_true()[0])
            raise BadRequest(f"{field if single else f'{field}.{row}'}.{name}", f"{values[row]} is not finite")
        if shops is not None:
            return shops.encode(column)
        if name == "category" and dtype == pl.String:
            return column.to_frame().select(with_levels(pl.col(name))).to_series()
        return column

    def _events(self, asked: ScoreRequest, missing: dict[str, int]) -> tuple[pl.DataFrame, int]:
        """The user's behaviours as a table of searches, and the number of the present search."""
        search_id, present, without = asked.searches
        if without:
            missing["history.search_id"] = without
        if asked.content.get("history") is None:
            missing["history"] = 1
        by_text = asked.events["query"].to_list()
        texts = pl.Series([None if text is None else self._texts.get(text) for text in by_text], dtype=pl.Int64)
        events = asked.events.with_columns(
            query_id=pl.coalesce(pl.col("query_id"), texts),
            search_id=pl.Series(search_id, dtype=pl.Int64),
            user_id=pl.lit(int(asked.user_id[0])),
        )
        if unknown := sum(text is not None and text not in self._texts for text in by_text):
            missing["history.query"] = unknown
        return events, present

    def _lookups_of(
        self,
        asked: ScoreRequest,
        products: pl.DataFrame,
        events: pl.DataFrame,
        query: Ids,
        missing: dict[str, int],
    ) -> Lookups:
        """Look up the products, queries and behaviours of a request."""
        vocabularies, vectors = self._lookups.vocabularies, self._vectors
        described = ItemFeatures(products, vocabularies, None, self._lookups.products.price_scale)
        same = KnownQueries(self._query_ids, self._known["queries"])
        behaved, past = Histories(events), Histories(events, "query_id")
        of_items = of_queries = None
        if vectors is not None:
            ids = np.concatenate([asked.items, events["item_id"].to_numpy()])
            names = pl.concat([asked.names.alias("name"), events["name"]])
            ids, first = np.unique(ids, return_index=True)
            of_items = vectors.of_products(ids, names.gather(first))
            _note(missing, "products.vector", of_items.rows(asked.items) < 0)
            _note(missing, "history.vector", of_items.rows(np.unique(events["item_id"].to_numpy())) < 0)
            if self._module.reads_queries:
                of_queries = self._query_vectors(asked, events, query, missing)
        items = Behaviours(behaved, vocabularies.item.rows(behaved.ids), of_items)
        queries = Behaviours(past, vocabularies.query.rows(same.of(past.ids)), of_queries)
        return replace(self._lookups, products=described, query_ids=same, items=items, queries=queries)

    def _query_vectors(
        self, asked: ScoreRequest, events: pl.DataFrame, query: Ids, missing: dict[str, int]
    ) -> Representations:
        """Vectors of the present query and of past ones."""
        assert self._vectors is not None
        past = np.unique(events["query_id"].drop_nulls().to_numpy())
        ids = np.unique(np.concatenate([past, query]))
        found = self._vectors.of_queries(ids)
        _note(missing, "history.query.vector", found.rows(past) < 0)
        if asked.query is None or found.rows(query)[0] >= 0:
            return found
        if asked.query_id is not None:
            missing["queries.vector"] = 1
            return found
        try:
            vector = self._vectors.encode(asked.query.get("image"), asked.query.get("text"))
        except UnreadableImage as error:
            raise BadRequest("query.image", str(error)) from error
        except RunError as error:
            raise BadRequest("query", f"only queries of the run's data can be scored: {error}") from error
        if not vector.any():
            missing["queries.vector"] = 1
        return Representations(np.append(found.ids, query), np.concatenate([found.vectors, vector]))


class KnownRows:
    """Rows of a table of the run's data, found by id.

    Attributes:
        columns: their names, without that of the id.
        types: of the columns.

    Args:
        dataset: the data.
        table: its name.
        columns: that are read.
    """

    def __init__(self, dataset: Dataset, table: str, columns: Collection[str]) -> None:
        key = KEYS[table]
        self.columns = sorted(set(columns) - {key})
        self._rows = dataset.table(table, (key, *self.columns)).sort(key)
        self.ids: Ids = self._rows[key].to_numpy()
        self.types = self._rows.schema

    def find(self, ids: Ids) -> tuple[pl.DataFrame, NDArray[np.bool_]]:
        """The row of each id [n], null where there is none, and whether there is one, bool [n]."""
        place = np.searchsorted(self.ids, ids).clip(max=max(len(self.ids) - 1, 0))
        there = self.ids[place] == ids if len(self.ids) else np.zeros(len(ids), dtype=np.bool_)
        rows = pl.select(pl.when(pl.Series(there)).then(pl.Series(place))).to_series()
        key = self._rows.columns[0]
        return pl.DataFrame([pl.Series(key, ids), *(self._rows[name].gather(rows) for name in self.columns)]), there


class KnownQueries:
    """Which queries are one, of those of the data; any other is one by itself."""

    def __init__(self, query_ids: QueryIds, known: KnownRows) -> None:
        self._query_ids, self._known = query_ids, known

    def of(self, query_id: Ids) -> Ids:
        """The id that stands for each query, int64 of the same shape."""
        _, there = self._known.find(query_id)
        found = query_id.copy()
        found[there] = self._query_ids.of(query_id[there])
        return found


class Vectors(Protocol):
    """Vectors of products and queries, of one space."""

    snapshot: str | None

    def of_products(self, ids: Ids, names: pl.Series) -> Representations:
        """Those of the products that have one.

        Args:
            ids: their numbers in the run's data, int64 [n], ascending.
            names: their ids as the shop writes them [n].
        """
        ...

    def of_queries(self, ids: Ids) -> Representations:
        """Those of the data's queries that have one, by their numbers, int64 [n], ascending."""
        ...

    def encode(self, image: bytes | None, text: str | None) -> NDArray[Any]:
        """That of another query, [1, D], as those of the data's queries are kept.

        Raises:
            UnreadableImage: the image is none.
        """
        ...


class RunVectors:
    """The vectors that a run's own stage has made.

    Args:
        run: the run.
        products: of products.
        queries: of queries.
        encoders: encoders that are open already, by their fingerprints.
    """

    snapshot: str | None = None

    def __init__(
        self, run: Run, products: Representations, queries: Representations, encoders: Mapping[str, Encoder] = {}
    ) -> None:
        self._products, self._queries = products, queries
        self._encode = QueryEncoder(run, encoders)

    def of_products(self, ids: Ids, names: pl.Series) -> Representations:
        return _some(self._products, ids, self._products.rows(ids))

    def of_queries(self, ids: Ids) -> Representations:
        return _some(self._queries, ids, self._queries.rows(ids))

    def encode(self, image: bytes | None, text: str | None) -> NDArray[Any]:
        return self._encode(image, text)[None, : self._queries.dim]


class CenterVectors:
    """The vectors of one snapshot of a center, and of queries as its encoder represents them.

    Attributes:
        snapshot: ``space@snapshot``.

    Args:
        snapshot: see the attribute.
        space: the space.
        base: the snapshot's rows.
        queries: of the data's queries, as the run has read them.
        encoders: encoders that are open already, by their fingerprints.
    """

    def __init__(
        self,
        snapshot: str,
        space: Space,
        base: Base,
        queries: Representations,
        encoders: Mapping[str, Encoder] = {},
    ) -> None:
        self.snapshot: str | None = snapshot
        self._space, self._base, self._queries = space, base, queries
        self._encode = QueryEncoder(Export(space.encoder), encoders)

    @classmethod
    def open(
        cls,
        run: Run,
        link: str,
        center: str | Path | None,
        noted: Mapping[str, str],
        queries: Representations,
        encoders: Mapping[str, Encoder] = {},
    ) -> CenterVectors:
        """Find the snapshot that an application was trained on, whatever an alias leads to now.

        Args:
            run: the run.
            link: the application.
            center: where the center is; None for where the run notes it.
            noted: what the application's identity holds of it.
            queries: of the data's queries.
            encoders: see `CenterVectors`.

        Raises:
            RunError: the center is not where it was.
            OtherSnapshot: it has not got the snapshot, or another of this name.
        """
        place = None if center is None else Path(center)
        how = f"{CENTER_OF}{link.partition('.')[0]}"
        for parent in run.parents if place is None else ():
            place = parent.place if parent.how == how else place
        if place is None or not place.is_dir():
            raise RunError(f"{run.directory}: the center that {link} was trained on is not there any more; say where")
        space_name, _, number = noted["snapshot"].rpartition("@")
        space = place / SPACES / space_name
        directory = snapshot_of(space, int(number))
        if not (directory / SNAPSHOT).is_file():
            raise OtherSnapshot(
                f"{place} has no snapshot {noted['snapshot']}, which {run.directory}/{link} was trained on: fit the "
                "application again, on one that is there (an alias keeps its own)"
            )
        if content_of(directory) != noted["content"]:
            raise OtherSnapshot(
                f"{directory} holds other vectors than those that {run.directory}/{link} was trained on: it is of "
                "another center; fit the application again"
            )
        return cls(noted["snapshot"], Space.open(space), Base(directory), queries, encoders)

    def of_products(self, ids: Ids, names: pl.Series) -> Representations:
        return _some(self._base.store, ids, self._base.rows(names))

    def of_queries(self, ids: Ids) -> Representations:
        return _some(self._queries, ids, self._queries.rows(ids))

    def encode(self, image: bytes | None, text: str | None) -> NDArray[Any]:
        vector = self._encode(image, text)[None, : self._space.dim]
        return Representations(np.zeros(1, np.int64), vector).as_type(self._space.dtype).vectors


class QueryEncoder:
    """Represents queries; the encoder is opened when it is first needed.

    Args:
        source: the run, or the export, whose encoder it is.
        encoders: encoders that are open already, by their fingerprints.
    """

    def __init__(self, source: Run | Export, encoders: Mapping[str, Encoder] = {}) -> None:
        self._source, self._known = source, encoders
        self._reads = source.modalities("query")

    @cached_property
    def _encoder(self) -> Encoder:
        return self._known.get(self._source.fingerprint) or self._source.encoder()

    def __call__(self, image: bytes | None, text: str | None) -> NDArray[np.float32]:
        """The vector of a query, float32 [D]; zeros where the encoder reads nothing of what is given."""
        content = compose({"query_id": None, "text": text}, image, self._reads)
        batch = self._encoder.preprocessor([content], "query")
        device = next((parameter.device for parameter in self._encoder.parameters()), torch.device("cpu"))
        with torch.inference_mode():
            moved = {name: part.to(device) for name, part in batch.items()}
            vector: NDArray[np.float32] = self._encoder(moved).float().cpu().numpy()[0]
        return vector


def _some(store: Representations, ids: Ids, rows: NDArray[np.int64]) -> Representations:
    """The vectors of some ids, as they are kept; those whose row is -1 are left out."""
    there = rows >= 0
    return Representations(ids[there], np.take(store.vectors, rows[there], axis=0))


def _note(missing: dict[str, int], name: str, lacking: NDArray[np.bool_]) -> None:
    if lacking.any():
        missing[name] = int(lacking.sum())


def _columns_of(query: Mapping[str, Any] | None) -> dict[str, Any]:
    """The columns of the queries table that a request's query gives; its image is no file's name."""
    return {key: value for key, value in (query or {}).items() if key != "image"}


def _fits(value: Any, dtype: pl.DataType) -> bool:
    try:
        pl.Series([value], dtype=dtype, strict=True)
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        return False
    return True
