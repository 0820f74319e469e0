from __future__ import annotations

import pytest
import torch

from moonlib.encoders.colours import colour_histogram
from moonlib.encoders.convnet import ConvNet
from moonlib.testing import check_image_tower, example_jpeg


def ready(**arguments):
    torch.manual_seed(0)
    tower = ConvNet(**{"image_size": 32, "width": 8} | arguments)
    tower.setup()
    return tower


@pytest.mark.parametrize(
    "arguments",
    [{}, {"depths": (1, 2)}, {"image_size": 48, "depths": (0, 0, 1)}, {"grid": 3, "depths": (0, 1)}, {"colours": 3}],
)
def test_keeps_the_promises_of_an_image_tower(arguments):
    check_image_tower(lambda: ConvNet(**{"image_size": 32, "width": 8} | arguments))


def test_decodes_to_its_own_size():
    assert ready().load_image(example_jpeg(0, width=70, height=40)).shape == (3, 32, 32)


def test_no_batch_statistics():
    kinds = {type(module) for module in ready().modules()}
    assert not any(issubclass(kind, torch.nn.modules.batchnorm._NormBase) for kind in kinds)
    assert not list(ready().buffers())


def test_a_row_in_training_mode_does_not_depend_on_its_batch():
    tower = ready().train()
    images = torch.stack([tower.load_image(example_jpeg(seed)) for seed in range(4)])
    torch.testing.assert_close(tower(images)[:1], tower(images[:1]))


@pytest.mark.parametrize("grid", [None, 4])
def test_memory_layout_of_the_input_does_not_matter(grid):
    tower = ready(grid=grid)
    images = torch.stack([tower.load_image(example_jpeg(seed)) for seed in range(2)])
    assert torch.equal(tower(images), tower(images.contiguous(memory_format=torch.channels_last)))


@pytest.mark.parametrize("grid", [None, 4])
def test_runs_in_bfloat16(grid):
    tower = ready(grid=grid)
    images = torch.stack([tower.load_image(example_jpeg(seed)) for seed in range(2)])
    full = tower(images)
    torch.testing.assert_close(tower.bfloat16()(images).float(), full, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("size", [0, 8, 60])
def test_a_size_that_the_stages_cannot_halve_is_refused(size):
    with pytest.raises(ValueError, match=f"image_size {size} is not a multiple of 16, as 4 stages need"):
        ConvNet(image_size=size)


def test_a_width_that_groups_cannot_share_is_refused():
    with pytest.raises(ValueError, match="width 12 is not a multiple of 8"):
        ConvNet(width=12)


def test_plain_black_differs_from_plain_white_although_contrast_is_normalised():
    tower = ready(image_size=16, depths=(0, 0, 0, 0)).eval()
    black, white = torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    assert not torch.allclose(tower(black), tower(white), atol=1e-3)


def test_a_grid_tells_where_something_is_and_mean_and_maximum_do_not():
    tower = ready(image_size=16, depths=(0,), grid=3).eval()
    here, there = torch.zeros(2, 1, 3, 16, 16, dtype=torch.uint8)
    here[:, :, 4:6, 4:6] = there[:, :, 8:10, 8:10] = 200  # two places of the 8 × 8 further, down and to the right
    (a, b), pooled = (tower(image)[0] for image in (here, there)), 16
    torch.testing.assert_close(a[:pooled], b[:pooled])
    a, b = a[pooled:].view(3, 8, 8), b[pooled:].view(3, 8, 8)
    torch.testing.assert_close(a[:, 1:5, 1:5], b[:, 3:7, 3:7])
    assert not torch.allclose(a, b, atol=1e-2)


def test_a_grid_is_appended_to_what_there_is_without_it():
    plain, grid = ready(), ready(grid=5)
    images = torch.stack([plain.load_image(example_jpeg(seed)) for seed in range(2)])
    assert grid.out_features == plain.out_features + 5 * 2 * 2 == tuple(grid(images).shape)[1]
    assert torch.equal(grid(images)[:, : plain.out_features], plain(images))
    assert set(grid.state_dict()) == {*plain.state_dict(), "places.weight", "places.bias"}
    states = grid.body(images.contiguous(memory_format=torch.channels_last) / 127.5 - 1)
    expected = torch.einsum("bchw,gc->bghw", states, grid.places.weight[:, :, 0, 0]) + grid.places.bias.view(1, 5, 1, 1)
    torch.testing.assert_close(grid(images)[:, plain.out_features :], expected.reshape(2, -1))


def test_a_grid_of_no_channels_is_refused():
    with pytest.raises(ValueError, match="grid is 0; expected at least 1, or null for none"):
        ConvNet(grid=0)


def test_a_histogram_of_colours_is_appended_to_what_there_is_without_it():
    plain, colours = ready(), ready(colours=4)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert colours.out_features == plain.out_features + 4**3 == tuple(colours(images).shape)[1]
    assert torch.equal(colours(images)[:, : plain.out_features], plain(images))
    assert torch.equal(colours(images)[:, plain.out_features :], 4 * colour_histogram(images, 4))
    assert set(colours.state_dict()) == set(plain.state_dict())
    with pytest.raises(ValueError, match="colours is 1; expected at least 2 bins"):
        ConvNet(colours=1)
