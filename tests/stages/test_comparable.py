"""Vectors that stay comparable with an earlier run's."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from moonlib.batches.loading import PairBatch
from moonlib.data.content import Modalities
from moonlib.data.ids import IdMap, ShopIds
from moonlib.encoders.encoder import ContentBatch
from moonlib.losses.circle import Circle
from moonlib.losses.info_nce import InfoNCE
from moonlib.losses.loss import Loss
from moonlib.losses.sigmoid import Sigmoid
from moonlib.losses.triplet import Triplet
from moonlib.negatives.in_batch import InBatch
from moonlib.representations.store import Representations
from moonlib.stages.comparable import OldRun, OldVectors, read_alike
from moonlib.stages.contrast import STAY, Compatibility, contrastive_loss
from moonlib.stages.posttraining import Posttraining, SearchData
from moonlib.stages.pretraining import Pretraining
from moonlib.testing.stages import Bench, small_encoder

LOSSES: dict[str, Callable[[], Loss]] = {
    "info_nce": lambda: InfoNCE(temperature=0.2),
    "sigmoid": Sigmoid,
    "circle": Circle,
    "triplet": Triplet,
}
DIM = 8
TITLE_AND_IMAGE = Modalities.parse("title+image")


class Table(nn.Module):
    """An encoder whose representation of row i is row i of a table."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(9, DIM, generator=generator, dtype=torch.float64))

    def forward(self, batch: ContentBatch) -> Tensor:
        return self.weight[batch["row"]]


def batch() -> PairBatch:
    # Queries 0..3; query 0 led to items 10 and 12, item 13 is another SKU of item 10's SPU, item 14 is an extra.
    return PairBatch(
        query={"row": torch.arange(4)},
        item={"row": torch.arange(4, 9)},
        item_id=torch.tensor([10, 11, 12, 13, 14]),
        spu_id=torch.tensor([1, 2, 3, 1, 4]),
        category=torch.zeros(5, dtype=torch.int64),
        positive_ids=torch.tensor([[10, 12], [11, 11], [12, 12], [13, 13]]),
        positive_spus=torch.tensor([[1, 3], [2, 2], [3, 3], [1, 1]]),
        task=torch.tensor([0, 0, 1, 0]),
    )


OLD = dict(zip([10, 11, 13, 14], torch.randn(4, DIM, generator=torch.Generator().manual_seed(1)), strict=True))
"""The old vectors: product 12 is a new one."""


def vectors(ids: Tensor) -> Tensor:
    return torch.stack([OLD.get(item, torch.zeros(DIM)) for item in ids.tolist()])


def compatibility(weight: float, alike: tuple[bool, ...] = (True, True)) -> Compatibility:
    return Compatibility(vectors, weight, torch.tensor(alike))


def by_hand(loss: Loss, encoder: Table, *, both: bool, alike: tuple[bool, ...] = (True, True)) -> float:
    """The term, query by query and product by product."""

    def alone(row: Tensor, columns: list[Tensor], positive: list[bool], ignore: list[bool]) -> float:
        scores = torch.stack([torch.cosine_similarity(row, column.double(), dim=0) for column in columns])
        return loss(scores[None], torch.tensor([positive]), torch.tensor([ignore])).item()

    pool, spus = [10, 11, 13, 14], [1, 2, 1, 4]  # what the earlier run knew
    leads, led_by = {0: {10, 12}, 1: {11}, 2: {12}, 3: {13}}, {0: {1, 3}, 1: {2}, 2: {3}, 3: {1}}
    queries = encoder.weight[:4]
    forward = []
    for q in (0, 1, 3):  # query 2 has led to nothing that it knew
        positive = [item in leads[q] for item in pool]
        ignore = [s in led_by[q] and not p for s, p in zip(spus, positive, strict=True)]
        forward.append(alone(queries[q], [OLD[item] for item in pool], positive, ignore))
    found = sum(forward) / len(forward)
    if both:
        reverse = []
        for item, spu in ((10, 1), (11, 2), (13, 1)):
            positive = [item in leads[q] for q in range(4)]
            ignore = [spu in led_by[q] and not p for q, p in enumerate(positive)]
            reverse.append(alone(OLD[item].double(), list(queries), positive, ignore))
        found = (found + sum(reverse) / len(reverse)) / 2
    tasks = {10: 0, 11: 0, 13: 0} | ({14: 0} if all(alike) else {})
    pulled = [item for item, task in tasks.items() if alike[task]]
    rows = {10: 4, 11: 5, 13: 7, 14: 8}
    moved = [1 - torch.cosine_similarity(encoder.weight[rows[i]], OLD[i].double(), dim=0).item() for i in pulled]
    return found + STAY * (sum(moved) / len(moved) if moved else 0.0)


@pytest.mark.parametrize("both", [False, True], ids=["one direction", "both directions"])
@pytest.mark.parametrize("name", LOSSES)
def test_the_term_equals_a_loop_over_queries_and_products(name: str, both: bool) -> None:
    encoder, loss = Table(), LOSSES[name]().double()
    plain = contrastive_loss(encoder, batch(), loss, [InBatch()], both_directions=both)
    for weight in (0.3, 2.0):
        found = contrastive_loss(
            encoder, batch(), loss, [InBatch()], both_directions=both, compatibility=compatibility(weight)
        )
        assert found.item() - plain.item() == pytest.approx(weight * by_hand(loss, encoder, both=both), rel=1e-6)


@pytest.mark.parametrize("alike", [(True, False), (False, True), (False, False)])
def test_only_items_that_are_read_as_the_old_vectors_were_are_pulled(alike: tuple[bool, ...]) -> None:
    encoder, loss = Table(), InfoNCE(temperature=0.2).double()
    plain = contrastive_loss(encoder, batch(), loss, [], both_directions=False)
    found = contrastive_loss(encoder, batch(), loss, [], both_directions=False, compatibility=compatibility(1.0, alike))
    expected = by_hand(loss, encoder, both=False, alike=alike)
    assert found.item() - plain.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_run_that_knew_none_of_a_batch_adds_nothing(name: str) -> None:
    encoder, loss = Table(), LOSSES[name]().double()
    nothing = Compatibility(lambda ids: torch.zeros(len(ids), DIM), 3.0, torch.tensor([True, True]))
    found = []
    for term in (None, nothing):
        value = contrastive_loss(encoder, batch(), loss, [], both_directions=True, compatibility=term)
        found.append((value.item(), torch.autograd.grad(value, encoder.weight)[0]))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("both", [False, True], ids=["one direction", "both directions"])
def test_gradient_caching_changes_neither_value_nor_gradient(both: bool) -> None:
    found = []
    for options in ({}, {"grad_cache": 2, "budget": 6}):
        encoder, loss = Table(), InfoNCE(temperature=0.2).double()
        value = contrastive_loss(
            encoder, batch(), loss, [], both_directions=both, compatibility=compatibility(0.7), **options
        )
        found.append((value.item(), *torch.autograd.grad(value, [encoder.weight, *loss.parameters()])))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    for one, other in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(one, other)


def test_the_gradient_is_the_derivative() -> None:
    encoder, loss = Table(), InfoNCE(temperature=0.2).double()

    def value(weight: Tensor) -> Tensor:
        return contrastive_loss(
            lambda content: weight[content["row"]],  # type: ignore[arg-type]
            batch(),
            loss,
            [],
            both_directions=True,
            compatibility=compatibility(0.7),
        )

    assert torch.autograd.gradcheck(value, encoder.weight)


def run_of(
    directory: Path, ids: list[int], names: list[str] | None = None, dim: int = DIM, place: str = "runs/old"
) -> OldRun:
    generator = np.random.default_rng(0)
    store = Representations(
        np.array(ids), generator.standard_normal((len(ids), dim), dtype=np.float32), names and pl.Series(names)
    )
    directory.mkdir(exist_ok=True)
    store.save(directory, "products")
    return OldRun(place, directory, TITLE_AND_IMAGE)


def test_old_vectors_are_found_by_id_and_zeros_where_there_is_none(tmp_path: Path) -> None:
    run = run_of(tmp_path / "old", [3, 7, 9])
    stored = Representations.open(run.directory, "products")
    old = OldVectors(run, np.array([1, 3, 9]), ShopIds(), DIM)
    assert old.known == 2
    found = old(torch.tensor([9, 1, 3, 9, 4]))
    expected = torch.stack([torch.zeros(DIM) if i < 0 else torch.tensor(stored.vectors[i]) for i in (2, -1, 0, 2, -1)])
    assert torch.equal(found, expected)


def test_products_are_the_same_where_the_shops_ids_are(tmp_path: Path) -> None:
    # Both count their products from 0, but the new data has one more at the front.
    run = run_of(tmp_path / "old", [0, 1, 2], ["B1", "C3", "D7"])
    stored = Representations.open(run.directory, "products")
    ids = ShopIds({"item": IdMap.of([pl.Series(["A0", "B1", "D7", "E9"])])})
    old = OldVectors(run, np.arange(4), ids, DIM)
    found = old(torch.tensor([0, 1, 2, 3])).numpy()
    np.testing.assert_array_equal(found, [np.zeros(DIM), stored.vectors[0], stored.vectors[2], np.zeros(DIM)])


@pytest.mark.parametrize(
    ("run", "ids", "message"),
    [
        ({"ids": [3, 7], "dim": 4}, ShopIds(), "the vectors of runs/old have 4 dimensions, and this encoder makes 8"),
        ({"ids": [5, 6]}, ShopIds(), "none of the 2 products has a vector in runs/old"),
        (
            {"ids": [3, 7]},
            ShopIds({"item": IdMap.of([pl.Series([f"B{i}" for i in range(9)])])}),
            "runs/old: its ids are int64, such as 3, and here they are text, such as 'B3'",
        ),
        (
            {"ids": [3, 7], "names": ["B3", "B7"]},
            ShopIds(),
            "runs/old: its ids are text, such as 'B3', and here they are int64, such as 3",
        ),
    ],
    ids=["dim", "none in common", "text here", "text there"],
)
def test_vectors_that_can_not_be_compared_are_refused(
    run: dict[str, Any], ids: ShopIds, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"^compatible_with: ") as caught:
        OldVectors(run_of(tmp_path / "old", **run), np.array([3, 7]), ids, DIM)
    assert message in str(caught.value)


def test_a_vector_file_that_was_cut_is_named(tmp_path: Path) -> None:
    run = run_of(tmp_path / "old", [3, 7, 9])
    file = run.directory / "products.npy"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"products\.npy"):
        OldVectors(run, np.array([3]), ShopIds(), DIM)


def test_which_tasks_read_items_as_the_old_run_read_products() -> None:
    run = OldRun("runs/old", Path(), TITLE_AND_IMAGE)
    tasks = ["image -> title+image", "image -> title", "text -> rich+image", "text -> title+image"]
    assert read_alike(run, tasks).tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"compatibility": 2.0}, r"compatibility: 2\.0 weighs what compatible_with asks for: name a run there"),
        ({"compatible_with": "runs/old", "compatibility": 0.0}, "compatibility: expected a weight above 0 .*got 0"),
        ({"compatible_with": "runs/old", "compatibility": -1.0}, "compatibility: expected a weight above 0 .*got -1"),
        ({"compatible_with": "runs/old", "compatibility": math.inf}, "compatibility: expected a weight above 0"),
        ({"compatible_with": "runs/old", "compatibility": math.nan}, "compatibility: expected a weight above 0"),
    ],
)
def test_a_run_without_weight_and_a_weight_without_run_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pretraining(InfoNCE(), [], **arguments)


def test_a_stage_keeps_its_products_nearer_to_where_they_were(tmp_path: Path) -> None:
    data = SearchData({"image -> title+image": 1.0}, 16, workers=0, until="train")
    moved = {}
    for weight in (0.0, 10.0):
        (tmp_path / str(weight)).mkdir()
        bench = Bench(tmp_path / str(weight), data, {"max_steps": 20}, small_encoder)
        items = np.sort(bench.dataset.splits.known(bench.dataset.products)["item_id"].to_numpy())
        old = OldRun("runs/old", bench.folder / "representations", TITLE_AND_IMAGE)
        arguments = {"compatible_with": "runs/old", "compatibility": weight} if weight else {}
        stage = Posttraining(InfoNCE(), [InBatch()], learning_rate=0.01, **arguments)
        bench.comparable = old if weight else None
        bench.run(stage, "run")
        pairs, _ = stage.represent(stage.training_data.pairs, items, "products")
        known = Representations.open(old.directory, "products")
        cosines = torch.cosine_similarity(
            torch.from_numpy(pairs.gather(items)), torch.from_numpy(known.gather(items)), dim=1
        )
        moved[weight] = 1 - cosines.mean().item()
    assert moved[10.0] < moved[0.0] - 0.05


def test_products_that_no_task_reads_as_they_were_read_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path, SearchData({"image -> title": 1.0}, 16, workers=0), {"max_steps": 1}, small_encoder)
    bench.comparable = OldRun("runs/old", bench.folder / "representations", TITLE_AND_IMAGE)
    with caplog.at_level("WARNING", logger="moonlib"):
        bench.run(Posttraining(InfoNCE(), [InBatch()], compatible_with="runs/old"), "run")
    assert "the vectors of runs/old read title+image of a product, and none of the tasks (image -> title) does" in (
        caplog.text
    )


def test_a_stage_that_was_not_given_the_run_it_names_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SearchData({"image -> title+image": 1.0}, 16, workers=0), {"max_steps": 1}, small_encoder)
    with pytest.raises(ValueError, match="compatible_with: runs/old was not opened: run the stage by a recipe"):
        bench.run(Posttraining(InfoNCE(), [InBatch()], compatible_with="runs/old"), "run")
