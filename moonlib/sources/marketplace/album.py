"""Draws the pictures of listings and queries, in parallel, and hands them out by name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from moonlib.sources.marketplace.catalogue import SimulatedCatalogue
from moonlib.sources.marketplace.render import Look, render_catalogue, render_query
from moonlib.sources.marketplace.words import COLOURS, STYLES
from moonlib.system.workers import worker_pool

_PICTURES_PER_TASK = 256


@dataclass(frozen=True)
class Looks:
    """The visible factors of N listings, as columns of `Look`."""

    category: NDArray[np.int64]
    proportions: NDArray[np.float64]
    colour: NDArray[np.float64]
    accent: NDArray[np.float64]
    pattern: NDArray[np.int64]
    pattern_scale: NDArray[np.float64]
    pattern_angle: NDArray[np.float64]
    ornament: NDArray[np.int64]
    ornament_at: NDArray[np.float64]
    gloss: NDArray[np.float64]

    def __getitem__(self, row: int) -> Look:
        return Look(
            category=int(self.category[row]),
            proportions=tuple(self.proportions[row].tolist()),
            colour=tuple(self.colour[row].tolist()),
            accent=tuple(self.accent[row].tolist()),
            pattern=int(self.pattern[row]),
            pattern_scale=float(self.pattern_scale[row]),
            pattern_angle=float(self.pattern_angle[row]),
            ornament=int(self.ornament[row]),
            ornament_at=tuple(self.ornament_at[row].tolist()),
            gloss=float(self.gloss[row]),
        )


def dress(catalogue: SimulatedCatalogue, rng: np.random.Generator) -> Looks:
    """Paint the listings: a palette that many share, a small cast of each product's own, accents in its style."""
    f, n = catalogue.factors, len(catalogue)
    spus = int(catalogue.spu.max()) + 1
    cast, accent_cast = rng.normal(0, 0.025, size=(2, spus, 3))
    colour = np.clip(np.array([c.rgb for c in COLOURS])[f.colour] + cast[catalogue.spu], 0, 1)
    accent = np.clip(np.array([s.accent for s in STYLES])[f.style] + accent_cast[catalogue.spu], 0, 1)
    # An accent must stand out from its body, or pattern and ornament could not be seen.
    body = colour.mean(axis=1, keepdims=True)
    close = np.abs(accent - colour).max(axis=1, keepdims=True) < 0.25
    accent = np.where(close, np.where(body > 0.5, 0.45 * accent, 0.4 * accent + 0.6), accent)
    gloss = np.array([s.gloss for s in STYLES])[f.style] + rng.uniform(-0.05, 0.05, size=n)
    return Looks(
        category=f.category,
        proportions=f.proportions,
        colour=colour,
        accent=accent,
        pattern=f.pattern,
        pattern_scale=f.pattern_scale,
        pattern_angle=f.pattern_angle,
        ornament=f.ornament,
        ornament_at=f.ornament_at,
        gloss=np.clip(gloss, 0, 1),
    )


@dataclass(frozen=True)
class Shots:
    """M pictures to take.

    Attributes:
        looks: of the listings.
        listing: int64 [M], the listing in each picture.
        seed: int64 [M], non-negative.
        view: int64 [M], 0 to 3 for a merchant's picture, -1 for a shopper's photo.
        quality: int64 [M], of the JPEG.
        size: pixels a side.
    """

    looks: Looks
    listing: NDArray[np.int64]
    seed: NDArray[np.int64]
    view: NDArray[np.int64]
    quality: NDArray[np.int64]
    size: int

    def take(self, number: int) -> tuple[bytes, tuple[float, float, float, float]]:
        """Draw one picture: its JPEG, and the box of the product in it."""
        look, seed, view = self.looks[int(self.listing[number])], int(self.seed[number]), int(self.view[number])
        if view < 0:
            picture, box = render_query(look, seed, self.size)
        else:
            picture, box = render_catalogue(look, seed, self.size, view)
        return simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=int(self.quality[number])), box


class Album:
    """Pictures in a folder, one file for each task; to be called as `write_dataset` calls it.

    A picture's name is a letter and its number. The album is small and may be sent to other processes.
    """

    def __init__(self, directory: Path, start: NDArray[np.int64], size: NDArray[np.int64]) -> None:
        self._directory, self._start, self._size = directory, start, size

    def __call__(self, table: str, name: str) -> bytes:
        """The JPEG of that name, whatever the table."""
        number = int(name[1:])
        with (self._directory / f"{number // _PICTURES_PER_TASK}").open("rb") as file:
            file.seek(int(self._start[number]))
            return file.read(int(self._size[number]))


def fill_album(shots: Shots, directory: Path, workers: int | None = None) -> tuple[Album, NDArray[np.float32]]:
    """Take all the shots. The result does not depend on the number of workers.

    Args:
        shots: what to draw.
        directory: an empty folder, which the album reads from as long as it is used.
        workers: processes; None takes one per CPU where there is enough to do.

    Returns:
        The album, and the boxes float32 [M, 4].
    """
    tasks = range(0, len(shots.listing), _PICTURES_PER_TASK)
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)), len(tasks) // 4)
    if workers > 1:
        with worker_pool(workers, _start_worker, shots, directory) as pool:
            return _bind(directory, pool.map(_work, tasks))
    return _bind(directory, (_draw(shots, directory, first) for first in tasks))


def _bind(
    directory: Path, drawn: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]
) -> tuple[Album, NDArray[np.float32]]:
    sizes, boxes = zip(*drawn, strict=True)
    start = np.concatenate([np.cumsum(s) - s for s in sizes])
    return Album(directory, start, np.concatenate(sizes)), np.concatenate(boxes)


def _draw(shots: Shots, directory: Path, first: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Draw one task's pictures into its file; return their sizes in bytes and their boxes."""
    numbers = range(first, min(first + _PICTURES_PER_TASK, len(shots.listing)))
    pictures, boxes = zip(*(shots.take(number) for number in numbers), strict=True)
    (directory / f"{first // _PICTURES_PER_TASK}").write_bytes(b"".join(pictures))
    return np.array([len(picture) for picture in pictures], dtype=np.int64), np.array(boxes, dtype=np.float32)


_task: tuple[Shots, Path]
"""The drawing job of this worker process, sent once."""


def _start_worker(shots: Shots, directory: Path) -> None:
    global _task
    _task = shots, directory


def _work(first: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    return _draw(*_task, first)
