"""Vocabularies of a trained click model, kept beside its weights so that another model can start from it.

A Parquet file per embedding table says what its rows are of, from row 1 on, in the shop's own ids, and when each was
seen last. They are looked up by what they are, never by their place: the other model's vocabularies may have grown or
shrunk, and the numbers of text ids may be others in its dataset.

    vocabularies/description.json   sizes, scales of numbers, the modules of the model
    vocabularies/item.parquet       id, last_seen
    vocabularies/query.parquet      id, text, last_seen: queries of one text are one, whatever their ids
    vocabularies/users.age.parquet  value, last_seen
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from moonlib.artifacts.checksums import again
from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import IDENTITY, PREDICTIONS, VOCABULARIES, WEIGHTS
from moonlib.artifacts.reading import Unreadable, read_mapping, read_table
from moonlib.clicks.price import PriceScale
from moonlib.clicks.query_ids import QueryIds
from moonlib.data.dataset import Dataset
from moonlib.system.disk import replacing

DESCRIPTION = "description.json"

SEEN = pl.Datetime("us", "UTC")
"""Type of the column ``last_seen``."""

IDS = {"user": "user_id", "item": "item_id", "merchant": "merchant_id", "query": "query_id"}
"""The column of the ids that the rows of a table are of, by the table's name."""


@dataclass(frozen=True)
class SavedFeature:
    """A declared feature of a saved model.

    Attributes:
        name: ``table.column``.
        kind: what it is read as.
        rows: that it has in the embedding table of its kind; 0 for a number.
        scale: centre and spread of a number; None where there was nothing to learn them from, and for other kinds.
    """

    name: str
    kind: str
    rows: int = 0
    scale: tuple[float, float] | None = None


@dataclass(frozen=True)
class Description:
    """Everything of a saved model's vocabularies but their content.

    Attributes:
        trained_until: end of the days that it was trained on.
        rows: of each embedding table of ids, row 0 included.
        hashed: names of the tables and features whose rows are buckets of a hash, and so of no id.
        price: scale of prices.
        features: the declared ones, in the order of their rows.
        modules: class of each module of the model, by its name.
    """

    trained_until: datetime
    rows: Mapping[str, int]
    hashed: Sequence[str]
    price: PriceScale
    features: Sequence[SavedFeature]
    modules: Mapping[str, str]

    def write(self, file: Path) -> None:
        """Write it as JSON."""
        write_json(file, asdict(self) | {"trained_until": self.trained_until.isoformat()})

    @classmethod
    def read(cls, file: Path) -> Description:
        """Read what `write` wrote.

        Raises:
            Unreadable: the file holds something else.
            Damaged: its content is not what was written.
        """
        found = read_mapping(file)
        try:
            return cls(
                datetime.fromisoformat(found["trained_until"]),
                {str(name): int(rows) for name, rows in found["rows"].items()},
                [str(name) for name in found["hashed"]],
                PriceScale(**{name: float(value) for name, value in found["price"].items()}),
                [_feature(each) for each in found["features"]],
                {str(name): str(cls) for name, cls in found["modules"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Unreadable(f"{file} describes no vocabularies ({error!r}); {again(file)}") from None


class SavedVocabularies:
    """Vocabularies of a finished click model, as a dataset knows their ids.

    Args:
        directory: of the stage that trained the model.
        dataset: the data of the model that starts from it.

    Attributes:
        description: all but their content.

    Raises:
        ValueError: the directory holds no click model, or one that was made before vocabularies were kept.
        Unreadable: a file is broken.
        Damaged: its content is not what was written.
    """

    def __init__(self, directory: Path, dataset: Dataset) -> None:
        self.directory, self.dataset = directory, dataset
        if not SavedVocabularies.are_in(directory):
            raise ValueError(f"{directory} {_why_not(directory)}")
        self.description = Description.read(directory / VOCABULARIES / DESCRIPTION)
        self._entries: dict[str, pl.DataFrame] = {}

    @staticmethod
    def are_in(directory: Path) -> bool:
        """Whether a directory of a stage holds vocabularies."""
        return (directory / VOCABULARIES / DESCRIPTION).is_file()

    @cached_property
    def _query_ids(self) -> QueryIds:
        return QueryIds(self.dataset)

    @cached_property
    def features(self) -> dict[str, SavedFeature]:
        """The declared features by name, in the order of their rows."""
        return {feature.name: feature for feature in self.description.features}

    def rows(self, name: str) -> int:
        """Rows of a table of ids, or of a feature in its table, row 0 included."""
        return self.description.rows[name] if name in self.description.rows else self.features[name].rows

    def has(self, name: str) -> bool:
        """Whether there is an exact vocabulary of this name, of ids or of a feature's values."""
        known = name in self.description.rows or (name in self.features and self.features[name].rows > 0)
        return known and name not in self.description.hashed

    def entries(self, name: str, dtype: pl.DataType | type[pl.DataType]) -> pl.DataFrame:
        """Owners of the rows of a table, as far as the dataset knows it.

        Args:
            name: of the table, or ``table.column`` of a feature.
            dtype: Int64 or String, which the values of the dataset's own vocabulary have.

        Returns:
            Columns ``value``, as in the dataset's tables; ``last_seen``; and ``row`` in the saved model's table. A text
            id that the dataset does not have is left out.

        Raises:
            ValueError: the ids or values were of another type.
        """
        if name not in self._entries:
            self._entries[name] = self._read(name, dtype)
        return self._entries[name]

    def _read(self, name: str, dtype: pl.DataType | type[pl.DataType]) -> pl.DataFrame:
        file = self.directory / VOCABULARIES / f"{name}.parquet"
        key = "id" if name in IDS else "value"
        found = read_table(file, [key, "last_seen", *(["text"] if name == "query" else [])])
        if len(found) != self.rows(name) - 1 or found.schema["last_seen"] != SEEN:
            raise Unreadable(f"{file} does not hold the {self.rows(name) - 1:,} rows of {name}; {again(file)}")
        column = IDS.get(name, name.rpartition(".")[2])
        shops = self.dataset.ids.of(column)
        values, expected = found[key], pl.String() if shops is not None else dtype
        if values.dtype != expected:
            what = f"the ids of its {name} table" if name in IDS else f"its values of {name}"
            raise ValueError(
                f"{self.directory}: {what} are {_type(values.dtype)}, and here they are {_type(expected)}: none is the "
                "same. Start from a model of data with the same ids, or leave `from` out"
            )
        if shops is not None and dtype == pl.Int64:
            values = shops.encode(values)
        if name == "query":
            one = self._query_ids.find(found["text"])
            values = pl.select(pl.when(found["text"].is_null()).then(values).otherwise(one).alias("value")).to_series()
        return pl.DataFrame(
            {
                "value": values,
                "last_seen": found["last_seen"],
                "row": pl.int_range(1, len(found) + 1, dtype=pl.Int64, eager=True),
            }
        ).drop_nulls("value")


def vocabulary_entries(
    own: pl.Series,
    seen: pl.DataFrame | None,
    until: datetime,
    earlier: pl.DataFrame | None = None,
    since: datetime | None = None,
) -> pl.DataFrame:
    """Join what the data knows with what an earlier model knew, and leave out what was not seen for long.

    Args:
        own: ids or texts of the data, distinct.
        seen: columns ``value`` and ``last_seen``; None where all of them count as seen at ``until``.
        until: end of training; when what is not in ``seen`` counts as seen last.
        earlier: entries of the earlier model, see `SavedVocabularies.entries`; None without one.
        since: what was last seen before this moment is left out; None for nothing.

    Returns:
        Columns ``value``, distinct and ascending, and ``last_seen``.
    """
    found = pl.DataFrame({"value": own})
    at_end = pl.lit(until).cast(SEEN)
    if seen is None:
        found = found.with_columns(last_seen=at_end)
    else:
        found = found.join(seen, on="value", how="left").with_columns(pl.col("last_seen").fill_null(at_end))
    if earlier is not None:
        found = pl.concat([found, earlier.select("value", "last_seen")])
        found = found.group_by("value").agg(pl.col("last_seen").max())
    if since is not None:
        found = found.filter(pl.col("last_seen") >= pl.lit(since).cast(SEEN))
    return found.sort("value")


def save_vocabularies(
    directory: Path, dataset: Dataset, description: Description, entries: Mapping[str, pl.DataFrame]
) -> None:
    """Write the folder of vocabularies that `SavedVocabularies` reads.

    Args:
        directory: of the stage.
        dataset: what it was trained on.
        description: see `Description`.
        entries: by name, as `vocabulary_entries` returns them; none of what is hashed.
    """
    folder = directory / VOCABULARIES
    folder.mkdir(exist_ok=True)
    for name, frame in entries.items():
        column = IDS.get(name, name.rpartition(".")[2])
        values = frame["value"]
        ids = dataset.ids.decode(column, values) if values.dtype == pl.Int64 else values
        columns = {"id" if name in IDS else "value": ids, "last_seen": frame["last_seen"]}
        if name == "query":
            columns["text"] = QueryIds(dataset).texts(values.to_numpy())
        with replacing(folder / f"{name}.parquet") as partial:
            pl.DataFrame(columns).write_parquet(partial)
    description.write(folder / DESCRIPTION)


def _feature(found: Mapping[str, Any]) -> SavedFeature:
    scale = found["scale"]
    numbers = None if scale is None else (float(scale[0]), float(scale[1]))
    return SavedFeature(str(found["name"]), str(found["kind"]), int(found["rows"]), numbers)


def _type(dtype: pl.DataType | type[pl.DataType]) -> str:
    return "text" if dtype == pl.String else "integers"


def _why_not(directory: Path) -> str:
    """Say what a directory of a stage holds in place of a click model with vocabularies, and what to do."""
    if not (directory / WEIGHTS).is_file() and (directory / PREDICTIONS).is_file():
        return "holds the true click probability, and no model that another could start from; name another stage"
    if (directory / PREDICTIONS).is_file():
        return (
            "was made by an earlier moonlib, which did not keep the vocabularies of a click model, so its embeddings "
            "are of no ids that are known; fit that run again, or start from a later one"
        )
    made_by = ""
    if (directory / IDENTITY).is_file():
        module = read_mapping(directory / IDENTITY).get("config", {}).get("module", {})
        made_by = f" ({module['class_path'].rpartition('.')[2]})" if "class_path" in module else ""
    return f"is of another stage{made_by}, and no click model; name a run with an application, or RUN/STAGE"
