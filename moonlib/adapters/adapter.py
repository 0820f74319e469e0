"""Adapters turn a frozen representation into features of a downstream model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class BehaviourBatch:
    """A target, the shopper's behaviours before it and the query it was shown for: ids embedded, content looked up.

    B rows, item history length L, query history length M, id width E, representation width D. Histories run from
    newest to oldest. A ``*_known`` mask is False where there is no representation; its row is then all zeros.

    Attributes:
        target_id: float [B, E], embedding of the target's id.
        target: float [B, D], its representation.
        target_known: bool [B].
        item_ids: float [B, L, E], embeddings of the ids of the items acted upon.
        item_mask: bool [B, L], False for padding.
        items: float [B, L, D], their representations.
        item_known: bool [B, L], a real behaviour that has a representation (implies ``item_mask``).
        queries: float [B, M, D], representations of past queries.
        query_known: bool [B, M], a real past query that has a representation.
        query: float [B, D], representation of the present query.
        has_query: bool [B]; False also where there was no query at all, as in a feed or on a home page.
        query_id: float [B, E], embedding of the present query's id, queries of one text being one; all zeros where
            there was no query; E = 0 unless the adapter reads it, see `Adapter.reads_query_ids`.
        query_ids: float [B, M, E], those of past queries.
        query_mask: bool [B, M], False for padding.
    """

    target_id: Tensor
    target: Tensor
    target_known: Tensor
    item_ids: Tensor
    item_mask: Tensor
    items: Tensor
    item_known: Tensor
    queries: Tensor
    query_known: Tensor
    query: Tensor
    has_query: Tensor
    query_id: Tensor
    query_ids: Tensor
    query_mask: Tensor


class Adapter(nn.Module, ABC):
    """Maps a behaviour batch to features. Padding contributes exactly nothing.

    The click model has features of ids and side information of its own, see `moonlib.adapters.id_features`; an adapter
    adds what content says. A constructor takes the recipe's arguments; `setup` makes the weights once the widths are
    known; `fit` may look at the catalogue before training.

    Attributes:
        out_features: width F of the output, available after `setup`.
        reads_content: False for an adapter that reads ids only; nothing is then looked up for it (D = 0).
        reads_queries: False for an adapter that reads no representations of queries, neither of the present one nor of
            past ones; they need not be there then.
        reads_codes: True for an adapter that codes representations, by the codebooks of a stage ``quantise`` where
            there is one, see `take_codebooks`.
        reads_query_ids: True for an adapter that reads the embeddings of queries' ids, which are then learnt.
        matching: widths of the hidden outputs and, last, of the logit (1) that end the features and join a predictor at
            its hidden layers and its logit, see `moonlib.predictors.predictor.Predictor`. Empty for none.
        pretraining_epochs: how many epochs `pretraining_logits` is trained, before the click model and apart from it.
    """

    out_features: int
    reads_content: bool = True
    reads_queries: bool = True
    reads_codes: bool = False
    reads_query_ids: bool = False
    matching: tuple[int, ...] = ()
    pretraining_epochs: int = 0

    @abstractmethod
    def setup(self, id_dim: int, dim: int) -> None:
        """Make the weights.

        Args:
            id_dim: width E of the id embeddings.
            dim: width D of the representations.
        """

    def fit(self, vectors: Tensor) -> None:
        """Learn from the catalogue's representations, once, after `setup` and before training.

        Args:
            vectors: float [N, D], representations of products that training may see.
        """

    def take_codebooks(self, codebooks: Tensor) -> None:
        """Take the codebooks of a stage ``quantise``, before `setup`; only where `reads_codes`.

        Args:
            codebooks: float32 [levels, size, D], see `moonlib.representations.residual_kmeans`.

        Raises:
            NotImplementedError: the adapter says that it reads codes and does not define this.
        """
        raise NotImplementedError(f"{type(self).__name__} sets reads_codes: define take_codebooks(codebooks) too")

    def pretraining_logits(self, batch: BehaviourBatch) -> Tensor:
        """Predict clicks by content alone; trained for `pretraining_epochs`.

        Args:
            batch: B rows.

        Returns:
            logits, float [B].
        """
        raise NotImplementedError(f"{type(self).__name__} has pretraining_epochs and no pretraining_logits")

    @abstractmethod
    def forward(self, batch: BehaviourBatch) -> Tensor:
        """Compute the features.

        Args:
            batch: B rows.

        Returns:
            float [B, out_features].
        """
