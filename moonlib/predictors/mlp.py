"""A multilayer perceptron."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar, get_args

import torch
from torch import Tensor, nn

from moonlib.predictors.activations import Activation, make_activation
from moonlib.predictors.predictor import Predictor


class MLP(Predictor):
    """Linear, activation and dropout per hidden layer, then one logit. Joins at matching points, see `Predictor`.

    The input is taken as the adapter scaled it. Batch normalisation would tie a row's logit to its batch; layer
    normalisation over features as unlike as ids, cosines and counts would tie each to the size of all the others.

    Args:
        hidden: widths of the hidden layers; empty for a logistic regression.
        dropout: probability that a hidden unit is dropped in training; of what is joined nothing is dropped.
        activation: of the hidden layers, see `moonlib.predictors.activations.make_activation`.

    Raises:
        ValueError: if a width is below 1, ``dropout`` outside [0, 1), or ``activation`` unknown.

    Example:
        >>> predictor = MLP([8, 4])
        >>> predictor.setup(16, matching=[6, 1])
        >>> predictor(torch.zeros(2, 16), [torch.zeros(2, 6), torch.zeros(2, 1)]).shape
        torch.Size([2])
    """

    joins: ClassVar[bool] = True

    def __init__(
        self, hidden: Sequence[int] = (128, 64), dropout: float = 0.0, activation: Activation = "relu"
    ) -> None:
        super().__init__()
        if any(width < 1 for width in hidden):
            raise ValueError(f"hidden widths must be at least 1, got {list(hidden)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        if activation not in get_args(Activation):
            raise ValueError(f"activation must be one of {', '.join(get_args(Activation))}, got {activation!r}")
        self.hidden = list(hidden)
        self.dropout = dropout
        self.activation = activation

    def setup(self, in_features: int, matching: Sequence[int] = ()) -> None:
        """Make the layers.

        Args:
            in_features: width of the features.
            matching: widths of what is joined, the logit's 1 last.

        Raises:
            ValueError: the last of ``matching`` is not 1, or there are more hidden outputs than hidden layers.
        """
        self.matching = list(matching)
        *joined, logit = self.matching or [1]
        if logit != 1:
            raise ValueError(f"the last matching point is a logit, of width 1; got widths {self.matching}")
        if len(joined) > len(self.hidden):
            raise ValueError(
                f"{len(joined)} hidden outputs are joined to the predictor's hidden layers, of which there are "
                f"{len(self.hidden)}: give hidden at least {len(joined)} widths"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width = in_features
        for i, out in enumerate(self.hidden):
            layers[f"hidden{i}"] = nn.Linear(width, out)
            layers[f"{self.activation}{i}"] = make_activation(self.activation, out)
            layers[f"dropout{i}"] = nn.Dropout(self.dropout)
            width = out + (joined[i] if i < len(joined) else 0)
        layers["logit"] = nn.Linear(width, 1)
        self.layers = nn.Sequential(layers)
        if self.matching:
            self.matched_scale = nn.Parameter(torch.ones(1))

    def forward(self, features: Tensor, matched: Sequence[Tensor] = ()) -> Tensor:
        """Predict.

        Args:
            features: float [B, in_features].
            matched: what is joined, float [B, width] for each width of `setup`'s ``matching``.

        Returns:
            logits, float [B].
        """
        if not self.matching:
            logits: Tensor = self.layers(features)
            return logits.squeeze(-1)
        *joined, logit = matched
        for i in range(len(self.hidden)):
            for layer in (f"hidden{i}", f"{self.activation}{i}", f"dropout{i}"):
                features = self.layers.get_submodule(layer)(features)
            if i < len(joined):
                features = torch.cat([features, joined[i]], dim=1)
        return (self.layers.get_submodule("logit")(features) + self.matched_scale * logit).squeeze(-1)
