"""Nothing but ids: what every representation is measured against."""

from __future__ import annotations

from torch import Tensor

from moonlib.adapters.adapter import Adapter, BehaviourBatch


class IdOnly(Adapter):
    """No feature at all: the click model is left with its own, which are those of ids and side information."""

    reads_content = False

    def setup(self, id_dim: int, dim: int) -> None:
        """Fix the width, 0."""
        self.out_features = 0

    def forward(self, batch: BehaviourBatch) -> Tensor:
        """Return no features, float [B, 0]."""
        return batch.target_id[:, :0]
