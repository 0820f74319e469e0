"""Codes in place of vectors: residual k-means, each code with an embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.adapters.id_features import id_features
from moonlib.adapters.vector import unit_size
from moonlib.representations.residual_kmeans import fit_codebooks, nearest


class SemanticId(Adapter):
    """Ids that like items share: the codes of a representation, embedded and learnt like any id.

    A representation, scaled as in `Vector`, is the sum of one centroid per level, each the nearest to what the levels
    before left over; the numbers of the centroids are its codes. Its semantic id embedding is the sum of the codes'
    embeddings, and zero where there is no representation. The features are those of `id_features` over target and
    item history, and the present query's semantic id embedding.

    After a stage ``quantise`` the codes are those of its table, its number of levels and of centroids go over these
    arguments, and nothing is fitted here.

    Args:
        levels: how many codes a representation has.
        codes: centroids per level.
        seed: of k-means.

    Raises:
        ValueError: if ``levels`` is below 1 or ``codes`` below 2.

    Source: residual quantisation as in Rajput et al., "Recommender systems with generative retrieval" (arXiv
    2305.05065), by k-means per level; sums of code embeddings in a ranking model as in Singh et al., "Better
    generalization with semantic IDs" (arXiv 2306.08121). Coding the query beside the items is our addition.

    Example:
        >>> adapter = SemanticId()
        >>> adapter.setup(id_dim=16, dim=128)
        >>> adapter.out_features
        64
    """

    centroids: Tensor
    reads_codes = True

    def __init__(self, levels: int = 3, codes: int = 128, seed: int = 0) -> None:
        super().__init__()
        if levels < 1 or codes < 2:
            raise ValueError(f"levels must be at least 1 and codes at least 2, got {levels} and {codes}")
        self.levels, self.codes, self.seed = levels, codes, seed
        self.given: Tensor | None = None

    def setup(self, id_dim: int, dim: int) -> None:
        """Make the embeddings; the centroids are random until `fit`."""
        self.out_features = 4 * id_dim
        tables = [nn.Embedding(self.codes, id_dim) for _ in range(self.levels)]
        for table in tables:
            nn.init.normal_(table.weight, std=0.01)  # as the click model's own id embeddings
        self.embeddings = nn.ModuleList(tables)
        if self.given is not None and self.given.shape[2] != dim:
            raise ValueError(
                f"semantic_id: codebooks of width {self.given.shape[2]} for representations of width {dim}"
            )
        self.register_buffer(
            "centroids", torch.randn(self.levels, self.codes, dim) if self.given is None else self.given.clone()
        )

    def take_codebooks(self, codebooks: Tensor) -> None:
        """Code by the centroids of a stage ``quantise``, with its ``levels`` and ``codes``, in place of fitted ones."""
        self.levels, self.codes = codebooks.shape[:2]
        self.given = codebooks

    def fit(self, vectors: Tensor) -> None:
        """Place the centroids, level by level; with fewer distinct vectors than codes some stay unused."""
        if self.given is None and vectors.any():
            found = fit_codebooks(vectors, self.levels, self.codes, self.seed)
            self.centroids.copy_(found)

    def embed(self, vectors: Tensor, known: Tensor) -> Tensor:
        """Semantic id embeddings, float [..., E], of representations float [..., D] that are there, bool [...]."""
        residual = unit_size(vectors, known)
        total = residual.new_zeros(())
        for table, centroids in zip(self.embeddings, self.centroids, strict=True):
            code = nearest(residual, centroids)
            total = total + table(code)
            residual = residual - centroids[code]
        return total.masked_fill(~known.unsqueeze(-1), 0)

    def forward(self, batch: BehaviourBatch) -> Tensor:
        """Compute the features, float [B, 4 E]."""
        target = self.embed(batch.target, batch.target_known)
        history = self.embed(batch.items, batch.item_known)
        query = self.embed(batch.query, batch.has_query)
        return torch.cat([id_features(target, history, batch.item_known), query], dim=1)
