from __future__ import annotations

from typing import Any

import pytest
import torch

from moonlib.optimizers import OptimizerContext, TrainedParameter
from moonlib.templates.optimizers import Template
from moonlib.testing import check_optimizer


def test_it_keeps_the_promises_of_an_optimizer() -> None:
    check_optimizer(Template)


def test_the_learning_rate_falls_to_zero() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    context = OptimizerContext(torch.device("cpu"), False, False, count_steps=lambda: 4)
    made: Any = Template(learning_rate=0.4)([TrainedParameter("weight", weight)], context)
    rates = []
    for _ in range(5):
        rates += [group["lr"] for group in made["optimizer"].param_groups]
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])


def test_momentum_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        Template(momentum=1.0)
