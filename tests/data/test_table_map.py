"""Maps of tables, and what `moonlib data build --map` makes of them."""

from __future__ import annotations

import io
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from PIL import Image

from moonlib.data.build import build
from moonlib.data.dataset import Dataset
from moonlib.data.reader import SampleReader
from moonlib.data.table_map import read_map, read_mapped

FEED = """id\ttitle\timage_link\tprice\tproduct_type\titem_group_id\tbrand\tcolor\tcondition\tlink
1\tRed mug, large\thttps://cdn/x/a1.jpg?w=1\t12.99 USD\tHome > Mugs/Cups\t7\tAcme\tred\tnew\thttps://x
2\tBlue mug\thttps://cdn/x/a2.jpg\tUSD 1,299.00\tHome > Mugs/Cups\t7\tAcme\t\tused\thttps://x
3\t24" monitor\t\t5 USD\t\t\t\t\tnew\t
"""
ORDERS = "order;customer;sku;when\n10;5;1;31/01/2025 23:30\n10;5;3;31/01/2025 23:30\n11;6;2;02/02/2025 11:30\n"
CLICKS = "t,event,item,user\n1738300000,view,1,5\n1738300100,remove,1,5\n1738300300,purchase,2,6\n"

MAP = """
products:
  file: feed.tsv
  columns:
    item_id: id
    spu_id: item_group_id
    category: product_type
    title: title
    price: {column: price, currency: USD}
    attributes: {columns: [brand, color]}
  own: [condition]
searches:
  file: orders.csv
  delimiter: ;
  columns:
    search_id: order
    user_id: customer
    item_id: sku
    action: {constant: order}
    ts: {column: when, format: "%d/%m/%Y %H:%M", zone: Europe/Berlin}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "feed.tsv").write_text(FEED, encoding="utf-8")
    (folder / "orders.csv").write_text(ORDERS, encoding="utf-8")
    (folder / "clicks.csv").write_text(CLICKS, encoding="utf-8")
    return folder


def written(folder: Path, text: str) -> Path:
    path = folder.parent / "map.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def changed(**products: Any) -> str:
    """`MAP` with other keys of products."""
    described = yaml.safe_load(MAP)
    described["products"] |= products
    return yaml.safe_dump(described)


def test_a_feed_and_orders_are_built(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "moonlib"):
        build(folder, None, tmp_path / "out", map=written(folder, MAP))
    assert "feed.tsv (as products): columns that the map leaves out: image_link, link" in caplog.messages
    dataset = Dataset(tmp_path / "out")
    products = dataset.products
    assert products["item_id"].to_list() == [1, 2, 3] and products["spu_id"].to_list() == [7, 7, 3]
    assert products["title"].to_list() == ["Red mug, large", "Blue mug", '24" monitor']
    assert products["category"].to_list() == ["Home/Mugs／Cups", "Home/Mugs／Cups", None]
    assert products["price"].to_list() == [12.99, 1299.0, 5.0]
    assert [dict(pairs) for pairs in products["attributes"].to_list()] == [
        {"brand": "Acme", "color": "red"},
        {"brand": "Acme"},
        {},
    ]
    assert products["condition"].to_list() == ["new", "used", "new"]
    searches = dataset.searches
    assert searches["action"].to_list() == ["order"] * 3 and dataset.users["user_id"].to_list() == [5, 6]
    assert searches["ts"][0] == datetime(2025, 1, 31, 22, 30, tzinfo=UTC)


def test_events_by_their_values(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns = {
        "search_id": {"row_number": True},
        "user_id": "user",
        "item_id": "item",
        "ts": {"column": "t", "unit": "s"},
        "action": {"column": "event", "values": {"view": "click", "purchase": "order", "remove": None}},
    }
    maps = yaml.safe_dump({"searches": {"file": "clicks.csv", "columns": columns}})
    with caplog.at_level(logging.INFO, "moonlib"):
        frames, names = read_mapped(folder, read_map(written(folder, maps)))
    assert frames["searches"]["action"].to_list() == ["click", "order"]
    assert frames["searches"]["search_id"].to_list() == [0, 2]
    assert frames["searches"]["ts"][0] == datetime(2025, 1, 31, 5, 6, 40, tzinfo=UTC)
    assert f"{names['searches']}: rows whose value the map leaves out (null): 1 of 3" in caplog.text


@pytest.mark.parametrize(
    ("given", "numbered"),
    [
        ({"row_number": True}, [2, 4]),
        ("number", [13, 15]),
        ("text", ["searches-0", "searches-2"]),
    ],
)
def test_searches_that_are_rows_are_no_searches_of_another_table(
    folder: Path, tmp_path: Path, given: Any, numbered: list[Any]
) -> None:
    (folder / "shown.csv").write_text("number,text,user,item,t\n12,a-1,5,1,1738300000\n1,a-2,6,2,1740900000\n")
    events = {"user_id": "user", "item_id": "item", "ts": {"column": "t", "unit": "s"}}
    acted = {"column": "event", "values": {"view": "click", "purchase": "order", "remove": None}}
    shown = {"search_id": given, **events, "position": {"constant": 0}, "clicked": {"constant": "false"}}
    maps = {
        "products": {"file": "items.csv", "columns": {"item_id": "item"}},
        "impressions": {"file": "shown.csv", "columns": shown},
        "searches": {"file": "clicks.csv", "columns": {"search_id": {"row_number": True}, **events, "action": acted}},
    }
    (folder / "items.csv").write_text("item\n1\n2\n")
    build(folder, None, tmp_path / "out", map=written(folder, yaml.safe_dump(maps)))
    dataset = Dataset(tmp_path / "out")
    assert dataset.ids.decode("search_id", dataset.searches["search_id"]).to_list() == numbered
    both = [set(table["search_id"]) for table in (dataset.searches, dataset.impressions)]
    assert both[0].isdisjoint(both[1]) and dataset.sessions.is_empty()


def test_rows_that_belong_together(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As Shopify writes them: of a handle's rows the first has the title, and some are of further pictures alone."""
    rows = "Handle,Title,SKU,Price,Image\nmug,Red mug,1,9,a.jpg\nmug,,2,8,\nmug,,,,b.jpg\nlamp,Lamp,3,7,c.jpg\n"
    (folder / "shop.csv").write_text(rows)
    maps = """
products:
  file: shop.csv
  fill: {by: Handle, columns: [Title, Image]}
  only_with: SKU
  columns: {item_id: SKU, title: Title, image: {column: Image, file_name: true}, price: Price}
"""
    with caplog.at_level(logging.INFO, "moonlib"):
        frames, _ = read_mapped(folder, read_map(written(folder, maps)))
    assert frames["products"].select("title", "item_id", "price", "image").rows() == [
        ("Red mug", "1", "9", "a.jpg"),
        ("Red mug", "2", "8", "a.jpg"),
        ("Lamp", "3", "7", "c.jpg"),
    ]
    assert "rows without 'SKU', which are left out: 1 of 4" in caplog.text


def test_pictures_in_several_columns(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As bytes they are joined as names are; what a feed names twice is one picture."""
    data = []
    for colour in ("red", "blue"):
        file = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(file, "JPEG")
        data.append(file.getvalue())
    shop = {"sku": ["A-1", "007"], "front": [data[0], None], "back": [data[1], data[1]], "link": ["a.jpg", None]}
    more = {"other": [["a.jpg", "b.jpg"], []], "struct": [{"bytes": data[0], "path": "x"}, None]}
    pl.DataFrame(shop | more).write_parquet(folder / "shop.parquet")

    def mapped(images: Any, column: str = "images") -> dict[str, pl.DataFrame]:
        described = {"products": {"file": "shop.parquet", "columns": {"item_id": "sku", column: images}}}
        return read_mapped(folder, read_map(written(folder, yaml.safe_dump(described))))[0]

    assert mapped({"columns": ["front", "back"]})["products"]["images"].to_list() == [data, data[1:]]
    build(folder, None, tmp_path / "out", map=folder.parent / "map.yaml")
    assert SampleReader(tmp_path / "out", "products").pictures.tolist() == [2, 1]
    with caplog.at_level(logging.INFO, "moonlib"):
        assert mapped({"columns": ["link", "other"]})["products"]["images"].to_list() == [["a.jpg", "b.jpg"], []]
    assert "column 'images': what stands in more than one column is taken once, in 1 rows" in caplog.text
    with pytest.raises(ValueError, match=r"column 'front' is Binary, and 'link' String; name one kind"):
        mapped({"columns": ["front", "link"]})
    with pytest.raises(ValueError, match=r"column 'front' is Binary, and separator is of text"):
        mapped({"column": "front", "separator": ","})
    with pytest.raises(ValueError, match=r"column 'other' is List\(String\), of which title can't be made by"):
        mapped({"column": "other", "values": {"a": "b"}}, "title")
    with pytest.raises(ValueError, match=r"column 'struct' is Struct.*, and file_name is of text"):
        mapped({"column": "struct", "file_name": True}, "image")


def test_json_lines(folder: Path) -> None:
    (folder / "shop.jsonl").write_text('{"sku": "007", "price": 3.5}\n{"sku": "8", "price": null}\n')
    maps = "products: {file: shop.jsonl, columns: {item_id: sku, price: price}}"
    frames, _ = read_mapped(folder, read_map(written(folder, maps)))
    assert frames["products"].rows() == [("007", 3.5), ("8", None)]
    (folder / "shop.jsonl").write_text('{"sku": "007"\n')
    with pytest.raises(ValueError, match=r"shop\.jsonl can't be read"):
        read_mapped(folder, read_map(written(folder, maps)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "map.yaml: expected tables by name, such as products"),
        ("[1]", "expected tables by name"),
        ("products: [", "map.yaml is no YAML"),
        (MAP + MAP, "'products' stands twice"),
        ("product: {file: a, columns: {item_id: id}}", "product: no such table; did you mean 'products'?"),
        ("products: feed.tsv", "products: expected the keys file, delimiter"),
        (changed(colums={}), "products: no key 'colums'; did you mean 'columns'?"),
        (changed(file=None), "products: file: expected the name of a file, found None"),
        (changed(columns={}), "products: columns: expected ours by name"),
        (changed(columns={"item": "id"}), "columns: products has no column 'item'; did you mean 'item_id'?"),
        (changed(columns={"item_id": 7}), "columns: item_id: expected a column of the file, or one of"),
        (
            changed(columns={"price": {"column": "a", "constant": 1}}),
            "columns: price: expected a column of the file, or",
        ),
        (
            changed(columns={"price": {"column": "price", "curency": "USD"}}),
            "no key 'curency' beside column; did you mean",
        ),
        (changed(columns={"price": {"column": "price", "currency": 7}}), "price: currency: 7 is not what is expected"),
        (changed(columns={"listed_at": {"column": "t", "unit": "h"}}), "unit: 'h' is not .*expected one of s, ms, us"),
        (changed(columns={"listed_at": {"column": "t", "zone": "Berlin"}}), "zone: 'Berlin' is not what is expected"),
        (changed(own="condition"), "own: expected a list of columns"),
        (changed(own=["title"]), "own: 'title' is a column of products: name it in columns"),
        (changed(fill={"by": "id"}), "fill: expected {by: a column, columns"),
        (changed(delimiter="tab"), "delimiter: expected one character, found 'tab'"),
        (changed(only_with=[1]), "only_with: expected a column"),
    ],
)
def test_a_map_that_is_not_as_it_should_be(folder: Path, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(folder, None, tmp_path / "out", map=written(folder, text))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("products", "message"),
    [
        ({"file": "fed.tsv"}, "fed.tsv can't be read: there is no such file"),
        (
            {"columns": {"item_id": "ID", "title": "titel"}},
            "feed.tsv .as products.: no column 'ID'; did you mean 'id'?",
        ),
        ({"own": ["conditions"]}, "no column 'conditions'; did you mean 'condition'?"),
        (
            {"columns": {"item_id": "title"}},
            "orders.csv .as searches.: row 1, column 'item_id': '1' is the item_id of no row in feed.tsv .as products.",
        ),
        (
            {"columns": {"item_id": "id", "price": {"column": "price", "currency": "EUR"}}},
            "row 1, column 'price': '12.99 USD' is not in EUR, as the map says",
        ),
        ({"columns": {"item_id": "id", "price": "price"}}, "row 1, column 'price': '12.99 USD' is not a number"),
        (
            {"columns": {"item_id": "id", "listed_at": {"column": "condition", "unit": "s"}}},
            "row 1, column 'condition': 'new' is no whole number of s since 1970",
        ),
        (
            {"columns": {"item_id": "id", "listed_at": {"column": "condition", "format": "%Y"}}},
            "row 1, column 'condition': 'new' is not of the format '%Y'",
        ),
        (
            {"columns": {"item_id": "id", "region": {"column": "condition", "values": {"new": "x"}}}},
            "row 2, column 'condition': 'used' is none of the map's values, new",
        ),
        ({"delimiter": ","}, "feed.tsv: row 1, column .* is followed by|no column 'id'"),
    ],
)
def test_tables_that_are_not_as_the_map_says(
    folder: Path, tmp_path: Path, products: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(folder, None, tmp_path / "out", map=written(folder, changed(**products)))
    assert not (tmp_path / "out").exists()


def test_a_map_without_products(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"map\.yaml: no products; a dataset needs products"):
        build(folder, None, tmp_path / "out", map=written(folder, MAP[MAP.index("searches") :]))
    with pytest.raises(ValueError, match=r"none\.yaml can't be read: No such file"):
        build(folder, None, tmp_path / "out", map=tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("price", "number"),
    [
        ("12.99 USD", 12.99),
        ("USD12.99", 12.99),
        ("1,299.50 USD", 1299.5),
        ("12.99", 12.99),
        ("12,99 USD", None),
        ("x", None),
    ],
)
def test_prices(folder: Path, price: str, number: float | None) -> None:
    pl.DataFrame({"id": [1], "price": [price]}).write_parquet(folder / "p.parquet")
    maps = "products: {file: p.parquet, columns: {item_id: id, price: {column: price, currency: USD}}}"
    if number is None:
        with pytest.raises(ValueError, match=r"row 1, column 'price': .* is (no price such as|not in USD)"):
            read_mapped(folder, read_map(written(folder, maps)))
    else:
        frames, _ = read_mapped(folder, read_map(written(folder, maps)))
        assert frames["products"]["price"].to_list() == [number]
