"""Zero-shot category accuracy: the nearest centroid."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moonlib.data.reads import Reads
from moonlib.probes.held_out import LABEL_READS, Labelled
from moonlib.probes.probe import Probe, Represented


def nearest_centroid(known: Tensor, label: Tensor, tested: Tensor, classes: int) -> Tensor:
    """The class whose mean points most nearly the same way.

    Args:
        known: float [n, D], unit vectors.
        label: int64 [n], in [0, classes).
        tested: float [m, D].
        classes: C.

    Returns:
        int64 [m]; -1 for a vector of zeros. A class without a vector is nobody's nearest.

    Example:
        >>> known = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> nearest_centroid(known, torch.tensor([1, 0]), torch.tensor([[0.1, 0.9], [0.0, 0.0]]), 2).tolist()
        [0, -1]
    """
    sums = known.new_zeros(classes, known.shape[1]).index_add(0, label, known)
    empty = torch.bincount(label, minlength=classes) == 0
    scores = (tested @ F.normalize(sums, dim=1).T).masked_fill(empty, -torch.inf)
    return scores.argmax(dim=1).masked_fill(~tested.any(dim=1), -1)


class Categories(Probe):
    """Whether a new product lies nearest to the centroid of its own category.

    A category's centroid is the mean of the unit vectors of its products listed before the end of training; products
    listed later are tested (where there are none, a fifth of the SPUs listed before, from which no centroid is made).
    Nothing is trained, no text has to name the category and no encoder is needed, which makes this the zero-shot
    accuracy of a prototype (Snell et al., "Prototypical networks for few-shot learning", NeurIPS 2017) and not CLIP's,
    whose prompts would ask for an encoder of texts. A product without a representation counts as wrong.

    Data without two categories has no such accuracy.
    """

    def reads(self) -> Reads:
        """See `Probe.reads`."""
        return Reads.of(products=["category"]) | LABEL_READS

    def __call__(self, represented: Represented) -> dict[str, float]:
        """Return ``category_accuracy``."""
        products = represented.dataset.table("products", ("item_id", "category"))
        found = Labelled.of(represented, products.rename({"category": "label"}))
        if found is None:
            return {}
        nearest = nearest_centroid(found.known, found.label, found.tested, found.classes)
        return {"category_accuracy": float(((nearest == found.truth) & (nearest >= 0)).double().mean())}
