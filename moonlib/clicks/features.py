"""Columns of the tables as features of a click model, declared in the recipe.

    features:
      users.age: categorical
      products.price: log_numeric
      products.attributes: multi_valued
      impressions.position: numeric

`Features.fit` learns vocabularies and scales from the training impressions and encodes every row of the tables once.
From then on a batch is looked up by row numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Literal, get_args

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from moonlib.clicks.saved_vocabularies import SavedFeature, SavedVocabularies, vocabulary_entries
from moonlib.clicks.vocabulary import HashedVocabulary, TextVocabulary, Vocabulary, vocabulary_of
from moonlib.data.dataset import Dataset
from moonlib.data.ids import ShopIds
from moonlib.data.tables import KEYS

FeatureKind = Literal["numeric", "log_numeric", "categorical", "multi_valued"]
"""Type of a declared feature: how its column is read.

- ``numeric``: a number, standardised; ``log_numeric``: log(1 + it), standardised. Numbers, also true and false.
- ``categorical``: one of many values, embedded. Text, integers, true and false.
- ``multi_valued``: several such values, embedded and averaged. Lists of text or integers; of a mapping such as
  ``products.attributes``, the entries ``key=value``.
"""

LABELS = {
    "clicked": "it is what the model predicts",
    "relevance": "it is a judgement of the result, which nobody has made when the model is asked",
}
"""Columns of impressions that a feature must not be made of, and why."""

AnyVocabulary = Vocabulary | TextVocabulary | HashedVocabulary


@dataclass
class FeatureBatch:
    """Features of B impressions: C categorical, N numeric and K multi-valued ones, each in the order of their names.

    Attributes:
        categorical: int64 [B, C], rows of one embedding table.
        numeric: float32 [B, 2 N]: for each feature its value, and 1 where it is missing, else 0.
        values: int64 [T], rows of another embedding table: the values of all multi-valued features together.
        offsets: int64 [K * B], where the values of feature k and impression b begin, at k * B + b.
    """

    categorical: Tensor
    numeric: Tensor
    values: Tensor
    offsets: Tensor

    def to(self, device: torch.device | str) -> FeatureBatch:
        """The batch on a device."""
        return FeatureBatch(**{name: part.to(device) for name, part in vars(self).items()})


@dataclass(frozen=True)
class FeatureSizes:
    """Sizes that a model needs to know of the features.

    Attributes:
        categorical: C, how many categorical features there are.
        categorical_rows: of the embedding table of all of them.
        numeric: N.
        multi_valued: K.
        multi_valued_rows: of the embedding table of all of them.
    """

    categorical: int
    categorical_rows: int
    numeric: int
    multi_valued: int
    multi_valued_rows: int


@dataclass(frozen=True)
class Standardization:
    """(x - centre) / spread of a number, or of log(1 + it).

    With nothing to learn them from, ``centre`` and ``spread`` are NaN and every value counts as missing.
    """

    log: bool
    centre: float
    spread: float

    @classmethod
    def of(cls, numbers: NDArray[np.float64], counts: NDArray[np.int64], log: bool) -> Standardization:
        """Take mean and standard deviation, each number weighted by how often it was seen; NaN is missing."""
        numbers = np.log1p(numbers) if log else numbers
        seen = ~np.isnan(numbers) & (counts > 0)
        if not seen.any():
            return cls(log, np.nan, np.nan)
        centre = np.average(numbers[seen], weights=counts[seen])
        spread = np.sqrt(np.average((numbers[seen] - centre) ** 2, weights=counts[seen]))
        return cls(log, float(centre), float(spread) or 1.0)

    def encode(self, numbers: NDArray[np.float64]) -> NDArray[np.float32]:
        """Scale float64 [R], NaN for missing, to float32 [R, 2]: the value, 0 where missing, and 1 where missing."""
        scaled = ((np.log1p(numbers) if self.log else numbers) - self.centre) / self.spread
        return np.stack([np.nan_to_num(scaled), np.isnan(scaled)], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Column:
    """A declared feature and what was learnt for it.

    Attributes:
        table: one of users, products, queries, impressions.
        name: of its column.
        kind: what it is read as.
        fitted: a vocabulary, or the scale of a number.
        first: of the rows that it has in the embedding table of its kind.
    """

    table: str
    name: str
    kind: FeatureKind
    fitted: AnyVocabulary | Standardization
    first: int = 0

    @property
    def full_name(self) -> str:
        """Name of the column with its table's: ``users.age``."""
        return f"{self.table}.{self.name}"

    def rows(self, values: pl.Series) -> NDArray[np.int64]:
        """Row of each value [N] in the embedding table of the feature's kind, that of the unknown for null."""
        assert not isinstance(self.fitted, Standardization)
        return self.first + _codes(self.fitted, values)

    @property
    def saved(self) -> SavedFeature:
        """Description of it that is kept for a model that starts from this one."""
        if isinstance(self.fitted, Standardization):
            known = not np.isnan(self.fitted.centre)
            return SavedFeature(
                self.full_name, self.kind, scale=(self.fitted.centre, self.fitted.spread) if known else None
            )
        return SavedFeature(self.full_name, self.kind, len(self.fitted))


class Features:
    """Declared columns, encoded. Make it with `fit`.

    Attributes:
        sizes: what a model has to know.
        entries: values that have a row of their own by ``table.column``, see
            `moonlib.clicks.saved_vocabularies.vocabulary_entries`; none of a feature that is hashed.
    """

    def __init__(
        self, columns: Sequence[Column], sizes: FeatureSizes, keys: Mapping[str, Vocabulary], ids: ShopIds
    ) -> None:
        self.columns = columns
        self.sizes = sizes
        self.keys = keys
        self.ids = ids
        self.tables: dict[str, EncodedTable] = {}
        self.entries: dict[str, pl.DataFrame] = {}

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        train: pl.DataFrame,
        declared: Mapping[str, FeatureKind],
        min_count: int = 1,
        buckets: int | None = None,
        earlier: SavedVocabularies | None = None,
        since: datetime | None = None,
    ) -> Features:
        """Learn vocabularies and scales from training impressions, and encode the tables.

        A row of users, products or queries counts as often as it takes part in a training impression; what does not
        is not learnt from, so products listed later and users seen later teach nothing. Values of a categorical or
        multi-valued feature that are missing, or unknown to training, share one row, which every feature has.

        Args:
            dataset: the five tables.
            train: the training impressions.
            declared: kind by ``table.column``.
            min_count: values in fewer training impressions count as unknown.
            buckets: hash the values of each feature into so many rows, in place of an exact vocabulary.
            earlier: of the model that this one starts from: its values keep a row, and its scales are kept, because its
                weights were trained with them.
            since: values that were last seen before this moment have no row; None for no such moment.

        Raises:
            ValueError: a name is no column, a column doesn't suit its kind, holds what can't be read, or would give
                the label away; ``min_count`` or ``buckets`` is below 1.
        """
        columns: list[Column] = []
        entries: dict[str, pl.DataFrame] = {}
        keys: dict[str, Vocabulary] = {}
        frames: dict[str, pl.DataFrame] = {}
        taken = {"categorical": 0, "multi_valued": 0}
        for table, kinds in _by_table(declared).items():
            _check_names(table, kinds, dataset.columns(table))
            if table == "impressions":
                frame, counts = train, np.ones(len(train), dtype=np.int64)
            else:
                key = KEYS[table]
                frame = frames[table] = dataset.table(table, sorted({key, *kinds})).sort(key)
                keys[table] = Vocabulary(frame[key].to_numpy())
                counts = np.bincount(_rows(keys[table], train, table), minlength=len(frame) + 1)[: len(frame)]
            for name, kind in kinds.items():
                full = f"{table}.{name}"
                _check_kind(full, frame[name].dtype, kind)
                if kind == "numeric" or kind == "log_numeric":
                    log = kind == "log_numeric"
                    scale = Standardization.of(_numbers(frame, table, name, log, dataset.ids), counts, log)
                    kept = earlier.features[full].scale if earlier and full in earlier.features else None
                    columns.append(Column(table, name, kind, Standardization(log, *kept) if kept else scale))
                else:
                    values, owner = _values(frame[name])
                    vocabulary = _vocabulary(values, counts[owner], min_count, buckets)
                    if not isinstance(vocabulary, HashedVocabulary):
                        own = vocabulary.values
                        before = earlier.entries(full, own.dtype) if earlier and earlier.has(full) else None
                        entries[full] = vocabulary_entries(own, None, dataset.splits.train_until, before, since)
                        vocabulary = vocabulary_of(entries[full]["value"])
                    columns.append(Column(table, name, kind, vocabulary, taken[kind]))
                    taken[kind] += len(vocabulary)
        kinds_of = [column.kind for column in columns]
        sizes = FeatureSizes(
            categorical=kinds_of.count("categorical"),
            categorical_rows=taken["categorical"],
            numeric=kinds_of.count("numeric") + kinds_of.count("log_numeric"),
            multi_valued=kinds_of.count("multi_valued"),
            multi_valued_rows=taken["multi_valued"],
        )
        features = cls(columns, sizes, keys, dataset.ids)
        features.entries = entries
        # The last row, where all is missing, is that of impressions without a query.
        features.tables = {
            table: features.encode(pl.concat([frame, frame.clear(1)]), table) for table, frame in frames.items()
        }
        return features

    def encode(self, frame: pl.DataFrame, table: str) -> EncodedTable:
        """Encode the columns of one table that are declared, for every row of ``frame``."""
        categorical, numeric, ragged = [], [], []
        for column in self.columns:
            if column.table != table:
                continue
            if isinstance(column.fitted, Standardization):
                numbers = _numbers(frame, table, column.name, column.fitted.log, self.ids)
                numeric.append(column.fitted.encode(numbers))
                continue
            values, owner = _values(frame[column.name])
            codes = column.rows(values).astype(np.int32)
            if column.kind == "categorical":
                categorical.append(codes)
            else:
                ragged.append(Ragged.of(codes, owner, len(frame)))
        return EncodedTable(
            np.stack(categorical, axis=1) if categorical else np.zeros((len(frame), 0), dtype=np.int32),
            np.concatenate(numeric, axis=1) if numeric else np.zeros((len(frame), 0), dtype=np.float32),
            ragged,
        )

    def of(self, impressions: pl.DataFrame) -> FeatureRows:
        """Find the features of each impression.

        Args:
            impressions: n rows of the dataset's impressions.

        Raises:
            ValueError: an impression's user, product or query has no row in its table, or a column of the impressions
                holds what can't be read.
        """
        found = [(self.tables[table], _rows(ids, impressions, table)) for table, ids in self.keys.items()]
        if any(column.table == "impressions" for column in self.columns):
            found.insert(0, (self.encode(impressions, "impressions"), np.arange(len(impressions))))
        return FeatureRows(found)

    def given(self, frames: Mapping[str, pl.DataFrame], rows: Mapping[str, NDArray[np.intp]]) -> FeatureRows:
        """Encode the features of impressions from rows that are given, and not those of the dataset.

        Args:
            frames: rows of each table that a feature is declared of, with the columns declared.
            rows: of each, the row that belongs to each of n impressions, [n].

        Raises:
            ValueError: a column holds what can't be read.
        """
        tables = dict.fromkeys(column.table for column in self.columns)
        return FeatureRows([(self.encode(frames[table], table), rows[table]) for table in tables])


class FeatureRows:
    """Features of n impressions, read a batch of row numbers at a time."""

    def __init__(self, tables: Sequence[tuple[EncodedTable, NDArray[np.intp]]]) -> None:
        """Take encoded tables, and the row of each that an impression belongs to, [n]."""
        self.tables = tables

    def batch(self, rows: NDArray[np.int64]) -> FeatureBatch:
        """Look up the features of B impressions, by row numbers int64 [B]."""
        places = [(table, of_impression[rows]) for table, of_impression in self.tables]
        ragged = [(feature, at) for table, at in places for feature in table.multi_valued]
        values, lengths = zip(*(feature.take(at) for feature, at in ragged), strict=True) if ragged else ((), ())
        starts = np.cumsum(np.concatenate([[0], *lengths])[: len(ragged) * len(rows)])
        return FeatureBatch(
            torch.from_numpy(_beside([table.categorical[at] for table, at in places], len(rows), np.int64)),
            torch.from_numpy(_beside([table.numeric[at] for table, at in places], len(rows), np.float32)),
            torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *values])),
            torch.from_numpy(starts.astype(np.int64)),
        )


@dataclass(frozen=True)
class Ragged:
    """Lists of codes, one list per row of a table.

    Attributes:
        codes: int32 [T], the lists one after another.
        starts: int64 [R + 1], where each begins, and T.
    """

    codes: NDArray[np.int32]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, codes: NDArray[np.int32], owner: NDArray[np.intp], rows: int) -> Ragged:
        """Take codes [T] and the row that each belongs to, ascending."""
        return cls(codes, np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=rows))]))

    def take(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the codes of B rows one after another, int64, and how many each row has, int64 [B]."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        begins = np.cumsum(lengths) - lengths
        at = np.arange(lengths.sum()) + np.repeat(self.starts[rows] - begins, lengths)
        return self.codes[at].astype(np.int64), lengths


@dataclass(frozen=True)
class EncodedTable:
    """The declared features of R rows of one table.

    Attributes:
        categorical: int32 [R, number of categorical features].
        numeric: float32 [R, 2 * number of numeric features].
        multi_valued: one per multi-valued feature.
    """

    categorical: NDArray[np.int32]
    numeric: NDArray[np.float32]
    multi_valued: list[Ragged]


def _by_table(declared: Mapping[str, FeatureKind]) -> dict[str, dict[str, FeatureKind]]:
    """Sort the declared features by table and column, so that their order in a recipe is of no consequence."""
    tables = ("users", "products", "queries", "impressions")
    found: dict[str, dict[str, FeatureKind]] = {}
    for full in sorted(declared):
        table, _, name = full.partition(".")
        if table == "searches":
            raise ValueError(
                f"features: {full}: searches are what users did, which the model reads as their histories; take "
                f"features from {', '.join(tables)}"
            )
        if table not in tables or not name:
            hint = _near(table, tables, "the tables are")
            raise ValueError(f"features: {full!r} is no column: write table.column, such as users.age; {hint}")
        if table == "impressions" and name in LABELS:
            raise ValueError(f"features: {full} would give the label away: {LABELS[name]}; leave it out")
        if declared[full] not in get_args(FeatureKind):
            hint = _near(str(declared[full]), get_args(FeatureKind), "the kinds are")
            raise ValueError(f"features: {full}: {declared[full]!r} is no kind of feature; {hint}")
        found.setdefault(table, {})[name] = declared[full]
    return found


def _near(word: str, known: Iterable[str], otherwise: str) -> str:
    known = list(known)
    near = get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"{otherwise} {', '.join(known)}"


def _check_names(table: str, names: Iterable[str], columns: Sequence[str]) -> None:
    for name in names:
        if name not in columns:
            hint = _near(name, columns, "its columns are")
            raise ValueError(f"features: {table}.{name}: table {table} has no column {name!r}; {hint}")


def _check_kind(name: str, dtype: pl.DataType, kind: FeatureKind) -> None:
    """Refuse a column that can't be read as its kind, and say what it could be."""
    described, kinds = _described(dtype)
    if kind in kinds:
        return
    if kinds:
        raise ValueError(f"features: {name} is {described}, not {kind}: declare it {' or '.join(kinds)}")
    advice = "leave it out"
    if dtype.is_temporal():
        advice = "write what you want of it, such as the hour, into a column of its own"
    raise ValueError(f"features: {name} is {described}, which is no kind of feature; {advice}")


def _described(dtype: pl.DataType) -> tuple[str, list[FeatureKind]]:
    """Say what a type is in words, and which kinds a column of it can be."""
    if _is_value(dtype):
        if dtype == pl.Boolean:
            return "true or false", ["categorical", "numeric"]
        if dtype.is_integer():
            return "integers", ["categorical", "numeric", "log_numeric"]
        return "text", ["categorical"]
    if dtype.is_numeric():
        return "numbers", ["numeric", "log_numeric"]
    if isinstance(dtype, pl.List | pl.Array):
        inner = dtype.inner
        assert isinstance(inner, pl.DataType)
        return f"lists of {_described(inner)[0]}", ["multi_valued"] if _is_value(inner) else []
    if isinstance(dtype, pl.Map):
        return "mappings", ["multi_valued"]
    return "times" if dtype.is_temporal() else str(dtype), []


def _is_value(dtype: pl.DataType) -> bool:
    """Whether a vocabulary can hold it."""
    return dtype.is_integer() or dtype == pl.Boolean or dtype in (pl.String, pl.Categorical, pl.Enum)


def _values(series: pl.Series) -> tuple[pl.Series, NDArray[np.intp]]:
    """Return the values of a column, Int64 or String, and the row that each belongs to.

    A categorical column has one value per row, which may be null; the lists and mappings of a multi-valued one have
    as many as they have entries, without nulls.
    """
    values = pl.DataFrame({"row": np.arange(len(series), dtype=np.intp), "value": series})
    dtype = series.dtype
    if isinstance(dtype, pl.Map):
        fields = {"key": pl.String, "value": pl.String}
        entries = values.with_columns(pl.col("value").cast(pl.List(pl.Struct(fields)))).explode("value").unnest("value")
        values = entries.select("row", value=pl.concat_str("key", "value", separator="=")).drop_nulls()
    elif isinstance(dtype, pl.List | pl.Array):
        inner = dtype.inner
        values = values.with_columns(pl.col("value").cast(pl.List(inner))).explode("value").drop_nulls()
    column = values["value"]
    if column.dtype.is_integer() or column.dtype == pl.Boolean:
        # Unsigned ones above 2^63 become negative: another name for the same value.
        column = column.cast(pl.Int64, wrap_numerical=True)
    else:
        column = column.cast(pl.String)
    return column, values["row"].to_numpy()


def _vocabulary(values: pl.Series, counts: NDArray[np.int64], min_count: int, buckets: int | None) -> AnyVocabulary:
    if buckets is not None:
        return HashedVocabulary(buckets)
    if values.dtype == pl.String:
        return TextVocabulary(values, min_count, counts)
    present = values.is_not_null().to_numpy()
    return Vocabulary(values.drop_nulls().to_numpy(), min_count, counts[present])


def _codes(vocabulary: AnyVocabulary, values: pl.Series) -> NDArray[np.int64]:
    """Row of each value within its vocabulary, 0 for null."""
    if values.dtype == pl.String:
        assert not isinstance(vocabulary, Vocabulary)
        return vocabulary.rows(values)
    assert not isinstance(vocabulary, TextVocabulary)
    # 0 may be a value of its own, so what fills the gaps is not looked up.
    rows = vocabulary.rows(values.fill_null(0).to_numpy())
    return np.where(values.is_null().to_numpy(), 0, rows)


def _numbers(frame: pl.DataFrame, table: str, name: str, log: bool, ids: ShopIds) -> NDArray[np.float64]:
    """Return a column as float64 [R], NaN for missing.

    Raises:
        ValueError: a number is infinite, or negative where its logarithm is wanted.
    """
    numbers = frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
    bad = np.isinf(numbers) | (log & (numbers < 0))
    if bad.any():
        row = int(bad.argmax())
        keys = [KEYS[table]] if table in KEYS else ["search_id", "item_id"]
        where = ", ".join(f"{key} {ids.value(key, frame[key][row])}" for key in keys)
        problem = "is not finite" if np.isinf(numbers[row]) else "is negative: declare it numeric, not log_numeric"
        raise ValueError(f"features: {table}.{name}: {where}: {numbers[row]} {problem}")
    return numbers


def _rows(keys: Vocabulary, impressions: pl.DataFrame, table: str) -> NDArray[np.intp]:
    """Row of each impression in a table that is sorted by its key; one behind the last for a null."""
    ids = impressions[KEYS[table]].drop_nulls().to_numpy()
    found = keys.rows(ids) - 1
    if len(found) and found.min() < 0:
        raise ValueError(f"features: {KEYS[table]} {ids[found.argmin()]} of an impression is of no row of {table}")
    rows = np.full(len(impressions), len(keys) - 1)
    rows[impressions[KEYS[table]].is_not_null().to_numpy()] = found
    return rows


def _beside(parts: Sequence[NDArray[np.generic]], rows: int, dtype: type) -> NDArray[np.generic]:
    """Concatenate columns of one type; there may be none."""
    return np.concatenate(
        [np.zeros((rows, 0), dtype=dtype), *(part.astype(dtype, copy=False) for part in parts)], axis=1
    )
