from __future__ import annotations

import torch

from moonlib.templates.predictors import Template
from moonlib.testing import check_predictor


def test_it_keeps_the_promises_of_a_predictor() -> None:
    check_predictor(Template)


def test_the_logit_is_that_of_a_slow_loop_over_pairs() -> None:
    torch.manual_seed(0)
    predictor = Template(rank=3)
    predictor.setup(5)
    features = torch.randn(4, 5)
    expected = predictor.linear(features).squeeze(1)
    for i in range(5):
        for j in range(i):
            expected = expected + predictor.factors[i] @ predictor.factors[j] * features[:, i] * features[:, j]
    torch.testing.assert_close(predictor(features), expected)
