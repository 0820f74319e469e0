from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.fusion.concat import Concat
from moonlib.fusion.gated import Gated
from moonlib.fusion.sum import Sum
from moonlib.testing import check_fusion

FUSIONS = [Sum, Gated, Concat, lambda: Concat(hidden=16)]


def ready(fusion, image_dim=5, text_dim=7, dim=6):
    torch.manual_seed(0)
    fusion.setup(image_dim, text_dim, dim)
    return fusion


def inputs(rows=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, 5, generator=generator), torch.randn(rows, 7, generator=generator)


@pytest.mark.parametrize("make", FUSIONS)
def test_keeps_the_promises_of_a_fusion(make):
    check_fusion(make)


@pytest.mark.parametrize("make", FUSIONS)
@given(presence=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_any_mix_of_missing_modalities_equals_the_rows_one_by_one(make, presence):
    fusion = ready(make())
    image, text = inputs(len(presence))
    has_image, has_text = torch.tensor(presence).unbind(1)
    together = fusion(image, text, has_image, has_text)
    for i in range(len(presence)):
        alone = fusion(image[i : i + 1], text[i : i + 1], has_image[i : i + 1], has_text[i : i + 1])
        torch.testing.assert_close(together[i], alone[0])


@pytest.mark.parametrize("make", FUSIONS)
def test_works_under_bfloat16_autocast(make):
    fusion = ready(make())
    yes = torch.ones(4, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        low = fusion(*inputs(), yes, yes)
    torch.testing.assert_close(low.float(), fusion(*inputs(), yes, yes), atol=0.05, rtol=0.05)


def test_sum_is_the_mean_of_the_unit_vectors_present():
    fusion = ready(Sum())
    image, text = inputs()
    has_image = torch.tensor([True, True, False, False])
    has_text = torch.tensor([True, False, True, False])
    a, b = F.normalize(fusion.space.image(image)), F.normalize(fusion.space.text(text))
    expected = torch.stack([(a[0] + b[0]) / 2, a[1], b[2], torch.zeros(6)])
    torch.testing.assert_close(fusion(image, text, has_image, has_text), expected)


def test_gated_starts_as_sum_and_a_single_modality_has_all_the_weight():
    gated, plain = ready(Gated()), ready(Sum())
    gated.space.load_state_dict(plain.space.state_dict())
    yes, no = torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)
    torch.testing.assert_close(gated(*inputs(), yes, yes), plain(*inputs(), yes, yes))
    torch.nn.init.normal_(gated.gate.weight)
    torch.nn.init.normal_(gated.gate.bias)
    torch.testing.assert_close(gated(*inputs(), yes, no), plain(*inputs(), yes, no))
    both, image, text = (gated(*inputs(), a, b) for a, b in [(yes, yes), (yes, no), (no, yes)])
    # Each dimension lies between the two modalities'.
    assert ((both - image) * (both - text) <= 1e-6).all()
    assert not torch.allclose(both, (image + text) / 2, atol=1e-2)


@pytest.mark.parametrize("make", [Sum, Gated])
def test_after_unimodal_training_only_a_product_with_both_is_found_by_either(make):
    """Image ↔ title training never shows a row with both; the fused rows must be good candidates nonetheless."""
    torch.manual_seed(0)
    latent = torch.randn(64, 4)
    image, text = latent @ torch.randn(4, 5), latent @ torch.randn(4, 7)
    fusion = ready(make())
    optimizer = torch.optim.Adam(fusion.parameters(), lr=0.02)
    yes, no = torch.ones(64, dtype=torch.bool), torch.zeros(64, dtype=torch.bool)
    for _ in range(150):
        scores = 10 * fusion(image, text, yes, no) @ fusion(image, text, no, yes).T
        optimizer.zero_grad()
        F.cross_entropy(scores, torch.arange(64)).backward()
        optimizer.step()
    items = F.normalize(fusion(image, text, yes, yes))
    for queries in (fusion(image, text, yes, no), fusion(image, text, no, yes)):
        found = (F.normalize(queries) @ items.T).argmax(dim=1)
        assert (found == torch.arange(64)).float().mean() > 0.9


@pytest.mark.parametrize("make", [Sum, Gated])
def test_that_begins_as_the_identity_passes_the_towers_vectors_on(make):
    fusion = ready(make(start="identity"), dim=8)
    image, text = inputs()
    yes, no = torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)
    for values, has in ((image, (yes, no)), (text, (no, yes))):
        found, unit = F.normalize(fusion(image, text, *has)), F.normalize(values)
        torch.testing.assert_close(found @ found.T, unit @ unit.T)


def test_an_identity_does_not_fit_into_fewer_dimensions():
    with pytest.raises(ValueError, match=r"the text tower's 7 dimensions on, and the encoder's dim is 6: .*at least 7"):
        ready(Gated(start="identity"))
