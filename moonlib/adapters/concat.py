"""Several adapters side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moonlib.adapters.adapter import Adapter, BehaviourBatch


class Concat(Adapter):
    """The features of several adapters, one after the other.

    One of them at most may be pretrained or have `Adapter.matching` outputs; its features come last, as the outputs end
    the features.

    Args:
        adapters: at least one.

    Raises:
        ValueError: if there is none, or more than one is pretrained or joins the predictor at matching points.

    Example: MUSE's pair is ``{class_path: concat, init_args: {adapters: [sa_ta, simtier]}}``.
    """

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        super().__init__()
        if not adapters:
            raise ValueError("adapters must name at least one")
        special = [adapter for adapter in adapters if adapter.pretraining_epochs or adapter.matching]
        if len(special) > 1:
            names = ", ".join(type(adapter).__name__ for adapter in special)
            raise ValueError(f"adapters: one at most may be pretrained or join the predictor, got {names}")
        self.parts = [*(adapter for adapter in adapters if adapter not in special), *special]
        self.adapters = nn.ModuleList(self.parts)
        self.reads_content = any(adapter.reads_content for adapter in adapters)
        self.reads_queries = any(adapter.reads_content and adapter.reads_queries for adapter in adapters)
        self.reads_codes = any(adapter.reads_codes for adapter in adapters)
        self.reads_query_ids = any(adapter.reads_query_ids for adapter in adapters)
        self.matching = self.parts[-1].matching
        self.pretraining_epochs = self.parts[-1].pretraining_epochs

    def setup(self, id_dim: int, dim: int) -> None:
        """Make the weights of each."""
        for adapter in self.parts:
            adapter.setup(id_dim, dim)
        self.out_features = sum(adapter.out_features for adapter in self.parts)

    def take_codebooks(self, codebooks: Tensor) -> None:
        """Hand codebooks on to each that reads codes."""
        for adapter in self.parts:
            if adapter.reads_codes:
                adapter.take_codebooks(codebooks)

    def fit(self, vectors: Tensor) -> None:
        """Fit each to the catalogue."""
        for adapter in self.parts:
            adapter.fit(vectors)

    def pretraining_logits(self, batch: BehaviourBatch) -> Tensor:
        """Predict with the one that is pretrained, float [B]."""
        return self.parts[-1].pretraining_logits(batch)

    def forward(self, batch: BehaviourBatch) -> Tensor:
        """Compute the features, float [B, sum of the adapters' out_features]."""
        return torch.cat([adapter(batch) for adapter in self.adapters], dim=1)
