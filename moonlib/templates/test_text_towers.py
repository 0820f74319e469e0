from __future__ import annotations

from pathlib import Path

import torch

from moonlib.templates.text_towers import Template
from moonlib.testing import check_text_tower, example_products


def test_it_keeps_the_promises_of_a_text_tower() -> None:
    check_text_tower(lambda: Template(vocab_size=300, width=16))


def test_the_order_of_words_does_not_matter(tmp_path: Path) -> None:
    tower = Template(vocab_size=300, width=16)
    tower.setup(example_products(), tmp_path)
    one, other = tower(*tower.tokenize(["red mug , blue lamp", "blue lamp , red mug"]))
    torch.testing.assert_close(one, other)
