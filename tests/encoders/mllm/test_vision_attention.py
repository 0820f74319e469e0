from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from moonlib.encoders.mllm.vision_attention import attend_within


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any), st.integers(1, 3), st.booleans())
def test_parts_of_a_sequence_attend_to_themselves(lengths: list[int], heads: int, alike: bool) -> None:
    lengths = [max(lengths)] * len(lengths) if alike else lengths
    random = torch.Generator().manual_seed(sum(lengths))
    query, key, value = torch.randn(3, heads, sum(lengths), 4, generator=random, dtype=torch.float64).requires_grad_()
    ends = torch.tensor(lengths).cumsum(0)
    found = attend_within(query, key, value, ends, max(lengths), scale=0.3)
    parts = []
    for end, length in zip(ends.tolist(), lengths, strict=True):
        q, k, v = (x[:, end - length : end] for x in (query, key, value))
        parts.append(((0.3 * q @ k.mT).softmax(dim=-1) @ v).transpose(0, 1))
    expected = torch.cat(parts)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(expected.shape, generator=random, dtype=torch.float64)
    for x in (query, key, value):
        gradients = (torch.autograd.grad((y * weights).sum(), x, retain_graph=True)[0] for y in (found, expected))
        torch.testing.assert_close(*gradients)
