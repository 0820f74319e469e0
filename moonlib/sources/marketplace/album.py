"""Draws the pictures of listings and queries, in parallel, and hands them out by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from moonlib.sources.marketplace.catalogue import SimulatedCatalogue
from moonlib.sources.marketplace.render import Look, render_catalogue, render_query
from moonlib.sources.marketplace.words import COLOURS, STYLES
from moonlib.system.console import progress
from moonlib.system.disk import replacing
from moonlib.system.workers import cpus, worker_pool

_PICTURES_PER_TASK = 256

_PLACE = np.dtype([("start", np.int64), ("size", np.int64), ("box", np.float32, 4)])
"""Where a picture lies in the file of its task, in bytes, and the box of the product in it."""


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

    @property
    def identity(self) -> str:
        """Fingerprint of what is drawn."""
        content = hashlib.sha256(str(self.size).encode())
        for owner in (self.looks, self):
            for column in (getattr(owner, field.name) for field in fields(owner)):
                if isinstance(column, np.ndarray):
                    content.update(np.ascontiguousarray(column).data)
        return content.hexdigest()

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

    def __init__(self, directory: Path, identity: str, places: NDArray[np.void]) -> None:
        self._directory, self._identity, self._places = directory, identity, places

    def __call__(self, table: str, name: str) -> bytes:
        """The JPEG of that name, whatever the table."""
        number = int(name[1:])
        place = self._places[number]
        with _pictures(self._directory, number // _PICTURES_PER_TASK).open("rb") as file:
            file.seek(int(place["start"]))
            return file.read(int(place["size"]))

    def identity(self, name: str) -> list[Any]:
        """Values that are equal for the same picture only; see `moonlib.data.sample_shards.ImageIdentity`."""
        return [self._identity, name]


def fill_album(
    shots: Shots, directory: Path, version: str, workers: int | None = None
) -> tuple[Album, NDArray[np.float32]]:
    """Take all the shots, but for those that are in the folder already. Nothing depends on the number of workers.

    Args:
        shots: what to draw.
        directory: the folder that the album reads from as long as it is used. Of what a killed process has left there,
            pictures of the same shots and version are kept, and others deleted.
        version: of how pictures are drawn.
        workers: processes; None takes one per CPU where there is enough to do.

    Returns:
        The album, and the boxes float32 [M, 4].
    """
    identity = f"{version} {shots.identity}"
    directory.mkdir(exist_ok=True)
    _keep_only(directory, identity)
    tasks = range(-(-len(shots.listing) // _PICTURES_PER_TASK))
    todo = [task for task in tasks if not _places(directory, task).exists()]
    if workers is None:
        workers = min(cpus(), len(todo) // 4)
    with progress() as bars:
        bar = bars.add_task("Drawing pictures", total=len(tasks), completed=len(tasks) - len(todo))
        for _ in _drawn(shots, directory, todo, workers):
            bars.advance(bar)
    places = np.concatenate([np.load(_places(directory, task)) for task in tasks])
    return Album(directory, identity, places), places["box"]


def _keep_only(directory: Path, identity: str) -> None:
    """Empty a folder, but for whole files of pictures that have this identity."""
    note = directory / "identity"
    if not note.is_file() or note.read_text() != identity:
        for path in directory.iterdir():
            path.unlink()
        with replacing(note) as partial:
            partial.write_text(identity)


def _pictures(directory: Path, task: int) -> Path:
    return directory / f"{task:06d}.jpegs"


def _places(directory: Path, task: int) -> Path:
    """The file about a task's pictures, which is written when these are whole."""
    return directory / f"{task:06d}.npy"


def _drawn(shots: Shots, directory: Path, tasks: list[int], workers: int) -> Iterator[None]:
    if workers > 1:
        with worker_pool(workers, _start_worker, shots, directory) as pool:
            yield from pool.map(_work, tasks)
    else:
        for task in tasks:
            _draw(shots, directory, task)
            yield


def _draw(shots: Shots, directory: Path, task: int) -> None:
    """Draw one task's pictures into its file, and note where they lie."""
    first = task * _PICTURES_PER_TASK
    numbers = range(first, min(first + _PICTURES_PER_TASK, len(shots.listing)))
    pictures, boxes = zip(*(shots.take(number) for number in numbers), strict=True)
    places = np.zeros(len(numbers), dtype=_PLACE)
    places["size"], places["box"] = [len(picture) for picture in pictures], boxes
    places["start"] = np.cumsum(places["size"]) - places["size"]
    with replacing(_pictures(directory, task)) as partial:
        partial.write_bytes(b"".join(pictures))
    with replacing(_places(directory, task)) as partial, partial.open("wb") as file:
        np.save(file, places)


_task: tuple[Shots, Path]
"""The drawing job of this worker process, sent once."""


def _start_worker(shots: Shots, directory: Path) -> None:
    global _task
    _task = shots, directory


def _work(task: int) -> None:
    _draw(*_task, task)
