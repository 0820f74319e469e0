from __future__ import annotations

import pytest
import torch

from moonlib.encoders.transformer import Transformer
from moonlib.testing import check_text_tower, example_products


@pytest.fixture
def tower(tmp_path):
    torch.manual_seed(0)
    tower = Transformer(vocab_size=300, width=16, depth=2, heads=2, max_length=12)
    tower.setup(example_products(), tmp_path)
    return tower.eval()


def test_keeps_the_promises_of_a_text_tower():
    check_text_tower(lambda: Transformer(vocab_size=300, width=16, heads=2, max_length=12))


def test_longer_padding_gives_the_same_output(tower):
    ids, mask = tower.tokenize(["red mug", "blue 蓝色 lamp"])
    longer = torch.nn.functional.pad(ids, (0, 12 - ids.shape[1])), torch.nn.functional.pad(mask, (0, 12 - ids.shape[1]))
    torch.testing.assert_close(tower(*longer), tower(ids, mask))


def test_a_row_without_tokens_gives_no_nan_forward_or_backward(tower):
    ids, mask = torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5, dtype=torch.bool)
    output = tower(ids, mask)
    output.square().sum().backward()
    assert output.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in tower.parameters())


def test_the_order_of_words_matters_but_less_than_the_words(tower):
    a, b, c = tower(*tower.tokenize(["red mug", "mug red", "green lamp"]))
    assert not torch.allclose(a, b, atol=1e-6)
    assert (a - b).norm() < (a - c).norm()


def test_without_dropout_training_mode_is_deterministic(tower):
    ids, mask = tower.tokenize(["red mug", "lamp"])
    assert torch.equal(tower.train()(ids, mask), tower.eval()(ids, mask))


def test_dropout_acts_in_training_only(tmp_path):
    tower = Transformer(vocab_size=300, width=16, heads=2, dropout=0.5)
    tower.setup(example_products(), tmp_path)
    ids, mask = tower.tokenize(["red mug"])
    assert not torch.equal(tower.train()(ids, mask), tower.train()(ids, mask))
    assert torch.equal(tower.eval()(ids, mask), tower.eval()(ids, mask))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="width 16 is not a multiple of heads 3"):
        Transformer(width=16, heads=3)
