from __future__ import annotations

import torch

from moonlib.templates.adapters import Template
from moonlib.testing import check_adapter, example_behaviours


def test_it_keeps_the_promises_of_an_adapter() -> None:
    check_adapter(Template)
    check_adapter(lambda: Template(half_life=1.0))


def test_the_mean_is_that_of_a_slow_loop() -> None:
    batch = example_behaviours(id_dim=3, dim=5)
    adapter = Template(half_life=2.0)
    adapter.setup(3, 5)
    for row, features in enumerate(adapter(batch)):
        weighted = total = 0.0
        for place in range(batch.items.shape[1]):
            if batch.item_known[row, place] and batch.target_known[row]:
                weight = 2.0 ** (-place / 2.0)
                weighted += weight * float(torch.cosine_similarity(batch.target[row], batch.items[row, place], dim=0))
                total += weight
        expected = [weighted / total if total else 0.0, float(total > 0)]
        torch.testing.assert_close(features[-2:], torch.tensor(expected))
