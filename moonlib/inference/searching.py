"""An index of a run's products, and the products nearest to a photo, a text, or both."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from moonlib.artifacts.layout import is_read
from moonlib.data.content import Content
from moonlib.data.dataset import Dataset
from moonlib.data.images import UnreadableImage
from moonlib.data.reader import SampleReader
from moonlib.data.tables import SCHEMAS
from moonlib.exports.folder import opened
from moonlib.inference.embedding_folder import ABOUT, embedding_identity, vectors_digest
from moonlib.inference.hits import Hit
from moonlib.representations.index import Index, build_index, nearest
from moonlib.representations.store import Representations
from moonlib.runs.run import Run, RunError
from moonlib.system.remote import is_url, local_copy, local_only, without_credentials

if TYPE_CHECKING:
    from moonlib.encoders.encoder import Encoder


def index(place: str | Path, kind: Literal["flat", "hnsw", "ivf"] = "hnsw", out: str | Path | None = None) -> Index:
    """Build a faiss index of the products' vectors, scaled to unit length, and compare it with the exact search.

    Args:
        place: a run directory, or what `embed` wrote as ``npy``, or the URL of one.
        kind: see `moonlib.representations.index.build_index`.
        out: the file; by default ``products.KIND.faiss`` in ``place``. Ids and a description are written beside it.

    Returns:
        The index: ``path`` is its file, and ``about`` holds its recall and how fast it is.

    Raises:
        RunError: the run has no representations.
        ValueError: ``place`` is neither, or holds nothing to index.
    """
    if is_url(place) and out is None:
        raise ValueError(f"{without_credentials(str(place))}: an index is not written there; say where, with --out")
    out = None if out is None else local_only(out, "an index")
    place = local_copy(place, is_read)
    queries: Representations | None = None
    path = out or place / f"products.{kind}.faiss"
    source: dict[str, str] | None = None
    if (place / ABOUT).is_file():
        if (place / "products.parquet").exists():
            raise ValueError(f"{place} holds Parquet; an index is built from --format npy")
        encoder = str(embedding_identity(place / ABOUT).get("encoder"))
        if not (place / "products.npy").exists():
            raise ValueError(f"{place} is not complete; the `moonlib embed` that wrote it resumes it")
        if digest := vectors_digest(place):  # before they are opened: newer ones may take their place meanwhile
            source = {"directory": os.path.relpath(place.resolve(), path.resolve().parent), "sha256": digest}
        products = Representations.open(place, "products")
        if (place / "queries.npy").exists():
            queries = Representations.open(place, "queries")
    else:
        run = Run(place)
        (products, queries), encoder = run.representations(), run.fingerprint
    sample = queries.vectors if queries is not None and len(queries.ids) else None
    return build_index(products, kind, path, encoder=encoder, queries=sample, source=source)


def search(
    run: str | Path,
    *,
    image: str | Path | None = None,
    text: str | None = None,
    k: int = 10,
    index: str | Path | None = None,
    new_only: bool = False,
) -> list[Hit]:
    """Find the products that a run's encoder puts nearest to a photo, a text, or both.

    Args:
        run: a run directory; where ``index`` is given, also an export of one.
        image: file of the photo.
        text: what is searched for.
        k: products wanted.
        index: what `index` wrote; by default every product is looked at.
        new_only: only products listed after the end of training.

    Returns:
        At most k hits, the nearest first. Their rows and images are empty where the run's data is not there any more.

    Raises:
        RunError: the run has no representations, or the data that ``new_only`` needs is gone.
        ValueError: nothing to search for, or an index of another encoder, of vectors that are not there any more, or,
            with ``new_only``, of ids of another type than those of the data.
    """
    source = opened(run)
    if k < 1:
        raise ValueError(f"k {k}: ask for at least 1 product")
    found = None if index is None else Index.open(_local_index(index))
    if found is not None and found.about.encoder != source.fingerprint:
        raise ValueError(f"{index} is an index of another encoder than {run}'s: build one with `moonlib index {run}`")
    if found is not None:
        _refuse_outdated(found)
    vector = query_vector(source.encoder(), None if image is None else local_copy(image), text)
    try:
        dataset = source.dataset()
    except RunError:
        if new_only:
            raise
        dataset = None
    searched = source.representations()[0] if found is None else found
    among = None
    if new_only:
        assert dataset is not None
        new = dataset.products.filter(pl.col("listed_at") >= dataset.splits.train_until)
        among = _ids_of(searched, dataset.ids.decode("item_id", new["item_id"]), str(index or run))
    if isinstance(searched, Index):
        ids, scores = searched.search(vector, k, among)
    else:
        ids, scores = nearest(searched, vector, k, among)
    there = np.isfinite(scores[0])
    named = _named(searched, ids[0][there])
    hits = [
        Hit(rank, float(score), item, {}, None)
        for rank, (item, score) in enumerate(zip(named.to_list(), scores[0][there].tolist(), strict=True), 1)
    ]
    return hits if dataset is None else _with_rows(hits, named, dataset)


def _named(searched: Representations | Index, ids: NDArray[np.int64]) -> pl.Series:
    """The shop's ids [n] of vectors."""
    return pl.Series(ids) if searched.names is None else searched.names.gather(np.searchsorted(searched.ids, ids))


def _ids_of(searched: Representations | Index, named: pl.Series, place: str) -> NDArray[np.int64]:
    """The ids of vectors, as their file has them, which a shop calls so.

    Raises:
        ValueError: they are of another type than the shop's.
    """
    of_vectors, of_data = (
        "int64" if integers else "text" for integers in (searched.names is None, named.dtype == pl.Int64)
    )
    if of_vectors != of_data:
        raise ValueError(
            f"{place}: its ids are {of_vectors}, and those of the run's data are {of_data}: which of its products are "
            "new is not known; search without --new-only, or embed and index the products under the data's own ids"
        )
    if searched.names is None:
        return named.to_numpy()
    return searched.ids[searched.names.is_in(named.implode()).to_numpy()]


def _refuse_outdated(index: Index) -> None:
    """Refuse an index whose vectors were replaced by newer ones since it was built."""
    source = index.about.source
    if source is None:
        return
    directory = Path(os.path.normpath(index.path.resolve().parent / source["directory"]))
    if (directory / ABOUT).is_file() and vectors_digest(directory) not in (None, source["sha256"]):
        raise ValueError(
            f"{index.path} is an index of vectors that {directory} does not hold any more: build it again with "
            f"`moonlib index {directory} --kind {index.about.kind}`"
        )


def _with_rows(hits: list[Hit], named: pl.Series, dataset: Dataset) -> list[Hit]:
    """Hits with their rows, in the shop's ids, and images, as far as a dataset knows them."""
    numbers = dataset.ids.of("item_id")
    if named.dtype != (pl.Int64 if numbers is None else pl.String):
        return hits  # products of another shop
    ids = named if numbers is None else numbers.encode(named)
    reader = SampleReader(dataset.directory, "products")
    known = ids.is_in(pl.Series(reader.ids).implode())
    samples = iter(reader.read(ids.filter(known).to_numpy()))
    found = []
    for hit, is_known in zip(hits, known.fill_null(False), strict=True):
        if is_known:
            sample = next(samples)
            hit = replace(hit, row=dataset.ids.row(sample.row, SCHEMAS["products"].names), image=sample.image)
        found.append(hit)
    return found


def _local_index(place: str | Path) -> Path:
    """An index with its ids and its description, which lie beside it."""
    if not is_url(place):
        return Path(place)
    folder, _, name = str(place).rpartition("/")
    return local_copy(folder, lambda other: other.startswith(name)) / name


def query_vector(encoder: Encoder, image: bytes | Path | None, text: str | None) -> NDArray[np.float32]:
    """Encode one query, float32 [1, dim].

    Args:
        encoder: in eval mode, on the CPU.
        image: a photo, or its file.
        text: what is searched for.

    Raises:
        ValueError: the encoder does not read what is given, the image is none, or nothing of it is left to search for.
    """
    if image is None and not (text or "").strip():
        raise ValueError("nothing to search for: give an image, a text, or both")
    for what, given, width in (("images", image, encoder.image_dim), ("texts", text, encoder.text_dim)):
        if given is not None and not width:
            raise ValueError(f"this run's encoder reads no {what}")
    photo = image.read_bytes() if isinstance(image, Path) else image
    try:
        batch = encoder.preprocessor([Content(photo, (text or "").strip() or None)], "query")
    except UnreadableImage as error:
        raise UnreadableImage(f"{image}: {error}" if isinstance(image, Path) else str(error)) from None
    with torch.inference_mode():
        vector: NDArray[np.float32] = encoder(batch).float().numpy()
    if not vector.any():
        raise ValueError(f"the encoder sees nothing in {text!r}" if image is None else "the encoder sees nothing in it")
    return vector
