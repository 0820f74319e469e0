"""Click model: embeddings of ids, side information, declared features and an adapter's, joined by a predictor."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.adapters.id_features import id_features
from moonlib.clicks.features import FeatureSizes
from moonlib.clicks.impressions import ImpressionBatch
from moonlib.predictors.feature_encoder import FeatureEncoder
from moonlib.predictors.predictor import Predictor
from moonlib.stages.tune import LowRankResidual, Tune

ID_STD = 0.01
"""Spread of an id's embedding before it is trained."""


class ClickModel(nn.Module):
    """Ids, side information and the adapter's features of an impression → the logit of a click.

    Args:
        adapter: reads target, behaviours and query.
        predictor: maps all features to a logit.
        sizes: rows of the embedding tables, of ``user``, ``item``, ``category``, ``merchant`` and, where the adapter
            reads them, ``query``.
        id_dim: width E of every embedding.
        dim: width D of the representations, 0 without any.
        features: sizes of the declared features, None without any.
        sparse: give embedding tables sparse gradients.
        tune: how the representations are tuned before the adapter sees any; None for as they are.
    """

    def __init__(
        self,
        adapter: Adapter,
        predictor: Predictor,
        sizes: Mapping[str, int],
        id_dim: int,
        dim: int,
        features: FeatureSizes | None = None,
        sparse: bool = False,
        tune: Tune | None = None,
    ) -> None:
        super().__init__()
        self.user, self.item, self.category, self.merchant = (
            nn.Embedding(sizes[name], id_dim, sparse=sparse) for name in ("user", "item", "category", "merchant")
        )
        self.query = nn.Embedding(sizes["query"], id_dim, sparse=sparse) if "query" in sizes else None
        for table in self.id_tables().values():
            # Small and not zero: an id says little until it is trained, and products of embeddings still learn.
            nn.init.normal_(table.weight, std=ID_STD)
        adapter.setup(id_dim, dim)
        self.features = FeatureEncoder(features, id_dim, sparse) if features else None
        declared = self.features.out_features if self.features else 0
        width = 6 * id_dim + 1 + declared + adapter.out_features
        # What joins the predictor at matching points is no input of it; a predictor that cannot be joined takes it so.
        self.matching = adapter.matching if predictor.joins else ()
        setup: Callable[..., None] = predictor.setup
        if self.matching:
            setup(width - sum(self.matching), self.matching)
        else:
            setup(width)
        self.adapter = adapter
        self.predictor = predictor
        # Made last: the other weights begin as they do without it.
        self.tune = LowRankResidual(dim, tune.rank) if tune and dim else None

    def id_tables(self) -> dict[str, nn.Embedding]:
        """The embedding tables of ids, by name."""
        tables = {"user": self.user, "item": self.item, "category": self.category, "merchant": self.merchant}
        return tables if self.query is None else {**tables, "query": self.query}

    def behaviours(self, batch: ImpressionBatch) -> BehaviourBatch:
        """Embed the ids of a batch, and tune its representations."""
        query_id, query_ids = (
            batch.price.new_zeros(*rows.shape, 0) if self.query is None else self.query(rows.clamp(min=0))
            for rows in (batch.query, batch.query_history)
        )
        query_id = query_id.masked_fill((batch.query < 0).unsqueeze(1), 0)
        target, items, queries, query = (
            vectors if self.tune is None else self.tune(vectors)
            for vectors in (
                batch.target_vector,
                batch.history_vectors,
                batch.query_history_vectors,
                batch.query_vector,
            )
        )
        return BehaviourBatch(
            target_id=self.item(batch.target),
            target=target,
            target_known=batch.target_known,
            item_ids=self.item(batch.history),
            item_mask=batch.history_mask,
            items=items,
            item_known=batch.history_known,
            queries=queries,
            query_known=batch.query_history_known,
            query=query,
            has_query=batch.has_query,
            query_id=query_id,
            query_ids=query_ids,
            query_mask=batch.query_history_mask,
        )

    def pretraining_logits(self, batch: ImpressionBatch) -> Tensor:
        """The logits of an adapter that is pretrained, float [B]."""
        return self.adapter.pretraining_logits(self.behaviours(batch))

    def forward(self, batch: ImpressionBatch) -> Tensor:
        """Return the logits, float [B]."""
        behaviours = self.behaviours(batch)
        ids = id_features(behaviours.target_id, behaviours.item_ids, behaviours.item_mask)
        side = [self.user(batch.user), self.category(batch.category), self.merchant(batch.merchant)]
        declared = [self.features(batch.features)] if self.features else []
        features = torch.cat([*side, batch.price.unsqueeze(1), *declared, ids, self.adapter(behaviours)], dim=1)
        if not self.matching:
            return self.predictor(features)
        inputs, *matched = features.split([features.shape[1] - sum(self.matching), *self.matching], dim=1)
        return self.predictor(inputs, matched)
