"""Declared features: what a batch holds equals a loop over dictionaries, and only training rows teach anything."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from moonlib.clicks.features import FeatureBatch, FeatureKind, Features
from moonlib.clicks.vocabulary import HashedVocabulary
from moonlib.data.dataset import Dataset
from moonlib.data.shards import write_dataset
from moonlib.data.splits import Splits
from moonlib.data.tables import Tables, validate
from moonlib.predictors.feature_encoder import FeatureEncoder

LOWEST, HIGHEST = -(2**63), 2**63 - 1
DAY = [datetime(2025, 1, day, tzinfo=UTC) for day in range(1, 6)]
DECLARED: dict[str, FeatureKind] = {
    "users.age": "categorical",
    "users.code": "categorical",
    "users.member": "categorical",
    "users.income": "numeric",
    "products.price": "log_numeric",
    "products.attributes": "multi_valued",
    "products.tags": "multi_valued",
    "queries.lang": "categorical",
    "impressions.position": "numeric",
    "impressions.seen": "multi_valued",
}
ATTRIBUTES = [
    {"colour": "red", "size": "L"},
    {},
    None,
    {"colour": "蓝"},
    {"colour": "red"},
    {"size": None, "colour": "red"},
    {"colour": "blue"},
    {"colour": "gold"},
]


def no_image(name: str) -> Any:
    raise AssertionError(name)


def tables() -> Tables:
    """Six users, eight products, four queries, sixty impressions; something missing everywhere."""
    rng = np.random.default_rng(0)
    item_ids = [LOWEST, HIGHEST, 2**53, 2**53 + 1, -3, 0, 7, 8]
    user_ids = [5, -6, 2**60, 2**60 + 1, LOWEST, HIGHEST]
    n = 60
    impressions = pl.DataFrame(
        {
            "search_id": np.arange(n) // 4,
            "user_id": [user_ids[i] for i in rng.integers(0, 6, n)],
            "query_id": rng.integers(0, 4, n),
            "item_id": [item_ids[i] for i in rng.integers(0, 8, n)],
            "position": np.arange(n) % 4,
            "clicked": rng.integers(0, 2, n) == 1,
            # Two thirds are training; what the last user and the last product do comes after it.
            "ts": [DAY[1] if i < 40 else DAY[3] for i in range(n)],
            "seen": [[int(i) for i in rng.integers(0, 9, i % 4)] if i % 7 else None for i in range(n)],
        }
    ).with_columns(
        user_id=pl.when(pl.col("ts") == DAY[1]).then(pl.col("user_id").replace(HIGHEST, 5)).otherwise("user_id"),
        item_id=pl.when(pl.col("ts") == DAY[1]).then(pl.col("item_id").replace(8, 7)).otherwise("item_id"),
    )
    products = pl.DataFrame(
        {
            "item_id": item_ids,
            "spu_id": range(8),
            "category": ["a/b"] * 8,
            "listed_at": [DAY[0]] * 8,
            "price": [9.0, None, 3.5, 0.0, 100.0, float("nan"), 4.0, 1e6],
            "attributes": pl.Series(ATTRIBUTES, dtype=pl.Map(pl.String, pl.String)),
            "tags": [["new", "hot", "new"], [], None, [None, "hot"], [None], ["cold"], ["hot"], ["unheard"]],
        }
    )
    users = pl.DataFrame(
        {
            "user_id": user_ids,
            "age": ["young", None, "old", "old", "young", "ancient"],
            "code": [2**53, 2**53 + 1, None, LOWEST, 0, 3],
            "member": [True, False, None, True, False, True],
            "income": [10.0, None, 30.0, -5.0, 20.0, 1e9],
        }
    )
    queries = pl.DataFrame({"query_id": range(4), "text": list("abcd"), "lang": ["en", None, "zh", "en"]})
    return validate(Tables(products=products, queries=queries, users=users, impressions=impressions))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    directory = tmp_path_factory.mktemp("features") / "shop"
    splits = Splits(DAY[0], DAY[2], DAY[2], DAY[4])
    write_dataset(directory, tables(), no_image, splits, name="shop", version="1", workers=1, samples_per_shard=3)
    return Dataset(directory)


def train_of(dataset: Dataset) -> pl.DataFrame:
    return dataset.splits.select(dataset.impressions, "train")


def values(dataset: Dataset, rows: list[dict[str, Any]], feature: str) -> list[Any]:
    """The values of a feature of impressions, looked up by hand."""
    table, name = feature.split(".")
    if table == "impressions":
        return [row[name] for row in rows]
    key = {"users": "user_id", "products": "item_id", "queries": "query_id"}[table]
    held = {other[key]: other[name] for other in dataset.table(table).iter_rows(named=True)}
    return [held[row[key]] for row in rows]


def entries(value: Any) -> list[Any]:
    """The values of a multi-valued feature."""
    if isinstance(value, dict):
        return [f"{key}={entry}" for key, entry in value.items() if entry is not None]
    return [entry for entry in value or [] if entry is not None]


def missing(value: Any) -> bool:
    return value is None or math.isnan(value)


def all_rows(features: Features, impressions: pl.DataFrame) -> FeatureBatch:
    return features.of(impressions).batch(np.arange(len(impressions)))


def lists(batch: FeatureBatch) -> list[list[int]]:
    """The values of each bag, feature by feature."""
    ends = [*batch.offsets[1:].tolist(), len(batch.values)]
    return [batch.values[start:end].tolist() for start, end in zip(batch.offsets.tolist(), ends, strict=True)]


@pytest.mark.parametrize("min_count", [1, 12])
def test_a_batch_equals_a_loop_over_dictionaries(dataset: Dataset, min_count: int) -> None:
    train, impressions = train_of(dataset), dataset.impressions
    features = Features.fit(dataset, train, DECLARED, min_count=min_count)
    chosen = np.random.default_rng(1).permutation(len(impressions))[:30]
    batch = features.of(impressions).batch(chosen)
    taught, asked = list(train.iter_rows(named=True)), impressions[chosen.tolist()].rows(named=True)
    first, place = 0, 0
    for feature in sorted(name for name, kind in DECLARED.items() if kind == "categorical"):
        counts = Counter(values(dataset, taught, feature))
        known = sorted(value for value, count in counts.items() if value is not None and count >= min_count)
        expected = [first + 1 + known.index(v) if v in known else first for v in values(dataset, asked, feature)]
        assert batch.categorical[:, place].tolist() == expected, feature
        first, place = first + len(known) + 1, place + 1
    assert (batch.categorical.shape[1], features.sizes.categorical_rows) == (place, first)
    place = 0
    for feature in sorted(name for name, kind in DECLARED.items() if "numeric" in kind):
        change = math.log1p if DECLARED[feature] == "log_numeric" else float
        learnt = [change(v) for v in values(dataset, taught, feature) if not missing(v)]
        centre, spread = np.mean(learnt), np.std(learnt)
        for b, value in enumerate(values(dataset, asked, feature)):
            expected = [0.0, 1.0] if missing(value) else [(change(value) - centre) / spread, 0.0]
            assert batch.numeric[b, place : place + 2].tolist() == pytest.approx(expected, rel=1e-5), feature
        place += 2
    first, bags = 0, iter(lists(batch))
    for feature in sorted(name for name, kind in DECLARED.items() if kind == "multi_valued"):
        counts = Counter(entry for value in values(dataset, taught, feature) for entry in entries(value))
        known = sorted(value for value, count in counts.items() if count >= min_count)
        for value in values(dataset, asked, feature):
            assert next(bags) == [first + 1 + known.index(e) if e in known else first for e in entries(value)]
        first += len(known) + 1
    assert next(bags, None) is None
    assert features.sizes.multi_valued_rows == first


def test_what_only_later_impressions_show_teaches_nothing(dataset: Dataset) -> None:
    """The user of age 'ancient' with an income of a billion, and the 'gold' product, come after training."""
    train = train_of(dataset)
    features = Features.fit(dataset, train, DECLARED)
    kept = {f"{column.table}.{column.name}": column.fitted for column in features.columns}
    assert kept["users.age"].texts.to_list() == ["old", "young"]  # type: ignore[union-attr]
    assert "colour=gold" not in kept["products.attributes"].texts  # type: ignore[union-attr]
    assert kept["users.income"].centre < 40  # type: ignore[union-attr]
    later = dataset.impressions.filter(pl.col("user_id") == HIGHEST)
    assert len(later)
    batch = all_rows(Features.fit(dataset, train, {"users.age": "categorical"}), later)
    assert not batch.categorical.any()


def test_ids_beyond_float_precision_keep_rows_apart(dataset: Dataset) -> None:
    features = Features.fit(dataset, dataset.impressions, {"users.code": "categorical", "users.user_id": "categorical"})
    batch = all_rows(features, dataset.impressions)
    users = dataset.impressions["user_id"].to_list()
    assert len({(user, row) for user, row in zip(users, batch.categorical[:, 1].tolist(), strict=True)}) == 6
    assert len(batch.categorical[:, 1].unique()) == 6
    codes = dict(zip(users, batch.categorical[:, 0].tolist(), strict=True))
    assert len({codes[5], codes[-6], codes[2**60 + 1], codes[LOWEST]}) == 4  # 2^53, 2^53 + 1, the lowest, 0
    assert codes[2**60] == 0  # null, which is not the code 0
    assert codes[LOWEST] != 0


def test_the_order_in_the_recipe_is_of_no_consequence(dataset: Dataset) -> None:
    backwards = dict(reversed(DECLARED.items()))
    one, other = (Features.fit(dataset, train_of(dataset), declared) for declared in (DECLARED, backwards))
    assert one.sizes == other.sizes
    a, b = (vars(all_rows(features, dataset.impressions)) for features in (one, other))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_hashed_features_have_a_bucket_for_what_training_never_saw(dataset: Dataset) -> None:
    declared: dict[str, FeatureKind] = {
        "users.age": "categorical",
        "users.code": "categorical",
        "products.tags": "multi_valued",
    }
    features = Features.fit(dataset, train_of(dataset), declared, buckets=1000)
    assert features.sizes.categorical_rows == 2 * 1001 and features.sizes.multi_valued_rows == 1001
    batch = all_rows(features, dataset.impressions)
    age = HashedVocabulary(1000).rows(pl.Series([None, "ancient"], dtype=pl.String))
    for row, found in zip(dataset.impressions.iter_rows(named=True), batch.categorical.tolist(), strict=True):
        if row["user_id"] in (-6, HIGHEST):
            assert found[0] == age[0 if row["user_id"] == -6 else 1]
        if row["user_id"] == 2**60:
            assert found[1] == 1001  # null: the first row of the second feature


def test_without_any_features_a_batch_is_empty(dataset: Dataset) -> None:
    features = Features.fit(dataset, train_of(dataset), {})
    batch = features.of(dataset.impressions).batch(np.arange(5))
    encoder = FeatureEncoder(features.sizes, 4)
    assert encoder(batch).shape == (5, 0) and encoder.out_features == 0


def test_a_number_that_training_never_saw_is_missing_and_a_constant_is_centred(dataset: Dataset) -> None:
    train = train_of(dataset)
    alone = train.filter(pl.col("user_id") == -6)  # who has no income
    batch = all_rows(Features.fit(dataset, alone, {"users.income": "numeric"}), dataset.impressions)
    assert batch.numeric.unique(dim=0).tolist() == [[0.0, 1.0]]
    constant = train.filter(pl.col("user_id") == 5)
    batch = all_rows(Features.fit(dataset, constant, {"users.income": "numeric"}), constant)
    assert batch.numeric.unique(dim=0).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("sparse", [False, True])
def test_the_encoder_embeds_and_averages(dataset: Dataset, sparse: bool) -> None:
    features = Features.fit(dataset, train_of(dataset), DECLARED)
    torch.manual_seed(0)
    encoder = FeatureEncoder(features.sizes, 3, sparse)
    impressions = dataset.impressions
    batch = all_rows(features, impressions)
    encoded = encoder(batch)
    assert encoded.shape == (len(impressions), encoder.out_features) == (60, (4 + 3) * 3 + 2 * 3)
    categorical = [encoder.categorical.weight[batch.categorical[:, c]] for c in range(4)]
    bags = lists(batch)
    mean = [encoder.multi_valued.weight[bag].mean(dim=0) if bag else torch.zeros(3) for bag in bags]
    averaged = [torch.stack(mean[k * 60 : (k + 1) * 60]) for k in range(3)]
    torch.testing.assert_close(encoded, torch.cat([*categorical, *averaged, batch.numeric], dim=1))
    assert not all(bags) and max(map(len, bags)) > 2
    encoded.square().sum().backward()
    for table in (encoder.categorical, encoder.multi_valued):
        assert table.weight.grad is not None and table.weight.grad.is_sparse == sparse


def test_rows_alone_are_encoded_as_in_a_batch(dataset: Dataset) -> None:
    features = Features.fit(dataset, train_of(dataset), DECLARED)
    encoder = FeatureEncoder(features.sizes, 3)
    rows = features.of(dataset.impressions)
    together = encoder(rows.batch(np.array([3, 50, 3, 0])))
    alone = torch.cat([encoder(rows.batch(np.array([row]))) for row in (3, 50, 3, 0)])
    torch.testing.assert_close(together, alone)
    assert encoder(rows.batch(np.array([], dtype=np.int64))).shape == (0, encoder.out_features)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"users.agee": "categorical"}, "users.agee: table users has no column 'agee'; did you mean 'age'?"),
        ({"users.zzz": "numeric"}, "has no column 'zzz'; its columns are user_id, age, code, member, income"),
        ({"impressions.positon": "numeric"}, "table impressions has no column 'positon'; did you mean 'position'?"),
        ({"user.age": "categorical"}, r"'user.age' is no column: write table.column.*; did you mean 'users'?"),
        ({"age": "categorical"}, r"'age' is no column: write table.column, such as users.age; the tables are users"),
        ({"searches.action": "categorical"}, "searches are what users did, .* take features from users, products"),
        ({"impressions.clicked": "categorical"}, "impressions.clicked would give the label away: it is what the model"),
        ({"impressions.relevance": "numeric"}, "impressions.relevance would give the label away: it is a judgement"),
        ({"users.age": "categoric"}, "'categoric' is no kind of feature; did you mean 'categorical'?"),
        ({"users.age": "numeric"}, "users.age is text, not numeric: declare it categorical"),
        ({"users.age": "multi_valued"}, "users.age is text, not multi_valued: declare it categorical"),
        (
            {"users.income": "categorical"},
            "users.income is numbers, not categorical: declare it numeric or log_numeric",
        ),
        ({"users.code": "multi_valued"}, "users.code is integers, not multi_valued: declare it categorical or numeric"),
        ({"products.tags": "categorical"}, "products.tags is lists of text, not categorical: declare it multi_valued"),
        ({"products.attributes": "numeric"}, "attributes is mappings, not numeric: declare it multi_valued"),
        (
            {"products.box": "multi_valued"},
            "products.box is lists of numbers, which is no kind of feature; leave it out",
        ),
        ({"impressions.ts": "numeric"}, "impressions.ts is times, .* such as the hour, into a column of its own"),
        (
            {"users.income": "log_numeric"},
            r"users.income: user_id 1152921504606846977: -5.0 is negative: declare it num",
        ),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(
    dataset: Dataset, declared: dict[str, FeatureKind], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^features: .*{message}"):
        Features.fit(dataset, train_of(dataset), declared)


def test_bad_counts_and_values_are_refused(dataset: Dataset) -> None:
    train = train_of(dataset)
    with pytest.raises(ValueError, match="min_count must be at least 1"):
        Features.fit(dataset, train, {"users.age": "categorical"}, min_count=0)
    with pytest.raises(ValueError, match="buckets must be at least 1"):
        Features.fit(dataset, train, {"users.age": "categorical"}, buckets=0)
    infinite = train.with_columns(bid=pl.lit(float("inf")))
    with pytest.raises(ValueError, match=r"impressions.bid: search_id 0, item_id -?\d+: inf is not finite"):
        Features.fit(dataset, infinite, {"impressions.bid": "numeric"})
    stranger = train.with_columns(user_id=pl.lit(12345, dtype=pl.Int64))
    with pytest.raises(ValueError, match="user_id 12345 of an impression is of no row of users"):
        Features.fit(dataset, train, {"users.age": "categorical"}).of(stranger)


def test_the_marketplace_has_features(tiny: Dataset) -> None:
    declared: dict[str, FeatureKind] = {
        "users.age": "categorical",
        "users.region": "categorical",
        "products.price": "log_numeric",
        "products.attributes": "multi_valued",
    }
    train = tiny.splits.select(tiny.impressions, "train")
    features = Features.fit(tiny, train, declared)
    batch = all_rows(features, train)
    ages = tiny.users["age"].n_unique()
    assert len(batch.categorical[:, 0].unique()) == ages > 1
    values, flags = batch.numeric.unbind(1)
    known = values[flags == 0].double()
    assert abs(known.mean()) < 1e-4 and abs(known.std() - 1) < 1e-3
    assert len(batch.offsets) == len(train) and len(batch.values) > len(train)
