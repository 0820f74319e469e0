from __future__ import annotations

import pytest
import torch

from moonlib.metrics.metric import meaning_of, name_of, tasks_of
from moonlib.templates.metrics import Template, lift
from moonlib.testing import check_metric


def test_it_keeps_the_promises_of_a_metric() -> None:
    scores, labels = torch.linspace(0, 1, 40), torch.arange(40) % 3 == 0
    check_metric(Template, scores, labels)
    check_metric(lambda: Template(share=0.5), scores.round(decimals=1), labels)


def test_stages_of_clicks_and_of_relevance_can_compute_it() -> None:
    assert name_of(Template()) == "template" and meaning_of(Template()).higher_is_better
    assert tasks_of(Template()) == ["ctr", "relevance"]


def test_equal_scores_are_chance_and_the_best_ranking_is_not() -> None:
    labels = torch.tensor([0, 0, 0, 1, 0, 0, 1, 0, 0, 0])
    assert lift(torch.ones(10), labels, share=0.2).item() == pytest.approx(1)
    assert lift(labels.double(), labels, share=0.2).item() == pytest.approx(5)
