"""What the tests of all losses draw their scores and masks from."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def random_case() -> Callable[[int, int, int], tuple[Tensor, Tensor, Tensor]]:
    """Draws scores float64 [Q, N] in [-1, 1] with masks ``positive`` and ``ignore``, from (seed, Q, N)."""

    def draw(seed: int, queries: int, candidates: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        scores = torch.rand(queries, candidates, generator=generator, dtype=torch.float64) * 2 - 1
        kind = torch.randint(4, (queries, candidates), generator=generator)
        return scores, kind == 0, kind == 1

    return draw
