"""The contact sheet shows products beside their queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from moonlib.data.build import ImageFolder
from moonlib.data.contact_sheet import contact_sheet
from moonlib.data.dataset import Dataset
from moonlib.data.shards import write_dataset
from moonlib.data.splits import Splits
from moonlib.data.tables import Tables


@pytest.fixture
def dataset(tmp_path: Path, shop: Tables, splits: Splits, image_folder: Path) -> Dataset:
    for name, colour in {"a.jpg": "red", "q.jpg": "blue"}.items():
        Image.new("RGB", (50, 50), colour).save(image_folder / name)
    write_dataset(tmp_path / "d", shop, ImageFolder(image_folder, 512), splits, name="shop", version="1")
    return Dataset(tmp_path / "d")


def _share(sheet: Image.Image, colour: tuple[int, int, int]) -> float:
    return float((np.abs(np.array(sheet).astype(int) - colour).max(2) < 8).mean())


def test_a_product_and_the_photo_that_led_to_it(dataset: Dataset, tmp_path: Path) -> None:
    path = contact_sheet(dataset, tmp_path / "deep" / "sheet.png", rows=4)
    sheet = Image.open(path)
    assert sheet.width < sheet.height  # one query each, four products below each other
    for colour in ((254, 0, 0), (0, 0, 254)):
        assert _share(sheet, colour) == pytest.approx(144 * 144 / (sheet.width * sheet.height), rel=0.05)


def test_products_that_photos_led_to_come_first(dataset: Dataset, tmp_path: Path) -> None:
    for seed in range(5):
        sheet = Image.open(contact_sheet(dataset, tmp_path / "sheet.png", rows=2, seed=seed))
        assert _share(sheet, (0, 0, 254)) > 0.1


def test_the_choice_follows_the_seed(dataset: Dataset, tmp_path: Path) -> None:
    sheets = [
        contact_sheet(dataset, tmp_path / f"{i}.png", rows=2, seed=seed).read_bytes() for i, seed in enumerate((1, 1))
    ]
    assert sheets[0] == sheets[1]
    assert len({contact_sheet(dataset, tmp_path / "s.png", rows=2, seed=seed).read_bytes() for seed in range(8)}) > 1


def test_without_searches_and_images(shop: Tables, splits: Splits, tmp_path: Path) -> None:
    products = shop.products.with_columns(image=pl.lit(None, dtype=pl.String))
    write_dataset(tmp_path / "d", Tables(products), ImageFolder(tmp_path, 512), splits, name="x", version="1")
    sheet = Image.open(contact_sheet(Dataset(tmp_path / "d"), tmp_path / "sheet.png"))
    assert sheet.width < 200
    assert np.array(sheet.convert("L")).min() < 100  # titles are drawn in place of pictures
