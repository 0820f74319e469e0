"""The base class of contrastive losses."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import polars as pl
from torch import Tensor, nn

from moonlib.data.ids import ShopIds
from moonlib.data.reads import NOTHING, Reads
from moonlib.pairs.catalogue import Catalogue
from moonlib.representations.store import Representations

ARGUMENTS: Mapping[str, str] = MappingProxyType(
    {
        "scores": "float [Q, N], cosine of each query with each candidate",
        "positive": "bool [Q, N], the candidates that the query is known to have led to",
        "ignore": "bool [Q, N], candidates that are neither positive nor negative; disjoint from positive",
        "queries": "float [Q, D], vectors of the queries, of length 1",
        "items": "float [Q, D], vectors of the queries' own items, of length 1",
        "candidates": "float [N, D], vectors of the candidates, of length 1",
        "item_id": "int64 [Q], the queries' own items",
        "spu_id": "int64 [Q], SPUs of the queries' own items",
        "candidate_id": "int64 [N]",
        "candidate_spu": "int64 [N]",
        "seed": "int, another one in each step, equal in all processes; for a loss that draws",
    }
)
"""What a loss may read, by the name of the argument of its ``forward``. Vectors of zeros stay zeros."""

OF_SCORES = frozenset({"scores", "positive", "ignore", "seed"})
"""The arguments that there are for any matrix of scores; the others are vectors, and the ids of what they are of."""


@dataclass(frozen=True)
class LossData:
    """Training data as a loss sees it: nothing is from after the end of training.

    Attributes:
        catalogue: the products that may be candidates.
        ids: the shop's ids of these.
        dim: width D of the vectors that the loss reads.
        directory: where it may keep files, the same for all processes.
        teacher: the vectors that `Loss.teacher` names; None where it names none.
        products: the columns of the products table that `Loss.reads` declares, and ``item_id``, of the catalogue's
            products in its order; None where it declares none.
    """

    catalogue: Catalogue
    ids: ShopIds
    dim: int
    directory: Path
    teacher: Representations | None = None
    products: pl.DataFrame | None = None


class Loss(nn.Module, ABC):
    """A function of what its ``forward`` names: one value per query.

    ``forward`` takes any of `ARGUMENTS`, by their names; most losses read scores and masks. Scale, bias and margins are
    parameters or arguments of the loss. Reduction, weights, chunking, the reverse direction and Matryoshka truncation
    belong to the stage.

    A loss that reads vectors (`reads_representations`) is computed once in a step: of all dimensions, and for queries
    against candidates only, whatever the stage says of ``matryoshka``, ``hardness`` and of both directions. The value
    of a query must depend on that query and on the candidates alone: a stage may ask for some queries at a time.

    Attributes:
        teacher: vectors of products that it learns from, as the recipe names them: a stage before this one, a run, or a
            folder or file that `moonlib embed` wrote. They come in `setup`, and their content is part of the stage's
            fingerprint. None for a loss that has no teacher.
    """

    teacher: str | None = None

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names in `ARGUMENTS` that ``forward`` takes.

        Raises:
            ValueError: it takes another one without a default.
        """
        return _arguments_of(type(self))

    @property
    def reads_representations(self) -> bool:
        """Whether it reads vectors, or the ids of what they are of; then it is computed once in a step, see above."""
        return not OF_SCORES.issuperset(self.arguments)

    def reads(self) -> Reads:
        """Declare which columns of the products table the loss learns from, by way of `LossData.products`.

        By default there are none. They are part of the stage's fingerprint, see `moonlib.stages.stage.Stage.reads`.
        """
        return NOTHING

    def start_from(self, logit_scale: tuple[float, float] | None) -> None:
        """Start from the scale and the bias that the encoder was trained with, where a recipe says so.

        A stage calls it once, before training; by default it changes nothing.

        Args:
            logit_scale: factor of the scores and what is added to them; None for an encoder that has none, see
                `moonlib.encoders.encoder.Encoder.logit_scale`.

        Raises:
            ValueError: the recipe says so, and the encoder has none.
        """

    def setup(self, data: LossData) -> None:
        """Learn of the data and make weights of its size; called once, before training and before a state is restored.

        Weights made here are trained, saved and resumed with the stage. By default there are none.

        Args:
            data: see `LossData`.

        Raises:
            ValueError: an argument does not fit the data.
        """

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute one loss per query from arguments that are named in `ARGUMENTS`.

        Returns:
            float [Q]; 0 for a query without any positive, and for one that the loss has nothing to say about.
        """


def told(logit_scale: tuple[float, float] | None, argument: str) -> tuple[float, float]:
    """The encoder's scale and bias.

    Raises:
        ValueError: it has none; ``argument`` asks for it.
    """
    if logit_scale is None:
        raise ValueError(f"loss: {argument}: the encoder was not trained with a logit scale; give a number")
    return logit_scale


@lru_cache(maxsize=256)
def _arguments_of(cls: type[Loss]) -> tuple[str, ...]:
    """See `Loss.arguments`."""
    found = []
    for name, parameter in list(inspect.signature(cls.forward).parameters.items())[1:]:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            shown = f"{'*' * (1 + (parameter.kind is parameter.VAR_KEYWORD))}{name}"
            raise ValueError(
                f"{cls.__name__}.forward takes {shown if parameter.kind is not parameter.POSITIONAL_ONLY else name}: "
                f"name what it reads, any of {', '.join(ARGUMENTS)}"
            )
        if name in ARGUMENTS:
            found.append(name)
        elif parameter.default is parameter.empty:
            near = get_close_matches(name, ARGUMENTS, n=1)
            known = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(ARGUMENTS)}"
            raise ValueError(f"{cls.__name__}.forward takes '{name}', which no loss is given; {known}")
    return tuple(found)
