from __future__ import annotations

from moonlib.templates.filters import Template
from moonlib.testing import check_filter, example_tables


def test_it_keeps_the_promises_of_a_filter() -> None:
    check_filter(Template)


def test_products_with_an_image_or_a_title_stay() -> None:
    tables = example_tables()
    found = Template()(tables)
    left = set(found.tables.products["item_id"])
    for row in tables.products.iter_rows(named=True):
        assert (row["item_id"] in left) == (row["image"] is not None or row["title"] is not None)
    assert found.removed["products"] == {"neither image nor title": 6}
