"""The content hash of a product or query: of what an encoder reads of it. A row with another hash is encoded again.

A price is not read, so a changed price changes no hash; a changed title, category leaf, box or picture does. No picture
is decoded for it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moonlib.data.content import Modalities, compose
from moonlib.data.dataset import Dataset
from moonlib.data.reader import Sample, SampleReader
from moonlib.data.sample_shards import DIGEST, digest_of
from moonlib.data.tables import KEYS
from moonlib.representations.store import HASH_BYTES

_Views = Literal["main", "mean"]  # as in `moonlib.embedding.embed.Views`


def content_hashes(samples: Sequence[Sample], modalities: Modalities, views: _Views) -> NDArray[np.uint8]:
    """Hash what an encoder reads of some samples, uint8 [N, 16].

    Args:
        samples: N products or queries, with the pictures that ``views`` reads.
        modalities: what of them is read.
        views: which pictures are read.
    """
    hashes = [sample_hash(sample, modalities, views) for sample in samples]
    return np.frombuffer(bytearray().join(hashes), np.uint8).reshape(-1, HASH_BYTES)


def sample_hash(sample: Sample, modalities: Modalities, views: _Views) -> bytes:
    """Hash what an encoder reads of a sample; see `content_hash`."""
    pictures = [] if sample.image is None else [sample.image, *(sample.more if views == "mean" else ())]
    return content_hash(sample.row, digest_of(pictures) if modalities.image else None, modalities, sample.unread)


def content_hash(row: Mapping[str, Any], pictures: bytes | None, modalities: Modalities, unread: int = 0) -> bytes:
    """BLAKE2b-128 over what an encoder reads of a product or query: its text, the box, and the digest of its pictures.

    Args:
        row: its row.
        pictures: `moonlib.data.sample_shards.digest_of` those that are read; None where there is none.
        modalities: what is read.
        unread: how many pictures its table names that could not be read; a row has another hash once they can.

    Example:
        >>> title = Modalities.parse("title")
        >>> content_hash({"title": "mug", "price": 1}, None, title) == content_hash({"title": "mug "}, None, title)
        True
    """
    content = compose(row, pictures, modalities)
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    text = None if content.text is None else content.text.encode("utf-8", "surrogatepass")
    digest.update(struct.pack("<q", -1 if text is None else len(text)))
    digest.update(text or b"")
    digest.update(struct.pack("<q", 0 if content.box is None else 1))
    digest.update(b"" if content.box is None else struct.pack("<4d", *content.box))
    digest.update(struct.pack("<q", unread if modalities.image else 0))
    digest.update(content.image or b"")
    return digest.digest()


class DatasetHashes:
    """Content hashes of a dataset's products or queries by id, from its tables and the digests of its pictures.

    No sample is read, but those with several pictures of which only the main one is wanted. Picklable.

    Args:
        dataset: with digests, see `moonlib.data.dataset.Dataset.image_digests`, where pictures are read.
        reader: of its samples.
        modalities: what of them is read.
        views: which pictures are read.

    Raises:
        ValueError: the dataset has no digests.
    """

    def __init__(self, dataset: Dataset, reader: SampleReader, modalities: Modalities, views: _Views) -> None:
        self.directory, self.reader, self.modalities, self.views = dataset.directory, reader, modalities, views
        self._key = KEYS[reader.table]
        self._read(dataset)

    def _read(self, dataset: Dataset) -> None:
        table = dataset.arrow(self.reader.table)
        texts = ["text"] if self.reader.table == "queries" else ["title", "category", "attributes"]
        columns = [self._key, *(texts if self.modalities.text else ())]
        if self.modalities.image:
            digests = dataset.image_digests(self.reader.table)
            if digests is None:
                raise ValueError(f"{dataset.directory} has no digests of pictures: an earlier version built it")
            table = table.select([*columns, "box"]).append_column(DIGEST, digests)
        else:
            table = table.select(columns)
        self._batches: list[pa.RecordBatch] = table.to_batches()
        self._starts = np.cumsum([0, *map(len, self._batches)])
        ids = table.column(self._key).to_numpy()
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order]
        of_reader = np.argsort(self.reader.ids, kind="stable")
        self._several = self.reader.ids[of_reader][self.reader.pictures[of_reader] > 1]

    def hashes(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Hash what an encoder reads of some rows, uint8 [n, 16].

        Args:
            ids: int64 [n], of the dataset's.
        """
        rows = self._order[np.searchsorted(self._sorted, ids)]
        batches = np.searchsorted(self._starts, rows, side="right") - 1
        found = [b""] * len(rows)
        for number in np.unique(batches):
            places = np.flatnonzero(batches == number)
            taken = self._batches[number].take(pa.array(rows[places] - self._starts[number])).to_pylist()
            for place, row in zip(places.tolist(), taken, strict=True):
                found[place] = self._hash(row)
        if self.modalities.image and self.views == "main":
            places = np.flatnonzero(np.isin(ids, self._several))
            for place, sample in zip(places.tolist(), self.reader.read(ids[places]), strict=True):
                found[place] = sample_hash(sample, self.modalities, self.views)
        return np.frombuffer(bytearray().join(found), np.uint8).reshape(-1, HASH_BYTES)

    def _hash(self, row: dict[str, Any]) -> bytes:
        if row.get("attributes") is not None:
            row["attributes"] = dict(row["attributes"])
        return content_hash(row, row.get(DIGEST), self.modalities)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not isinstance(value, np.ndarray | list)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._read(Dataset(self.directory))
