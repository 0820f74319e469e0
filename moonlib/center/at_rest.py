"""Loss by keeping vectors small: neighbours that vectors of fewer dimensions, or of int8, no longer have."""

from __future__ import annotations

import numpy as np

from moonlib.center.base import Base
from moonlib.representations.index import TIE, nearest
from moonlib.representations.shared import rows_of_named
from moonlib.representations.store import Representations, unit

SAMPLE = 200
"""Products whose neighbours are compared."""
_K = 10


def recall_at_rest(base: Base, whole: Representations) -> float:
    """Recall@10 of vectors at rest against the vectors that the encoder made of the same products.

    The neighbours of a sample of products are searched exactly, by both, among the products that both have. A product
    is not counted as a neighbour of itself.

    Args:
        base: the vectors at rest.
        whole: the encoder's, of full width and precision, such as `moonlib embed` writes.

    Returns:
        Of the ten nearest by ``whole``, the share that is among the ten nearest by ``base``; within a tie, either
        product is right.

    Raises:
        ValueError: they have too few products in common, or ids of another type.
    """
    rows = rows_of_named(whole, base.ids)
    common = np.flatnonzero(rows >= 0)
    here, there = base.store.read(common), whole.read(rows[common])
    common = np.flatnonzero(here.any(axis=1) & there.any(axis=1))
    if len(common) < 2 * _K:
        raise ValueError(
            f"{len(common)} products have a vector both in the space and in what it is compared with; at least "
            f"{2 * _K} are needed to compare neighbours"
        )
    ids = np.arange(len(common))
    here, there = here[common], unit(there[common])
    sample = np.sort(np.random.default_rng(0).permutation(len(common))[:SAMPLE])
    found, _ = nearest(Representations(ids, here), here[sample], _K + 1)
    _, best = nearest(Representations(ids, there), there[sample], _K + 1)
    cosines = np.einsum("qd,qkd->qk", there[sample], there[found])
    right = (cosines >= best[:, -1:] - TIE) & (found != sample[:, None])
    return float(np.minimum(right.sum(axis=1), _K).mean() / _K)
