"""A loss among several of one stage."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from moonlib.losses.loss import Loss

TAKEN = "compatibility"
"""What a loss can't be called: this is logged beside them."""


@dataclass(frozen=True)
class WeightedLoss:
    """A loss, and how much it counts beside the others.

    In a recipe ``losses: {info_nce: 1, distill: {weight: 0.5, init_args: {teacher: collaborative}}}`` gives two of
    them, see `moonlib.config.losses`.

    Args:
        loss: the loss.
        weight: factor of its mean over the queries, at least 0.
        dims: the only dimensions that it reads: the name of a head of the encoder, or the first one and the one after
            the last. ``matryoshka`` does not apply to it then. None for all.

    Raises:
        ValueError: the weight is negative or no number, or ``forward`` of the loss takes what no loss is given.
    """

    loss: Loss
    weight: float = 1.0
    dims: str | list[int] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight: expected a number of at least 0, got {self.weight}")
        _ = self.loss.arguments

    def part(self, heads: Mapping[str, slice], dim: int) -> slice:
        """The dimensions that it reads.

        Args:
            heads: of the encoder, see `moonlib.encoders.encoder.Encoder.heads`.
            dim: width of the representation.

        Raises:
            ValueError: there is no such head, or there are no such dimensions.

        Example:
            >>> from moonlib.losses import InfoNCE
            >>> WeightedLoss(InfoNCE(), dims="look").part({"look": slice(96, 128)}, 128)
            slice(96, 128, None)
        """
        if self.dims is None:
            return slice(0, dim)
        if isinstance(self.dims, str):
            if self.dims not in heads:
                told = f"its heads are {', '.join(heads)}" if heads else "it has none"
                raise ValueError(f"dims: the encoder has no head '{self.dims}'; {told}")
            return heads[self.dims]
        if len(self.dims) != 2 or not 0 <= self.dims[0] < self.dims[1] <= dim:
            raise ValueError(
                f"dims: expected a head, or the first dimension and the one after the last, from 0 to {dim}, got "
                f"{self.dims}"
            )
        return slice(*self.dims)


def one_or_several(loss: Loss | None, losses: Mapping[str, WeightedLoss] | None) -> dict[str, WeightedLoss]:
    """The losses of a stage by name, in the order of their names' letters; a single one as ``loss``.

    Raises:
        ValueError: both are given, or neither, a name is not one that can be logged, or all weights are 0.
    """
    if (loss is None) == (losses is None):
        raise ValueError(
            "give one of loss and losses: `loss: NAME`, or `losses: {NAME: WEIGHT}`; `loss: null` takes out what the "
            "recipe says that this one extends"
        )
    if loss is not None:
        return {"loss": WeightedLoss(loss)}
    assert losses is not None
    if wrong := [name for name in losses if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name == TAKEN]:
        raise ValueError(f"losses: {wrong[0]!r} is no name for a loss: letters, digits, - and _, and not {TAKEN}")
    if not any(each.weight for each in losses.values()):
        raise ValueError(f"losses: expected at least one weight above 0, got {list(losses) or 'none'}")
    # A recipe says which there are and not in what order: results follow from what its fingerprint is made of.
    return dict(sorted(losses.items()))
