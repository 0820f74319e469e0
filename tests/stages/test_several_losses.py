"""Several losses in one stage, and losses that read vectors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor, nn

from moonlib.artifacts.layout import LOG
from moonlib.batches.loading import PairBatch
from moonlib.data.reads import EVERYTHING, Reads
from moonlib.data.tables import SCHEMAS
from moonlib.encoders.dual import DualEncoder
from moonlib.encoders.encoder import ContentBatch
from moonlib.losses import InfoNCE, Loss, LossData, Sigmoid, WeightedLoss, Words
from moonlib.negatives.in_batch import InBatch
from moonlib.representations.store import Representations
from moonlib.stages.contrast import contrastive_loss, contrastive_losses
from moonlib.stages.posttraining import Posttraining, SearchData
from moonlib.testing import check_stage
from moonlib.testing.stages import Bench, small_encoder


class Table(nn.Module):
    """An encoder whose representation of row i is row i of a table."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(10, 6).double()

    def forward(self, batch: ContentBatch) -> Tensor:
        return self.table(batch["row"])


def batch(weight: Tensor | None = None) -> PairBatch:
    """Four queries, and five items of which the last is an extra."""
    ids = torch.tensor([10, 11, 12, 13, 14])
    return PairBatch(
        query={"row": torch.arange(4)},
        item={"row": torch.arange(4, 9)},
        item_id=ids,
        spu_id=ids // 2,
        category=torch.zeros(5, dtype=torch.int64),
        positive_ids=ids[:4, None],
        positive_spus=ids[:4, None] // 2,
        task=torch.zeros(4, dtype=torch.int64),
        weight=weight,
    )


class Everything(Loss):
    """Notes what it is given; the value of a query is how near its item is to all candidates, times a number drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, Any]] = []

    def forward(
        self,
        scores: Tensor,
        positive: Tensor,
        ignore: Tensor,
        queries: Tensor,
        items: Tensor,
        candidates: Tensor,
        item_id: Tensor,
        spu_id: Tensor,
        candidate_id: Tensor,
        candidate_spu: Tensor,
        seed: int,
    ) -> Tensor:
        self.calls.append({name: value for name, value in locals().items() if name not in ("self", "__class__")})
        return (items @ candidates.T).mean(dim=1) * (1 + seed % 7)


def test_a_loss_that_reads_vectors_is_given_all_that_it_names_once() -> None:
    encoder, loss, given = Table(), Everything(), batch()
    dims, both = {2: 1.0, 6: 1.0}, True
    contrastive_loss(encoder, given, loss, [InBatch()], both_directions=both, dims=dims, hardness=3.0, seed=5)  # type: ignore[arg-type]
    (call,) = loss.calls
    unit = nn.functional.normalize(encoder.table.weight.detach(), dim=1)
    torch.testing.assert_close(call["queries"].detach(), unit[:4])
    torch.testing.assert_close(call["items"].detach(), unit[4:8])
    torch.testing.assert_close(call["candidates"].detach(), unit[4:9])
    torch.testing.assert_close(call["scores"].detach(), unit[:4] @ unit[4:9].T)
    assert call["positive"].tolist() == torch.eye(4, 5, dtype=torch.bool).tolist()
    assert call["ignore"].nonzero().tolist() == [[0, 1], [1, 0], [2, 3], [3, 2]]
    assert call["item_id"].tolist() == [10, 11, 12, 13] and call["spu_id"].tolist() == [5, 5, 6, 6]
    assert call["candidate_id"].tolist() == given.item_id.tolist()
    assert call["candidate_spu"].tolist() == given.spu_id.tolist() and call["seed"] == 5


@pytest.mark.parametrize("budget", [1, 7, 10, 10**6])
def test_a_loss_that_reads_vectors_is_computed_in_parts(budget: int) -> None:
    found = []
    for grad_cache, at_once in ((None, 10**6), (2, budget)):
        encoder = Table()
        value = contrastive_loss(
            encoder,  # type: ignore[arg-type]
            batch(),
            Everything(),
            [],
            both_directions=False,
            grad_cache=grad_cache,
            budget=at_once,
        )
        value.backward()
        found.append((value.detach(), encoder.table.weight.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("both", [False, True])
def test_several_losses_add_up_by_their_weights(both: bool) -> None:
    encoder = Table()
    losses = {"near": (InfoNCE(0.2).double(), 2.0), "far": (Sigmoid().double(), 0.25), "all": (Everything(), 0.5)}
    options: dict[str, Any] = {"both_directions": both, "dims": {2: 1.0, 6: 3.0}, "hardness": 1.0}
    total, parts = contrastive_losses(
        encoder,  # type: ignore[arg-type]
        batch(),
        {name: WeightedLoss(*each) for name, each in losses.items()},
        [],
        **options,
    )
    alone = {name: contrastive_loss(encoder, batch(), loss, [], **options) for name, (loss, _) in losses.items()}  # type: ignore[arg-type]
    assert {name: value.item() for name, value in parts.items()} == {name: v.item() for name, v in alone.items()}
    assert math.isclose(total.item(), sum(losses[name][1] * value.item() for name, value in alone.items()))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("make", [lambda: InfoNCE(0.2).double(), Everything])
def test_a_pair_counts_by_its_weight(make: Any, both: bool) -> None:
    weight = torch.tensor([0.5, 2.0, 0.0, 1.5])

    def value(weight: Tensor | None) -> float:
        return contrastive_loss(Table(), batch(weight), make(), [], both_directions=both).item()  # type: ignore[arg-type]

    alone = [value(torch.eye(4)[i]) for i in range(4)]
    expected = sum(w * v for w, v in zip(weight.tolist(), alone, strict=True)) / weight.sum().item()
    assert math.isclose(value(weight), expected, rel_tol=1e-9)
    assert math.isclose(value(None), sum(alone) / 4, rel_tol=1e-9)


class Centred(Loss):
    """Pulls items to a learned vector, which `setup` makes; the seed draws a sign for each dimension."""

    def setup(self, data: LossData) -> None:
        self.centre = nn.Parameter(torch.randn(data.dim))
        self.products = len(data.catalogue.item_id)

    def forward(self, items: Tensor, seed: int) -> Tensor:
        signs = torch.randint(2, self.centre.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        return 1 - items @ (signs * self.centre).tanh()


DATA = SearchData({"image -> title+image": 1.0}, 16, workers=0, until="train")


def centred() -> Posttraining:
    """A stage with a loss whose weights `setup` makes, beside another one."""
    losses = {"info_nce": WeightedLoss(InfoNCE()), "centred": WeightedLoss(Centred(), 0.5)}
    return Posttraining(None, [InBatch()], losses=losses, learning_rate=0.01)


def test_weights_that_a_loss_makes_are_trained_saved_and_resumed_to_the_bit() -> None:
    check_stage(centred, DATA, max_steps=4)


def test_weights_that_a_loss_makes_are_the_stages(tmp_path: Path) -> None:
    bench = Bench(tmp_path, DATA, {"max_steps": 6}, small_encoder)
    stage = centred()
    bench.run(stage, "run")
    loss = stage.weighted["centred"].loss
    assert isinstance(loss, Centred) and loss.products == len(stage.training_data.catalogue.item_id)
    torch.manual_seed(0)
    states = stage.optimizers().optimizer.state  # type: ignore[union-attr]
    assert any(parameter is loss.centre for parameter in states)
    log = pl.read_csv(tmp_path / "run" / LOG)
    assert {"loss", "loss/info_nce", "loss/centred"} <= set(log.columns)
    for row in log.drop_nulls("loss").iter_rows(named=True):
        assert math.isclose(row["loss"], row["loss/info_nce"] + 0.5 * row["loss/centred"], rel_tol=1e-5)


def test_one_loss_is_logged_as_ever(tmp_path: Path) -> None:
    Bench(tmp_path, DATA, {"max_steps": 2}, small_encoder).run(Posttraining(InfoNCE(), [InBatch()]), "run")
    assert not [name for name in pl.read_csv(tmp_path / "run" / LOG).columns if name.startswith("loss/")]


class Reading(Loss):
    """Notes which products it is given; has a buffer that follows from the data, and one that is state."""

    def __init__(self, declared: Reads) -> None:
        super().__init__()
        self.declared = declared
        self.register_buffer("seen", torch.zeros(()))

    def reads(self) -> Reads:
        return self.declared

    def setup(self, data: LossData) -> None:
        self.given, self.ids = data.products, data.catalogue.item_id
        self.register_buffer("rows", torch.arange(len(self.ids)), persistent=False)

    def forward(self, queries: Tensor) -> Tensor:
        return queries.sum(dim=1)


@pytest.mark.parametrize(
    ("declared", "columns"),
    [
        (Reads(), None),
        (Reads.of(searches=["action"]), None),
        (Reads.of(products=["title"]), {"item_id", "title"}),
        (EVERYTHING, set(SCHEMAS["products"].names)),
    ],
)
def test_a_loss_is_given_the_columns_of_products_that_it_declares(
    declared: Reads, columns: set[str] | None, tmp_path: Path
) -> None:
    stage = Posttraining(Reading(declared), [InBatch()])
    Bench(tmp_path, DATA, {"max_steps": 1}, small_encoder).run(stage, "run")
    assert isinstance(stage.loss, Reading)
    if columns is None:
        assert stage.loss.given is None
    else:
        assert stage.loss.given is not None and set(stage.loss.given.columns) == columns
        assert stage.loss.given["item_id"].to_list() == stage.loss.ids.tolist()


def test_what_follows_from_the_data_is_not_sent_between_processes_before_every_step(tmp_path: Path) -> None:
    losses = {"one": WeightedLoss(InfoNCE()), "two": WeightedLoss(Reading(Reads()))}
    stage = Posttraining(None, [InBatch()], losses=losses)
    Bench(tmp_path, DATA, {"max_steps": 1}, small_encoder).run(stage, "run")
    assert stage._ddp_params_and_buffers_to_ignore == ["losses.1.rows"]  # and not its state, losses.1.seen


def test_a_stage_keeps_its_promises_with_words_as_classes() -> None:
    def stage() -> Posttraining:
        losses = {"info_nce": WeightedLoss(InfoNCE()), "words": WeightedLoss(Words(min_count=2))}
        return Posttraining(None, [InBatch()], losses=losses)

    check_stage(stage, DATA, max_steps=4)


class Taught(Loss):
    """Has a teacher."""

    def __init__(self, teacher: str) -> None:
        super().__init__()
        self.teacher = teacher

    def setup(self, data: LossData) -> None:
        if data.teacher is None or data.teacher.dim != 3:
            raise ValueError("wrong")
        self.given: Representations | None = data.teacher

    def forward(self, queries: Tensor) -> Tensor:
        return queries.sum(dim=1)


def test_a_teacher_that_was_not_opened_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path, DATA, {"max_steps": 1}, small_encoder)
    stage = Posttraining(Taught("collaborative"), [InBatch()])
    assert stage.teachers == ("collaborative",)
    with pytest.raises(ValueError, match="teacher: collaborative was not opened: run the stage by a recipe"):
        bench.run(stage, "run")


def test_a_stage_with_both_or_neither_is_refused() -> None:
    for loss, losses in ((None, None), (InfoNCE(), {"info_nce": WeightedLoss(InfoNCE())})):
        with pytest.raises(ValueError, match="give one of loss and losses"):
            Posttraining(loss, [InBatch()], losses=losses)


@pytest.mark.parametrize("make", [lambda: InfoNCE(0.2).double(), Everything])
@pytest.mark.parametrize("dims", ["look", [2, 5]])
@pytest.mark.parametrize("both", [False, True])
def test_a_loss_of_one_head_reads_its_dimensions_and_no_others(make: Any, dims: Any, both: bool) -> None:
    def value(encoder: nn.Module, part: Any, **options: Any) -> Tensor:
        losses = {"one": WeightedLoss(make(), dims=part)}
        return contrastive_losses(encoder, batch(), losses, [InBatch()], both_directions=both, **options)[0]  # type: ignore[arg-type]

    encoder, heads = Table(), {"identity": slice(0, 2), "look": slice(2, 5)}
    found = value(encoder, dims, heads=heads, dims={2: 1.0, 6: 1.0}, hardness=0.5)
    narrow = Table()
    narrow.table = nn.Embedding.from_pretrained(encoder.table.weight.detach()[:, 2:5])
    assert math.isclose(found.item(), value(narrow, None, hardness=0.5).item(), rel_tol=1e-12)
    found.backward()
    gradient = encoder.table.weight.grad
    assert gradient is not None and gradient[:, 2:5].any() and not gradient[:, :2].any() and not gradient[:, 5:].any()


def test_heads_of_an_encoder_have_losses_of_their_own(tmp_path: Path) -> None:
    def encoder() -> DualEncoder:
        plain = small_encoder()
        return DualEncoder(plain.fusion, plain.image, plain.text, dim=8, heads={"look": 3, "identity": 5})

    bench = Bench(tmp_path, DATA, {"max_steps": 3}, encoder)
    losses = {
        "identity": WeightedLoss(InfoNCE(), dims="identity"),
        "look": WeightedLoss(Centred(), 0.5, dims="look"),
        "both": WeightedLoss(Sigmoid(), 0.1),
    }
    stage = Posttraining(None, [InBatch()], losses=losses)
    bench.run(stage, "run")
    centred = stage.weighted["look"].loss
    assert isinstance(centred, Centred) and centred.centre.shape == (3,)
    assert list(stage.weighted) == ["both", "identity", "look"]  # whatever the order in a recipe
    for dims, message in (
        ("looks", r"losses\.a\.dims: the encoder has no head 'looks'; its heads are identity, look"),
        ([4, 9], r"losses\.a\.dims: expected a head, or .*, from 0 to 8, got \[4, 9\]"),
        ([3], r"losses\.a\.dims: expected a head"),
    ):
        wrong = Posttraining(None, [InBatch()], losses={"a": WeightedLoss(InfoNCE(), dims=dims)})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message):
            bench.run(wrong, "wrong")
