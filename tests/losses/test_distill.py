from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moonlib.data.ids import ShopIds
from moonlib.losses import Distill, Loss, LossData, Relational
from moonlib.losses.relational import correlation, ranks
from moonlib.pairs.catalogue import Catalogue
from moonlib.representations.store import Representations
from moonlib.testing import check_loss

PRODUCTS = 12
TAUGHT = np.random.default_rng(5).normal(size=(PRODUCTS, 4)).astype(np.float32)
KNOWN = np.array([i for i in range(PRODUCTS) if i not in (2, 7)])
"""Products that the teacher knows."""


def data(dim: int = 5, ids: np.ndarray = KNOWN, store: bool = True) -> LossData:
    products = np.arange(PRODUCTS)
    teacher = Representations(ids, TAUGHT[ids % PRODUCTS]) if store else None
    return LossData(Catalogue(products, products // 2, products * 0), ShopIds(), dim, Path(), teacher)


def ready(loss: Loss, **options: Any) -> Loss:
    loss.setup(data(**options))
    return loss.double()


def batch(seed: int, queries: int, candidates: int, dim: int = 5) -> dict[str, Tensor]:
    """Vectors of length 1; candidates begin with the queries' own items, some of which stand twice."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(PRODUCTS, (max(queries, candidates),), generator=rng)
    vectors = torch.nn.functional.normalize(
        torch.randn(queries + len(ids), dim, generator=rng, dtype=torch.float64), dim=1
    )
    return {
        "queries": vectors[:queries],
        "items": vectors[queries : 2 * queries],
        "candidates": vectors[queries:],
        "item_id": ids[:queries],
        "candidate_id": ids,
    }


def compared(given: dict[str, Tensor], row: int, between: str) -> list[tuple[float, float]]:
    """The cosines of a row with the candidates that count, the student's and the teacher's, one by one."""
    mine, found = int(given["item_id"][row]), []
    if mine not in KNOWN:
        return []
    for vector, other in zip(given["candidates"], given["candidate_id"].tolist(), strict=True):
        if other in KNOWN and other != mine:
            a, b = TAUGHT[mine].astype(np.float64), TAUGHT[other].astype(np.float64)
            student = float(given[between][row] @ vector)
            found.append((student, float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))))
    return found


def divergence(pairs: list[tuple[float, float]], t: float, u: float) -> float:
    if len(pairs) < 2:
        return 0.0
    q, p = [math.exp(s / t) for s, _ in pairs], [math.exp(r / u) for _, r in pairs]
    return sum(b / sum(p) * math.log((b / sum(p)) / (a / sum(q))) for a, b in zip(q, p, strict=True))


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 5),
    st.integers(1, 14),
    st.sampled_from(["items", "queries"]),
    st.sampled_from([(0.1, None), (0.5, 0.2)]),
)
def test_similarities_are_matched_as_the_definition_says(
    seed: int, queries: int, candidates: int, between: Any, temperatures: tuple[float, float | None]
) -> None:
    t, u = temperatures
    given_ = batch(seed, queries, candidates)
    loss = ready(Distill("t", between=between, temperature=t, teacher_temperature=u))
    expected = [divergence(compared(given_, row, between), t, t if u is None else u) for row in range(queries)]
    assert loss(**given_).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def pearson(pairs: list[tuple[float, float]], of: str) -> float:
    if len(pairs) < 3:
        return 0.0
    student, teacher = [s for s, _ in pairs], [r for _, r in pairs]
    if of == "ranks":
        teacher = [
            sum(round(other, 9) < round(r, 9) for other in teacher)
            + sum(round(other, 9) == round(r, 9) for other in teacher) / 2
            for r in teacher
        ]
    if len({round(r, 9) for r in teacher}) == 1 or len({round(s, 9) for s in student}) == 1:
        return 0.0
    return 1 - float(np.corrcoef(student, teacher)[0, 1])


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 5),
    st.integers(1, 14),
    st.sampled_from(["items", "queries"]),
    st.sampled_from(["ranks", "values"]),
)
def test_correlations_are_the_definitions(seed: int, queries: int, candidates: int, between: Any, of: Any) -> None:
    given_ = batch(seed, queries, candidates)
    loss = ready(Relational("t", of=of, between=between))
    expected = [pearson(compared(given_, row, between), of) for row in range(queries)]
    assert loss(**given_).tolist() == pytest.approx(expected, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("make", [Distill, partial(Relational, of="values")])
def test_a_student_with_the_teachers_own_vectors_costs_nothing(make: Any) -> None:
    """And one whose vectors are rotated, as likeness stays what it is."""
    ids = torch.tensor([0, 1, 3, 4, 5, 6, 3])
    vectors = torch.nn.functional.normalize(torch.from_numpy(TAUGHT).double()[ids], dim=1)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    for student in (vectors, vectors @ rotation):
        given_ = {"queries": -student, "items": student, "candidates": student, "item_id": ids, "candidate_id": ids}
        assert ready(make("t"), dim=4)(**given_).abs().max() < 1e-9


def test_the_order_of_likeness_is_what_ranks_prescribe() -> None:
    teacher = torch.tensor([[0.9, 0.2, 0.1, -0.5]], dtype=torch.float64)
    whole = torch.ones(1, 4, dtype=torch.bool)
    even = torch.tensor([[3.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
    assert correlation(even, ranks(teacher, whole), whole)[0].item() == pytest.approx(1)
    assert correlation(-even, ranks(teacher, whole), whole)[0].item() == pytest.approx(-1)


def test_vectors_are_matched_by_cosine() -> None:
    given_ = batch(3, 4, 6, dim=4)
    given_["item_id"] = torch.tensor([0, 2, 5, 7])  # 2 and 7 are unknown
    found = ready(Distill("t", match="vectors"), dim=4)(**given_).tolist()
    for row, product in ((0, 0), (2, 5)):
        a, b = given_["items"][row].numpy(), TAUGHT[product].astype(np.float64)
        assert found[row] == pytest.approx(1 - a @ b / np.linalg.norm(b), rel=1e-6)
    assert found[1] == found[3] == 0


@pytest.mark.parametrize("make", [Distill, Relational])
@pytest.mark.parametrize("between", ["items", "queries"])
def test_what_the_teacher_does_not_know_has_no_gradient(make: Any, between: Any) -> None:
    given_ = batch(1, 3, 8)
    given_["item_id"] = torch.tensor([2, 0, 1])
    given_["candidate_id"] = torch.tensor([2, 0, 1, 7, 3, 4, 5, 6])
    given_ = {name: value.requires_grad_() if value.is_floating_point() else value for name, value in given_.items()}
    loss = ready(make("t", between=between))
    loss(**given_).sum().backward()
    side, other = given_[between], given_["queries" if between == "items" else "items"]
    assert not side.grad[0].any() and side.grad[1].any() and side.grad[2].any()  # type: ignore[index]
    assert other.grad is None
    assert not given_["candidates"].grad[[0, 3]].any()  # type: ignore[index]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(Distill, "t", match="both"), "match must be"),
        (partial(Distill, "t", between="rows"), "between must be"),
        (partial(Distill, "t", temperature=0.0), "temperature must be above 0"),
        (partial(Distill, "t", teacher_temperature=-1.0), "teacher_temperature must be above 0"),
        (partial(Relational, "t", of="order"), "of must be"),
        (partial(Relational, "t", between="rows"), "between must be"),
    ],
)
def test_arguments_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_teacher_of_another_shop_or_width_is_refused() -> None:
    with pytest.raises(ValueError, match="teacher: none of the 12 products that are trained on has a vector in t"):
        ready(Distill("t"), ids=KNOWN + 100)
    with pytest.raises(
        ValueError, match="t has vectors of 4 dimensions, and what is trained has 5: match similarities"
    ):
        ready(Distill("t", match="vectors"), dim=5)
    with pytest.raises(ValueError, match="teacher: t was not opened"):
        ready(Relational("t"), store=False)


@pytest.mark.parametrize(
    "make",
    [
        partial(Distill, "t"),
        partial(Distill, "t", between="queries"),
        partial(Distill, "t", match="vectors"),
        partial(Relational, "t"),
        partial(Relational, "t", of="values", between="queries"),
    ],
)
def test_they_keep_the_promises_of_a_loss(make: Any) -> None:
    check_loss(make)


def test_autocast_leaves_cosines_in_full_precision() -> None:
    given_ = {name: v.float() if v.is_floating_point() else v for name, v in batch(2, 4, 8).items()}
    for loss in (Distill("t"), Relational("t")):
        loss.setup(data())
        exact = loss(**given_)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(loss(**given_), exact, rtol=0, atol=0)
