"""The nearest items that are no positives, under the encoder so far."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moonlib.data.reads import NOTHING, Reads
from moonlib.negatives.draw import draw_distinct
from moonlib.negatives.mining import mine
from moonlib.negatives.negative_sampler import PLANNED_AHEAD, NegativeSampler, TrainingData
from moonlib.pairs.pairs import Pairs
from moonlib.representations.store import Representations


class Mined(NegativeSampler):
    """Contrasts a query with items that the encoder, as it was a while ago, takes for its positive.

    Every so often the whole training catalogue is searched, by the cosine with each query, for the nearest items that
    are neither its positives nor other SKUs of these; each batch draws from what was found. Batches are planned ahead,
    so vectors are made 64 batches before they are first made use of.

    Args:
        k: items to load per query.
        refresh_every: batches between two searches.
        keep: candidates kept per pair, to draw from.
        skip: nearest candidates passed over: an item that looks most like a positive often is one.
        margin: candidates must be at least this much below the pair's own cosine; None for no such bound.
        relative_margin: the same as a share of the size of the pair's own cosine.
        approximate: search an index rather than all products; for catalogues of millions.

    Raises:
        ValueError: an argument is out of range.

    Source: Xiong et al., "Approximate nearest neighbor negative contrastive learning for dense text retrieval" (2021);
    bounds relative to the positive: de Souza Moreira et al., "NV-Retriever" (arXiv 2407.15831).
    """

    candidates: Tensor
    valid_from: Tensor

    def __init__(
        self,
        k: int = 1,
        refresh_every: int = 200,
        keep: int = 32,
        skip: int = 0,
        margin: float | None = None,
        relative_margin: float | None = None,
        approximate: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= k <= keep:
            raise ValueError(f"k must be between 1 and keep ({keep}), got {k}")
        if skip < 0:
            raise ValueError(f"skip must be at least 0, got {skip}")
        if refresh_every < PLANNED_AHEAD:
            raise ValueError(f"refresh_every must be at least {PLANNED_AHEAD}, got {refresh_every}")
        self.k, self.keep, self.skip = k, keep, skip
        self.refresh_every = refresh_every
        self.margin, self.relative_margin, self.approximate = margin, relative_margin, approximate

    def reads(self) -> Reads:
        """Nothing but ids; see `NegativeSampler.reads`."""
        return NOTHING

    def setup(self, data: TrainingData) -> None:
        """Make room for what is found; see `NegativeSampler.setup`."""
        self._pairs, self._catalogue = data.pairs, data.catalogue
        # Queries and items each in ascending order: a pair's place among all pairs is found by two searches.
        self._queries, self._query = np.unique(data.pairs.query_id, return_inverse=True)
        self._item = data.catalogue.rows(data.pairs.item_id)
        key = self._query * len(data.catalogue.item_id) + self._item
        self._order = np.argsort(key, kind="stable")
        self._keys = key[self._order]
        # What was found last, and what is to be made use of from a later batch on.
        self.register_buffer("candidates", torch.full((2, len(data.pairs), self.keep), -1, dtype=torch.int32))
        self.register_buffer("valid_from", torch.tensor([-1, -1]))

    def refresh(self, products: Representations, queries: Representations, step: int) -> None:
        """Search the catalogue with every query; see `NegativeSampler.refresh`."""
        catalogue, known = self._catalogue, self._pairs.positives
        if self._pairs.query_side == "product":  # of all products it is the nearest to itself
            known = np.concatenate([known, self._pairs.query_id[:, None]], axis=1)
        found = mine(
            queries.gather(self._queries),
            products.gather(catalogue.item_id),
            self._query,
            self._item,
            known=catalogue.rows(known),
            group=catalogue.spu_id,
            keep=self.keep,
            skip=self.skip,
            margin=self.margin,
            relative_margin=self.relative_margin,
            approximate=self.approximate,
        )
        table = torch.from_numpy(found.astype(np.int32)).to(self.candidates.device)
        self.candidates.copy_(torch.stack([self.candidates[1], table]))
        self.valid_from.copy_(torch.tensor([int(self.valid_from[1]), step]))

    def propose(self, pairs: Pairs, step: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw k of what was found for each pair, int64 [Q, k]; none where nothing was."""
        which = 1 if step >= int(self.valid_from[1]) else 0
        rows = torch.from_numpy(self._rows(pairs))
        found = self.candidates[which, rows.to(self.candidates.device)].cpu().numpy()
        place = draw_distinct((found >= 0).sum(axis=1), self.k, rng)
        drawn = self._catalogue.item_id[np.take_along_axis(found, place.clip(min=0), axis=1)]
        return np.where(place >= 0, drawn, pairs.item_id[:, None])

    def _rows(self, pairs: Pairs) -> NDArray[np.int64]:
        """The place of each pair among those that are trained on."""
        query = np.searchsorted(self._queries, pairs.query_id)
        key = query * len(self._catalogue.item_id) + self._catalogue.rows(pairs.item_id)
        return self._order[np.searchsorted(self._keys, key)]
