from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from moonlib.batches.loading import PairBatch
from moonlib.encoders.encoder import ContentBatch
from moonlib.losses.info_nce import InfoNCE
from moonlib.stages.contrast import contrastive_loss
from moonlib.stages.grad_cache import encode, refuse_batch_statistics


def batch() -> PairBatch:
    """Four queries, of which the first has two positives, and an extra item."""
    ids = torch.tensor([10, 11, 12, 13, 14])
    positives = torch.tensor([[10, 12], [11, 11], [12, 12], [13, 13]])
    content = {"row": torch.arange(4)}, {"row": torch.arange(4, 9)}
    return PairBatch(*content, ids, ids // 3, ids * 0, positives, positives // 3, torch.zeros(4, dtype=torch.int64))


class Dropped(nn.Module):
    """An encoder with dropout: to be encoded twice alike, its random state must be replayed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(9, 8).double()
        self.rows: list[int] = []

    def forward(self, content: ContentBatch) -> Tensor:
        self.rows.append(len(content["row"]))
        return nn.functional.dropout(self.table(content["row"]), 0.5)


def in_parts(encoder: Dropped, content: ContentBatch, rows: int) -> Tensor:
    """What the parts give one after the other, with every activation kept."""
    size = len(content["row"])
    return torch.cat([encoder({"row": content["row"][start : start + rows]}) for start in range(0, size, rows)])


@pytest.mark.parametrize("rows", [1, 2, 3, 9])
def test_dropout_is_replayed_to_the_bit(rows: int) -> None:
    content = {"row": torch.arange(9)}
    direction = torch.randn(9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for of in (in_parts, encode):
        encoder = Dropped()
        torch.manual_seed(3)
        found = of(encoder, content, rows)
        torch.rand(5)  # whoever draws between forward and backward changes nothing
        found.backward(direction)
        assert encoder.table.weight.grad is not None
        results.append((found.detach(), encoder.table.weight.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_no_more_rows_than_asked_are_encoded_at_once() -> None:
    encoder = Dropped()
    encode(encoder, {"row": torch.arange(9)}, 4).sum().backward()
    assert encoder.rows == [4, 4, 1, 1, 4, 4]  # forward, then once more from the last part on
    encoder.rows.clear()
    with torch.no_grad():
        encode(encoder, {"row": torch.arange(9)}, 4)
    assert encoder.rows == [9]


@pytest.mark.parametrize("both_directions", [False, True])
@pytest.mark.parametrize("dims", [None, {2: 1.0, 5: 2.0, 8: 1.0}])
@pytest.mark.parametrize("hardness", [0.0, 3.0])
def test_parts_of_encoding_and_of_scores_change_nothing(
    both_directions: bool, dims: dict[int, float] | None, hardness: float
) -> None:
    found = []
    for grad_cache, budget in ((None, 10**6), (2, 10**6), (None, 1), (3, 7)):
        encoder, loss = Dropped().eval(), InfoNCE(temperature=0.2).double()
        encoder.forward = lambda content, table=encoder.table: table(content["row"])  # type: ignore[method-assign]
        value = contrastive_loss(
            encoder,  # type: ignore[arg-type]
            batch(),
            loss,
            [],
            both_directions=both_directions,
            dims=dims,
            hardness=hardness,
            grad_cache=grad_cache,
            budget=budget,
        )
        value.backward()
        found.append([value.detach(), encoder.table.weight.grad, loss.log_excess.grad])  # type: ignore[union-attr]
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_batch_statistics_are_refused_by_name() -> None:
    refuse_batch_statistics(nn.Sequential(nn.Linear(2, 2), nn.GroupNorm(1, 2), nn.LayerNorm(2)))
    with pytest.raises(ValueError, match=r"the encoder's 1.0 is a BatchNorm2d"):
        refuse_batch_statistics(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm2d(2))))
