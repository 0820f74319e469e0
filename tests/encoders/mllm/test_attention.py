from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from moonlib.encoders.mllm.attention import attention_mask, pack, pool


def masks(lengths: list[int]) -> torch.Tensor:
    return torch.arange(max(*lengths, 1)) < torch.tensor(lengths)[:, None]


@given(st.lists(st.integers(0, 9), min_size=2, max_size=12), st.integers(1, 20))
def test_packed_sequences_hold_every_row_whole_in_order_and_once(lengths: list[int], capacity: int) -> None:
    places, segments = pack(masks(lengths), capacity)
    assert segments.shape[1] == max(capacity, *lengths)
    assert len(set(places.tolist())) == sum(lengths) == int((segments >= 0).sum())
    assert places.tolist() == sorted(places.tolist()), "images are taken in the order of the rows"
    start = 0
    for row, length in enumerate(lengths):
        own = places[start : start + length]
        start += length
        assert (segments.flatten()[own] == row).all()
        if length:
            assert own.tolist() == list(range(int(own[0]), int(own[0]) + length))
            assert own[0] // segments.shape[1] == own[-1] // segments.shape[1], "a row is not split"
    # No two neighbouring sequences would have fitted into one.
    used = (segments >= 0).sum(dim=1)
    firsts = [int((segments == row[0]).sum()) for row in segments[1:]]
    assert all(int(used[i]) + first > segments.shape[1] for i, first in enumerate(firsts))


@given(st.lists(st.integers(0, 5), min_size=2, max_size=6), st.booleans())
def test_a_token_sees_its_own_row_and_padding_is_seen_by_padding(lengths: list[int], causal: bool) -> None:
    _, segments = pack(masks(lengths), 8)
    allowed = attention_mask(segments, causal)[:, 0]
    for n, row in enumerate(segments.tolist()):
        for query, one in enumerate(row):
            for key, other in enumerate(row):
                assert allowed[n, query, key] == (one == other and (key <= query or not causal))
    assert allowed.any(dim=2).all()


def test_pooling_a_row_without_tokens_is_zero_with_finite_gradients() -> None:
    for how in ("mean", "last"):
        states = torch.randn(2, 3, 4, requires_grad=True)
        pooled = pool(states, torch.tensor([[True, True, False], [False] * 3]), how)
        assert not pooled[1].any()
        pooled.sum().backward()
        assert states.grad is not None and states.grad.isfinite().all() and not states.grad[1].any()
