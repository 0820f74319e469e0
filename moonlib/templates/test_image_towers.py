from __future__ import annotations

import pytest
import torch

from moonlib.templates.image_towers import Template
from moonlib.testing import check_image_tower


def test_it_keeps_the_promises_of_an_image_tower() -> None:
    check_image_tower(lambda: Template(image_size=32, width=16))


def test_the_order_of_patches_does_not_matter() -> None:
    tower = Template(image_size=16, patch=8, width=4)
    tower.setup()
    image = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(tower(image), tower(image.roll(8, dims=3)))


def test_a_patch_must_divide_the_image() -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        Template(image_size=60, patch=8)
