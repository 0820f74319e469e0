"""Run an encoder over products or queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from moonlib.data.content import Modalities, Side, compose
from moonlib.data.images import UnreadableImage
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import SampleReader
from moonlib.encoders.encoder import ContentBatch, Encoder, Preprocessor
from moonlib.representations.store import Representations


class Contents(TorchDataset[ContentBatch]):
    """Chunks of products or queries, preprocessed; used with ``batch_size=None``, one chunk per index."""

    def __init__(
        self,
        directory: Path,
        side: Side,
        ids: NDArray[np.int64],
        modalities: Modalities,
        preprocessor: Preprocessor,
        quarantine: Quarantine,
        batch_size: int,
    ) -> None:
        self.table = "products" if side == "product" else "queries"
        self.reader = SampleReader(directory, self.table)
        self.side = side
        self.ids = ids
        self.modalities = modalities
        self.preprocessor = preprocessor
        self.quarantine = quarantine
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.ids) // self.batch_size)

    def __getitem__(self, chunk: int) -> ContentBatch:
        samples = self.reader.read(self.ids[chunk * self.batch_size : (chunk + 1) * self.batch_size])
        contents = [compose(sample.row, sample.image, self.modalities) for sample in samples]
        try:
            return self.preprocessor(contents, self.side)
        except UnreadableImage:
            # A row is never dropped here: it is represented by what else it has.
            for i, sample in enumerate(samples):
                try:
                    self.preprocessor(contents[i : i + 1], self.side)
                except UnreadableImage as error:
                    self.quarantine.record(self.table, sample.id, str(error))
                    contents[i] = compose(sample.row, None, self.modalities)
            return self.preprocessor(contents, self.side)


@torch.inference_mode()
def embed(
    encoder: Encoder, contents: Contents, *, device: torch.device | str = "cpu", workers: int = 0
) -> Representations:
    """Represent every id of ``contents``.

    Args:
        encoder: its weights are used as they are, in eval mode.
        contents: what to encode, N ids.
        device: where to compute.
        workers: loader processes.

    Returns:
        N vectors, float32 [N, dim], not normalised.
    """
    training = encoder.training
    encoder.to(device).eval()
    vectors = np.zeros((len(contents.ids), encoder.dim), dtype=np.float32)
    row = 0
    for batch in DataLoader(contents, batch_size=None, num_workers=workers, shuffle=False):
        output = encoder({name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()})
        vectors[row : row + len(output)] = output.float().cpu().numpy()
        row += len(output)
    encoder.train(training)
    return Representations(contents.ids, vectors)
