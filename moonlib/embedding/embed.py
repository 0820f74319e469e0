"""Run an encoder over products or queries, into files."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from moonlib.data.content import Modalities, Side, compose
from moonlib.data.ids import ShopIds
from moonlib.data.images import UnreadableImage
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import Sample
from moonlib.data.tables import KEYS
from moonlib.encoders.encoder import ContentBatch, Encoder
from moonlib.representations.store import Representations, write_vectors
from moonlib.system.workers import end_at_a_lost_batch


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
    ) -> None:
        self.reader = reader
        self.shop_ids = shop_ids or ShopIds()
        self.side = side
        self.ids = np.sort(ids)
        twice = self.ids[1:][self.ids[1:] == self.ids[:-1]]
        if len(twice):
            raise ValueError(f"{reader.table}: id {self.named(int(twice[0]))} stands twice among those to represent")
        self.modalities = modalities
        self.quarantine = quarantine
        self.chunk = chunk

    def __len__(self) -> int:
        return -(-len(self.ids) // self.chunk)

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
        """Read a chunk and preprocess it for an encoder.

        Raises:
            TooManyUnreadable: the quarantine is full.
        """
        samples = self.reader.read(self.ids[chunk * self.chunk : (chunk + 1) * self.chunk])
        contents = [compose(sample.row, sample.image, self.modalities) for sample in samples]
        try:
            return encoder.preprocessor(contents, self.side)
        except UnreadableImage:
            for i, sample in enumerate(samples):
                try:
                    encoder.preprocessor(contents[i : i + 1], self.side)
                except UnreadableImage as error:
                    self.quarantine.record(self.reader.table, sample.id, str(error))
                    contents[i] = compose(sample.row, None, self.modalities)
            return encoder.preprocessor(contents, self.side)


class _Work(TorchDataset["ContentBatch | NDArray[np.float32] | Exception"]):
    """Preprocess a chunk in a worker and, on a CPU, encode it.

    A worker that encodes uses one thread, so that w workers keep w cores busy and none waits for another. The value
    of a vector then depends on neither the number of workers nor that of cores.
    """

    def __init__(self, encoder: Encoder, contents: Contents, encodes: bool) -> None:
        self.encoder, self.contents, self.encodes = encoder, contents, encodes

    def __getitem__(self, chunk: int) -> ContentBatch | NDArray[np.float32] | Exception:
        try:
            batch = self.contents.preprocessed(self.encoder, chunk)
            return _vectors(self.encoder, batch) if self.encodes else batch
        except (OSError, ValueError) as error:
            # As a value, because torch would wrap the message in a traceback, where nobody finds it.
            error.add_note(traceback.format_exc())
            return error


def _vectors(encoder: Encoder, batch: ContentBatch) -> NDArray[np.float32]:
    with torch.inference_mode():
        vectors: NDArray[np.float32] = encoder(batch).float().cpu().numpy()
    return vectors


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
    device = torch.device(device)
    on_cpu = device.type == "cpu"
    training = encoder.training
    encoder.to(device).eval()
    loader = DataLoader(
        _Work(encoder, contents, encodes=on_cpu),
        sampler=range(start, len(contents)),
        batch_size=None,
        num_workers=min(workers, len(contents) - start),
        pin_memory=not on_cpu,
        worker_init_fn=end_at_a_lost_batch,
    )
    try:
        with _one_thread(on_cpu):
            for number, found in enumerate(loader, start):
                if isinstance(found, Exception):
                    raise found
                if isinstance(found, Tensor):
                    vectors = found.numpy()
                else:
                    vectors = _vectors(encoder, {k: v.to(device, non_blocking=True) for k, v in found.items()})
                broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
                if len(broken):
                    first = contents.named(int(contents.ids[number * contents.chunk + broken[0]]))
                    raise ValueError(
                        f"{contents.reader.table}: the representation of {first} is not finite: the encoder's weights "
                        "are broken; train it again, at a smaller learning rate"
                    )
                yield vectors
    finally:
        encoder.train(training)


@contextmanager
def _one_thread(applies: bool) -> Iterator[None]:
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

    Returns:
        N vectors, float32 [N, dim], not normalised, mapped from the files.

    Raises:
        ValueError: a vector is not finite, or an image too many can't be read (`TooManyUnreadable`); what is written
            by then is kept.
    """
    width = encoder.dim if dim is None else dim

    def chunks(start: int) -> Iterator[NDArray[np.float32]]:
        for number, vectors in enumerate(
            encode(encoder, contents, start=start, device=device, workers=workers), start + 1
        ):
            if progress:
                progress(min(number * contents.chunk, len(contents.ids)))
            yield vectors[:, :width]

    names = contents.names if named else None
    return write_vectors(directory, name, contents.ids, width, contents.chunk, chunks, names)
