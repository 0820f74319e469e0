"""What is taken for which of the columns of feeds and logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from moonlib.data.build import build
from moonlib.data.dataset import Dataset
from moonlib.data.feeds import suggest

GOOGLE = (
    "id\ttitle\tdescription\tlink\timage_link\tadditional_image_link\tprice\tsale_price\tproduct_type\t"
    "google_product_category\titem_group_id\tbrand\tgtin\tavailability\n"
    "1\tMug\tlong\thttps://x\thttps://cdn/a.jpg\thttps://cdn/b.jpg\t12.99 USD\t\t"
    "Home > Mugs\t632\t7\tAcme\t001\tin stock\n"
    "2\tCup\tlong\thttps://x\thttps://cdn/c.jpg\t\t3.00 USD\t2.00 USD\tHome > Cups\t632\t\tAcme\t002\tin stock\n"
)
SHOPIFY = (
    "Handle,Title,Body (HTML),Vendor,Type,Variant SKU,Variant Price,Image Src,Image Position\n"
    "5,Mug,<p>x</p>,Acme,Mugs,1,9.50,https://cdn/a.jpg,1\n5,,,,,2,8,,\n5,,,,,,,https://cdn/b.jpg,2\n"
)
PLAIN = "sku,name,Price\n1,Mug,3.5\n2,Cup,4\n"
ORDERS = (
    "Order ID,Customer,SKU,Created At,Quantity\n1,5,1,2025-01-01 10:00:00 +0100,2\n2,6,2,2025-01-02 10:00:00 +0100,1\n"
)
CLICKS = (
    "event_time,event_type,product_id,user_id,user_session\n1738300000000,view,1,5,9\n1738300100000,purchase,1,5,9\n"
)
SHOWN = "page_view_id,visitorId,itemId,click,timestamp\n1,5,1,0,2025-01-01T00:00:00Z\n1,5,2,1,2025-01-02T00:00:00Z\n"


def suggested(tmp_path: Path, name: str, text: str, table: str | None = None) -> dict[str, Any]:
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = yaml.safe_load(suggest(tmp_path / name, table))
    assert isinstance(found, dict)
    return found


def test_a_feed_of_google(tmp_path: Path) -> None:
    (products,) = suggested(tmp_path, "feed.txt", GOOGLE).values()
    columns = products["columns"]
    assert (products["file"], products["own"]) == ("feed.txt", [])
    assert columns["item_id"] == "id" and columns["spu_id"] == "item_group_id"
    assert columns["category"] == "product_type" and columns["title"] == "title"
    assert columns["price"] == {"column": "price", "currency": "USD"}
    assert columns["attributes"] == {"columns": ["brand"]}
    text = suggest(tmp_path / "feed.txt")
    assert "# addresses: build with --images https" in text
    for said in (
        "#   description: no table has a place for long texts",
        "#   sale_price: price is the regular one",
        "#   link: an address",
        "#   availability\n",
        "# listed_at: nothing was found for it; without it there is a default, which build tells",
    ):
        assert said in text


def test_an_export_of_shopify(tmp_path: Path) -> None:
    products = suggested(tmp_path, "export.csv", SHOPIFY)["products"]
    assert products["fill"] == {"by": "Handle", "columns": ["Title", "Vendor", "Type", "Image Src"]}
    assert products["only_with"] == "Variant Price"
    columns = products["columns"]
    assert (columns["item_id"], columns["spu_id"], columns["category"]) == ("Variant SKU", "Handle", "Type")
    assert columns["attributes"] == {"columns": ["Vendor"]}


def test_logs_of_events(tmp_path: Path) -> None:
    orders = suggested(tmp_path, "orders.csv", ORDERS)["searches"]["columns"]
    assert orders == {
        "search_id": "Order ID",
        "user_id": "Customer",
        "item_id": "SKU",
        "action": {"constant": "order"},
        "ts": {"column": "Created At", "format": "%Y-%m-%d %H:%M:%S %z"},
    }
    clicks = suggested(tmp_path, "clicks.csv", CLICKS)["searches"]["columns"]
    assert clicks["action"] == {"column": "event_type", "values": {"purchase": "order", "view": "click"}}
    assert clicks["ts"] == {"column": "event_time", "unit": "ms"} and clicks["search_id"] == "user_session"
    shown = suggested(tmp_path, "shown.csv", SHOWN)["impressions"]["columns"]
    assert shown["position"] == {"constant": 0} and shown["clicked"] == "click" and shown["user_id"] == "visitorId"


def test_a_file_with_other_delimiters(tmp_path: Path) -> None:
    assert suggested(tmp_path, "a.csv", PLAIN.replace(",", ";"))["products"]["delimiter"] == ";"
    assert suggested(tmp_path, "a.txt", PLAIN)["products"]["delimiter"] == ","
    assert "delimiter" not in suggested(tmp_path, "a.tsv", PLAIN.replace(",", "\t"))["products"]


@pytest.mark.parametrize(("name", "feed"), [("feed.tsv", GOOGLE), ("export.csv", SHOPIFY), ("plain.csv", PLAIN)])
def test_what_is_suggested_builds(tmp_path: Path, name: str, feed: str) -> None:
    """But for pictures, which are addresses still."""
    maps = suggested(tmp_path, name, feed)
    for column in ("image", "images"):
        maps["products"]["columns"].pop(column, None)
    for other, text in (("orders.csv", ORDERS), ("shown.csv", SHOWN)):
        maps |= suggested(tmp_path, other, text)
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(maps))
    dataset = Dataset(build(tmp_path, None, tmp_path / "out", map=tmp_path / "map.yaml"))
    assert dataset.products["item_id"].to_list() == [1, 2]
    assert dataset.products["price"].to_list() in ([12.99, 3.0], [9.5, 8.0], [3.5, 4.0])
    assert (dataset.searches.height, dataset.impressions.height) == (2, 2)
    assert dataset.impressions["clicked"].to_list() == [False, True]


@pytest.mark.parametrize(
    ("name", "text", "table", "message"),
    [
        (
            "a.csv",
            "colour,weight\nred,1\n",
            None,
            r"a\.csv looks like no table of ours \(it has colour, weight\).*--table",
        ),
        ("a.csv", PLAIN, "orders", "no table 'orders' that a feed or a log could be; there are products"),
        ("a.csv", "", None, "it has no header"),
        ("a.csv", "a,a\n1,2\n", None, "column 'a' stands twice in the header"),
        ("a.jsonl", "{", None, "a.jsonl can't be read"),
        ("a.xlsx", "x", None, r"a\.xlsx: a map is made of \.csv, \.tsv, \.txt, \.parquet or \.jsonl files"),
        ("a.parquet", "x", None, "a.parquet can't be read"),
    ],
)
def test_files_that_no_map_is_made_of(tmp_path: Path, name: str, text: str, table: str | None, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        suggest(tmp_path / name, table)
    with pytest.raises(ValueError, match="there is no such file"):
        suggest(tmp_path / "none.csv")


def test_any_table_when_told(tmp_path: Path) -> None:
    columns = suggested(tmp_path, "a.csv", "id,q\n1,mug\n", "queries")["queries"]["columns"]
    assert columns == {"query_id": "id", "text": "q"}
    text = suggest(tmp_path / "a.csv", "users")
    assert "    user_id: id\n" in text
    assert "# item_id: nothing was found for it, and it must be there: add it to columns" in suggest(
        tmp_path / "a.csv", "searches"
    )
