from __future__ import annotations

from pathlib import Path

import torch

from moonlib.data import Content
from moonlib.templates.encoders import Template
from moonlib.testing import check_encoder, example_jpeg, example_products


def test_it_keeps_the_promises_of_an_encoder() -> None:
    check_encoder(lambda: Template(dim=8, buckets=100))


def test_a_product_is_the_sum_of_its_image_and_its_title(tmp_path: Path) -> None:
    encoder = Template(dim=8)
    encoder.setup(example_products(), tmp_path)
    picture = example_jpeg(0)
    contents = [Content(picture, "red mug"), Content(picture, None), Content(None, "red mug"), Content(None, None)]
    both, image, title, neither = encoder(encoder.preprocessor(contents, "product"))
    torch.testing.assert_close(both, image + title)
    assert not neither.any()
