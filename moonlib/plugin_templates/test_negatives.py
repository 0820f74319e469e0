from __future__ import annotations

import torch

from moonlib.negatives.negative_sampler import Candidates
from moonlib.plugin_templates.negatives import Template
from moonlib.testing import check_negative_sampler


def test_it_keeps_the_promises_of_a_negative_sampler() -> None:
    check_negative_sampler(lambda: Template(size=20, dim=4))


def test_the_newest_items_stay() -> None:
    sampler = Template(size=3, dim=2)
    for first in (0, 2, 4):
        ids = torch.tensor([first, first + 1])
        extended = sampler.extend(Candidates(torch.ones(2, 2), ids, ids, ids))
    assert extended.item_id.tolist() == [4, 5, 2, 3, 0]
