from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moonlib.pairs import Pairs
from moonlib.templates.negatives import Template
from moonlib.testing import check_negative_sampler
from moonlib.testing.training import example_training_data


@pytest.mark.parametrize("k", [1, 3])
def test_it_keeps_the_promises_of_a_negative_sampler(k: int) -> None:
    check_negative_sampler(lambda: Template(k))


def test_what_many_queries_led_to_is_drawn_more_often() -> None:
    item = np.array([5, 7, 7, 7, 7])
    pairs = Pairs(np.arange(5), item, item[:, None], "query")
    sampler = Template(k=1000, power=0.5)
    sampler.setup(replace(example_training_data(dim=8), pairs=pairs))
    drawn = sampler.propose(pairs, 0, np.random.default_rng(0))
    assert drawn.shape == (5, 1000)
    assert (drawn == 7).mean() == pytest.approx(2 / 3, abs=0.03)  # the root of 4 to the root of 1


def test_a_negative_power_is_refused() -> None:
    with pytest.raises(ValueError, match="power at least 0"):
        Template(power=-1.0)
