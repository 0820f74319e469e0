"""Run an encoder over products or queries, into files."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from moonlib.data.content import Content, Modalities, Side, compose
from moonlib.data.ids import ShopIds
from moonlib.data.images import UnreadableImage
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import Sample
from moonlib.data.tables import KEYS
from moonlib.embedding.content_hash import DatasetHashes, content_hashes
from moonlib.encoders.encoder import ContentBatch, Encoder
from moonlib.representations.store import HASH_BYTES, Chunk, GrowingArray, Representations, write_vectors
from moonlib.system.workers import end_at_a_lost_batch

Views = Literal["main", "mean"]
"""Which pictures of a product or query its vector is made from: the main one, or all of them, see `averaged`."""

_STORED_PER_WORKER = 16
"""Chunks whose stored hashes a process is started for: it costs as much as some of them."""


class Reader(Protocol):
    """Reads products or queries by id: `moonlib.data.reader.SampleReader`, or a table and a folder of images."""

    table: str

    def read(self, ids: NDArray[np.int64]) -> list[Sample]:
        """Return one sample per id, in order."""
        ...


class Contents:
    """Products or queries in chunks of equal size, by ascending id. Which rows meet in a chunk depends on nothing else.

    A row is never dropped: one whose image can't be read is named in the quarantine, and represented by what else it
    has.

    Args:
        reader: where they are read from.
        side: what they are to the encoder.
        ids: which of them, int64 [N] in any order.
        modalities: what of them the encoder sees.
        quarantine: where unreadable ones are named.
        chunk: rows per chunk.
        shop_ids: the shop's, of which text has its number in ``ids``.
        views: which pictures of those that have several.
        stored_hashes: hashes contents faster than by reading their samples, where that is possible.

    Raises:
        ValueError: an id stands twice.
    """

    def __init__(
        self,
        reader: Reader,
        side: Side,
        ids: NDArray[np.int64],
        modalities: Modalities,
        quarantine: Quarantine,
        chunk: int,
        shop_ids: ShopIds | None = None,
        views: Views = "main",
        stored_hashes: DatasetHashes | None = None,
    ) -> None:
        self.reader = reader
        self.stored_hashes = stored_hashes
        self.shop_ids = shop_ids or ShopIds()
        self.side = side
        self.ids = np.sort(ids)
        twice = self.ids[1:][self.ids[1:] == self.ids[:-1]]
        if len(twice):
            raise ValueError(f"{reader.table}: id {self.named(int(twice[0]))} stands twice among those to represent")
        self.modalities = modalities
        self.quarantine = quarantine
        self.chunk = chunk
        self.views = views

    def __len__(self) -> int:
        return -(-len(self.ids) // self.chunk)

    def only(self, ids: NDArray[np.int64], chunk: int | None = None) -> Contents:
        """The same reader's contents of some ids, int64 [n] ascending, in chunks of their own."""
        part = copy(self)
        part.ids, part.chunk = ids, chunk or self.chunk
        return part

    def named(self, id: int) -> int | str:
        """An id as the shop writes it."""
        return self.shop_ids.value(KEYS[self.reader.table], id)

    @property
    def names(self) -> pl.Series | None:
        """The shop's ids [N], where they are text."""
        key = KEYS[self.reader.table]
        known = self.shop_ids.of(key)
        return None if known is None else known.decode(self.ids).alias(key)

    def preprocessed(self, encoder: Encoder, chunk: int) -> ContentBatch:
        """Read a chunk and preprocess it for an encoder, of each row the main picture.

        Raises:
            TooManyUnreadable: the quarantine is full.
        """
        return self._of_main(encoder, self.read(chunk))

    def preprocessed_views(self, encoder: Encoder, chunk: int) -> tuple[list[ContentBatch], NDArray[np.int64] | None]:
        """Read a chunk and preprocess it for an encoder, of each row the pictures that `views` says.

        A picture that can't be read is named in the quarantine and left out, if the row has another.

        Returns:
            Batches of at most ``chunk`` contents, and for each content the number of its row within the chunk, int64
            [V]; None where each row is one content.

        Raises:
            TooManyUnreadable: the quarantine is full.
        """
        return self.preprocessed_samples(encoder, self.read(chunk))

    def preprocessed_samples(
        self, encoder: Encoder, samples: list[Sample]
    ) -> tuple[list[ContentBatch], NDArray[np.int64] | None]:
        """Preprocess samples that have been read; see `preprocessed_views`."""
        if self.views == "main" or not self.modalities.image or not any(sample.more for sample in samples):
            return [self._of_main(encoder, samples)], None
        views = [(row, sample.view(i)) for row, sample in enumerate(samples) for i in range(1 + len(sample.more))]
        contents = [compose(view.row, view.image, self.modalities) for _, view in views]
        rows = np.array([row for row, _ in views])
        try:
            return self._in_batches(encoder, contents), rows
        except UnreadableImage:
            ids = [samples[row].id for row in rows]
            readable = np.array([self._is_readable(encoder, *one) for one in zip(contents, ids, strict=True)])
        first = np.diff(rows, prepend=-1) > 0
        bare = first & ~np.isin(rows, rows[readable])
        for i in np.flatnonzero(bare):
            contents[i] = compose(views[i][1].row, None, self.modalities)
        kept = np.flatnonzero(readable | bare)
        return self._in_batches(encoder, [contents[i] for i in kept]), rows[kept]

    def hashes(self, chunk: int) -> NDArray[np.uint8]:
        """Hash what an encoder reads of a chunk, uint8 [rows, 16]; no picture is decoded."""
        if self.stored_hashes is not None:
            return self.stored_hashes.hashes(self._ids_of(chunk))
        return self.hashes_of(self.read(chunk))

    def hashes_of(self, samples: list[Sample]) -> NDArray[np.uint8]:
        """Hash what an encoder reads of samples, uint8 [N, 16]; see `moonlib.embedding.content_hash`."""
        return content_hashes(samples, self.modalities, self.views)

    def read(self, chunk: int) -> list[Sample]:
        """Read the samples of a chunk."""
        return self.reader.read(self._ids_of(chunk))

    def _ids_of(self, chunk: int) -> NDArray[np.int64]:
        return self.ids[chunk * self.chunk : (chunk + 1) * self.chunk]

    def _in_batches(self, encoder: Encoder, contents: list[Content]) -> list[ContentBatch]:
        parts = [contents[start : start + self.chunk] for start in range(0, len(contents), self.chunk)]
        return [encoder.preprocessor(part, self.side) for part in parts]

    def _is_readable(self, encoder: Encoder, content: Content, id: int) -> bool:
        try:
            encoder.preprocessor([content], self.side)
        except UnreadableImage as error:
            self.quarantine.record(self.reader.table, id, str(error))
            return False
        return True

    def _of_main(self, encoder: Encoder, samples: list[Sample]) -> ContentBatch:
        contents = [compose(sample.row, sample.image, self.modalities) for sample in samples]
        try:
            return encoder.preprocessor(contents, self.side)
        except UnreadableImage:
            for i, sample in enumerate(samples):
                if not self._is_readable(encoder, contents[i], sample.id):
                    contents[i] = compose(sample.row, None, self.modalities)
            return encoder.preprocessor(contents, self.side)


class _Chunk(NamedTuple):
    """A chunk as a worker hands it over: encoded, or preprocessed; of arrays the loader makes tensors."""

    vectors: NDArray[np.float32] | Tensor | None
    batches: list[ContentBatch]
    rows: NDArray[np.int64] | Tensor | None
    hashes: NDArray[np.uint8] | Tensor | None


class _Work(TorchDataset["_Chunk | Exception"]):
    """Preprocess a chunk in a worker and, on a CPU, encode it.

    A worker that encodes uses one thread, so that w workers keep w cores busy and none waits for another. The value
    of a vector then depends on neither the number of workers nor that of cores.
    """

    def __init__(self, encoder: Encoder, contents: Contents, encodes: bool, hashed: bool) -> None:
        self.encoder, self.contents, self.encodes, self.hashed = encoder, contents, encodes, hashed

    def __getitem__(self, chunk: int) -> _Chunk | Exception:
        try:
            samples = self.contents.read(chunk)
            hashes = self.contents.hashes_of(samples) if self.hashed else None
            batches, rows = self.contents.preprocessed_samples(self.encoder, samples)
            if self.encodes:
                return _Chunk(_vectors(self.encoder, batches, rows), [], None, hashes)
            return _Chunk(None, batches, rows, hashes)
        except (OSError, ValueError) as error:
            # As a value, because torch would wrap the message in a traceback, where nobody finds it.
            error.add_note(traceback.format_exc())
            return error


class _Hashing(TorchDataset["NDArray[np.uint8] | Exception"]):
    """Hash a chunk in a worker."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents

    def __getitem__(self, chunk: int) -> NDArray[np.uint8] | Exception:
        try:
            return self.contents.hashes(chunk)
        except (OSError, ValueError) as error:
            error.add_note(traceback.format_exc())
            return error


def _vectors(encoder: Encoder, batches: list[ContentBatch], rows: NDArray[np.int64] | None) -> NDArray[np.float32]:
    with torch.inference_mode():
        parts: list[NDArray[np.float32]] = [encoder(batch).float().cpu().numpy() for batch in batches]
    return parts[0] if rows is None else averaged(np.concatenate(parts), rows)


def averaged(vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Average the vectors of the pictures of each product.

    Directions are averaged, and lengths apart from them. Vectors are compared by their cosine, so each picture counts
    the same, whatever the length of its vector: as CLIP averages the embeddings of several prompts after normalising
    them (Radford et al., "Learning transferable visual models from natural language supervision", 2021, section 3.1.4).
    The vector of a product whose pictures are copies of one is that of the one.

    Args:
        vectors: float32 [V, D], one per picture.
        rows: int64 [V], ascending, which of the N products each is of; every product has one.

    Returns:
        float32 [N, D].

    Example:
        >>> averaged(np.float32([[1, 0], [0, 3], [2, 2]]), np.array([0, 0, 1])).tolist()
        [[1.0, 1.0], [2.0, 2.0]]
    """
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    counts = np.diff(starts, append=len(rows))[:, None]
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    directions = np.divide(vectors, lengths, out=np.zeros(vectors.shape), where=lengths != 0)
    means = [np.add.reduceat(values, starts, axis=0) / counts for values in (directions, lengths)]
    return np.where(counts == 1, vectors[starts], means[0] * means[1]).astype(np.float32)


def encode(
    encoder: Encoder, contents: Contents, *, start: int = 0, device: torch.device | str = "cpu", workers: int = 0
) -> Iterator[NDArray[np.float32]]:
    """Encode chunks in their order.

    Args:
        encoder: its weights are used as they are, in eval mode.
        contents: what to encode.
        start: number of the first chunk.
        device: where to compute. On a CPU the workers do, in parallel, each with one thread.
        workers: processes; has no effect on the result.

    Yields:
        Vectors of a chunk, float32 [rows, dim], not normalised.

    Raises:
        ValueError: a vector is not finite; the message names its id.
        TooManyUnreadable: more images than tolerated can't be read.
    """
    for vectors, _ in _encode(encoder, contents, start, device, workers, hashed=False):
        yield vectors


def _encode(
    encoder: Encoder, contents: Contents, start: int, device: torch.device | str, workers: int, hashed: bool
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8] | None]]:
    """Encode chunks, and hash what was read of them."""
    device = torch.device(device)
    on_cpu = device.type == "cpu"
    training = encoder.training
    encoder.to(device).eval()
    loader = DataLoader(
        _Work(encoder, contents, encodes=on_cpu, hashed=hashed),
        sampler=range(start, len(contents)),
        batch_size=None,
        num_workers=min(workers, len(contents) - start),
        pin_memory=not on_cpu,
        worker_init_fn=end_at_a_lost_batch,
    )
    try:
        with one_thread(on_cpu):
            for number, found in enumerate(loader, start):
                if isinstance(found, Exception):
                    raise found
                if found.vectors is not None:
                    vectors = found.vectors.numpy()
                else:
                    moved = [{k: v.to(device, non_blocking=True) for k, v in batch.items()} for batch in found.batches]
                    vectors = _vectors(encoder, moved, None if found.rows is None else np.asarray(found.rows))
                broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
                if len(broken):
                    first = contents.named(int(contents.ids[number * contents.chunk + broken[0]]))
                    raise ValueError(
                        f"{contents.reader.table}: the representation of {first} is not finite: the encoder's weights "
                        "are broken; train it again, at a smaller learning rate"
                    )
                yield vectors, None if found.hashes is None else np.asarray(found.hashes)
    finally:
        encoder.train(training)


def hash_contents(
    contents: Contents, file: Path, *, workers: int = 0, progress: Callable[[int], None] | None = None
) -> NDArray[np.uint8]:
    """Hash the contents of every id into a file, resuming what an earlier call began. No picture is decoded.

    Args:
        contents: what to hash, N ids.
        file: the ``.npy`` file to write.
        workers: processes; has no effect on the result.
        progress: called with the number of rows that are done.

    Returns:
        uint8 [N, 16], mapped from the file; see `moonlib.embedding.content_hash`.
    """
    growing = GrowingArray(file, "|u1", (len(contents.ids), HASH_BYTES))
    done = growing.rows
    if not growing.finished:
        start = len(contents) if done == len(contents.ids) else done // contents.chunk
        growing.keep(min(start * contents.chunk, len(contents.ids)))
        left = len(contents) - start
        loader = DataLoader(
            _Hashing(contents),
            sampler=range(start, len(contents)),
            batch_size=None,
            num_workers=min(workers, left if contents.stored_hashes is None else left // _STORED_PER_WORKER),
            worker_init_fn=end_at_a_lost_batch,
        )
        for number, found in enumerate(loader, start + 1):
            if isinstance(found, Exception):
                raise found
            growing.append(np.asarray(found))
            if progress:
                progress(min(number * contents.chunk, len(contents.ids)))
        growing.finish()
    hashes: NDArray[np.uint8] = np.load(file, mmap_mode="r", allow_pickle=False)
    return hashes


@contextmanager
def one_thread(applies: bool) -> Iterator[None]:
    """Let torch compute with one thread, as loader workers do."""
    before = torch.get_num_threads()
    if applies:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if applies:
            torch.set_num_threads(before)


def embed(
    encoder: Encoder,
    contents: Contents,
    directory: Path,
    name: str,
    *,
    dim: int | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
    named: bool = False,
    hashed: bool = False,
) -> Representations:
    """Represent every id of ``contents`` in files of a directory, resuming what an earlier call began.

    Memory does not grow with the number of ids but for the ids themselves, and a resumed run writes the same bytes
    as one that was never cut off.

    Args:
        encoder: its weights are used as they are, in eval mode; the same as in the earlier call.
        contents: what to encode, N ids.
        directory: where to write ``{name}.ids.npy`` and ``{name}.npy``; see `write_vectors`.
        name: of the files.
        dim: how many of the vectors' first dimensions to keep; all by default.
        device: where to compute.
        workers: processes; has no effect on the result.
        progress: called with the number of rows that are done.
        named: whether ``{name}.ids.parquet`` is written too where the shop's ids are text: these, row by row.
        hashed: whether ``{name}.content.npy`` is written too: the content hash of each row, of what was read of it.

    Returns:
        N vectors, float32 [N, dim], not normalised, mapped from the files.

    Raises:
        ValueError: a vector is not finite, or an image too many can't be read (`TooManyUnreadable`); what is written
            by then is kept.
    """
    width = encoder.dim if dim is None else dim

    def chunks(start: int) -> Iterator[Chunk]:
        encoded = _encode(encoder, contents, start, device, workers, hashed)
        for number, (vectors, hashes) in enumerate(encoded, start + 1):
            if progress:
                progress(min(number * contents.chunk, len(contents.ids)))
            yield vectors[:, :width] if hashes is None else (vectors[:, :width], hashes)

    names = contents.names if named else None
    return write_vectors(directory, name, contents.ids, width, contents.chunk, chunks, names, hashed=hashed)
