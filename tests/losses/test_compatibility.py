from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.losses.compatibility import movement


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 6))
def test_equals_one_minus_the_cosine_row_by_row(seed: int, rows: int, dim: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    new = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    old = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    old[torch.rand(rows, generator=generator) < 0.3] = 0
    expected = []
    for n, o in zip(new.tolist(), old.tolist(), strict=True):
        lengths = math.hypot(*n) * math.hypot(*o)
        expected.append(1 - sum(a * b for a, b in zip(n, o, strict=True)) / lengths if lengths else 0.0)
    torch.testing.assert_close(movement(new, old), torch.tensor(expected, dtype=torch.float64), atol=1e-7, rtol=1e-6)


def test_its_gradient_is_the_derivative_and_none_for_what_was_not_known() -> None:
    generator = torch.Generator().manual_seed(0)
    new = torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    old = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    old[2] = 0
    assert torch.autograd.gradcheck(lambda vectors: movement(vectors, old), new)
    (gradient,) = torch.autograd.grad(movement(new, old).sum(), new)
    assert gradient[2].tolist() == [0, 0, 0]
    assert gradient[[0, 1, 3]].any(dim=1).all()


def test_the_length_of_a_vector_has_no_say_and_half_precision_is_computed_in_full() -> None:
    new, old = torch.tensor([[0.6, 0.8]]), torch.tensor([[1.0, 0.0]])
    torch.testing.assert_close(movement(5 * new, 0.1 * old), movement(new, old))
    assert movement(new.half(), old.half()).dtype == torch.float32
    assert movement(old, old).item() == 0
