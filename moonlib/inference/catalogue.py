"""A catalogue's products and queries, represented by a run's encoder."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

import moonlib
from moonlib.artifacts.checksums import SUMS, again, seal, verified
from moonlib.artifacts.directories import LOCK, write_json
from moonlib.artifacts.layout import QUARANTINE
from moonlib.artifacts.reading import Unreadable, read_mapping
from moonlib.data import table_files
from moonlib.data.cloud_images import image_place
from moonlib.data.content import Side
from moonlib.data.dataset import Dataset
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import SampleReader
from moonlib.data.tables import KEYS
from moonlib.embedding.embed import Contents
from moonlib.embedding.embed import embed as embed_contents
from moonlib.embedding.tables import TableReader, pictures_beside
from moonlib.exports.folder import Export, opened
from moonlib.representations.store import write_parquet
from moonlib.runs.run import Run, RunError
from moonlib.system import lock
from moonlib.system.download_cache import origin
from moonlib.system.remote import local_copy, local_only
from moonlib.system.workers import shortage

if TYPE_CHECKING:
    from moonlib.encoders.encoder import Encoder

log = logging.getLogger(__name__)

SIDES: dict[str, Side] = {"products": "product", "queries": "query"}

Progress = Callable[[str, int, int], None]
"""(table, rows that are encoded, rows there are)."""


def embed(
    run: str | Path,
    products: str | Path,
    out: str | Path,
    *,
    queries: str | Path | None = None,
    images: str | Path | None = None,
    dim: int | None = None,
    format: Literal["npy", "parquet"] = "npy",
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Represent products, and queries where given, with a run's encoder; memory does not grow with their number.

    A call that was cut off is resumed by the same call, to the same bytes. Vectors are not normalised: divide by
    their length to compare cosines. A row whose image can't be read is represented by what else it has and named in
    ``products.quarantine.jsonl``; a row of zeros says that nothing could be represented.

    Args:
        run: a run directory, or an export of one, or its URL.
        products: a table (``.parquet`` or ``.csv``, a file or a folder of such files, with ``item_id`` and what the
            run's encoder reads of ``title``, ``image``, ``images``, ``category``, ``attributes``, ``box``) or the
            directory of a dataset; or the URL of one. A Parquet table may hold the images itself, as bytes or
            ``{bytes, path}``.
        out: the directory to write.
        queries: a table (``query_id``, ``text``, ``image``, ``images``, ``box``) or the directory of a dataset.
        images: folder or URL that the tables' image names start from, a local folder of tars with these images, or
            ``https``: the names are URLs themselves.
        dim: keep only the first so many dimensions. That is sensible for an encoder trained with Matryoshka
            dimensions, such as iter3's; with others, recall falls by more than it must.
        format: ``npy`` writes ``products.ids.npy`` (int64 [N], ascending) and ``products.npy`` (float32 [N, dim]);
            ``parquet`` writes ``products.parquet`` with ``item_id`` int64 and ``vector`` fixed_size_list<float32>.
            Where ids are text, ``products.ids.npy`` are numbers, ``products.ids.parquet`` holds the ids, row by row and
            ascending, and ``item_id`` of ``products.parquet`` is text. Ids of a table are int64 where each of them is,
            but text where those of the run's data are text and the table's are no integers by their type.
        batch_size: rows encoded at once; by default as many as the run's own representations were made with, because
            the last bits of a vector depend on it.
        workers: processes that read, decode and, on a CPU, encode; by default as many as there are CPUs.
        device: where to compute; by default a GPU if there is one.
        progress: called now and then with the table, the rows that are encoded and the rows there are.

    Returns:
        ``out``.

    Raises:
        RunError: see `Run.encoder`.
        Damaged: ``out`` is complete, and a file in it is not what was written.
        ValueError: ``out`` holds another embedding, ``dim`` is wider than the vectors, or a table is not as it should.

    Example: ``embed("runs/iter2", "catalogue.parquet", "vectors", images="photos")``
    """
    source, out = opened(run), local_only(out, "an embedding")
    encoder = source.encoder()
    width = encoder.dim if dim is None else dim
    if not 1 <= width <= encoder.dim:
        raise ValueError(f"dim {width}: the vectors of {run} have {encoder.dim} dimensions; keep 1 to {encoder.dim}")
    batch_size = source.batch_size if batch_size is None else batch_size
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: encode at least 1 row at once")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    workers = _cpus() if workers is None else workers
    folder = None if images is None else image_place(images)
    given = {"products": products} | ({} if queries is None else {"queries": queries})
    tables = {table: local_copy(place, _read_for(table)) for table, place in given.items()}
    identity: dict[str, Any] = {
        "encoder": source.fingerprint,
        "dim": width,
        "batch_size": batch_size,
        "format": format,
        "device": torch.device(device).type,
    }
    if source.views != "main":
        identity["views"] = source.views
    for table, path in tables.items():
        identity |= {table: _hash(path), f"{table} read for": str(source.modalities(SIDES[table]))}
    with _embedding(out, identity, source):
        for table, path in tables.items():
            if not (out / f"{table}.{format}").exists():
                contents = _contents(source, table, path, folder, out, batch_size)
                _embed_table(encoder, contents, out, table, width, device, workers, progress)
                if format == "parquet":
                    write_parquet(out, table, KEYS[table])
                for file in (out / f".{table}.arrow", pictures_beside(out / f".{table}.arrow")):
                    file.unlink(missing_ok=True)
    return out


def _read_for(table: str) -> Callable[[str], bool]:
    """Which files of a dataset are read for one of its tables; of a table, all are."""
    return lambda name: not name.startswith("shards/") or name.startswith(f"shards/{table}-")


def _contents(
    run: Run | Export, table: str, path: Path, images: str | Path | None, out: Path, batch_size: int
) -> Contents:
    """Contents to encode: a dataset's products or queries, or those of a table."""
    modalities, unreadable = run.modalities(SIDES[table]), out / f"{table}.{QUARANTINE}"
    if _is_dataset(path):
        shards = SampleReader(path, table)
        ids = Dataset(path).ids
        quarantine = Quarantine(unreadable, total=len(shards), ids=ids)
        return Contents(shards, SIDES[table], shards.ids, modalities, quarantine, batch_size, ids, run.views)
    text_ids = table in run.text_ids
    rows = TableReader(path, table, images, modalities, unreadable, out / f".{table}.arrow", run.views, text_ids)
    return Contents(rows, SIDES[table], rows.ids, modalities, rows.quarantine, batch_size, rows.shop_ids, run.views)


def _embed_table(
    encoder: Encoder,
    contents: Contents,
    out: Path,
    table: str,
    dim: int,
    device: str,
    workers: int,
    progress: Progress | None,
) -> None:
    """Encode into files, and log what it took and which images could not be read."""

    def show(rows: int) -> None:
        if progress is not None:
            progress(table, rows, len(contents.ids))

    start = time.perf_counter()
    show(0)
    try:
        embed_contents(
            encoder, contents, out, table, dim=dim, device=device, workers=workers, progress=show, named=True
        )
    except (RuntimeError, OSError) as error:
        if told := shortage(error):
            raise RunError(f"{told}, or use fewer --workers; the same command resumes") from error
        if "DataLoader worker" not in str(error):
            raise
        raise RunError(
            "a worker process was killed, by hand or because the system was out of memory: the same command resumes; "
            "fewer --workers or a smaller --batch-size take less memory"
        ) from error
    show(len(contents.ids))
    seconds = time.perf_counter() - start
    log.info(f"{table}: {len(contents.ids):,} vectors of {dim} dimensions in {seconds:.1f} s")
    if bad := contents.quarantine.entries():
        where = contents.quarantine.path
        log.warning(f"{len(bad)} images can't be read; their rows are represented by what else they have; see {where}")


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _embedding(out: Path, identity: dict[str, Any], run: Run | Export) -> Iterator[None]:
    """Hold a directory for this embedding, or refuse it."""
    file = out / "embedding.json"
    if out.exists() and not file.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise FileExistsError(f"{out} is not empty and holds no embedding; choose another place")
    out.mkdir(parents=True, exist_ok=True)
    try:
        with lock.held(out / LOCK):
            if file.exists():
                before = embedding_identity(file)
                keys = [key for key in {**before, **identity} if before.get(key) != identity.get(key)]
                if keys:
                    lines = ", ".join(f"{key} {before.get(key)} (now {identity.get(key)})" for key in keys)
                    raise ValueError(f"{out} holds another embedding: {lines}; choose another place")
            else:
                about = {
                    "run": origin(run.directory.resolve()) or str(run.directory),
                    "moonlib": moonlib.__version__,
                    "identity": identity,
                }
                write_json(file, about)
            yield
            if (out / SUMS).is_file():
                verified(out)
            else:
                names = ("npy", "ids.npy", "ids.parquet", "parquet", QUARANTINE)
                seal(out, [file, *(out / f"{table}.{name}" for table in KEYS for name in names)])
    except lock.InUse as holder:
        raise ValueError(f"{out} is in use by {holder}: wait for it to end, or choose another place") from None


def embedding_identity(file: Path) -> dict[str, Any]:
    """Read what an embedding was made from."""
    found = read_mapping(file).get("identity")
    if not isinstance(found, dict):
        raise Unreadable(f"{file} does not say what it is an embedding of; {again(file)}")
    return found


def _hash(path: Path) -> str:
    """SHA-256 of a dataset's content or of a table's files."""
    if _is_dataset(path):
        return Dataset(path).hash
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such table or dataset")
    digests = []
    for part in table_files.files(path):
        with part.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if path.is_file() else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _is_dataset(path: Path) -> bool:
    """Whether a directory is a dataset's, and not a table in parts."""
    return path.is_dir() and (path.suffix not in table_files.SUFFIXES or (path / "dataset.json").exists())
