"""Augmentation is a function of its generator, differs per image and keeps to its bounds."""

from __future__ import annotations

import pytest
import torch

from moonlib.batches.augment import augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, height: int = 24, width: int = 32) -> torch.Tensor:
    image = torch.rand(1, 3, 4, 4, generator=generator(7))
    smooth = torch.nn.functional.interpolate(image, size=(height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).to(torch.uint8).repeat(count, 1, 1, 1)


def test_strength_zero_is_the_identity() -> None:
    images = pictures(3)
    assert torch.equal(augment(images, generator(), 0.0), images)


def test_the_generator_alone_decides() -> None:
    images = pictures(40)
    before = images.clone()
    first, again, other = (augment(images, generator(seed), 1.0) for seed in (1, 1, 2))
    assert first.shape == images.shape and first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images, before)


def test_each_image_changes_in_its_own_way() -> None:
    assert len(torch.unique(augment(pictures(80), generator()), dim=0)) == 80


def test_weaker_changes_less() -> None:
    images = pictures(64)
    change = [(augment(images, generator(), s).float() - images.float()).abs().mean() for s in (0.05, 0.3, 1.0)]
    assert 0 < change[0] < change[1] < change[2]


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_plain_image_stays_plain_and_within_the_documented_light(level: int) -> None:
    changed = augment(torch.full((64, 3, 16, 16), level, dtype=torch.uint8), generator()).float()
    assert (changed.amax(dim=(2, 3)) == changed.amin(dim=(2, 3))).all()
    reach = 51 + abs(level - 127.5) * (1.4 * 1.15 - 1) + 1
    assert ((changed - level).abs() <= reach).all()


def test_half_of_the_images_are_mirrored_and_none_turned_over() -> None:
    images = torch.zeros(400, 3, 16, 16, dtype=torch.uint8)
    images[..., 8:] = 200  # right half bright
    images[..., :8, :] += 40  # upper half brighter
    changed = augment(images, generator()).float()
    mirrored = changed[..., :8].mean(dim=(1, 2, 3)) > changed[..., 8:].mean(dim=(1, 2, 3))
    assert 0.4 < mirrored.float().mean() < 0.6
    upright = changed[:, :, :8].mean(dim=(1, 2, 3)) > changed[:, :, 8:].mean(dim=(1, 2, 3))
    assert upright.float().mean() > 0.9


def test_no_images() -> None:
    assert augment(pictures(1)[:0], generator()).shape == (0, 3, 24, 32)
