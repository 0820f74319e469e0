"""Nearest neighbours among representations: exact by reading them all, or through a faiss index."""

from __future__ import annotations

import hashlib
import io
import json
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

import moonlib
from moonlib.artifacts.directories import write_json
from moonlib.representations.store import Representations, unit, write_array
from moonlib.system.disk import rename, writing

IndexKind = Literal["flat", "hnsw", "ivf"]

VECTORS_AT_ONCE = 16_384
"""Vectors read at once."""
SAMPLE = 200
"""Queries that an index is compared with the exact search on."""
TRIES = 40
"""How often an index that is replaced meanwhile is read again."""
TIE = 1e-6
"""Cosines this close are a tie, in which either item is right."""


class BrokenIndex(ValueError):
    """An index that is missing, broken, or of other representations."""


def blocks(store: Representations) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield rows and unit vectors of what is represented (not all zeros), some at a time."""
    for start in range(0, len(store.ids), VECTORS_AT_ONCE):
        vectors = unit(store.vectors[start : start + VECTORS_AT_ONCE])
        there = np.flatnonzero(vectors.any(axis=1))
        yield start + there, vectors[there]


def nearest(
    store: Representations, queries: NDArray[np.float32], k: int, among: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Search exactly, reading the vectors block by block.

    Args:
        store: N vectors; rows of zeros are nobody's neighbours.
        queries: float [Q, D], of any length but 0.
        k: neighbours wanted.
        among: ids to choose from; all by default.

    Returns:
        ids int64 [Q, m] by falling cosine (of equal ones, the smaller id first), and the cosines float32 [Q, m], where
        m is k or, if there are fewer, their number.
    """
    queries = unit(queries)
    ids = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for rows, vectors in blocks(store):
        if among is not None:
            chosen = np.isin(store.ids[rows], among)
            rows, vectors = rows[chosen], vectors[chosen]
        block = queries @ vectors.T
        if block.shape[1] > k > 0:  # sort only what may be among a query's k, ties included
            least = np.partition(block, -k, axis=1)[:, -k, None]
            near = np.flatnonzero((block >= least).any(axis=0))
            rows, block = rows[near], block[:, near]
        ids = np.concatenate([ids, np.broadcast_to(store.ids[rows], (len(queries), len(rows)))], axis=1)
        scores = np.concatenate([scores, block], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        ids, scores = np.take_along_axis(ids, best, axis=1), np.take_along_axis(scores, best, axis=1)
    return ids, scores


@dataclass(frozen=True)
class Comparison:
    """An index beside the exact search, on a sample of queries.

    Attributes:
        queries: how many there were.
        recall_at_10: the share of the exact search's first ten that the index finds; ``recall@10`` in JSON.
        ms_per_query: milliseconds of the index, the median of single queries.
        exact_ms_per_query: milliseconds of the exact search, of one query.
    """

    queries: int
    recall_at_10: float
    ms_per_query: float
    exact_ms_per_query: float


@dataclass(frozen=True)
class IndexDescription:
    """Description of an index, as in the JSON file beside it.

    Attributes:
        moonlib: the version that built it.
        kind: flat, hnsw or ivf.
        encoder: tells the encoder of its vectors from any other.
        dim: width of the vectors.
        parameters: of the kind.
        vectors: how many it holds.
        comparison: with the exact search; None where there was no query to compare on.
        sha256: checksums of ``index`` and ``ids``; None for an index of an earlier version.
        source: the embedding it was built from: its ``directory``, relative to that of the index, and ``sha256``, which
            tells its vectors from others; None where that is not known.
    """

    moonlib: str
    kind: IndexKind
    encoder: str
    dim: int
    parameters: dict[str, int]
    vectors: int
    comparison: Comparison | None = None
    sha256: dict[str, str] | None = None
    source: dict[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file: one level, with the parameters and the comparison among the rest."""
        found = {"moonlib": self.moonlib, "kind": self.kind, "encoder": self.encoder, "dim": self.dim}
        found |= {**self.parameters, "vectors": self.vectors}
        if self.comparison:
            found |= {name.replace("_at_", "@"): value for name, value in asdict(self.comparison).items()}
        more = {"source": self.source, "sha256": self.sha256}
        return found | {name: value for name, value in more.items() if value}

    @classmethod
    def from_json(cls, found: Any) -> IndexDescription:
        """Read what `to_json` wrote.

        Raises:
            ValueError: something is missing.
        """
        names = [each.name for each in fields(Comparison)]
        try:
            rest = dict(found)
            moonlib, kind, encoder, dim, vectors = map(rest.pop, ("moonlib", "kind", "encoder", "dim", "vectors"))
            compared = {name: rest.pop(name.replace("_at_", "@")) for name in names} if "queries" in rest else None
        except (KeyError, TypeError) as error:
            raise ValueError(f"its description lacks {error}") from error
        sha256, source = rest.pop("sha256", None), rest.pop("source", None)
        comparison = Comparison(**compared) if compared else None
        return cls(moonlib, kind, encoder, dim, rest, vectors, comparison, sha256, source)


@dataclass(frozen=True)
class Index:
    """A faiss index over unit vectors, so that its inner products are cosines.

    faiss knows the vectors by their number, and the ids stand beside: faiss says "nothing found" with the id -1, which
    may be a product's.

    Attributes:
        faiss: the index.
        ids: int64 [n], the id of each of its vectors.
        names: the shop's ids [n] where these are text; ``ids`` are numbers then.
        about: what is known of it.
        path: its file.
    """

    faiss: Any
    ids: NDArray[np.int64]
    about: IndexDescription
    path: Path
    names: pl.Series | None = None

    def search(
        self, queries: NDArray[np.float32], k: int, among: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """As `nearest`, approximately; where fewer than k are found, cosine -inf fills the places that are left."""
        faiss = _faiss()
        parameters = None
        if among is not None:
            selector = faiss.IDSelectorBatch(np.flatnonzero(np.isin(self.ids, among)))
            if self.about.kind == "hnsw":
                parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=self.faiss.hnsw.efSearch)
            elif self.about.kind == "ivf":
                parameters = faiss.SearchParametersIVF(sel=selector, nprobe=self.faiss.nprobe)
            else:
                parameters = faiss.SearchParameters(sel=selector)
        scores, rows = self.faiss.search(unit(queries), min(k, len(self.ids)), params=parameters)
        return self.ids[rows], np.where(rows >= 0, scores, -np.inf)

    @classmethod
    def open(cls, path: Path) -> Index:
        """Open what `build_index` wrote, also while it is built anew: then the old one or the new one, never a mixture.

        Raises:
            BrokenIndex: it is missing or broken, or its files are of different builds.
        """
        for _ in range(TRIES):
            index = cls._read(path)
            if index is not None:
                return index
            time.sleep(0.05)  # a build that replaces its three files is done with it in a moment
        raise BrokenIndex(f"{path} and the two files beside it are not of one build: build the index again")

    @classmethod
    def _read(cls, path: Path) -> Index | None:
        """Read the three files once; None if they are of different builds."""
        faiss = _faiss()
        ids_file, names_file, about_file = _beside(path)
        names = None
        for file in (path, ids_file, about_file):
            if not file.is_file():
                raise BrokenIndex(f"{file} is missing: an index is three files, which `moonlib index` writes together")
        digests = {}
        try:
            about = IndexDescription.from_json(json.loads(about_file.read_text(encoding="utf-8")))
            with ids_file.open("rb") as stream:
                ids = np.load(stream, allow_pickle=False)
            digests["ids"] = hashlib.sha256(ids.data).hexdigest()
            if about.sha256 and "names" in about.sha256:
                names, digests["names"] = _read_names(names_file)
            with path.open("rb") as stream:
                digest = hashlib.sha256()

                def read(size: int) -> bytes:
                    part = stream.read(size)
                    digest.update(part)
                    return part

                # Through one open file: by its name, faiss may read another build than the one that is hashed.
                index = faiss.read_index(faiss.PyCallbackIOReader(read, 1 << 20))
                while read(1 << 20):
                    pass
            digests["index"] = digest.hexdigest()
        except (RuntimeError, ValueError, EOFError) as error:
            raise BrokenIndex(f"{path} is broken ({str(error).splitlines()[0]}): build it again") from None
        if index.ntotal != len(ids) and about.sha256 is None:  # of an earlier version
            raise BrokenIndex(f"{path} has {index.ntotal} vectors, {ids_file} {len(ids)} ids: build the index again")
        return cls(index, ids, about, path, names) if about.sha256 in (None, digests) else None


def _faiss() -> Any:
    """Imported where an index is used: the exact search needs none. Its stubs are not those of what it is."""
    import faiss

    return faiss


def _beside(path: Path) -> tuple[Path, Path, Path]:
    ids, names, about = (path.with_name(f"{path.name}.{end}") for end in ("ids.npy", "ids.parquet", "json"))
    return ids, names, about


def _read_names(file: Path) -> tuple[pl.Series, str]:
    """The shop's ids of an index, and the checksum of their file."""
    if not file.is_file():
        raise BrokenIndex(f"{file} is missing: it holds the ids of an index, which `moonlib index` writes with it")
    content = file.read_bytes()
    try:
        names = pl.read_parquet(io.BytesIO(content)).to_series()
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{file.name}: {error}") from error
    return names, hashlib.sha256(content).hexdigest()


def build_index(
    store: Representations,
    kind: IndexKind,
    path: Path,
    *,
    encoder: str,
    queries: NDArray[np.float32] | None = None,
    source: dict[str, str] | None = None,
) -> Index:
    """Build an index, compare it with the exact search, and write it.

    ====  ===============================================================================================
    flat  exact; reads every vector for every query
    hnsw  a graph with 32 links per vector, built with 100 and searched with 64 candidates
    ivf   about 4 √N lists (k-means on a sample), of which one in 16, and at least 8, are searched
    ====  ===============================================================================================

    Vectors are added block by block; the index itself holds them all. The result is a function of the vectors: faiss
    runs on one thread, because a graph that several threads build differs from time to time.

    Args:
        store: N vectors; rows of zeros are left out.
        kind: of index.
        path: the file to write; ids and a description stand beside it.
        encoder: tells the encoder of the vectors from any other; kept in the description.
        queries: float [Q, D] to compare with the exact search on; by default vectors of the store, of which each then
            finds itself.
        source: see `IndexDescription`.

    Returns:
        The index; ``about`` tells how it compares with the exact search.

    Raises:
        ValueError: there is nothing to index.
    """
    faiss = _faiss()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        represented = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in blocks(store))])
        if not len(represented):
            raise BrokenIndex(f"{path}: nothing to index: none of {len(store.ids)} vectors says anything")
        index, parameters = _empty(kind, store, represented)
        for _, vectors in blocks(store):
            index.add(vectors)
        ids = store.ids[represented]
        about = IndexDescription(
            moonlib.__version__, kind, encoder, store.dim, parameters, len(represented), source=source
        )
        sample = store.vectors[represented] if queries is None else queries
        names = None if store.names is None else store.names.gather(represented)
        about = replace(about, comparison=_compare(Index(index, ids, about, path), store, sample))
    finally:
        faiss.omp_set_num_threads(threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Each build in a folder of its own; then its files take their names one right after the other. Who reads in between
    # sees by the description that they do not belong together.
    with writing(path), tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        parts = [Path(folder, name) for name in ("index", "ids", "names", "about")]
        try:
            faiss.write_index(index, str(parts[0]))
        except RuntimeError as error:
            raise OSError(f"{path} can't be written (is the disk full?): {str(error).splitlines()[0]}") from error
        write_array(parts[1], ids)
        with parts[0].open("rb") as stream:
            written = hashlib.file_digest(stream, "sha256").hexdigest()
        sha256 = {"ids": hashlib.sha256(ids.data).hexdigest(), "index": written}
        if names is not None:
            names.to_frame().write_parquet(parts[2])
            sha256["names"] = hashlib.sha256(parts[2].read_bytes()).hexdigest()
        about = replace(about, sha256=sha256)
        write_json(parts[3], about.to_json())
        for part, file in zip(parts, (path, *_beside(path)), strict=True):
            if part.exists():
                rename(part, file)
        if names is None:
            _beside(path)[1].unlink(missing_ok=True)  # of an earlier build of other ids
    return Index(index, ids, about, path, names)


def _empty(kind: IndexKind, store: Representations, represented: NDArray[np.int64]) -> tuple[Any, dict[str, int]]:
    """An index without vectors, and its parameters."""
    faiss = _faiss()
    if kind == "flat":
        return faiss.IndexFlatIP(store.dim), {}
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(store.dim, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = 100, 64
        return index, {"links": 32, "construction": 100, "candidates": 64}
    # faiss asks for at least 39 vectors per list to find its centre, and uses no more than 256.
    lists = max(1, min(round(4 * math.sqrt(len(represented))), len(represented) // 39))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(store.dim), store.dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = min(lists, max(8, math.ceil(lists / 16)))
    size = min(len(represented), 64 * lists)
    sample = np.sort(np.random.default_rng(0).choice(represented, size, replace=False))
    index.train(unit(store.vectors[sample]))
    return index, {"lists": lists, "searched": index.nprobe}


def _compare(index: Index, store: Representations, queries: NDArray[np.float32]) -> Comparison | None:
    """Recall@10 against the exact search, and milliseconds per query of both."""
    usable = np.flatnonzero(np.asarray(queries).any(axis=1))
    rows = np.random.default_rng(0).permutation(usable)[:SAMPLE]
    sample = np.asarray(queries[np.sort(rows)], dtype=np.float32)
    if not len(sample):
        return None
    exact = nearest(store, sample, 10)[1]
    took = []
    scores = np.empty_like(exact)
    for i in range(len(sample)):
        start = time.perf_counter()
        scores[i] = index.search(sample[i : i + 1], 10)[1]
        took.append(time.perf_counter() - start)
    start = time.perf_counter()
    nearest(store, sample[:1], 10)
    scan = time.perf_counter() - start
    return Comparison(
        queries=len(sample),
        recall_at_10=float((scores >= exact[:, -1:] - TIE).mean()),
        ms_per_query=round(1000 * float(np.median(took)), 3),
        exact_ms_per_query=round(1000 * scan, 3),
    )
