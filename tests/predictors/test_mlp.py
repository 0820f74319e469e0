from __future__ import annotations

import pytest
import torch

from moonlib.predictors.mlp import MLP


def test_is_the_perceptron_it_says() -> None:
    torch.manual_seed(0)
    predictor = MLP([4, 3])
    predictor.setup(5)
    x = torch.randn(7, 5)
    first, second, logit = (layer for layer in predictor.layers if isinstance(layer, torch.nn.Linear))
    expected = logit(second(first(x).clamp(min=0)).clamp(min=0)).squeeze(1)
    torch.testing.assert_close(predictor(x), expected)
    assert predictor(x).shape == (7,)


def test_without_hidden_layers_it_is_a_logistic_regression() -> None:
    predictor = MLP([])
    predictor.setup(5)
    assert [tuple(p.shape) for p in predictor.parameters()] == [(1, 5), (1,)]


def test_drops_out_in_training_only() -> None:
    torch.manual_seed(0)
    predictor = MLP([64], dropout=0.5)
    predictor.setup(5)
    x = torch.randn(3, 5)
    assert not torch.equal(predictor(x), predictor(x))
    predictor.eval()
    assert torch.equal(predictor(x), predictor(x))


@pytest.mark.parametrize(("arguments", "message"), [(([0],), "hidden widths"), (([4], 1.0), "dropout must be")])
def test_bad_arguments_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLP(*arguments)
