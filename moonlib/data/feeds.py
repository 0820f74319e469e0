"""Maps of feeds and logs as shops have them: which of a file's columns moonlib would take for which of ours.

Known are Google Merchant's feeds, Shopify's exports, plain tables of products, orders and logs of clicks. A guess is a
map to edit, see `moonlib.data.table_map`: whatever it leaves out, or makes up, it says in a comment.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from moonlib.data.table_files import SUFFIXES, header, scan
from moonlib.data.table_map import delimiter_of
from moonlib.data.tables import SCHEMAS, known_columns

ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "products": {
        "item_id": (
            "item_id",
            "id",
            "variant_sku",
            "sku",
            "product_id",
            "offer_id",
            "asin",
            "article_number",
            "article",
            "item_number",
            "code",
            "gtin",
            "ean",
        ),
        "spu_id": (
            "spu_id",
            "item_group_id",
            "parent_sku",
            "parent_asin",
            "parent_id",
            "group_id",
            "product_group",
            "handle",
        ),
        "title": ("title", "name", "product_name", "product_title", "item_name", "item_title"),
        "category": (
            "category",
            "product_type",
            "category_path",
            "categories",
            "product_category",
            "google_product_category",
            "breadcrumb",
            "breadcrumbs",
            "type",
        ),
        "price": ("price", "variant_price", "list_price", "regular_price", "unit_price"),
        "listed_at": (
            "listed_at",
            "created_at",
            "published_at",
            "date_added",
            "date_created",
            "first_available",
            "availability_date",
            "online_since",
        ),
        "merchant_id": ("merchant_id", "seller_id", "shop_id", "store_id"),
        "region": ("region",),
        "image": (
            "image",
            "image_link",
            "image_src",
            "main_image",
            "image_url",
            "image_name",
            "image_file",
            "picture",
            "photo",
            "img",
        ),
    },
    "queries": {
        "query_id": ("query_id", "id"),
        "text": ("text", "query", "search_term", "search_query", "keywords", "keyword", "q"),
        "image": ("image", "photo", "picture"),
    },
    "users": {"user_id": ("user_id", "customer_id", "visitor_id", "client_id", "id")},
    "searches": {
        "search_id": (
            "search_id",
            "order_id",
            "request_id",
            "transaction_id",
            "order_number",
            "order",
            "basket_id",
            "cart_id",
            "session_id",
            "user_session",
            "session",
            "page_view_id",
            "invoice",
            "invoice_no",
            "invoiceno",
        ),
        "user_id": (
            "user_id",
            "user",
            "customer_id",
            "customer",
            "visitor_id",
            "visitorid",
            "client_id",
            "member_id",
            "account_id",
            "shopper_id",
            "cookie",
            "uid",
        ),
        "query_id": ("query_id",),
        "item_id": (
            "item_id",
            "lineitem_sku",
            "variant_sku",
            "sku",
            "product_id",
            "itemid",
            "item",
            "product",
            "asin",
            "stock_code",
            "stockcode",
            "article",
            "offer_id",
        ),
        "action": ("action", "event_type", "event", "event_name", "behavior", "behaviour", "behavior_type", "type"),
        "ts": (
            "ts",
            "timestamp",
            "event_time",
            "time",
            "datetime",
            "created_at",
            "ordered_at",
            "order_date",
            "purchased_at",
            "invoice_date",
            "invoicedate",
            "server_time",
            "date",
        ),
        "region": ("region",),
    },
}
"""Names by which columns of ours go elsewhere, written in lower case with _ between words; the first that is there."""

ALIASES["impressions"] = {
    **{column: ALIASES["searches"][column] for column in ("search_id", "user_id", "query_id", "item_id", "ts")},
    "position": ("position", "rank", "slot", "pos", "place"),
    "clicked": ("clicked", "click", "is_click", "is_clicked", "label"),
    "propensity": ("propensity",),
    "bid": ("bid",),
    "relevance": ("relevance", "grade"),
}

ATTRIBUTES = ("brand", "vendor", "color", "colour", "size", "material", "pattern", "gender", "age_group", "style")
"""Columns of products that become attributes."""

MORE_IMAGES = ("additional_image_link", "additional_images", "additional_image_links")

ACTIONS = {
    "view": "click", "click": "click", "pv": "click", "detail": "click", "product_view": "click", "view_item": "click",
    "cart": "cart", "add_to_cart": "cart", "addtocart": "cart", "basket": "cart", "fav": "click",
    "order": "order", "purchase": "order", "buy": "order", "transaction": "order", "checkout": "order",
}  # fmt: skip
"""What logs call actions."""

WHY = {
    "description": "no table has a place for long texts",
    "body_html": "no table has a place for long texts",
    "link": "an address",
    "url": "an address",
    "mobile_link": "an address",
    "sale_price": "price is the regular one",
    "variant_compare_at_price": "price is what is asked",
    "compare_at_price": "price is what is asked",
    "google_product_category": "category is the shop's own",
    "gtin": "a number of the trade; make it item_id if you go by it",
    "mpn": "a number of the trade",
    "email": "personal, and of no use to a model",
    "name": "",
}
"""Why a known column is left out."""

_SAMPLE = 1000
_PRICE = re.compile(r"^\s*(?:([A-Z]{3}|[$€£¥])\s*[0-9.,]+|[0-9.,]+\s*([A-Z]{3}|[$€£¥]))\s*$")


def suggest(path: Path, table: str | None = None) -> str:
    """Write a map of a file to begin with.

    Args:
        path: Parquet, CSV, a file with tabs (``.tsv``, ``.txt``) or JSON lines.
        table: which of ours it is; by default what its columns look like.

    Returns:
        YAML with comments, which `moonlib data build --map` takes.

    Raises:
        ValueError: the file can't be read, or looks like no table of ours.
    """
    if table is not None and table not in ALIASES:
        raise ValueError(f"no table {table!r} that a feed or a log could be; there are {', '.join(ALIASES)}")
    delimiter = _delimiter(path)
    sample = _sample(path, delimiter)
    plain = _plain(sample.columns)
    table = table or _table_of(plain, path)
    columns, notes = _columns(sample, plain, table, path)
    used = {name for source in columns.values() for name in _named(source)}
    rest = [name for name in sample.columns if name not in used]
    lines = [f"{table}:", f"  file: {_yaml(path.name)}"]
    if delimiter is not None and delimiter != ("," if path.suffix == ".csv" else delimiter_of(path)):
        lines.append(f"  delimiter: {_yaml(delimiter)}")
    shopify = table == "products" and {"handle", "variant_price"} <= set(plain)
    if shopify:
        repeated = [plain[name] for name in ("title", "vendor", "type", "image_src") if name in plain]
        lines.append(f"  fill: {{by: {_yaml(plain['handle'])}, columns: {_yaml(repeated)}}}  # rows repeat a handle")
        lines.append(f"  only_with: {_yaml(plain['variant_price'])}  # the other rows are further pictures")
        rest = [name for name in rest if name not in (plain["handle"], plain["variant_price"])]
    lines.append("  columns:")
    lines += [
        f"    {column}: {_yaml(source)}" + (f"  # {notes[column]}" if column in notes else "")
        for column, source in columns.items()
    ]
    lines.append("  own: []  # columns of your own to keep, such as for features and segments; of these:")
    lines += [f"  #   {_yaml(name)}{_why(name, table, columns)}" for name in rest] or ["  #   (there is none left)"]
    for column, name in _absent(table, columns).items():
        lines.append(f"  # {column}: {name}")
    return "\n".join(lines) + "\n"


def likely(columns: Iterable[str], table: str, absent: str) -> str | None:
    """The column that may be one of ours that is absent, by what feeds call it.

    Example:
        >>> likely(["id", "Item Group ID"], "products", "spu_id")
        'Item Group ID'
    """
    plain = _plain(columns)
    return next((plain[name] for name in ALIASES[table].get(absent, ()) if name in plain), None)


def _delimiter(path: Path) -> str | None:
    """Find what is between the values of a text file; None for files that are no such text."""
    if path.suffix.lower() in (".parquet", ".jsonl", ".ndjson"):
        return None
    if not path.is_file():
        raise ValueError(f"{path} can't be read: " + ("it is no file" if path.exists() else "there is no such file"))
    if path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise ValueError(f"{path}: a map is made of .csv, .tsv, .txt, .parquet or .jsonl files")
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        first = lines.readline()
    return max(",\t;|", key=first.count)


def _sample(path: Path, delimiter: str | None) -> pl.DataFrame:
    """The first rows of a file."""
    if delimiter is None and path.suffix.lower() not in SUFFIXES:
        try:
            with path.open(encoding="utf-8") as lines:
                rows = [json.loads(line) for line in islice(lines, _SAMPLE) if line.strip()]
            return pl.DataFrame(rows, infer_schema_length=None)
        except (OSError, ValueError, TypeError, pl.exceptions.PolarsError) as error:
            raise ValueError(f"{path} can't be read: {str(error).splitlines()[0]}") from error
    if delimiter is None:
        return next(iter(scan(path))).head(_SAMPLE)
    names = header(path, delimiter)
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            records = islice(csv.reader(lines, delimiter=delimiter), 1, _SAMPLE)
            rows = [row for row in records if len(row) == len(names)]
    except csv.Error as error:
        raise ValueError(f"{path} can't be read: {error}") from None
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row").with_columns(
        pl.all().replace("", None)
    )


def _plain(columns: Iterable[str]) -> dict[str, str]:
    """The columns by their names in lower case with _ between words."""
    found: dict[str, str] = {}
    for column in columns:
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column.strip())
        found.setdefault("_".join(re.findall(r"[^\W_]+", words.lower().removeprefix("g:"))), column)
    return found


def _table_of(plain: dict[str, str], path: Path) -> str:
    """The table that columns look like."""
    has = {column: any(name in plain for name in names) for column, names in ALIASES["impressions"].items()}
    acted = any(name in plain for name in ALIASES["searches"]["action"][:-1])
    if has["user_id"] and has["item_id"]:
        return "impressions" if has["clicked"] and not acted else "searches"
    if any(name in plain for name in ALIASES["products"]["item_id"]) and (
        any(name in plain for column in ("title", "price", "image") for name in ALIASES["products"][column])
    ):
        return "products"
    if "query_id" in plain:
        return "queries"
    if any(name in plain for name in ALIASES["users"]["user_id"][:-1]):
        return "users"
    tables = "|".join(ALIASES)
    raise ValueError(
        f"{path} looks like no table of ours (it has {', '.join(plain.values())}); say which it is: --table {tables}"
    )


def _columns(
    sample: pl.DataFrame, plain: dict[str, str], table: str, path: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """The map of the columns, and remarks by column."""
    columns: dict[str, Any] = {}
    notes: dict[str, str] = {}
    for column, names in ALIASES[table].items():
        found = [plain[name] for name in names if name in plain and plain[name] not in _all(columns)]
        if found:
            columns[column] = found[0]
            if others := found[1:]:
                notes[column] = f"or {', '.join(others)}"
    for column, source in list(columns.items()):
        values = sample[source].drop_nulls()
        columns[column], note = _conversion(column, source, values)
        if note:
            notes[column] = "; ".join(part for part in (note, notes.get(column, "")) if part)
    if table == "products":
        more = [plain[name] for name in MORE_IMAGES if name in plain]
        if more and "image" in columns:
            main = columns.pop("image")
            if isinstance(main, dict):
                main = main["column"]
                notes["images"] = "addresses: build with --images https, or download the pictures with img2dataset"
            columns["images"] = {"columns": [main, *more], "separator": ","}
        attributes = [plain[name] for name in ATTRIBUTES if name in plain and plain[name] not in _all(columns)]
        if attributes:
            columns["attributes"] = {"columns": attributes}
    if table in ("searches", "impressions"):
        if "search_id" not in columns:
            columns["search_id"] = {"row_number": True}
            notes["search_id"] = "no such column: each row counts as a search, or a page, of its own"
        elif columns["search_id"] not in (plain.get("search_id"), plain.get("request_id"), plain.get("page_view_id")):
            notes["search_id"] = "what was acted on together; " + notes.get("search_id", "rows of one search or page")
    if table == "searches" and "action" not in columns:
        ordered = any(word in " ".join((path.stem.lower(), *plain)) for word in ("order", "invoice", "transaction"))
        columns["action"] = {"constant": "order" if ordered else "click"}
        notes["action"] = "no such column: every row is one; or " + ("click, cart" if ordered else "cart, order")
    if table == "impressions" and "position" not in columns:
        columns["position"] = {"constant": 0}
        notes["position"] = "no such column: not known"
    return {column: columns[column] for column in known_columns(table) if column in columns}, notes


def _conversion(column: str, source: str, values: pl.Series) -> tuple[Any, str]:
    """How a column is read, judged by its values, and a remark."""
    texts = values.cast(pl.String, strict=False) if not values.dtype.is_nested() else pl.Series([], dtype=pl.String)
    if column == "price" and values.dtype == pl.String:
        matched = [_PRICE.match(text) for text in texts]
        marks = {match[1] or match[2] for match in matched if match}
        if marks:
            note = f"there are also {', '.join(sorted(marks)[1:])}" if len(marks) > 1 else ""
            return {"column": source, "currency": sorted(marks)[0]}, note
    if column in ("ts", "listed_at") and texts.len():
        if texts.str.contains(r"^\d{10}$").all():
            return {"column": source, "unit": "s"}, "seconds since 1970"
        if texts.str.contains(r"^\d{13}$").all():
            return {"column": source, "unit": "ms"}, "milliseconds since 1970"
        for pattern, format in _FORMATS.items():
            if texts.str.contains(pattern).all():
                zone = {} if "%z" in format else {"zone": "UTC"}
                note = "" if "%z" in format else "say which zone; is the day or the month first?"
                return {"column": source, "format": format, **zone}, note.removesuffix("" if "/" in format else _ORDER)
    if column == "action" and texts.len():
        found = texts.unique().sort().to_list()
        if not set(found) <= {"click", "cart", "order"}:
            table = {each: ACTIONS.get(re.sub(r"\W+", "_", each.lower())) for each in found}
            return {"column": source, "values": table}, "each becomes click, cart or order; null leaves its rows out"
    if column == "image" and texts.str.contains("^https?://").any():
        note = (
            "addresses: download the pictures into the folder of --images, by the last part of their address; or take "
            f"the column as it is ({_yaml(source)}) and build with --images https"
        )
        return {"column": source, "file_name": True}, note
    return source, ""


_ORDER = "; is the day or the month first?"
_FORMATS = {
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}$": "%Y-%m-%d %H:%M:%S %z",
    r"^\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d\d:\d\d$": "%d/%m/%Y %H:%M:%S",
    r"^\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d\d$": "%d/%m/%Y %H:%M",
    r"^\d{1,2}/\d{1,2}/\d{4}$": "%d/%m/%Y",
    r"^\d{1,2}\.\d{1,2}\.\d{4} \d{1,2}:\d\d:\d\d$": "%d.%m.%Y %H:%M:%S",
    r"^\d{1,2}\.\d{1,2}\.\d{4} \d{1,2}:\d\d$": "%d.%m.%Y %H:%M",
    r"^\d{1,2}\.\d{1,2}\.\d{4}$": "%d.%m.%Y",
}
"""Formats of times that are not in ISO 8601."""


def _named(source: Any) -> list[str]:
    """The columns of the file that a source reads."""
    if isinstance(source, str):
        return [source]
    return [source["column"]] if "column" in source else list(source.get("columns", []))


def _all(columns: dict[str, Any]) -> set[str]:
    return {name for source in columns.values() for name in _named(source)}


def _why(name: str, table: str, columns: dict[str, Any]) -> str:
    """Why a column of the file is left out, as the end of a comment."""
    plain = next(iter(_plain([name])))
    if plain in MORE_IMAGES:
        return ": further pictures of a product"
    for column, names in ALIASES[table].items():
        if plain in names and column in columns and _named(columns[column]):
            return f": {column} is {', '.join(_named(columns[column]))}" if not WHY.get(plain) else f": {WHY[plain]}"
    return f": {WHY[plain]}" if WHY.get(plain) else ""


def _absent(table: str, columns: dict[str, Any]) -> dict[str, str]:
    """Columns of ours that nothing was found for, and what to do."""
    found = {}
    for field in SCHEMAS[table]:
        if field.name not in columns:
            if not field.nullable:
                found[field.name] = "nothing was found for it, and it must be there: add it to columns"
            elif field.name in ("spu_id", "category", "listed_at", "query_id"):
                found[field.name] = "nothing was found for it; without it there is a default, which build tells"
    return found


def _yaml(value: Any) -> str:
    """A value in YAML's flow style, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_yaml(key)}: {_yaml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_yaml(each) for each in value) + "]"
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    return (
        value if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", value) and value.lower() not in _WORDS else json.dumps(value)
    )


_WORDS = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
"""What YAML takes for other than text."""
