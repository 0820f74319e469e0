from __future__ import annotations

import numpy as np
import torch

from moonlib.templates.stages import Template
from moonlib.testing import check_stage


def test_it_keeps_the_promises_of_a_stage() -> None:
    check_stage(lambda: Template(k=3))


def test_lists_are_those_of_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    ids, vectors = np.array([-(2**63), 5, 7, 9, 2**63 - 1]), rng.standard_normal((5, 3))
    found = Template(k=2).similar(ids, torch.from_numpy(vectors), rows=2)
    assert found.height == 10
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for i, item in enumerate(ids):
        others = sorted((j for j in range(5) if j != i), key=lambda j: -units[i] @ units[j])
        assert found.filter(found["item_id"] == item)["similar_id"].to_list() == [ids[j] for j in others[:2]]
