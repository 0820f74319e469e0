from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moonlib.predictors.dcnv2 import DCNv2, Structure


def crossed(predictor: DCNv2, x: Tensor) -> Tensor:
    """The cross network, element by element."""
    rows = []
    for x0 in x:
        xl = x0
        for layer in range(predictor.cross_layers):
            if predictor.rank is None:
                w, b = predictor.cross[layer].weight, predictor.cross[layer].bias
            else:
                v, u = predictor.cross[layer]
                w, b = u.weight @ v.weight, u.bias
            xl = torch.stack(
                [x0[i] * (sum(w[i, j] * xl[j] for j in range(len(x0))) + b[i]) + xl[i] for i in range(len(x0))]
            )
        rows.append(xl)
    return torch.stack(rows)


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("structure", ["stacked", "parallel"])
def test_equals_a_loop_over_elements(rank: int | None, structure: Structure) -> None:
    torch.manual_seed(0)
    predictor = DCNv2(2, rank, structure, hidden=[6])
    predictor.setup(4)
    x = torch.randn(5, 4)
    hidden, logit = (layer for layer in predictor.deep.layers if isinstance(layer, torch.nn.Linear))
    xn = crossed(predictor, x)
    if structure == "stacked":
        expected = logit(hidden(xn).relu())
    else:
        # One linear function of both outputs, as in the paper.
        both = torch.cat([xn, hidden(x).relu()], dim=1)
        expected = both @ torch.cat([predictor.logit.weight, logit.weight], dim=1).T + logit.bias
    torch.testing.assert_close(predictor(x), expected.squeeze(1))


def test_n_layers_reach_products_of_n_plus_one_features() -> None:
    """Along a line x = t * d, the cross network is a polynomial in t, of degree n + 1 and no higher."""
    torch.manual_seed(0)
    for layers in (1, 3):
        predictor = DCNv2(layers, hidden=[]).double()
        predictor.setup(4)
        predictor.double()
        t = torch.arange(layers + 3, dtype=torch.float64)
        logits = predictor(t.unsqueeze(1) * torch.randn(4, dtype=torch.float64))
        assert logits.diff(n=layers + 1).abs().max() > 1e-6
        assert logits.diff(n=layers + 2).abs().max() < 1e-9 * logits.abs().max()


def test_low_rank_saves_weights() -> None:
    whole, low = DCNv2(3, None, hidden=[]), DCNv2(3, 2, hidden=[])
    for predictor in (whole, low):
        predictor.setup(50)
    assert sum(p.numel() for p in whole.cross.parameters()) == 3 * (50 * 50 + 50)
    assert sum(p.numel() for p in low.cross.parameters()) == 3 * (2 * 50 * 2 + 50)


@pytest.mark.parametrize("structure", ["stacked", "parallel"])
def test_what_is_joined_is_joined_to_the_deep_part(structure: Structure) -> None:
    torch.manual_seed(0)
    predictor = DCNv2(1, None, structure, hidden=[6])
    predictor.setup(4, matching=[3, 1])
    x, hidden, logit = torch.randn(5, 4), torch.randn(5, 3), torch.randn(5, 1)
    xn = crossed(predictor, x)
    deep = predictor.deep(xn if structure == "stacked" else x, [hidden, logit])
    expected = deep if structure == "stacked" else deep + predictor.logit(xn).squeeze(1)
    torch.testing.assert_close(predictor(x, [hidden, logit]), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cross_layers": 0}, "cross_layers must be at least 1, got 0; without any, take the mlp"),
        ({"rank": 0}, "rank must be at least 1, or null"),
        ({"structure": "beside"}, "structure must be stacked or parallel, got 'beside'"),
        ({"hidden": [0]}, "hidden widths"),
        ({"activation": "swish"}, "activation must be one of"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DCNv2(**arguments)
