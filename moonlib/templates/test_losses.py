from __future__ import annotations

import pytest
import torch

from moonlib.templates.losses import Template
from moonlib.testing import check_loss


def test_it_keeps_the_promises_of_a_loss() -> None:
    check_loss(Template)


def test_only_the_hardest_negative_counts() -> None:
    scores = torch.tensor([[0.6, 0.5, -0.3], [0.9, 0.1, 0.2]])
    positive = torch.tensor([[True, False, False]] * 2)
    torch.testing.assert_close(
        Template(margin=0.3)(scores, positive, torch.zeros_like(positive)), torch.tensor([0.3 - 0.6 + 0.5, 0.0])
    )


def test_a_margin_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Template(margin=0)
