"""Agreement of clusters with categories."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.data.reads import Reads
from moonlib.probes.probe import Probe, Represented
from moonlib.representations.store import unit


def normalised_mutual_information(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Mutual information of two labellings over the mean of their entropies.

    Args:
        one: int64 [n], any numbers.
        other: int64 [n].

    Returns:
        In [0, 1]: 1 where each tells the other, 0 where they are independent, or where one of them has one value.

    Source: Strehl and Ghosh, "Cluster ensembles" (JMLR 3, 2002), normalised by the arithmetic mean of the entropies.

    Example:
        >>> normalised_mutual_information(np.array([0, 0, 1, 1]), np.array([5, 5, 3, 3]))
        1.0
    """
    n = len(one)
    if not n:
        return 0.0
    joint, counts = np.unique(np.stack([one, other]), axis=1, return_counts=True)
    p = counts / n
    entropies, marginals = [], []
    for values in joint:
        _, place = np.unique(values, return_inverse=True)
        q = np.bincount(place, p)
        marginals.append(q[place])
        entropies.append(-float(q @ np.log(q)))
    information = float(p @ np.log(p / (marginals[0] * marginals[1])))
    return float(np.clip(2 * information / sum(entropies), 0.0, 1.0)) if min(entropies) > 0 else 0.0


def spherical_kmeans(vectors: NDArray[np.float32], clusters: int, seed: int = 0) -> NDArray[np.int64]:
    """Cluster unit vectors by cosine (faiss), the best of three starts; the same every time, on one thread.

    Args:
        vectors: float32 [n, D], unit vectors, n at least ``clusters``.
        clusters: k.
        seed: of the starts.

    Returns:
        int64 [n], the cluster of each.
    """
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        kmeans: Any = faiss.Kmeans(
            vectors.shape[1], clusters, niter=20, nredo=3, seed=seed, spherical=True, min_points_per_centroid=1
        )
        kmeans.train(vectors)
        assigned: NDArray[np.int64] = kmeans.index.search(vectors, 1)[1][:, 0].astype(np.int64)
    finally:
        faiss.omp_set_num_threads(threads)
    return assigned


class Clusters(Probe):
    """Normalised mutual information of k-means clusters and categories, with as many clusters as there are categories.

    All products that have a category and were listed by the end of the split take part, or a fixed random sample of
    them; those without a representation form a cluster of their own. Data without categories has no such agreement.

    Args:
        sample: how many products are clustered at most.
    """

    def __init__(self, sample: int = 50_000) -> None:
        self.sample = sample

    def reads(self) -> Reads:
        """See `Probe.reads`."""
        return Reads.of(products=["category", "listed_at"], moments=["train_until", "valid_until", "test_until"])

    def __call__(self, represented: Represented) -> dict[str, float]:
        """Return ``cluster_nmi``."""
        _, end = represented.dataset.splits.window(represented.split)
        listed = represented.dataset.table("products", ("item_id", "category", "listed_at"))
        listed = listed.filter(pl.col("listed_at") < end, pl.col("category").is_not_null())
        if listed.is_empty():
            return {}
        if len(listed) > self.sample:
            listed = listed.sample(self.sample, seed=0)
        category = listed["category"].cast(pl.String).rank("dense").to_numpy().astype(np.int64)
        vectors = unit(represented.products.gather(listed["item_id"].to_numpy()))
        known = vectors.any(axis=1)
        cluster = np.full(len(listed), -1)
        if known.any():
            cluster[known] = spherical_kmeans(vectors[known], min(len(np.unique(category)), int(known.sum())))
        return {"cluster_nmi": normalised_mutual_information(cluster, category)}
