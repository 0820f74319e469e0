"""What `validate` casts, keeps and refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.data.tables import SCHEMAS, Tables, empty, validate


def _with(frame: pl.DataFrame, column: str, values: list[object], dtype: pl.DataType | None = None) -> pl.DataFrame:
    return frame.with_columns(pl.Series(column, values, dtype=dtype))


def test_tables_hold_what_the_schemas_say(shop: Tables) -> None:
    for table, schema in SCHEMAS.items():
        assert shop[table].select(schema.names).schema == empty(table).schema
        assert shop[table].columns[: len(schema)] == schema.names
    assert SCHEMAS["products"].field("item_id").type == pa.int64()
    assert empty("products").schema["attributes"] == pl.Map(pl.String, pl.String)


def test_valid_tables_pass_unchanged(shop: Tables) -> None:
    again = validate(shop)
    for table in SCHEMAS:
        assert again[table].equals(shop[table])
        assert again[table].schema == shop[table].schema


def test_extra_columns_are_kept_last_and_missing_optional_ones_are_null(shop: Tables) -> None:
    assert shop.products.columns[-1] == "shelf"
    assert shop.products["shelf"].to_list() == ["x", "y", "y", "x"]
    assert shop.products["merchant_id"].null_count() == 4
    assert shop.impressions["bid"].dtype == pl.Float64


def test_nan_is_a_missing_value(shop: Tables) -> None:
    assert shop.products["price"].to_list() == [9.99, None, None, 3.0]


def test_ids_keep_their_full_range_from_text(shop: Tables) -> None:
    ids = shop.products["item_id"]
    text = shop.products.with_columns(item_id=ids.cast(pl.String))
    assert validate(replace(shop, products=text)).products["item_id"].equals(ids)


def test_products_alone_are_enough(shop: Tables) -> None:
    tables = validate(Tables(shop.products))
    assert [tables[table].height for table in SCHEMAS] == [4, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2025-01-02T03:04:05Z", datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2025-01-02 03:04:05.5+08:00", datetime(2025, 1, 1, 19, 4, 5, 500000, tzinfo=UTC)),
        ("2025-01-02", datetime(2025, 1, 2, tzinfo=UTC)),
        ("20250102", datetime(2025, 1, 2, tzinfo=UTC)),
        ("20250102T030405Z", datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2025-W01-4", datetime(2025, 1, 2, tzinfo=UTC)),
        ("2025-01-02 03:04:05 UTC", datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2025-01-02 03:04:05.678 UTC", datetime(2025, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)),
        ("2025-01-02 03:04:05GMT", datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2025-01-02 03:04:05 +0800", datetime(2025, 1, 1, 19, 4, 5, tzinfo=UTC)),
        ("2025-01-02 03:04:05-05", datetime(2025, 1, 2, 8, 4, 5, tzinfo=UTC)),
        ("2025-01-02t03:04z", datetime(2025, 1, 2, 3, 4, tzinfo=UTC)),
    ],
)
def test_times_are_parsed_to_utc(shop: Tables, value: str, moment: datetime) -> None:
    products = _with(shop.products, "listed_at", [value] * 4)
    assert validate(Tables(products)).products["listed_at"].to_list() == [moment] * 4


@pytest.mark.parametrize(
    "value",
    [
        "1712012345",
        "1712012345678",
        "1712012345678901",
        "1712012345.5",
        "-1",
        "45000",
        "2025-01-02+08:00",
        "2025-01-02-08:00",
        "2025-01-02x08:00",
        "2025-01-02 03:04:05 EST",
        "2025-01-02 03:04:05 Europe/Berlin",
        "2025-01-02 03:04:05 UTC+2",
        "01/02/2025",
        "2025-01-02 3:04 PM",
        "2025-02-30",
        "2025-01",
        "٢٠٢٥-٠١-٠٢",
    ],
)
def test_what_may_mean_more_than_one_time_is_refused(shop: Tables, value: str) -> None:
    times = _with(shop.products, "listed_at", ["2025-01-02", value, "2025-01-02", "2025-01-02"])
    _refused(Tables(times), f"row 2, column 'listed_at': {value!r} is not a time in ISO 8601")


@settings(deadline=None, max_examples=300)
@given(st.from_regex(r"[0-9]{1,20}(\.[0-9]{1,6})?", fullmatch=True))
def test_no_number_is_taken_for_a_time_but_a_date_of_eight_digits(value: str) -> None:
    if len(value) != 8 or not value.isdigit():
        with pytest.raises(ValueError, match="doesn't say its unit"):
            validate(_listed_at(pl.Series([value])))


def test_a_time_without_zone_is_utc(shop: Tables) -> None:
    naive = shop.products.with_columns(pl.col("listed_at").dt.replace_time_zone(None).cast(pl.Datetime("ns")))
    assert validate(Tables(naive)).products["listed_at"].equals(shop.products["listed_at"])


def test_a_time_in_another_zone_is_converted_and_a_date_is_its_midnight(shop: Tables) -> None:
    abroad = shop.products.with_columns(pl.col("listed_at").dt.convert_time_zone("Asia/Shanghai"))
    assert validate(Tables(abroad)).products["listed_at"].equals(shop.products["listed_at"])
    dates = shop.products.with_columns(pl.col("listed_at").dt.date())
    midnight = shop.products["listed_at"].dt.truncate("1d")
    assert validate(Tables(dates)).products["listed_at"].equals(midnight)


def test_attributes_come_as_json_structs_or_lists_of_pairs(shop: Tables) -> None:
    expected = [{"colour": "red"}, {}, None, {"材质": "瓷", "pieces": "2"}]
    json = ['{"colour": "red"}', "{}", None, '{"材质": "瓷", "pieces": 2, "none": null}']
    assert validate(Tables(_with(shop.products, "attributes", json))).products["attributes"].to_list() == expected
    fields = pl.Struct(dict.fromkeys(("colour", "材质", "pieces"), pl.String))
    structs = [{"colour": "red"}, {"colour": None}, None, {"材质": "瓷", "pieces": "2"}]
    assert (
        validate(Tables(_with(shop.products, "attributes", structs, fields))).products["attributes"].to_list()
        == expected
    )
    pairs = [None if row is None else [{"key": k, "value": v} for k, v in row.items()] for row in expected]
    assert validate(Tables(_with(shop.products, "attributes", pairs))).products["attributes"].to_list() == expected


def test_boxes_come_as_json(shop: Tables) -> None:
    boxes = _with(shop.products, "box", ["[0, 0, 0.5, 1]", None, None, None])
    assert validate(Tables(boxes)).products["box"].equals(shop.products["box"])


def _refused(tables: Tables, message: str, **files: str) -> None:
    with pytest.raises(ValueError) as error:
        validate(tables, files)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_column(shop: Tables) -> None:
    _refused(
        replace(shop, products=shop.products.drop("item_id")),
        "products.csv: column 'item_id' is missing (it has spu_id, category",
        products="products.csv",
    )


def test_a_wrong_value_is_named_with_its_row(shop: Tables) -> None:
    products = _with(shop.products, "price", ["1", "2", "abc", "4"])
    _refused(Tables(products), "products.csv: row 3, column 'price': 'abc' is not a number", products="products.csv")


@pytest.mark.parametrize("value", ["1.0", "1e3", "-7.000"])
def test_integers_that_became_floats_are_no_ids(shop: Tables, value: str) -> None:
    tables = Tables(_with(shop.products, "item_id", ["2", value, "3", "4"]))
    _refused(tables, f"row 2, column 'item_id': {value!r} is not an int64; it looks like one that became a float")


@pytest.mark.parametrize("value", ["00012345678905", "-0", "+5", "-007", "9223372036854775808", "1.5", "12e3", "4-x"])
@pytest.mark.parametrize("column", ["item_id", "spu_id", "merchant_id"])
def test_ids_of_a_family_are_text_where_one_of_them_is_no_int64(shop: Tables, column: str, value: str) -> None:
    tables = validate(Tables(_with(shop.products, column, ["2", "3", value, "10"])))
    assert tables.products[column].dtype == pl.Int64
    assert tables.ids.decode(column, tables.products[column]).to_list() == ["2", "3", value, "10"]
    assert len(tables.ids) == 1


@pytest.mark.parametrize("column", ["item_id", "spu_id", "merchant_id"])
def test_ids_are_int64_where_all_of_a_family_are(shop: Tables, column: str) -> None:
    tables = validate(Tables(_with(shop.products, column, ["2", "-3", "0", "9223372036854775807"])))
    assert tables.products[column].to_list() == [2, -3, 0, 2**63 - 1]
    assert not tables.ids


def test_floats_are_no_ids(shop: Tables) -> None:
    products = shop.products.with_columns(pl.col("item_id").cast(pl.Float64))
    _refused(Tables(products), "products: column 'item_id': Float64 is not an int64; write it as int64 or text")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("listed_at", ["yesterday"] * 4, "row 1, column 'listed_at': 'yesterday' is not a time in ISO 8601"),
        ("attributes", ["{}", "[1]", "{}", "{}"], "row 2, column 'attributes': '[1]' is not a mapping"),
        ("price", ["1", "2", "3", "cheap"], "row 4, column 'price': 'cheap' is not a number"),
        ("title", [1, 2, 3, 4], "column 'title': Int64 is not text"),
        ("box", ["left"] * 4, "row 1, column 'box': 'left' is not a box"),
        ("box", [[0.0, 0.0, 1.0], None, None, None], "row 1, column 'box': [0.0, 0.0, 1.0] is not [x0, y0, x1, y1]"),
        ("box", [None, [0.5, 0.0, 0.5, 1.0], None, None], "row 2, column 'box': [0.5, 0.0, 0.5, 1.0]"),
        ("box", [None, [0.0, 0.0, 40.0, 30.0], None, None], "row 2, column 'box': [0.0, 0.0, 40.0, 30.0]"),
        ("box", [[0.0, 0.0, 1.0, 1.0], None, [0.1, 0.2, None, 0.4], None], "row 3, column 'box': [0.1"),
        ("box", [None, None, None, [0.1, math.nan, 0.3, 0.4]], "row 4, column 'box': [0.1"),
        ("box", [None, None, [], [0.5, 0.1, 0.4, 0.3]], "row 3, column 'box': []"),
    ],
)
def test_wrong_types_and_values_of_products(shop: Tables, column: str, values: list[object], message: str) -> None:
    _refused(Tables(_with(shop.products, column, values)), f"products: {message}")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("action", ["order", "buy", "click"], "searches: row 2, column 'action': 'buy' is none of click, cart, order"),
        ("item_id", [0, 0, 7], "searches: row 3, column 'item_id': 7 is the item_id of no row in products"),
        ("query_id", [10, 11, 30], "searches: row 2, column 'query_id': 11 is the query_id of no row in queries"),
        ("user_id", [9, 5, 6], "searches: row 1, column 'user_id': 9 is the user_id of no row in users"),
    ],
)
def test_bad_searches(shop: Tables, column: str, values: list[object], message: str) -> None:
    _refused(replace(shop, searches=_with(shop.searches, column, values)), message)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("item_id", [0, 0, 0, 7], "impressions: row 4, column 'item_id': 7 is the item_id of no row in products"),
        ("position", [0, 1, -1, 0], "impressions: row 3, column 'position': -1 is negative"),
        ("position", [0, 2**31, 1, 0], "impressions: row 2, column 'position': 2147483648 is not an int32"),
        ("propensity", [0.5, 1.5, 1.0, None], "impressions: row 2, column 'propensity': 1.5 is not a probability"),
        ("clicked", [0, 1, 2, 0], "impressions: row 3, column 'clicked': 2 is not true or false"),
    ],
)
def test_bad_impressions(shop: Tables, column: str, values: list[object], message: str) -> None:
    _refused(replace(shop, impressions=_with(shop.impressions, column, values)), message)


@pytest.mark.parametrize(("table", "key"), [("products", "item_id"), ("queries", "query_id"), ("users", "user_id")])
def test_a_duplicate_id(shop: Tables, table: str, key: str) -> None:
    frame = pl.concat([shop[table], shop[table].tail(1)])
    row, value = frame.height, frame[key][-1]
    _refused(replace(shop, **{table: frame}), f"{table}: row {row}, column {key!r}: {value} appears a second time")


def test_an_unknown_table() -> None:
    with pytest.raises(KeyError, match="no table 'items'; the tables are products, queries"):
        Tables(empty("products"))["items"]


def _listed_at(times: pl.Series) -> Tables:
    return Tables(
        pl.DataFrame({"item_id": [1], "spu_id": [1], "category": ["x"]}).with_columns(times.alias("listed_at"))
    )


@pytest.mark.parametrize("unit", ["ms", "us"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Shanghai"])
@pytest.mark.parametrize("number", [-(2**63), 2**63 - 1, "first", "last"])
def test_times_beyond_the_calendar_are_refused(unit: str, zone: str | None, number: int | str) -> None:
    second = {"ms": 1000, "us": 1_000_000}[unit]
    edges = {"first": -62_135_596_800 * second - 1, "last": 253_402_300_800 * second}  # the years 0 and 10000
    value = edges[number] if isinstance(number, str) else number
    times = pl.Series([value], dtype=pl.Int64).cast(pl.Datetime(unit, zone))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"row 1, column 'listed_at': {value} is not a time from the year 1 to 9999"):
        validate(_listed_at(times))


@settings(deadline=None, max_examples=100)
@given(moment=st.datetimes(), unit=st.sampled_from(["ms", "us", "ns"]))
def test_any_time_of_the_calendar_is_kept(moment: datetime, unit: str) -> None:
    if unit == "ns" and not 1700 < moment.year < 2200:
        moment = moment.replace(year=2000, day=1)
    if unit == "ms":
        moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    kept = validate(_listed_at(pl.Series([moment], dtype=pl.Datetime(unit)))).products["listed_at"]  # type: ignore[arg-type]
    assert kept[0] == moment.replace(tzinfo=UTC)


def test_numbers_that_are_not_finite_are_refused() -> None:
    products = _listed_at(pl.Series([datetime(2025, 1, 1)])).products
    with pytest.raises(ValueError, match="products: row 1, column 'price': inf is not finite"):
        validate(Tables(products.with_columns(price=float("inf"))))
    assert validate(Tables(products.with_columns(price=float("nan")))).products["price"][0] is None


@pytest.mark.parametrize("table", ["products", "users"])
@pytest.mark.parametrize(
    ("values", "dtype", "told"),
    [
        ([None, b"x"], pl.Binary, "row 2, column 'own': b'x' is Binary, which can't be stored"),
        ([None, b"x" * 10**6], pl.Binary, "row 2, column 'own': .*… is Binary, which can't be stored"),
        ([[b"x"], None], pl.List(pl.Binary), "row 1, column 'own': .* is Binary"),
        ([{"a": [b"x"]}, None], pl.Struct({"a": pl.List(pl.Binary)}), "row 1, column 'own': .* is Binary"),
        ([None, 1], pl.Int128, "row 2, column 'own': 1 is Int128"),
        ([None, None], pl.Binary, "column 'own': is Binary"),
        ([1.0, float("-inf")], pl.Float32, "row 2, column 'own': -inf is not finite"),
    ],
)
def test_columns_of_ones_own_that_cannot_be_stored(
    shop: Tables, table: str, values: list[object], dtype: pl.DataType, told: str
) -> None:
    tables = replace(shop, **{table: shop[table].with_columns(own=None)})
    rows = [*values, *[None] * (shop[table].height - 2)]
    changed = {table: shop[table].with_columns(pl.Series("own", rows, dtype=dtype))}
    with pytest.raises(ValueError, match=f"{table}: {told}") as error:
        validate(replace(tables, **changed))
    assert len(str(error.value)) < 400


def test_a_duration_has_no_place_in_a_row_of_json(shop: Tables) -> None:
    lasted = pl.lit(timedelta(days=1))
    with pytest.raises(ValueError, match=r"queries: row 1, column 'lasted': datetime\.timedelta\(days=1\) is Duration"):
        validate(replace(shop, queries=shop.queries.with_columns(lasted=lasted)))
    assert validate(replace(shop, users=shop.users.with_columns(lasted=lasted))).users["lasted"].dtype == pl.Duration


def test_nan_of_ones_own_is_a_missing_value_too(shop: Tables) -> None:
    users = shop.users.with_columns(own=pl.Series([1.5, float("nan")]))
    assert validate(replace(shop, users=users)).users["own"].to_list() == [1.5, None]


def test_nan_is_no_attribute(shop: Tables) -> None:
    rows = [{"size": 1.5}, {"size": float("nan")}, {"size": None}, {"size": 2.0}]
    cast = validate(Tables(_with(shop.products, "attributes", rows, pl.Struct({"size": pl.Float64})))).products
    assert cast["attributes"].to_list() == [{"size": "1.5"}, {}, {}, {"size": "2.0"}]
    for text in ('{"size": Infinity}', '{"sizes": [NaN]}'):
        _refused(Tables(_with(shop.products, "attributes", ["{}", text, "{}", "{}"])), "row 2, column 'attributes': ")


def test_histories_name_known_users_and_any_items(shop: Tables) -> None:
    rows = {"user_id": [5, 6], "ts": ["2025-01-07", "2025-01-07"], "item_ids": ["[-9223372036854775808, 7]", "[]"]}
    cast = validate(replace(shop, histories=pl.DataFrame(rows))).histories
    assert cast["item_ids"].to_list() == [[-(2**63), 7], []]
    assert cast.schema["item_ids"] == pl.List(pl.Int64)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"user_id": [5, 9]}, "histories: row 2, column 'user_id': 9 is the user_id of no row in users"),
        ({"user_id": [5, 5]}, "histories: row 2, column 'user_id': 5 appears a second time with the same ts"),
        ({"item_ids": [[1], [2, None]]}, "row 2, column 'item_ids': .* holds an item_id that is missing"),
        ({"item_ids": [[1], None]}, "row 2, column 'item_ids': the value is missing"),
        (
            {"item_ids": [[1.0], [2.0]]},
            r"column 'item_ids': List\(Float64\) is not a list of int64.*write it as a list",
        ),
        ({"item_ids": ["[1]", "[1.5]"]}, r"row 2, column 'item_ids': '\[1.5\]' is not a list of int64"),
        ({"item_ids": ["[1]", f"[{2**63}]"]}, "row 2, column 'item_ids': .* is not a list of int64"),
    ],
)
def test_histories_that_are_refused(shop: Tables, changes: dict[str, list[Any]], told: str) -> None:
    rows: dict[str, list[Any]] = {"user_id": [5, 6], "ts": ["2025-01-07"] * 2, "item_ids": [[1], [2]]}
    with pytest.raises(ValueError, match=told):
        validate(replace(shop, histories=pl.DataFrame(rows | changes)))
