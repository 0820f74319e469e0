from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from moonlib.metrics.recall import Recall, ranks, recall_at


def by_sorting(
    queries: Tensor,
    gallery: Tensor,
    query_spu: Tensor,
    gallery_spu: Tensor,
    query_time: Tensor,
    listed_at: Tensor,
    own_spu: Tensor | None,
) -> list[int]:
    """Sort each query's own gallery, others before hits where scores are equal; count others before the first hit."""
    found = []
    for q in range(len(queries)):
        entries = []
        for n in range(len(gallery)):
            if listed_at[n] <= query_time[q] and (own_spu is None or gallery_spu[n] != own_spu[q]):
                score = F.cosine_similarity(queries[q], gallery[n], dim=0).item()
                hit = bool(gallery_spu[n] == query_spu[q])
                if not (hit and not gallery[n].any()):
                    entries.append((-round(score, 5), hit))
        hits = [hit for _, hit in sorted(entries)]
        others_first = hits.index(True) if True in hits and queries[q].any() else len(gallery)
        found.append(others_first)
    return found


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 8), st.integers(1, 25), st.sampled_from([1, 3, 100]), st.booleans())
def test_equals_sorting_each_gallery(seed: int, n_queries: int, n_items: int, chunk: int, of_others: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    # Few distinct coordinates: many ties, zero vectors and exact duplicates.
    queries = torch.randint(-1, 2, (n_queries, 3), generator=g).float()
    gallery = torch.randint(-1, 2, (n_items, 3), generator=g).float()
    query_spu = torch.randint(6, (n_queries,), generator=g) - 2**62
    gallery_spu = torch.randint(6, (n_items,), generator=g) - 2**62
    query_time, listed_at = torch.randint(9, (n_queries,), generator=g), torch.randint(9, (n_items,), generator=g)
    own_spu = torch.randint(6, (n_queries,), generator=g) - 2**62 if of_others else None
    expected = by_sorting(queries, gallery, query_spu, gallery_spu, query_time, listed_at, own_spu)
    found = ranks(queries, gallery, query_spu, gallery_spu, query_time, listed_at, chunk, own_spu)
    assert found.tolist() == expected


def test_duplicates_of_the_hit_count_against_us_at_any_width() -> None:
    """Equal vectors may score differently in the last bit, by where they stand in a matrix product."""
    g = torch.Generator().manual_seed(0)
    hit = torch.randn(1, 333, generator=g)
    gallery = torch.cat([hit, torch.randn(50, 333, generator=g) * 0.01, hit * 7, hit, -hit])
    spu = torch.arange(54)
    queries = hit + 0.3 * torch.randn(9, 333, generator=g)
    for chunk in (5, 7, 64):
        assert ranks(queries, gallery, torch.zeros(9, dtype=torch.int64), spu, chunk=chunk).tolist() == [2] * 9


def test_any_sku_of_the_spu_is_a_hit_and_none_is_a_rival() -> None:
    query = torch.tensor([[1.0, 0.0]])
    gallery = torch.tensor([[0.0, 1.0], [1.0, 0.1], [1.0, 0.2], [1.0, 0.05]])
    assert ranks(query, gallery, torch.tensor([5]), torch.tensor([5, 5, 5, 9])).tolist() == [1]


def test_a_product_listed_later_is_neither_hit_nor_rival() -> None:
    query, gallery = torch.tensor([[1.0, 0.0]] * 3), torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    spu, listed = torch.tensor([1, 2]), torch.tensor([10, 20])
    found = ranks(query, gallery, torch.tensor([1, 2, 2]), spu, torch.tensor([10, 19, 20]), listed)
    assert found.tolist() == [0, 2, 1]


def test_nothing_to_look_for_is_a_miss() -> None:
    gallery = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    queries = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    # No such SPU; a query without representation; an item without representation.
    assert ranks(queries, gallery, torch.tensor([9, 1, 2]), torch.tensor([1, 2])).tolist() == [2, 2, 2]


def test_length_of_vectors_does_not_matter() -> None:
    g = torch.Generator().manual_seed(1)
    queries, gallery = torch.randn(5, 8, generator=g), torch.randn(20, 8, generator=g)
    spu = torch.arange(20)
    scaled = ranks(queries * 1e-3, gallery * torch.rand(20, 1, generator=g) * 1e4, spu[:5], spu)
    assert torch.equal(scaled, ranks(queries, gallery, spu[:5], spu))


def test_recall_counts_ranks_below_k() -> None:
    found = torch.tensor([0, 9, 10, 500])
    assert recall_at(found, 1, 500).item() == 0.25
    assert recall_at(found, 10, 500).item() == 0.5
    assert recall_at(found, 500, 500).item() == 0.75
    assert recall_at(found[:0], 10, 500).isnan()


def test_halves_merge_to_the_whole() -> None:
    found = torch.randint(50, (101,))
    first, second = Recall(10), Recall(10)
    first.update(found[:30], gallery=50)
    second.update(found[30:], gallery=50)
    first.merge_state(second)
    assert first.compute().item() == recall_at(found, 10, 50).item()


def test_k_beyond_the_gallery_is_refused() -> None:
    message = "recall@10 needs a gallery of at least 10 items, this one has 9"
    with pytest.raises(ValueError, match=message):
        recall_at(torch.tensor([0]), 10, 9)
    with pytest.raises(ValueError, match=message):
        Recall(10).update(torch.tensor([0]), gallery=9)
    with pytest.raises(ValueError, match="k must be at least 1"):
        Recall(0)


def test_bad_input_is_refused() -> None:
    two, ids = torch.eye(2), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="1 of 2 gallery_vectors are not finite"):
        ranks(two, torch.tensor([[1.0, 0.0], [math.nan, 0.0]]), ids, ids)
    with pytest.raises(ValueError, match="queries have 2 dimensions, the gallery 3"):
        ranks(two, torch.ones(2, 3), ids, ids)
    with pytest.raises(ValueError, match=r"query_spu must be int64 \[2\], got torch.float32"):
        ranks(two, two, ids.float(), ids)
    with pytest.raises(ValueError, match=r"gallery_spu must be int64 \[2\]"):
        ranks(two, two, ids, ids[:1])
    with pytest.raises(ValueError, match="both query_time and listed_at, or neither"):
        ranks(two, two, ids, ids, query_time=ids)
