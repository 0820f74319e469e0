"""Whether neighbours are of one category."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from moonlib.probes import Probe, Represented


class Template(Probe):
    """The share of a product's nearest neighbours, by cosine, that are of its category.

    Every product listed by the end of the split is a possible neighbour; those asked about are a fixed random sample.
    A product without a representation has no neighbours, which counts as no match.

    Args:
        k: neighbours per product.
        sample: how many products are asked about.
    """

    def __init__(self, k: int = 10, sample: int = 2000) -> None:
        self.k = k
        self.sample = sample

    def __call__(self, represented: Represented) -> dict[str, float]:
        """Return ``same_category@k``."""
        _, end = represented.dataset.splits.window(represented.split)
        listed = represented.dataset.products.drop_nulls("category")  # a product may be of none
        listed = listed.filter(listed["listed_at"] < end)
        rows = represented.products.rows(listed["item_id"].to_numpy())
        listed, rows = listed.filter(rows >= 0), rows[rows >= 0]
        vectors = F.normalize(torch.from_numpy(np.array(represented.products.vectors[rows])).float(), dim=1)
        category = listed["category"].cast(str).rank("dense").to_torch()
        asked = torch.from_numpy(np.random.default_rng(0).permutation(len(rows))[: self.sample])
        k = min(self.k, len(rows) - 1)
        matches = 0
        for chunk in asked.split(1024):
            cosines = vectors[chunk] @ vectors.T
            cosines[torch.arange(len(chunk)), chunk] = -2  # below every cosine: nothing is its own neighbour
            near = cosines.topk(k, dim=1).indices
            same = category[near] == category[chunk].unsqueeze(1)
            matches += int((same & vectors[chunk].any(dim=1, keepdim=True)).sum())
        return {f"same_category@{self.k}": matches / max(1, k * len(asked))}
