"""A multilayer perceptron."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from moonlib.predictors.predictor import Predictor


class MLP(Predictor):
    """Linear, ReLU and dropout per hidden layer, then one logit.

    The input is taken as the adapter scaled it. Batch normalisation would tie a row's logit to its batch; layer
    normalisation over features as unlike as ids, cosines and counts would tie each to the size of all the others.

    Args:
        hidden: widths of the hidden layers; empty for a logistic regression.
        dropout: probability that a hidden unit is dropped in training.

    Raises:
        ValueError: if a width is below 1 or ``dropout`` outside [0, 1).
    """

    def __init__(self, hidden: Sequence[int] = (128, 64), dropout: float = 0.0) -> None:
        super().__init__()
        if any(width < 1 for width in hidden):
            raise ValueError(f"hidden widths must be at least 1, got {list(hidden)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.hidden = list(hidden)
        self.dropout = dropout

    def setup(self, in_features: int) -> None:
        """Make the layers."""
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width = in_features
        for i, out in enumerate(self.hidden):
            layers[f"hidden{i}"] = nn.Linear(width, out)
            layers[f"relu{i}"] = nn.ReLU()
            layers[f"dropout{i}"] = nn.Dropout(self.dropout)
            width = out
        layers["logit"] = nn.Linear(width, 1)
        self.layers = nn.Sequential(layers)

    def forward(self, features: Tensor) -> Tensor:
        """Predict logits, float [B]."""
        logits: Tensor = self.layers(features)
        return logits.squeeze(-1)
