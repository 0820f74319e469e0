from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moonlib.data.dataset import Dataset
from moonlib.representations.store import Representations
from moonlib.testing import example_dataset, example_representations


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A shop of 96 products; read it only."""
    return example_dataset(tmp_path_factory.mktemp("shop") / "dataset")


@pytest.fixture(scope="session")
def represented(shop: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random representations of its products and queries, of which some are zeros and some are not there at all."""
    directory = tmp_path_factory.mktemp("represented")
    stores = example_representations(shop.products["item_id"], shop.queries["query_id"])["random"]
    for store, name in zip(stores, ("products", "queries"), strict=True):
        there = np.arange(len(store.ids)) % 10 != 4
        Representations(store.ids[there], store.vectors[there]).save(directory, name)
    return directory
