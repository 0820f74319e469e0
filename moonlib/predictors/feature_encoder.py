"""From declared features to the input of a predictor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moonlib.clicks.features import FeatureBatch, FeatureSizes


class FeatureEncoder(nn.Module):
    """Embeds categorical features, averages the embeddings of multi-valued ones, takes numeric ones as they are.

    All categorical features share one table, in which each has rows of its own: one look-up serves all. So do the
    multi-valued ones. A list without values is all zeros.

    Args:
        sizes: of the features.
        id_dim: width E of an embedding.
        sparse: give the tables sparse gradients, for `moonlib.optimizers.lazy_adam.LazyAdam`.

    Attributes:
        out_features: (C + K) E + 2 N, of C categorical, K multi-valued and N numeric features.
    """

    def __init__(self, sizes: FeatureSizes, id_dim: int, sparse: bool = False) -> None:
        super().__init__()
        self.sizes = sizes
        self.out_features = (sizes.categorical + sizes.multi_valued) * id_dim + 2 * sizes.numeric
        # Small and not zero: as the ids of the click model.
        if sizes.categorical:
            self.categorical = nn.Embedding(sizes.categorical_rows, id_dim, sparse=sparse)
            nn.init.normal_(self.categorical.weight, std=0.01)
        if sizes.multi_valued:
            self.multi_valued = nn.EmbeddingBag(sizes.multi_valued_rows, id_dim, mode="mean", sparse=sparse)
            nn.init.normal_(self.multi_valued.weight, std=0.01)

    def forward(self, batch: FeatureBatch) -> Tensor:
        """Encode B impressions, float [B, out_features]: categorical, multi-valued, numeric."""
        parts = [batch.numeric]
        if self.sizes.multi_valued:
            # [K * B, E], feature by feature → [B, K * E]
            means = self.multi_valued(batch.values, batch.offsets)
            shape = (self.sizes.multi_valued, len(batch.numeric), self.multi_valued.embedding_dim)
            parts.insert(0, means.view(shape).transpose(0, 1).flatten(1))
        if self.sizes.categorical:
            parts.insert(0, self.categorical(batch.categorical).flatten(1))
        return torch.cat(parts, dim=1)
