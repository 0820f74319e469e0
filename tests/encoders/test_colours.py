"""Histograms of colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moonlib.encoders.colours import colour_histogram


def by_a_loop(image: np.ndarray, bins: int) -> np.ndarray:
    """The histogram of one image [3, H, W], a pixel at a time."""
    _, height, width = image.shape
    top, left = round(0.1875 * height), round(0.1875 * width)
    counts = np.zeros((bins, bins, bins))
    for y in range(top, height - top):
        for x in range(left, width - left):
            red, green, blue = (int(channel) * bins // 256 for channel in image[:, y, x])
            counts[red, green, blue] += 1
    return np.sqrt(counts / counts.sum()).ravel()


@pytest.mark.parametrize(("bins", "size"), [(2, (64, 64)), (6, (64, 64)), (5, (16, 40)), (3, (8, 8)), (16, (4, 4))])
def test_it_counts_what_a_loop_over_the_pixels_counts(bins: int, size: tuple[int, int]) -> None:
    images = torch.randint(0, 256, (3, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[0, :, :, : size[1] // 2], images[0, :, :, size[1] // 2 :] = 0, 255
    found = colour_histogram(images, bins)
    for row, image in zip(found, images, strict=True):
        np.testing.assert_allclose(row.numpy(), by_a_loop(image.numpy(), bins), atol=1e-6)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))


def test_the_border_and_where_a_colour_is_make_no_difference() -> None:
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    image[:, 0, 20:30, 20:30] = 255
    moved, framed = torch.roll(image, (10, 5), dims=(2, 3)), image.clone()
    framed[:, :, :12], framed[:, :, -12:], framed[:, :, :, :12], framed[:, :, :, -12:] = 90, 90, 90, 90
    assert torch.equal(colour_histogram(image, 6), colour_histogram(moved, 6))
    assert torch.equal(colour_histogram(image, 6), colour_histogram(framed, 6))
