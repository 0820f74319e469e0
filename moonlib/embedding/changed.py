"""Encode of a table only what changed: rows whose content hash is another than the known one."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from moonlib.data.jpeg import to_jpeg
from moonlib.data.reader import Sample
from moonlib.embedding.embed import Contents, averaged, one_thread
from moonlib.encoders.encoder import ContentBatch, Encoder
from moonlib.system.workers import end_at_a_lost_batch

_WORTH_PROCESSES = 0.5
"""Seconds of work that processes are started for: to start some takes half of that."""
PICTURE_SIDE = 256
"""Longest side of a small picture, in pixels."""


@dataclass(frozen=True)
class Changed:
    """Rows of a chunk of contents that changed.

    Attributes:
        hashes: content hash of every row, uint8 [n, 16].
        rows: numbers within the chunk of those that changed, int64 [m].
        vectors: of these, float32 [m, D], not normalised.
        pictures: of these, small JPEGs; None where there is none that can be read, or none are wanted.
    """

    hashes: NDArray[np.uint8]
    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    pictures: list[bytes | None]


def encode_changed(
    encoder: Encoder,
    contents: Contents,
    known: NDArray[np.uint8],
    is_known: NDArray[np.bool_],
    *,
    batch_size: int,
    pictures: bool = False,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> Iterator[Changed]:
    """Hash contents chunk by chunk, and encode those that changed. Each row is read once.

    Args:
        encoder: its weights are used as they are, in eval mode.
        contents: N rows.
        known: content hashes as of before, uint8 [N, 16].
        is_known: which rows have one, bool [N].
        batch_size: rows encoded at once.
        pictures: whether small pictures are wanted.
        device: where to compute. On a CPU the workers do, each with one thread.
        workers: processes, for what takes longer than to start them. They have no effect on the result.

    Yields:
        Of each chunk, in their order, what changed.

    Raises:
        ValueError: a vector is not finite; the message names its id.
        TooManyUnreadable: more images than tolerated can't be read.
    """
    device = torch.device(device)
    on_cpu = device.type == "cpu"
    training = encoder.training
    placed = next((parameter.device for parameter in encoder.parameters()), device)
    if training or placed != device:  # to go through all parameters takes its time
        encoder.to(device).eval()
    work = _Work(encoder, contents, known, is_known, batch_size, pictures, on_cpu)
    try:
        with one_thread(on_cpu):
            for number, found in enumerate(_chunks(work, len(contents), workers)):
                if isinstance(found, Exception):
                    raise found
                vectors = found.vectors
                if vectors is None:
                    parts = [({k: v.to(device) for k, v in batch.items()}, rows) for batch, rows in found.batches]
                    vectors = _encode(encoder, parts)
                broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
                if len(broken):
                    row = number * contents.chunk + int(found.rows[broken[0]])
                    raise ValueError(
                        f"{contents.reader.table}: the representation of {contents.named(int(contents.ids[row]))} is "
                        "not finite: the encoder's weights are broken; train it again, at a smaller learning rate"
                    )
                yield Changed(found.hashes, found.rows, vectors, found.pictures)
    finally:
        if training:
            encoder.train()


def _chunks(work: _Work, count: int, workers: int) -> Iterator[_Chunk | Exception]:
    """The chunks in their order. Processes are started for them if the first one says that they are worth it."""
    left = range(count)
    seconds = 0.0
    if count:
        start = time.perf_counter()
        first = work[0]
        seconds, left = time.perf_counter() - start, left[1:]
        yield first
    if min(workers, len(left)) > 1 and len(left) * seconds > _WORTH_PROCESSES:
        yield from DataLoader(
            work,
            sampler=left,
            batch_size=None,
            num_workers=min(workers, len(left)),
            worker_init_fn=end_at_a_lost_batch,
        )
    else:
        yield from (work[number] for number in left)


@dataclass(frozen=True)
class _Chunk:
    """A chunk as a worker hands it over: encoded, or preprocessed in batches."""

    hashes: NDArray[np.uint8]
    rows: NDArray[np.int64]
    vectors: NDArray[np.float32] | None
    batches: list[tuple[ContentBatch, NDArray[np.int64]]]
    pictures: list[bytes | None]


class _Work(TorchDataset["_Chunk | Exception"]):
    """Hash a chunk, preprocess what changed and, on a CPU, encode it."""

    def __init__(
        self,
        encoder: Encoder,
        contents: Contents,
        known: NDArray[np.uint8],
        is_known: NDArray[np.bool_],
        batch_size: int,
        pictures: bool,
        encodes: bool,
    ) -> None:
        self.encoder, self.contents, self.known, self.is_known = encoder, contents, known, is_known
        self.batch_size, self.pictures, self.encodes = batch_size, pictures, encodes

    def __getitem__(self, chunk: int) -> _Chunk | Exception:
        try:
            return self._chunk(chunk)
        except (OSError, ValueError) as error:
            # As a value, because torch would wrap the message in a traceback, where nobody finds it.
            error.add_note(traceback.format_exc())
            return error

    def _chunk(self, chunk: int) -> _Chunk:
        block = slice(chunk * self.contents.chunk, (chunk + 1) * self.contents.chunk)
        samples: list[Sample] | None = None
        if self.contents.stored_hashes is None:
            samples = self.contents.read(chunk)
            hashes = self.contents.hashes_of(samples)
        else:
            hashes = self.contents.hashes(chunk)
        same = self.is_known[block] & (self.known[block] == hashes).all(axis=1)
        rows = np.flatnonzero(~same)
        if samples is None and len(rows):
            changed = self.contents.reader.read(self.contents.ids[block][rows])
            hashes[rows] = self.contents.hashes_of(changed)  # of what is encoded now
        else:
            changed = [] if samples is None else [samples[row] for row in rows]
        batches: list[tuple[ContentBatch, NDArray[np.int64]]] = []
        for start in range(0, len(changed), self.batch_size):
            part = changed[start : start + self.batch_size]
            prepared, of = self.contents.only(self.contents.ids, self.batch_size).preprocessed_samples(
                self.encoder, part
            )
            of = np.arange(len(part)) if of is None else of
            for number, batch in enumerate(prepared):
                batches.append((batch, start + of[number * self.batch_size : (number + 1) * self.batch_size]))
        pictures = [_small(sample) if self.pictures else None for sample in changed]
        if self.encodes:
            return _Chunk(hashes, rows, _encode(self.encoder, batches), [], pictures)
        return _Chunk(hashes, rows, None, batches, pictures)


def _encode(encoder: Encoder, batches: list[tuple[ContentBatch, NDArray[np.int64]]]) -> NDArray[np.float32]:
    """Encode batches of contents and the row of each: float32 [rows, D]."""
    if not batches:
        return np.empty((0, encoder.dim), np.float32)
    with torch.inference_mode():
        vectors = np.concatenate([encoder(batch).float().cpu().numpy() for batch, _ in batches])
    rows = np.concatenate([rows for _, rows in batches])
    return vectors if rows[-1] + 1 == len(rows) else averaged(vectors, rows)


def _small(sample: Sample) -> bytes | None:
    if sample.image is None:
        return None
    try:
        return to_jpeg(sample.image, PICTURE_SIDE)
    except ValueError:  # the quarantine names it
        return None
