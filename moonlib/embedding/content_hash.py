"""The content hash of a product or query: of what an encoder reads of it. A row with another hash is encoded again.

A price is not read, so a changed price changes no hash; a changed title, category leaf, box or picture does. No picture
is decoded for it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moonlib.data.content import Modalities, compose
from moonlib.data.reader import Sample
from moonlib.representations.store import HASH_BYTES

if TYPE_CHECKING:
    from moonlib.embedding.embed import Views


def content_hashes(samples: Sequence[Sample], modalities: Modalities, views: Views) -> NDArray[np.uint8]:
    """Hash what an encoder reads of some samples, uint8 [N, 16].

    Args:
        samples: N products or queries, with the pictures that ``views`` reads.
        modalities: what of them is read.
        views: which pictures are read.
    """
    hashes = [sample_hash(sample, modalities, views) for sample in samples]
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES)


def sample_hash(sample: Sample, modalities: Modalities, views: Views) -> bytes:
    """Hash what an encoder reads of a sample; see `content_hash`."""
    pictures = [] if sample.image is None else [sample.image, *(sample.more if views == "mean" else ())]
    digest = pictures_digest(pictures) if pictures and modalities.image else None
    return content_hash(sample.row, digest, modalities, sample.unread)


def pictures_digest(pictures: Sequence[bytes]) -> bytes:
    """BLAKE2b-128 over pictures as they are encoded: of each its length, 8 bytes little-endian, and its bytes."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    for picture in pictures:
        digest.update(len(picture).to_bytes(8, "little"))
        digest.update(picture)
    return digest.digest()


def content_hash(row: Mapping[str, Any], pictures: bytes | None, modalities: Modalities, unread: int = 0) -> bytes:
    """BLAKE2b-128 over what an encoder reads of a product or query: its text, the box, and the digest of its pictures.

    Args:
        row: its row.
        pictures: the `pictures_digest` of those that are read; None where there is none.
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
