"""A linear probe of products' attributes."""

from __future__ import annotations

from statistics import mean

import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from moonlib.data.reads import Reads
from moonlib.data.segments import segment_label
from moonlib.probes.held_out import LABEL_READS, Labelled
from moonlib.probes.probe import Probe, Represented


def ridge_probe(known: Tensor, label: Tensor, tested: Tensor, classes: int, penalty: float) -> Tensor:
    """The class with the highest ridge regression on one-hot targets, in closed form.

    W minimises |X W + b - Y|² / n + penalty |W|², where the intercept b is not penalised.

    Args:
        known: float [n, D], n at least 1.
        label: int64 [n], in [0, classes).
        tested: float [m, D].
        classes: C.
        penalty: on the squared weights; above 0.

    Returns:
        int64 [m].

    Source: Hoerl and Kennard, "Ridge regression: biased estimation for nonorthogonal problems" (Technometrics 12(1),
    1970); linear probes of frozen representations: Alain and Bengio (arXiv 1610.01644).
    """
    x, y = known.double(), F.one_hot(label, classes).double()
    centre, level = x.mean(dim=0), y.mean(dim=0)
    x = x - centre
    gram = x.T @ x / len(x) + penalty * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, x.T @ (y - level) / len(x))
    return ((tested.double() - centre) @ weights + level).argmax(dim=1)


class Attributes(Probe):
    """Accuracy of a linear probe for each attribute that sellers fill in.

    A ridge regression in closed form learns the values of an attribute from the products listed before the end of
    training, and is tested on those listed later that have the attribute (where none has, on a fifth of the SPUs listed
    before). A value that no product to learn from has, and a product without a representation, count as wrong.

    Args:
        penalty: of the ridge regression, on unit vectors.
        attributes: which; by default those that at least ``min_products`` of the products to learn from have.
        min_products: see ``attributes``.

    Raises:
        ValueError: if ``penalty`` is not above 0.
    """

    def __init__(self, penalty: float = 1e-4, attributes: list[str] | None = None, min_products: int = 50) -> None:
        if penalty <= 0:
            raise ValueError(f"penalty must be above 0, got {penalty}")
        self.penalty = penalty
        self.attributes = attributes
        self.min_products = min_products

    def reads(self) -> Reads:
        """See `Probe.reads`."""
        return Reads.of(products=["attributes", "listed_at"]) | LABEL_READS

    def __call__(self, represented: Represented) -> dict[str, float]:
        """Return ``attribute_accuracy@ATTRIBUTE`` of each, and ``attribute_accuracy``, their mean."""
        dataset = represented.dataset
        columns = dataset.table("products", ("item_id", "attributes", "listed_at"))
        pairs = columns.select("item_id", "listed_at", pl.col("attributes").cast(PAIRS)).explode("attributes")
        pairs = pairs.drop_nulls("attributes").unnest("attributes").drop_nulls("value").unique(["item_id", "key"])
        names = self.attributes
        if names is None:
            counts = dataset.splits.known(pairs).group_by("key").len()
            names = sorted(counts.filter(pl.col("len") >= self.min_products)["key"])
        found: dict[str, float] = {}
        for name in names:
            labels = pairs.filter(pl.col("key") == name).select("item_id", label="value")
            rows = Labelled.of(represented, labels)
            if rows is not None:
                found[f"attribute_accuracy@{segment_label(name)}"] = self.accuracy(rows)
        return {"attribute_accuracy": mean(found.values()), **found} if found else {}

    def accuracy(self, rows: Labelled) -> float:
        """Share of the tested products whose value the probe finds."""
        if not len(rows.known):
            return 0.0
        guess = ridge_probe(rows.known, rows.label, rows.tested, rows.classes, self.penalty)
        return float(((guess == rows.truth) & rows.tested.any(dim=1)).double().mean())


PAIRS = pl.List(pl.Struct({"key": pl.String, "value": pl.String}))
"""A map as polars lets itself be taken apart."""
