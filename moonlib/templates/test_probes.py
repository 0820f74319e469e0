from __future__ import annotations

from pathlib import Path

import numpy as np

from moonlib.probes import Represented
from moonlib.representations import Representations
from moonlib.templates.probes import Template
from moonlib.testing import check_probe, example_dataset


def test_it_keeps_the_promises_of_a_probe() -> None:
    check_probe(Template)


def test_representations_that_are_the_category_reach_one(tmp_path: Path) -> None:
    dataset = example_dataset(tmp_path / "dataset")
    items, category = dataset.products["item_id"].to_numpy(), dataset.products["category"].rank("dense").to_numpy()
    queries = Representations(np.array([0]), np.ones((1, 6), dtype=np.float32))
    products = Representations(items, np.eye(6, dtype=np.float32)[category - 1])
    assert Template(k=5)(Represented(dataset, products, queries, "test")) == {"same_category@5": 1.0}
