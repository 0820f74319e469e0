from __future__ import annotations

import numpy as np
import torch

from moonlib.negatives.in_batch import InBatch
from moonlib.negatives.negative_sampler import Candidates
from moonlib.pairs.pairs import Pairs


def test_asks_for_nothing_and_adds_nothing() -> None:
    sampler = InBatch()
    ids = np.array([3, -(2**63), 5], dtype=np.int64)
    proposed = sampler.propose(Pairs(ids, ids, ids[:, None], "query"), 0, np.random.default_rng(0))
    assert proposed.shape == (3, 0) and proposed.dtype == np.int64

    pool = Candidates(torch.randn(3, 4), torch.arange(3), torch.arange(3), torch.zeros(3, dtype=torch.int64))
    extended = sampler.extend(pool)
    assert torch.equal(extended.representations, pool.representations)
    assert torch.equal(extended.item_id, pool.item_id)
    assert sampler.state_dict() == {}
