from __future__ import annotations

import torch

from moonlib.templates.fusions import Template
from moonlib.testing import check_fusion


def test_it_keeps_the_promises_of_a_fusion() -> None:
    check_fusion(Template)
    check_fusion(lambda: Template(image=1.5))


def test_a_heavy_image_leaves_little_to_the_text() -> None:
    torch.manual_seed(0)
    fusion = Template(image=20.0)
    fusion.setup(4, 4, 6)
    image, text, yes, no = torch.randn(3, 4), torch.randn(3, 4), torch.ones(3).bool(), torch.zeros(3).bool()
    torch.testing.assert_close(fusion(image, text, yes, yes), fusion(image, text, yes, no))
