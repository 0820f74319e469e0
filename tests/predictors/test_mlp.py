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


@pytest.mark.parametrize("activation", ["relu", "prelu", "dice"])
def test_the_activation_is_between_the_layers(activation: str) -> None:
    torch.manual_seed(0)
    predictor = MLP([4, 3], activation=activation)  # type: ignore[arg-type]
    predictor.setup(5)
    x = torch.randn(7, 5)
    weights = predictor.state_dict()
    units = x
    for i in range(2):
        units = units @ weights[f"layers.hidden{i}.weight"].T + weights[f"layers.hidden{i}.bias"]
        if activation == "dice":
            gate = (units / (1 + 1e-8) ** 0.5).sigmoid()
            units = gate * units + (1 - gate) * weights[f"layers.dice{i}.alpha"] * units
        else:
            slope = 0.0 if activation == "relu" else weights[f"layers.prelu{i}.weight"]
            units = torch.where(units > 0, units, slope * units)
    expected = units @ weights["layers.logit.weight"].T + weights["layers.logit.bias"]
    torch.testing.assert_close(predictor(x), expected.squeeze(1))


def test_weights_with_relu_are_named_and_drawn_as_they_always_were() -> None:
    """Runs from before there was a choice of activations are read again, and repeated, to the same bits."""
    torch.manual_seed(0)
    predictor = MLP([4, 3], dropout=0.1)
    predictor.setup(5)
    torch.manual_seed(0)
    plain = torch.nn.ModuleDict(
        {"hidden0": torch.nn.Linear(5, 4), "hidden1": torch.nn.Linear(4, 3), "logit": torch.nn.Linear(3, 1)}
    )
    expected = {f"layers.{name}": tensor for name, tensor in plain.state_dict().items()}
    assert list(predictor.state_dict()) == list(expected)
    for name, tensor in predictor.state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_joins_hidden_outputs_layer_by_layer_and_adds_the_logit() -> None:
    torch.manual_seed(0)
    predictor = MLP([4, 3])
    predictor.setup(5, matching=[2, 6, 1])
    x, first, second, logit = (torch.randn(7, width) for width in (5, 2, 6, 1))
    weights = predictor.state_dict()

    def linear(name: str, units: torch.Tensor) -> torch.Tensor:
        return units @ weights[f"layers.{name}.weight"].T + weights[f"layers.{name}.bias"]

    units = torch.cat([linear("hidden0", x).relu(), first], dim=1)
    units = torch.cat([linear("hidden1", units).relu(), second], dim=1)
    torch.testing.assert_close(predictor(x, [first, second, logit]), (linear("logit", units) + logit).squeeze(1))
    with torch.no_grad():
        predictor.matched_scale.fill_(-0.5)
    torch.testing.assert_close(predictor(x, [first, second, logit]), (linear("logit", units) - logit / 2).squeeze(1))


def test_joins_as_many_hidden_outputs_as_there_are() -> None:
    x = torch.randn(7, 5)
    for matching, widths in (([2, 1], [5, 6, 3]), ([1], [5, 4, 3])):
        predictor = MLP([4, 3])
        predictor.setup(5, matching)
        linears = [layer for layer in predictor.layers if isinstance(layer, torch.nn.Linear)]
        assert [layer.in_features for layer in linears] == widths
        assert predictor(x, [torch.randn(7, width) for width in matching]).shape == (7,)


@pytest.mark.parametrize(
    ("matching", "message"),
    [
        ([2, 3], r"the last matching point is a logit, of width 1; got widths \[2, 3\]"),
        ([2, 2, 2, 1], "3 hidden outputs are joined .* there are 2: give hidden at least 3 widths"),
    ],
)
def test_matching_points_without_a_place_are_refused(matching: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLP([4, 3]).setup(5, matching)


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="activation must be one of relu, prelu, dice, got 'swish'"):
        MLP(activation="swish")  # type: ignore[arg-type]
