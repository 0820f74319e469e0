"""What metrics say of themselves, and that a stage computes them as their functions do."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import BinaryAUROC, BinaryConfusionMatrix
from torchmetrics.regression import MeanSquaredError
from torchmetrics.retrieval import RetrievalMRR
from torchmetrics.wrappers import Running

from moonlib.metrics import AUC, ECE, GAUC, NDCG, NE, PCOC, RCE, CalibrationCurve, LogLoss, Recall
from moonlib.metrics.auc import auc
from moonlib.metrics.ctr import own_metrics
from moonlib.metrics.ece import ece
from moonlib.metrics.gauc import gauc
from moonlib.metrics.log_loss import log_loss
from moonlib.metrics.metric import Additive, meaning_of, measured, name_of, tasks_of, with_metrics
from moonlib.metrics.ne import ne
from moonlib.metrics.pcoc import pcoc
from moonlib.metrics.recall import recall_at


@pytest.fixture
def columns() -> dict[str, Any]:
    """1,000 impressions."""
    g = torch.Generator().manual_seed(7)
    p = torch.rand(1000, generator=g, dtype=torch.float64)
    y = torch.rand(1000, generator=g, dtype=torch.float64) < p
    users, groups = torch.randint(50, (2, 1000), generator=g)
    return {"probabilities": p, "scores": p, "labels": y, "users": users, "groups": groups}


def test_names_tasks_and_directions_of_moonlibs_own() -> None:
    metrics = [*own_metrics(), RCE(), Recall(10), NDCG(5), NDCG()]
    assert [(name_of(each), tasks_of(each), each.higher_is_better) for each in metrics] == [
        ("auc", ["ctr", "relevance"], True),
        ("gauc", ["ctr", "relevance"], True),
        ("logloss", ["ctr"], False),
        ("ne", ["ctr"], False),
        ("pcoc", ["ctr"], None),
        ("ece", ["ctr"], False),
        ("rce", ["ctr"], True),
        ("recall@10", ["search"], True),
        ("ndcg@5", ["relevance"], True),
        ("ndcg", ["relevance"], True),
    ]
    assert meaning_of(LogLoss()).title == "log loss, nats" and meaning_of(Recall(10)).title == "recall@10"


def test_values_are_those_of_the_functions_to_the_bit(columns: dict[str, Any]) -> None:
    p, y, users = columns["probabilities"], columns["labels"], columns["users"]
    functions = [auc(p, y), gauc(p, y, users), log_loss(p, y), ne(p, y), pcoc(p, y), ece(p, y)]
    for metric, expected in zip(own_metrics(), functions, strict=True):
        assert measured(metric, columns) == expected.item()
        assert measured(metric, columns) == expected.item()  # what it saw before is forgotten
    ranks = torch.arange(30)
    assert measured(Recall(7), {"ranks": ranks, "gallery": 30}) == recall_at(ranks, 7, 30).item()


@pytest.mark.parametrize(
    "make", [GAUC, partial(GAUC, "unweighted", "counted"), LogLoss, NE, RCE, PCOC, partial(ECE, 7)]
)
def test_the_sums_of_all_rows_are_the_metric(make: Any, columns: dict[str, Any]) -> None:
    metric = make()
    assert isinstance(metric, Additive) and not isinstance(AUC(), Additive)
    names = ("scores" if isinstance(metric, GAUC) else "probabilities", "labels")
    given = {name: columns[name] for name in (*names, *(("users",) if isinstance(metric, GAUC) else ()))}
    value = metric.of_sums(metric.sums(**given).sum(dim=0)).item()
    assert value == pytest.approx(measured(metric, columns), rel=1e-12)


def test_torchmetrics_own_are_computed_and_named_by_their_class(columns: dict[str, Any]) -> None:
    area = BinaryAUROC()
    assert name_of(area) == "binary_auroc" and meaning_of(area).higher_is_better
    assert measured(area, columns) == pytest.approx(auc(columns["scores"], columns["labels"]).item(), abs=1e-6)
    assert 0 < measured(RetrievalMRR(), columns) <= 1
    brier = (columns["scores"] - columns["labels"].double()).square().mean().item()
    assert measured(MeanSquaredError(), columns) == pytest.approx(brier, abs=1e-6)  # which refuses bool


def test_no_rows_define_no_metric(columns: dict[str, Any]) -> None:
    nothing = {name: column[:0] for name, column in columns.items()}
    for metric in (*own_metrics(), BinaryAUROC()):
        assert measured(metric, nothing) != measured(metric, nothing)  # NaN


def test_one_of_an_own_name_takes_its_place_and_others_follow() -> None:
    unweighted = GAUC("unweighted")
    found = with_metrics(own_metrics(), [RCE(), unweighted], "ctr")
    assert list(map(name_of, found)) == ["auc", "gauc", "logloss", "ne", "pcoc", "ece", "rce"]
    assert found[1] is unweighted


def test_a_recall_deeper_than_a_few_rows_is_no_mistake() -> None:
    assert [name_of(each) for each in with_metrics([], [Recall(100_000)], "search")] == ["recall@100000"]


class Margin(Metric):
    """Reads what no stage has."""

    def update(self, margins: Tensor) -> None: ...
    def compute(self) -> Tensor: ...


class Failing(AUC):
    """Fails."""

    def compute(self) -> Tensor:
        raise RuntimeError("no such\nthing")


class OfRelevance(AUC):
    """Says which task it measures."""

    task = "relevance"


class Spaced(AUC):
    """Is called by two words."""

    name = "two words"


@pytest.mark.parametrize(
    ("more", "task", "problem"),
    [
        ([Margin()], "ctr", "metrics: margin reads 'margins', and here there are probabilities, scores, labels, users"),
        ([Recall(10)], "ctr", "metrics: recall@10 reads 'ranks'"),
        ([AUC()], "search", "metrics: auc reads 'scores', and here there are ranks, gallery, users"),
        ([OfRelevance()], "ctr", "metrics: of_relevance measures relevance, and this stage ctr"),
        ([Spaced()], "ctr", "metrics: 'two words' is no name: expected one word"),
        ([RCE(), RCE()], "ctr", "metrics: two are called rce"),
        (
            [CalibrationCurve()],
            "ctr",
            "metrics: calibration_curve cannot measure ctr: it gives CalibrationBins, and a ",
        ),
        ([BinaryConfusionMatrix()], "ctr", r"it gives a tensor of shape \[2, 2\], and a result is one number"),
        ([Running(RCE())], "ctr", "metrics: running: its update names no input; expected some of prob"),
        ([Failing()], "relevance", "metrics: failing cannot measure relevance: RuntimeError: no such thing"),
    ],
)
def test_what_a_stage_cannot_compute_is_refused(more: list[Metric], task: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        with_metrics([], more, task)
