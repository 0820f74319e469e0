"""MAKE: a content model trained over several epochs lends its knowledge to the click model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.adapters.cosine import cosines
from moonlib.adapters.vector import unit_size


class Make(Adapter):
    """A multimodal DIN, pretrained by content alone for several epochs, then frozen and joined to the click model.

    Ids overfit after one epoch, content does not: it takes several to learn from. The DIN predicts clicks from the
    representations of target, query and behaviours; then the click model is trained with the DIN's input vector among
    its own features, the DIN's hidden outputs at its own hidden layers and the DIN's logit at its own logit.

    Args:
        epochs: how often the DIN sees the training impressions.
        width: to which representations are projected, P.
        hidden: widths of the DIN's hidden layers.

    Raises:
        ValueError: if ``epochs`` or a width is below 1, or there is no hidden layer.

    Source: MAKE in Sheng et al., "Enhancing Taobao display advertising with multimodal representations" (arXiv
    2407.19467); the activation unit and the sum without softmax are those of Zhou et al., "Deep interest network"
    (arXiv 1706.06978, section 4.3). The projection, the cosines and flags among the inputs and that the DIN is frozen
    are our choice.

    Example:
        >>> adapter = Make(width=32, hidden=[64, 32])
        >>> adapter.setup(id_dim=16, dim=128)
        >>> adapter.out_features, adapter.matching
        (228, (64, 32, 1))
    """

    def __init__(self, epochs: int = 3, width: int = 32, hidden: Sequence[int] = (64, 32)) -> None:
        super().__init__()
        if min([epochs, width, *hidden]) < 1 or not hidden:
            raise ValueError(f"epochs, width and hidden must be at least 1, got {epochs}, {width} and {list(hidden)}")
        self.pretraining_epochs = epochs
        self.hidden = list(hidden)
        self.matching = (*hidden, 1)
        self.width = width

    def setup(self, id_dim: int, dim: int) -> None:
        """Make the weights of the DIN."""
        self.project = nn.Linear(dim, self.width)
        self.item_unit, self.query_unit = ActivationUnit(self.width), ActivationUnit(self.width)
        inputs = 4 * self.width + 3
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise([inputs, *self.hidden])])
        self.logit = nn.Linear(self.hidden[-1], 1)
        self.out_features = inputs + sum(self.matching)

    def points(self, batch: BehaviourBatch) -> list[Tensor]:
        """The DIN's input vector [B, 4 P + 3], its hidden outputs and its logit [B, 1]."""
        known = batch.target_known.unsqueeze(1)
        both = known & batch.has_query.unsqueeze(1)

        def projected(vectors: Tensor, there: Tensor) -> Tensor:
            return self.project(unit_size(vectors, there)).masked_fill(~there.unsqueeze(-1), 0)

        target = projected(batch.target, batch.target_known)
        interests = []
        for unit, others, there in (
            (self.item_unit, batch.items, batch.item_known & known),
            (self.query_unit, batch.queries, batch.query_known & known),
        ):
            interests.append(unit(target, projected(others, there), cosines(batch.target, others, there), there))
        flags = torch.stack([batch.target_known, batch.has_query], dim=1).to(target.dtype)
        match = cosines(batch.target, batch.query.unsqueeze(1), both)
        points = [torch.cat([target, projected(batch.query, batch.has_query), *interests, match, flags], dim=1)]
        for layer in self.layers:
            points.append(layer(points[-1]).relu())
        return [*points, self.logit(points[-1])]

    def pretraining_logits(self, batch: BehaviourBatch) -> Tensor:
        """Predict clicks by content, float [B]."""
        return self.points(batch)[-1].squeeze(1)

    def forward(self, batch: BehaviourBatch) -> Tensor:
        """Return the frozen DIN's features of the batch, float [B, out_features]: `points`, one after the other."""
        return torch.cat(self.points(batch), dim=1).detach()


class ActivationUnit(nn.Module):
    """Σ_b a_b z_b with a_b = f(z_t, z_b, z_t * z_b, cos(r_t, r_b)), f a layer of 16 units and ReLU, not normalised.

    Args:
        width: P of the projected representations z.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * width + 1, 16)
        self.out = nn.Linear(16, 1)

    def forward(self, target: Tensor, behaviours: Tensor, similarity: Tensor, known: Tensor) -> Tensor:
        """Compute the interest, float [B, P].

        Args:
            target: float [B, P].
            behaviours: float [B, L, P], zeros where not known.
            similarity: float [B, L].
            known: bool [B, L].
        """
        targets = target.unsqueeze(1).expand_as(behaviours)
        inputs = torch.cat([targets, behaviours, targets * behaviours, similarity.unsqueeze(2)], dim=2)
        weights = self.out(self.hidden(inputs).relu()).squeeze(2).masked_fill(~known, 0)
        return torch.matmul(weights.unsqueeze(1), behaviours).squeeze(1)
