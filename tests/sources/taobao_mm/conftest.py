"""TAOBAO-MM in small, written down by hand as it is published: the types, the folders, the odd corners."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

LOW, HIGH = -(2**63), 2**63 - 1
ID, LIST = pa.int64(), pa.list_(pa.int64())
LABEL = pa.list_(pa.int8())

Table = dict[str, list[Any]]


@dataclass
class Published:
    """The tables by file name, before they are written. Tests change one thing in them."""

    tables: dict[str, Table]
    schemas: dict[str, dict[str, pa.DataType]] = field(
        default_factory=lambda: {
            "samples": {"label_0": LABEL, "129_1": ID, "205": ID},
            "user_features": {
                "129_1": ID,
                **{f"130_{i}": ID for i in range(1, 6)},
                "150_2_180": LIST,
                "151_2_180": LIST,
            },
            "item_features": {"205": ID, "206": ID, "213": ID, "214": ID},
            "scl_embedding_int8_p90": {"205": ID, "205_c": LABEL},
        }
    )

    def write(self, path: Path, table: Table, schema: dict[str, pa.DataType], rows: int = 37) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {n: pa.array(table[n]).cast(kind, safe=False) for n, kind in schema.items() if n in table}
        parquet.write_table(pa.table(columns), path, row_group_size=rows)

    def schema(self, name: str) -> dict[str, pa.DataType]:
        return self.schemas[name.removeprefix("train_").removeprefix("test_")]

    def embedding(self, directory: Path) -> None:
        name = "scl_embedding_int8_p90"
        self.write(directory / "raw" / f"{name}.parquet", self.tables[name], self.schemas[name])

    def raw(self, directory: Path) -> Path:
        for name, table in self.tables.items():
            self.write(directory / "raw" / f"{name}.parquet", table, self.schema(name))
        return directory

    def joined(self, directory: Path, shards: int = 3) -> Path:
        self.embedding(directory)
        items = rows_by(self.tables["item_features"], "205")
        schema = self.schemas["samples"] | self.schemas["user_features"] | self.schemas["item_features"]
        for period in ("train", "test"):
            samples, users = self.tables[f"{period}_samples"], self.tables[f"{period}_user_features"]
            users_by, names = rows_by(users, "129_1"), list(samples)
            rows = [dict(zip(names, row, strict=True)) for row in zip(*samples.values(), strict=True)]
            rows = [row | users_by[row["129_1"]] | items[row["205"]] for row in rows]
            for shard in range(shards):
                part = rows[shard::shards]
                table = {name: [row[name] for row in part] for name in schema}
                self.write(directory / period / f"{period}-shard-{shard:06d}.parquet", table, schema)
        return directory


def rows_by(table: Table, key: str) -> dict[int, dict[str, Any]]:
    """The rows of a table by a column without repeats."""
    rows = (dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True))
    return {row[key]: row for row in rows}


def publish() -> Published:
    """120 users, among them both ends of int64 as ids; histories of 0 to 1000 items, 15 % of them with a vector."""
    rng = np.random.default_rng(0)

    def ids(n: int) -> list[int]:
        # Most lie beyond 2^53, where a float would make two of one.
        return [LOW, HIGH, LOW + 1, HIGH - 1, *rng.integers(LOW, HIGH, n - 4).tolist()]

    users, targets, others = ids(120), ids(60), rng.integers(LOW, HIGH, 1500).tolist()
    candidates = np.array(targets)
    tables: dict[str, Table] = {}
    for period, shown in (("train", users[:100]), ("test", users[30:])):
        pairs = [(user, item) for user in shown for item in rng.choice(candidates[: 60 if period == "test" else 50], 6)]
        pairs = [pairs[i] for i in rng.permutation(len(pairs))]
        clicks = rng.random(len(pairs)) < 0.2
        tables[f"{period}_samples"] = {
            "label_0": [[0, 1] if click else [1, 0] for click in clicks],
            "129_1": [user for user, _ in pairs],
            "205": [int(item) for _, item in pairs],
        }
        lengths = rng.choice([0, 1, 5, 40, 1000], len(shown), p=[0.05, 0.05, 0.4, 0.4, 0.1])
        pool = np.array([*targets, *others])
        tables[f"{period}_user_features"] = {
            "129_1": shown,
            **{f"130_{i}": rng.integers(0, 5, len(shown)).tolist() for i in range(1, 6)},
            "150_2_180": [rng.choice(pool, length).tolist() for length in lengths],
            "151_2_180": [rng.integers(LOW, HIGH, length).tolist() for length in lengths],
        }
    tables["item_features"] = {
        "205": targets[::-1],
        "206": rng.choice([LOW, 7, HIGH], 60).tolist(),
        "213": rng.integers(LOW, HIGH, 60).tolist(),
        "214": rng.integers(0, 9, 60).tolist(),
    }
    unseen = rng.integers(LOW, HIGH, 30).tolist()  # of users and items that nothing else names
    embedded = [*targets, *others[: round(0.15 * len(others))], *unseen]
    tables["scl_embedding_int8_p90"] = {
        "205": [embedded[i] for i in rng.permutation(len(embedded))],
        "205_c": rng.integers(-127, 128, (len(embedded), 128)).tolist(),
    }
    return Published(tables)


@pytest.fixture
def published() -> Published:
    """The data set, for a test to spoil and to write."""
    return publish()


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data set lies in the raw layout; read only."""
    return publish().raw(tmp_path_factory.mktemp("taobao_mm"))
