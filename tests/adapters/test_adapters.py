from __future__ import annotations

import itertools
import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.adapters.behaviour_transformer import BehaviourTransformer, Block
from moonlib.adapters.concat import Concat
from moonlib.adapters.cosine import cosines
from moonlib.adapters.cube import Cube
from moonlib.adapters.din import Din
from moonlib.adapters.id_features import id_features
from moonlib.adapters.id_only import IdOnly
from moonlib.adapters.interaction import Interaction
from moonlib.adapters.learned_metric import LearnedMetric
from moonlib.adapters.make import Make
from moonlib.adapters.sa_ta import SATA
from moonlib.adapters.semantic_id import SemanticId
from moonlib.adapters.similarity import Similarity
from moonlib.adapters.simtier import SimTier, histogram, tiers
from moonlib.adapters.target_attention import ContentInterest, TargetAttention, attend
from moonlib.adapters.vector import Vector
from moonlib.testing import check_adapter
from moonlib.testing.examples import without_queries

ID_DIM, DIM = 3, 5


def make_batch(rows: int = 6, length: int = 4, query_length: int = 3, seed: int = 0) -> BehaviourBatch:
    """Random behaviours; row 0 has no history at all, row 1 neither target nor query representation."""
    g = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    item_mask = torch.rand(rows, length, generator=g) < 0.7
    item_known = item_mask & (torch.rand(rows, length, generator=g) < 0.7)
    query_mask = torch.rand(rows, query_length, generator=g) < 0.8
    query_known = query_mask & (torch.rand(rows, query_length, generator=g) < 0.8)
    target_known, has_query = torch.ones(rows, dtype=torch.bool), torch.ones(rows, dtype=torch.bool)
    item_mask[0] = item_known[0] = query_mask[0] = query_known[0] = False
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
        query_id=randn(rows, ID_DIM),
        query_ids=randn(rows, query_length, ID_DIM),
        query_mask=query_mask,
    )


def ready(adapter: Adapter) -> Adapter:
    adapter.setup(ID_DIM, DIM)
    return adapter


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def known_cosines(batch: BehaviourBatch, row: int, others: Tensor, known: Tensor) -> list[float | None]:
    target = batch.target[row].tolist()
    return [
        cosine(target, other) if k and batch.target_known[row] else None
        for other, k in zip(others[row].tolist(), known[row].tolist(), strict=True)
    ]


def test_id_features_row_by_row() -> None:
    batch, expected = make_batch(), []
    for row in range(6):
        target = batch.target_id[row].tolist()
        history = batch.item_ids[row][batch.item_mask[row]].tolist()
        mean = [sum(ids[d] for ids in history) / len(history) if history else 0.0 for d in range(ID_DIM)]
        expected.append(target + mean + [t * m for t, m in zip(target, mean, strict=True)])
    found = id_features(batch.target_id, batch.item_ids, batch.item_mask)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_id_only_adds_nothing() -> None:
    assert ready(IdOnly())(make_batch()).shape == (6, 0)


def test_vector_row_by_row() -> None:
    batch, adapter = make_batch(), ready(Vector())
    expected = []
    for row in range(6):
        features: list[float] = []
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
        expected.append([*history, query or 0.0, float(query is not None)])
    torch.testing.assert_close(adapter(batch), torch.tensor(expected))


@pytest.mark.parametrize(("bins", "form", "log"), [(22, "muse", True), (8, "muse", False), (10, "equal", False)])
def test_simtier_row_by_row(bins: int, form: str, log: bool) -> None:
    batch, adapter = make_batch(length=9), ready(SimTier(bins, form, log))
    expected = []
    for row in range(6):
        features: list[float] = []
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
    counts = slice(0, 3 * 22)
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
    counts = slice(0, 22)
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


class PretrainedOnly(Make):
    """Is pretrained, and joins nothing at matching points."""

    def __init__(self) -> None:
        super().__init__(epochs=2)
        self.matching = ()


def test_concat_pretrains_what_joins_nothing_too_and_one_alone() -> None:
    adapter = Concat([PretrainedOnly(), SimTier()])
    adapter.setup(ID_DIM, DIM)
    batch = make_batch()
    assert adapter.pretraining_epochs == 2 and adapter.matching == ()
    torch.testing.assert_close(adapter.pretraining_logits(batch), adapter.adapters[1].pretraining_logits(batch))
    with pytest.raises(
        ValueError, match="one at most may be pretrained or join the predictor, got PretrainedOnly, Make"
    ):
        Concat([PretrainedOnly(), Make()])


@pytest.mark.parametrize("weights", ["softmax", "raw"])
def test_cube_row_by_row(weights: str) -> None:
    torch.manual_seed(0)
    batch, adapter = make_batch(length=5), ready(Cube(weights, 0.2, length=4, query_length=4))
    vector, expected = ready(Vector())(batch), []
    for row in range(6):
        (query,) = known_cosines(batch, row, batch.query.unsqueeze(1), batch.has_query.unsqueeze(1))
        features = [*vector[row].tolist(), query or 0.0, *batch.query_id[row].tolist()]
        for part, ids, real, content, known, length in (
            (adapter.items, batch.item_ids, batch.item_mask, batch.items, batch.item_known, 4),
            (adapter.queries, batch.query_ids, batch.query_mask, batch.queries, batch.query_known, 4),
        ):
            there = ids[row][real[row]]
            asked = part.ids.query.weight @ batch.target_id[row]
            dots = [(asked @ (part.ids.key.weight @ e)).item() / math.sqrt(ID_DIM) for e in there]
            features += average(softmax(dots), there.tolist(), ID_DIM)
            similarity = known_cosines(batch, row, content, known)
            chosen = [b for b, s in enumerate(similarity) if s is not None]
            cosine_of = [similarity[b] for b in chosen]
            w = softmax([s / 0.2 for s in cosine_of]) if weights == "softmax" else cosine_of
            features += average(w, [ids[row, b].tolist() for b in chosen], ID_DIM)
            features += ([s or 0.0 for s in similarity] + [0.0] * length)[:length]
            units = [(F.normalize(content[row, b], dim=0) * math.sqrt(DIM)).tolist() for b in chosen]
            features += average(w, units, DIM)
        expected.append(features)
    assert adapter.out_features == len(expected[0])
    torch.testing.assert_close(adapter(batch), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_sa_ta_row_by_row() -> None:
    batch, adapter = make_batch(length=6), ready(SATA((0.5, 2.0, -1.5), temperature=0.3))
    expected = []
    for row in range(6):
        scores, values = [], []
        similarity = known_cosines(batch, row, batch.items, batch.item_known)
        for b in range(6):
            if batch.item_mask[row, b]:
                dot = sum(
                    x * y for x, y in zip(batch.target_id[row].tolist(), batch.item_ids[row, b].tolist(), strict=True)
                )
                sharp = (similarity[b] or 0.0) / 0.3
                scores.append(0.5 * dot + 2.0 * sharp - 1.5 * dot * sharp)
                values.append(batch.item_ids[row, b].tolist())
        expected.append(average(softmax(scores), values, ID_DIM))
    torch.testing.assert_close(adapter(batch), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_sa_ta_starts_where_muse_does_and_learns_all_four() -> None:
    batch, adapter = make_batch(), ready(SATA())
    assert adapter.beta.tolist() == [1, 1, 1] and math.isclose(adapter.log_temperature.exp().item(), 0.1, rel_tol=1e-6)
    adapter(batch).square().sum().backward()
    assert (adapter.beta.grad != 0).all() and adapter.log_temperature.grad != 0


def test_semantic_ids_are_those_of_the_nearest_centroids_level_by_level() -> None:
    torch.manual_seed(0)
    adapter = SemanticId(levels=2, codes=3)
    adapter.setup(ID_DIM, DIM)
    adapter.fit(torch.randn(50, DIM))
    batch = make_batch()
    expected = []
    for row in range(6):

        def embed(vector: Tensor, known: Tensor) -> list[float]:
            if not known:
                return [0.0] * ID_DIM
            left, total = F.normalize(vector, dim=0) * math.sqrt(DIM), torch.zeros(ID_DIM)
            for table, centroids in zip(adapter.embeddings, adapter.centroids, strict=True):
                code = min(range(3), key=lambda k: (left - centroids[k]).norm().item())
                total, left = total + table.weight[code], left - centroids[code]
            return total.tolist()

        target = embed(batch.target[row], batch.target_known[row])
        history = [embed(batch.items[row, b], torch.tensor(True)) for b in range(4) if batch.item_known[row, b]]
        mean = average([1 / max(len(history), 1)] * len(history), history, ID_DIM)
        query = embed(batch.query[row], batch.has_query[row])
        expected.append([*target, *mean, *(t * m for t, m in zip(target, mean, strict=True)), *query])
    torch.testing.assert_close(adapter(batch), torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_semantic_ids_of_like_products_are_alike_and_each_level_tells_more() -> None:
    g = torch.Generator().manual_seed(0)
    vectors = torch.randn(400, 16, generator=g)
    adapter = SemanticId(levels=3, codes=16)
    adapter.setup(ID_DIM, 16)
    adapter.fit(vectors)
    known = torch.ones(400, dtype=torch.bool)
    relisted = adapter.embed(vectors + 1e-4 * torch.randn(400, 16, generator=g), known)
    assert (relisted == adapter.embed(vectors, known)).all(dim=1).float().mean() > 0.95
    left = F.normalize(vectors, dim=1) * 4
    sizes = [left.square().sum().item()]
    for centroids in adapter.centroids:
        left = left - centroids[torch.cdist(left, centroids).argmin(dim=1)]
        sizes.append(left.square().sum().item())
    assert all(after < 0.9 * before for before, after in itertools.pairwise(sizes))


def test_fewer_products_than_codes_and_none_at_all() -> None:
    for vectors in (torch.randn(3, DIM), torch.zeros(4, DIM), torch.zeros(0, DIM)):
        adapter = SemanticId(levels=2, codes=8)
        adapter.setup(ID_DIM, DIM)
        adapter.fit(vectors)
        assert adapter(make_batch()).isfinite().all()


def test_make_gives_its_hidden_outputs_and_logit_in_order_and_without_gradient() -> None:
    torch.manual_seed(0)
    batch, adapter = make_batch(), Make(width=2, hidden=[4, 3])
    adapter.setup(ID_DIM, DIM)
    features = adapter(batch)
    assert not features.requires_grad and adapter.matching == (4, 3, 1)
    inputs, first, second, logit = features.split([11, 4, 3, 1], dim=1)
    torch.testing.assert_close(first, adapter.layers[0](inputs).relu())
    torch.testing.assert_close(second, adapter.layers[1](first).relu())
    torch.testing.assert_close(logit.squeeze(1), adapter.pretraining_logits(batch))


def test_make_adds_up_behaviours_by_the_weight_of_each() -> None:
    torch.manual_seed(0)
    batch, adapter = make_batch(), Make(width=2, hidden=[4])
    adapter.setup(ID_DIM, DIM)
    unit, interest = adapter.item_unit, adapter(batch)[:, 4:6]
    for row in range(6):
        expected = torch.zeros(2)
        scaled = F.normalize(torch.cat([batch.target[row : row + 1], batch.items[row]]), dim=1) * math.sqrt(DIM)
        target, *others = adapter.project(scaled)
        for c, z in zip(known_cosines(batch, row, batch.items, batch.item_known), others, strict=True):
            if c is not None:
                inputs = torch.cat([target, z, target * z, torch.tensor([c])])
                expected = expected + unit.out(unit.hidden(inputs).relu()) * z
        torch.testing.assert_close(interest[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [None, 2])
def test_interaction_row_by_row(width: int | None) -> None:
    torch.manual_seed(0)
    batch, adapter = make_batch(length=5), Interaction(width)
    adapter.setup(ID_DIM, DIM)
    w = width or DIM

    def scaled(vector: Tensor) -> list[float]:
        length = math.sqrt(sum(x * x for x in vector.tolist()))
        unit = [x / length * math.sqrt(DIM) for x in vector.tolist()]
        if width is None:
            return unit
        return [sum(a * x for a, x in zip(weights, unit, strict=True)) for weights in adapter.project.weight.tolist()]

    expected = []
    for row in range(6):
        target = scaled(batch.target[row]) if batch.target_known[row] else [0.0] * w
        others: list[list[float]] = []
        for history, known in ((batch.items, batch.item_known), (batch.queries, batch.query_known)):
            there = [scaled(vector) for vector, k in zip(history[row], known[row], strict=True) if k]
            others.append([sum(v[d] for v in there) / len(there) if there else 0.0 for d in range(w)])
            others.append([max(v[d] for v in there) if there else 0.0 for d in range(w)])
        others.append(scaled(batch.query[row]) if batch.has_query[row] else [0.0] * w)
        expected.append([t * o for other in others for t, o in zip(target, other, strict=True)])
    assert adapter.out_features == 5 * w
    torch.testing.assert_close(adapter(batch), torch.tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [None, 64])
@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_products_are_of_about_unit_size_whatever_the_scale_of_the_vectors(width: int | None, scale: float) -> None:
    torch.manual_seed(0)
    batch = make_batch(rows=500)
    wide = {name: scale * torch.randn(*getattr(batch, name).shape[:-1], 64) for name in ("target", "query")}
    adapter = Interaction(width)
    adapter.setup(ID_DIM, 64)
    histories = {name: torch.randn(*getattr(batch, name).shape[:-1], 64) for name in ("items", "queries")}
    products = adapter(replace(batch, **wide, **histories))[2:, -64:]
    assert 0.7 < products.std() < 1.5


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm() * math.sqrt(len(vector))


def test_din_row_by_row() -> None:
    torch.manual_seed(0)
    batch, adapter = make_batch(length=5), Din(width=3, hidden=[4])
    adapter.setup(ID_DIM, DIM)
    project, expected = adapter.project.weight, []
    for row in range(6):
        target = project @ unit(batch.target[row]) if batch.target_known[row] else torch.zeros(3)
        query = project @ unit(batch.query[row]) if batch.has_query[row] else torch.zeros(3)
        interests = []
        for part, others, known in (
            (adapter.items, batch.items, batch.item_known),
            (adapter.queries, batch.queries, batch.query_known),
        ):
            total = torch.zeros(3)
            for vector, k in zip(others[row], known[row], strict=True):
                if k and batch.target_known[row]:
                    z = project @ unit(vector)
                    inputs = torch.cat([z, target, target * z, target - z])
                    total = total + part.out(part.layers[0](inputs).relu()) * z
            interests.append(total)
        expected.append(torch.cat([target, query, *interests]))
    torch.testing.assert_close(adapter(batch), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_learned_metric_row_by_row() -> None:
    torch.manual_seed(0)
    batch, adapter = make_batch(length=5), LearnedMetric(metrics=2, width=3, bins=4, top=3)
    adapter.setup(ID_DIM, DIM)
    middles, spread, expected = [-1, -1 / 3, 1 / 3, 1], 1 / 3, []
    for row in range(6):
        features: list[float] = []
        for h in range(2):
            project = adapter.project.weight[3 * h : 3 * h + 3]

            def similarity(vector: Tensor, project: Tensor = project, row: int = row) -> float:
                return cosine((project @ unit(batch.target[row])).tolist(), (project @ unit(vector)).tolist())

            items, queries, query = (
                [similarity(v) for v, k in zip(others[row], known[row], strict=True) if k and batch.target_known[row]]
                for others, known in (
                    (batch.items, batch.item_known),
                    (batch.queries, batch.query_known),
                    (batch.query[:, None], batch.has_query[:, None]),
                )
            )
            for values in (items, queries):
                for m in middles:
                    features.append(math.log(1 + sum(math.exp(-((v - m) ** 2) / 2 / spread**2) for v in values)))
            features += (sorted(items, reverse=True) + [0.0] * 3)[:3] + (query or [0.0])
        expected.append(features)
    torch.testing.assert_close(adapter(batch), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_learned_metric_learns_what_it_compares_by() -> None:
    """Of two dimensions of which one says what is alike, the projection turns to that one."""
    torch.manual_seed(0)
    rows, adapter = 512, LearnedMetric(metrics=1, width=2, bins=3, top=1)
    adapter.setup(ID_DIM, 2)
    head = torch.nn.Linear(adapter.out_features, 1)
    optimizer = torch.optim.Adam([*adapter.parameters(), *head.parameters()], 0.05)
    batch = make_batch(rows=rows, length=1)
    signs = torch.randint(0, 2, (rows, 2, 2)) * 2.0 - 1  # of target and behaviour, in both dimensions
    known = torch.ones(rows, 1, dtype=torch.bool)
    batch = replace(batch, target=signs[:, 0], items=signs[:, 1:], item_known=known, item_mask=known)
    batch = replace(batch, target_known=known[:, 0], queries=batch.queries[..., :2], query=batch.query[:, :2])
    alike = (signs[:, 0, 0] == signs[:, 1, 0]).float()
    with torch.no_grad():
        adapter.project.weight.copy_(torch.tensor([[0.6, 0.0], [0.0, 0.8]]))
    for _ in range(200):
        loss = F.binary_cross_entropy_with_logits(head(adapter(batch)).squeeze(1), alike)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    first, second = adapter.project.weight.norm(dim=0).tolist()
    assert first > second and loss < 0.3


@pytest.mark.parametrize("zeros", ["target", "items", "queries", "query"])
def test_learned_metric_compares_zeros_as_0_and_still_learns(zeros: str) -> None:
    """A representation of zeros that counts as known, such as of a blank picture: 0 / 0 must not reach a weight."""
    torch.manual_seed(0)
    batch, adapter = make_batch(length=3), LearnedMetric(metrics=2, width=3, top=2)
    adapter.setup(ID_DIM, DIM)
    features = adapter(replace(batch, **{zeros: torch.zeros_like(getattr(batch, zeros))}))
    features.square().sum().backward()
    assert adapter.project.weight.grad is not None
    assert features.isfinite().all() and adapter.project.weight.grad.isfinite().all()
    if zeros == "query":
        similarity = features.view(len(features), 2, -1)[:, :, -1]
        assert not similarity.any()


def test_behaviour_transformer_reads_order_content_and_ids_and_only_the_newest() -> None:
    torch.manual_seed(0)
    batch, adapter = make_batch(length=5), BehaviourTransformer(width=8, length=3, query_length=2, layers=2)
    adapter.setup(ID_DIM, DIM)
    known = torch.ones(6, 5, dtype=torch.bool)
    items = torch.randn(6, 5, DIM)
    batch = replace(batch, item_mask=known, item_known=known, items=items)
    features = adapter(batch)

    def changed(**parts: Tensor) -> bool:
        return not torch.allclose(adapter(replace(batch, **parts)), features, atol=1e-6)

    swapped, older, other = items.clone(), items.clone(), batch.item_ids.clone()
    swapped[:, [0, 1]] = items[:, [1, 0]]
    older[:, 3:] = 7.0
    other[:, 0] += 1
    assert changed(items=swapped) and changed(item_ids=other) and not changed(items=older)
    assert changed(target_id=batch.target_id + 1) and changed(queries=batch.queries.flip(0))
    assert features.shape == (6, 8)


def test_a_block_is_attention_by_a_loop() -> None:
    torch.manual_seed(0)
    block, tokens = Block(width=4, heads=2), torch.randn(1, 5, 4)
    real = torch.tensor([[True, False, True, True, False]])
    seen = block.before_attention(tokens)[0]
    asked = block.query(seen[0])
    mixed = []
    for head in range(2):
        part = slice(2 * head, 2 * head + 2)
        there = [t for t in range(5) if real[0, t]]
        scores = [(asked[part] @ block.key(seen[t])[part]).item() / math.sqrt(2) for t in there]
        values = [block.value(seen[t])[part].tolist() for t in there]
        mixed += average(softmax(scores), values, 2)
    hidden = tokens[0, 0] + block.out(torch.tensor(mixed))
    expected = hidden + block.network(block.before_network(hidden))
    torch.testing.assert_close(block(tokens[:, :1], tokens, real)[0, 0], expected, rtol=1e-4, atol=1e-5)


def test_concat_is_each_beside_the_other_and_what_joins_comes_last() -> None:
    torch.manual_seed(0)
    batch, adapter = make_batch(), Concat([Make(hidden=[4]), SimTier(), Cube()])
    adapter.setup(ID_DIM, DIM)
    simtier, cube, make = adapter.adapters
    assert [type(part) for part in adapter.adapters] == [SimTier, Cube, Make]
    torch.testing.assert_close(adapter(batch), torch.cat([simtier(batch), cube(batch), make(batch)], dim=1))
    assert adapter.matching == (4, 1) and adapter.pretraining_epochs == 3 and adapter.reads_query_ids
    torch.testing.assert_close(adapter.pretraining_logits(batch), make.pretraining_logits(batch))
    assert not Concat([IdOnly()]).reads_content


ADAPTERS = [
    IdOnly(),
    Vector(),
    Similarity(6),
    SimTier(),
    SimTier(10, "equal", log=False),
    *(TargetAttention(over) for over in ("id", "content", "both")),
    Cube(),
    Cube("raw", length=2, query_length=5),
    SATA(),
    Make(),
    SemanticId(),
    Interaction(),
    Interaction(width=4),
    Din(width=4, hidden=[3]),
    BehaviourTransformer(width=8, length=3, query_length=6),
    BehaviourTransformer(width=8, layers=2),
    LearnedMetric(metrics=2, width=3, top=2),
    LearnedMetric(top=9),
    Concat([Cube(), SimTier()]),
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
        query_ids=batch.query_ids.masked_fill(~batch.query_mask[..., None], garbage),
    )
    assert torch.equal(adapter(dirty), adapter(batch))


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda a: type(a).__name__)
def test_more_padding_changes_nothing(adapter: Adapter) -> None:
    batch = make_batch()
    adapter.setup(ID_DIM, DIM)
    longer = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if field.name.startswith(("item_", "items", "queries", "query_known", "query_mask", "query_ids")):
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
    "make", [Vector, Similarity, SimTier, TargetAttention, Cube, SATA, SemanticId, Interaction, IdOnly]
)
def test_without_a_query_what_depends_on_it_is_zero_and_nothing_else_changes(make: type[Adapter]) -> None:
    """As in a feed. What depends on the query is found by asking other queries."""
    batch = make_batch()
    torch.manual_seed(0)
    adapter = make()
    adapter.setup(ID_DIM, DIM)
    rows = adapter(batch)
    asked = torch.zeros(rows.shape[1], dtype=torch.bool)
    for seed in range(40):
        other = make_batch(seed=seed)
        has_query = other.has_query & (torch.arange(len(rows)) % 3 != seed % 3)
        query = other.query * has_query[:, None]
        changed = replace(batch, query=query, query_id=other.query_id, has_query=has_query)
        asked |= (adapter(changed) != rows).any(dim=0)
    assert asked.any() == (make not in (SATA, IdOnly))
    feed = adapter(without_queries(batch))
    assert not feed[:, asked].any()
    assert torch.equal(feed[:, ~asked], rows[:, ~asked])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Similarity(0), "length must be at least 1"),
        (lambda: SimTier(21), "even and at least 4"),
        (lambda: SimTier(2), "even and at least 4"),
        (lambda: SimTier(1, "equal"), "bins must be at least 2"),
        (lambda: TargetAttention("ids"), "over must be id, content or both, got 'ids'"),
        (lambda: Cube("hard"), "weights must be softmax or raw, got 'hard'"),
        (lambda: Cube(temperature=0.0), "temperature must be above 0"),
        (lambda: Cube(query_length=0), "must be at least 1, got 20 and 0"),
        (lambda: SATA((1.0, 1.0)), "beta must have three values"),
        (lambda: SATA(temperature=-1.0), "temperature must be above 0"),
        (lambda: Make(epochs=0), "must be at least 1"),
        (lambda: Make(hidden=[]), "must be at least 1"),
        (lambda: SemanticId(levels=0), "levels must be at least 1"),
        (lambda: SemanticId(codes=1), "codes at least 2"),
        (lambda: Interaction(width=0), "width must be at least 1, or null"),
        (lambda: Din(width=0), "width and hidden must be at least 1, got 0"),
        (lambda: BehaviourTransformer(layers=0), "must be at least 1"),
        (lambda: BehaviourTransformer(width=6, heads=4), "heads must divide width, got 4 and 6"),
        (lambda: LearnedMetric(top=0), "at least 1 and bins at least 2"),
        (lambda: LearnedMetric(bins=1), "at least 1 and bins at least 2"),
        (lambda: Concat([]), "must name at least one"),
        (lambda: Concat([Make(), SimTier(), Make()]), "one at most may be pretrained or join .* got Make, Make"),
    ],
)
def test_bad_arguments_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class Unmasked(Adapter):
    """Reads the query whether it is there or not."""

    def setup(self, id_dim: int, dim: int) -> None:
        self.out_features = dim

    def forward(self, batch: BehaviourBatch) -> Tensor:
        return batch.query


def test_the_check_of_adapters_tries_rows_without_a_query() -> None:
    with pytest.raises(AssertionError, match=r"forward: 1000\.0 in padding changes the features"):
        check_adapter(Unmasked)


def test_a_method_that_an_adapter_declares_and_does_not_define_is_named() -> None:
    class Declares(Adapter):
        reads_codes = True
        pretraining_epochs = 1

        def setup(self, id_dim: int, dim: int) -> None:
            self.out_features = 1

        def forward(self, batch: BehaviourBatch) -> Tensor:
            return torch.zeros(len(batch.target), 1)

    with pytest.raises(NotImplementedError, match=r"Declares sets reads_codes: define take_codebooks"):
        Declares().take_codebooks(torch.zeros(1, 2, 3))
    with pytest.raises(NotImplementedError, match=r"Declares has pretraining_epochs and no pretraining_logits"):
        Declares().pretraining_logits(None)  # type: ignore[arg-type]
