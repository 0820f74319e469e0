from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.adapters.cosine import cosines
from moonlib.adapters.id_only import IdOnly
from moonlib.adapters.similarity import Similarity
from moonlib.adapters.simtier import SimTier, histogram, tiers
from moonlib.adapters.target_attention import ContentInterest, TargetAttention, attend
from moonlib.adapters.vector import Vector
from moonlib.testing import check_adapter

ID_DIM, DIM = 3, 5


def make_batch(rows: int = 6, length: int = 4, query_length: int = 3, seed: int = 0) -> BehaviourBatch:
    """Random behaviours; row 0 has no history at all, row 1 neither target nor query representation."""
    g = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    item_mask = torch.rand(rows, length, generator=g) < 0.7
    item_known = item_mask & (torch.rand(rows, length, generator=g) < 0.7)
    query_known = torch.rand(rows, query_length, generator=g) < 0.7
    target_known, has_query = torch.ones(rows, dtype=torch.bool), torch.ones(rows, dtype=torch.bool)
    item_mask[0] = item_known[0] = query_known[0] = False
    target_known[1:2] = has_query[1:2] = False
    return BehaviourBatch(
        target_id=randn(rows, ID_DIM),
        target=randn(rows, DIM) * target_known[:, None],
        target_known=target_known,
        item_ids=randn(rows, length, ID_DIM),
        item_mask=item_mask,
        items=randn(rows, length, DIM) * item_known[..., None],
        item_known=item_known,
        queries=randn(rows, query_length, DIM) * query_known[..., None],
        query_known=query_known,
        query=randn(rows, DIM) * has_query[:, None],
        has_query=has_query,
    )


def ready(adapter: Adapter) -> Adapter:
    adapter.setup(ID_DIM, DIM)
    return adapter


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def id_features(batch: BehaviourBatch, row: int) -> list[float]:
    target = batch.target_id[row].tolist()
    history = [
        ids for ids, real in zip(batch.item_ids[row].tolist(), batch.item_mask[row].tolist(), strict=True) if real
    ]
    mean = [sum(ids[d] for ids in history) / len(history) if history else 0.0 for d in range(ID_DIM)]
    return target + mean + [t * m for t, m in zip(target, mean, strict=True)]


def known_cosines(batch: BehaviourBatch, row: int, others: Tensor, known: Tensor) -> list[float | None]:
    target = batch.target[row].tolist()
    return [
        cosine(target, other) if k and batch.target_known[row] else None
        for other, k in zip(others[row].tolist(), known[row].tolist(), strict=True)
    ]


def test_id_only_row_by_row() -> None:
    batch, adapter = make_batch(), ready(IdOnly())
    expected = torch.tensor([id_features(batch, row) for row in range(6)])
    torch.testing.assert_close(adapter(batch), expected)


def test_vector_row_by_row() -> None:
    batch, adapter = make_batch(), ready(Vector())
    expected = []
    for row in range(6):
        features = id_features(batch, row)
        for vector, known in ((batch.target[row], batch.target_known[row]), (batch.query[row], batch.has_query[row])):
            length = math.sqrt(sum(x * x for x in vector.tolist()))
            features += [x / length * math.sqrt(DIM) if known else 0.0 for x in vector.tolist()]
        expected.append([*features, float(batch.target_known[row]), float(batch.has_query[row])])
    torch.testing.assert_close(adapter(batch), torch.tensor(expected))


@pytest.mark.parametrize("length", [2, 4, 7])
def test_similarity_row_by_row(length: int) -> None:
    batch, adapter = make_batch(), ready(Similarity(length))
    expected = []
    for row in range(6):
        history = [c or 0.0 for c in known_cosines(batch, row, batch.items, batch.item_known)][:length]
        history += [0.0] * (length - len(history))
        (query,) = known_cosines(batch, row, batch.query.unsqueeze(1), batch.has_query.unsqueeze(1))
        expected.append([*id_features(batch, row), *history, query or 0.0, float(query is not None)])
    torch.testing.assert_close(adapter(batch), torch.tensor(expected))


@pytest.mark.parametrize(("bins", "form", "log"), [(22, "muse", True), (8, "muse", False), (10, "equal", False)])
def test_simtier_row_by_row(bins: int, form: str, log: bool) -> None:
    batch, adapter = make_batch(length=9), ready(SimTier(bins, form, log))
    expected = []
    for row in range(6):
        features = id_features(batch, row)
        for others, known in (
            (batch.items, batch.item_known),
            (batch.queries, batch.query_known),
            (batch.query.unsqueeze(1), batch.has_query.unsqueeze(1)),
        ):
            counts = [0] * bins
            values = [c for c in known_cosines(batch, row, others, known) if c is not None]
            for c in values:
                if form == "muse":
                    counts[math.ceil((bins // 2 - 1) * c) + bins // 2 - 1] += 1
                else:
                    counts[math.floor((c + 1) / 2 * bins)] += 1
            features += [math.log(1 + n) for n in counts] if log else counts
        expected.append([*features, values[0] if values else 0.0])
    torch.testing.assert_close(adapter(batch), torch.tensor(expected))


def test_simtier_scales_its_logarithms_by_what_it_learns() -> None:
    batch, adapter = make_batch(), SimTier()
    adapter.setup(ID_DIM, DIM)
    assert adapter.scale is not None
    before = adapter(batch)
    with torch.no_grad():
        adapter.scale.fill_(3.0)
    counts = slice(3 * ID_DIM, 3 * ID_DIM + 3 * 22)
    torch.testing.assert_close(adapter(batch)[:, counts], 3 * before[:, counts])
    torch.testing.assert_close(adapter(batch)[:, -1], before[:, -1])
    adapter(batch).sum().backward()
    assert adapter.scale.grad is not None and adapter.scale.grad != 0


def test_golden_tiers_of_muse() -> None:
    values = torch.tensor([-1, -0.95, -0.05, 0, 0.05, 0.1, 0.11, 0.5, 0.999, 1])
    assert tiers(values, 22, "muse").tolist() == [0, 1, 10, 10, 11, 11, 12, 15, 20, 20]


def test_equal_tiers_cover_both_ends() -> None:
    values = torch.tensor([-1, -0.51, -0.5, -0.01, 0, 0.49, 0.5, 1])
    assert tiers(values, 4, "equal").tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_histogram_counts_only_what_is_known() -> None:
    tier = torch.tensor([[0, 2, 2, 1], [1, 1, 1, 1]])
    known = torch.tensor([[True, True, True, False], [False, False, False, False]])
    assert histogram(tier, known, 3).tolist() == [[1, 0, 2], [0, 0, 0]]


def test_cosines_of_parallel_vectors_stay_within_one() -> None:
    target = torch.tensor([[0.1, 0.7, 1e-3]])
    values = cosines(target, torch.stack([target * 3, target * -7], dim=1), torch.ones(1, 2, dtype=torch.bool))
    assert values.min() >= -1 and values.max() <= 1
    torch.testing.assert_close(values, torch.tensor([[1.0, -1.0]]))


def test_equal_content_is_told_apart_from_padding() -> None:
    """A real behaviour of cosine 0 counts in SimTier; padding does not."""
    batch, adapter = make_batch(rows=1, length=1), ready(SimTier(log=False))
    orthogonal = replace(
        batch,
        target=torch.eye(DIM)[:1],
        target_known=torch.ones(1, dtype=torch.bool),
        items=torch.eye(DIM)[1:2].unsqueeze(0),
        item_mask=torch.ones(1, 1, dtype=torch.bool),
        item_known=torch.ones(1, 1, dtype=torch.bool),
    )
    counts = slice(3 * ID_DIM, 3 * ID_DIM + 22)
    assert adapter(orthogonal)[0, counts].sum() == 1
    assert adapter(batch)[0, counts].sum() == 0


def softmax(scores: list[float]) -> list[float]:
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


def average(weights: list[float], vectors: list[list[float]], width: int) -> list[float]:
    return [sum(w * vector[d] for w, vector in zip(weights, vectors, strict=True)) for d in range(width)]


def id_interest(adapter: TargetAttention, batch: BehaviourBatch, row: int) -> list[float]:
    """Compare the target's projection with each real behaviour's, one at a time."""
    ids = batch.item_ids[row][batch.item_mask[row]]
    asked = adapter.ids.query.weight @ batch.target_id[row]
    scores = [(asked @ (adapter.ids.key.weight @ e)).item() / math.sqrt(ID_DIM) for e in ids]
    return average(softmax(scores), ids.tolist(), ID_DIM)


def content_interest(batch: BehaviourBatch, row: int, others: Tensor, known: Tensor, temperature: float) -> list[float]:
    scores, vectors = [], []
    for c, other in zip(known_cosines(batch, row, others, known), others[row].tolist(), strict=True):
        if c is not None:
            length = math.sqrt(sum(x * x for x in other))
            scores.append(c / temperature)
            vectors.append([x / length * math.sqrt(DIM) for x in other])
    return average(softmax(scores), vectors, DIM)


@pytest.mark.parametrize("over", ["id", "content", "both"])
def test_target_attention_row_by_row(over: str) -> None:
    torch.manual_seed(0)
    batch, adapter = make_batch(length=7), ready(TargetAttention(over))
    if over != "id":
        with torch.no_grad():
            adapter.queries.log_temperature.fill_(math.log(0.5))  # its own
    vector, expected = ready(Vector())(batch), []
    for row in range(6):
        (query,) = known_cosines(batch, row, batch.query.unsqueeze(1), batch.has_query.unsqueeze(1))
        features = [*vector[row].tolist(), query or 0.0]
        if over != "content":
            features += id_interest(adapter, batch, row)
        if over != "id":
            features += content_interest(batch, row, batch.items, batch.item_known, 0.1)
            features += content_interest(batch, row, batch.queries, batch.query_known, 0.5)
        expected.append(features)
    assert adapter.out_features == len(expected[0])
    torch.testing.assert_close(adapter(batch), torch.tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("over", ["id", "content", "both"])
def test_target_attention_keeps_the_promises_of_an_adapter(over: str) -> None:
    check_adapter(lambda: TargetAttention(over))


def test_content_interest_is_the_behaviour_that_the_target_resembles() -> None:
    target = torch.tensor([[3.0, 0.0]])
    behaviours = torch.tensor([[[0.0, 5.0], [0.2, 0.0], [-1.0, 0.0]]])
    interest = ContentInterest()
    with torch.no_grad():
        interest.log_temperature.fill_(-6.0)
    nearest = interest(target, behaviours, torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(nearest, torch.tensor([[math.sqrt(2), 0.0]]))


@settings(max_examples=30, deadline=None)
@given(real=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_attention_is_a_mean_of_what_is_real_and_of_nothing_else(real: list[list[bool]], seed: int) -> None:
    mask, g = torch.tensor(real), torch.Generator().manual_seed(seed)
    scores = (1e4 * torch.randn(mask.shape, generator=g)).requires_grad_()
    values = (torch.randn(*mask.shape, 3, generator=g) * mask.unsqueeze(-1)).requires_grad_()
    attended = attend(scores, values, mask)
    for row, there in enumerate(mask):
        if not there.any():
            assert not attended[row].any()
            continue
        low, high = values[row, there].aminmax(dim=0)
        assert (attended[row] >= low - 1e-5).all() and (attended[row] <= high + 1e-5).all()
        alone = attend(scores[row, there].unsqueeze(0), values[row, there].unsqueeze(0), there[there].unsqueeze(0))
        torch.testing.assert_close(attended[row], alone[0])
    attended.square().sum().backward()
    assert scores.grad is not None and values.grad is not None
    assert scores.grad.isfinite().all() and not scores.grad[~mask].any()
    assert values.grad.isfinite().all() and not values.grad[~mask].any()


def test_gradients_of_target_attention() -> None:
    torch.manual_seed(0)
    batch, adapter = make_batch(rows=3, length=3, query_length=2), ready(TargetAttention("both")).double()
    wide = {name: value.double() for name, value in vars(batch).items() if value.is_floating_point()}
    learnt = (wide["target_id"].requires_grad_(), wide["item_ids"].requires_grad_(), *adapter.parameters())

    def features(target_id: Tensor, item_ids: Tensor, *parameters: Tensor) -> Tensor:
        return adapter(replace(batch, **wide | {"target_id": target_id, "item_ids": item_ids}))

    assert len(learnt) == 2 + 4  # two projections and two temperatures
    torch.autograd.gradcheck(features, learnt, fast_mode=True)


ADAPTERS = [
    IdOnly(),
    Vector(),
    Similarity(6),
    SimTier(),
    SimTier(10, "equal", log=False),
    *(TargetAttention(over) for over in ("id", "content", "both")),
]


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("garbage", [1e9, math.nan, math.inf])
def test_padding_contributes_nothing(adapter: Adapter, garbage: float) -> None:
    batch = make_batch()
    adapter.setup(ID_DIM, DIM)
    dirty = replace(
        batch,
        item_ids=batch.item_ids.masked_fill(~batch.item_mask[..., None], garbage),
        items=batch.items.masked_fill(~batch.item_known[..., None], garbage),
        queries=batch.queries.masked_fill(~batch.query_known[..., None], garbage),
    )
    assert torch.equal(adapter(dirty), adapter(batch))


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda a: type(a).__name__)
def test_more_padding_changes_nothing(adapter: Adapter) -> None:
    batch = make_batch()
    adapter.setup(ID_DIM, DIM)
    longer = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if field.name.startswith(("item_", "items", "queries", "query_known")):
            value = F.pad(value, (0, 2) if value.ndim == 2 else (0, 0, 0, 2))
        longer[field.name] = value
    torch.testing.assert_close(adapter(BehaviourBatch(**longer)), adapter(batch))


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda a: type(a).__name__)
def test_no_history_at_all(adapter: Adapter) -> None:
    batch = make_batch(rows=2, length=0, query_length=0)
    adapter.setup(ID_DIM, DIM)
    features = adapter(batch)
    assert features.shape == (2, adapter.out_features)
    assert features.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Similarity(0), "length must be at least 1"),
        (lambda: SimTier(21), "even and at least 4"),
        (lambda: SimTier(2), "even and at least 4"),
        (lambda: SimTier(1, "equal"), "bins must be at least 2"),
        (lambda: TargetAttention("ids"), "over must be id, content or both, got 'ids'"),
    ],
)
def test_bad_arguments_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
