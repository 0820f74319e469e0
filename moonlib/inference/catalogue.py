"""A catalogue's products and queries, represented by a run's encoder."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

import moonlib
from moonlib.artifacts.checksums import verified
from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import QUARANTINE
from moonlib.data import table_files
from moonlib.data.cloud_images import image_place
from moonlib.data.content import Side
from moonlib.data.dataset import Dataset
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import SampleReader
from moonlib.data.tables import KEYS
from moonlib.embedding.content_hash import DatasetHashes
from moonlib.embedding.embed import Contents
from moonlib.embedding.embed import embed as embed_contents
from moonlib.embedding.tables import TableReader, pictures_beside
from moonlib.exports.folder import Export, opened
from moonlib.inference.embedding_folder import (
    ABOUT,
    Draft,
    earlier_of,
    embedding_identity,
    is_complete,
    occupied,
    settle,
    state,
    vectors_digest,
)
from moonlib.inference.reuse import Earlier, compare, embed_changed, keep
from moonlib.representations.store import write_parquet
from moonlib.runs.run import Run, RunError
from moonlib.system.download_cache import origin
from moonlib.system.remote import local_copy, local_only
from moonlib.system.workers import cpus, shortage

if TYPE_CHECKING:
    from moonlib.encoders.encoder import Encoder

log = logging.getLogger(__name__)

SIDES: dict[str, Side] = {"products": "product", "queries": "query"}

Progress = Callable[[str, int, int], None]
"""(table, rows that are encoded, rows to encode); before, of rows that are compared, the table is ``… compared``."""


def embed(
    run: str | Path,
    products: str | Path,
    out: str | Path,
    *,
    queries: str | Path | None = None,
    images: str | Path | None = None,
    dim: int | None = None,
    format: Literal["npy", "parquet"] = "npy",
    reuse: str | Path | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Represent products, and queries where given, with a run's encoder; memory does not grow with their number.

    A call that was cut off is resumed by the same call, to the same bytes. Where ``out`` holds an embedding with the
    same encoder already, only rows are encoded that are new or whose content changed: what the encoder reads of them,
    picture files included. The vectors of the others keep their bytes, and what is gone is dropped. The old embedding
    stays as it is until the new one takes its place, in one step.

    Vectors are not normalised: divide by their length to compare cosines. A row whose image can't be read is
    represented by what else it has and named in ``products.quarantine.jsonl``; a row of zeros says that nothing could
    be represented.

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
            but text where those of the run's data are text and the table's are no integers by their type. The content
            hash of each row is in ``products.content.npy`` (uint8 [N, 16]), or in the column ``content``.
        reuse: an earlier embedding, or its URL, to take the vectors of unchanged rows from in place of the one in
            ``out``, which may then be a new directory.
        batch_size: rows encoded at once; by default as many as the run's own representations were made with, because
            the last bits of a vector depend on it.
        workers: processes that read, decode and, on a CPU, encode; by default as many as there are CPUs.
        device: where to compute; by default a GPU if there is one.
        progress: called now and then with the table, the rows that are encoded, and how many are to be encoded.

    Returns:
        ``out``.

    Raises:
        RunError: see `Run.encoder`.
        Damaged: a file of ``out``, or of ``reuse``, is not what was written.
        ValueError: ``out`` or ``reuse`` holds an embedding with another encoder, width, format or the like, ``dim`` is
            wider than the vectors, or a table is not as it should.

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
    workers = cpus() if workers is None else workers
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
    place = out.resolve() if out.is_symlink() or not out.name else out  # a link stays one
    read_images = folder is not None and any(
        not _is_dataset(path) and source.modalities(SIDES[table]).image for table, path in tables.items()
    )
    with occupied(place):
        old = earlier_of(place, None if reuse is None else local_copy(reuse), identity)
        is_there = is_complete(place) and embedding_identity(place / ABOUT) == identity
        if is_there and not read_images:  # of a table of images alone the files may have changed
            settle(place)
            return out
        with Draft(place, {"identity": identity, "reused": None if old is None else state(old)}) as draft:
            todo = [table for table in tables if not (draft.directory / f"{table}.{format}").exists()]
            copies = [draft.work / f"{table}.arrow" for table in tables]
            try:
                contents = [_contents(source, table, tables[table], folder, draft, batch_size) for table in todo]
                about = {
                    "run": origin(source.directory.resolve()) or str(source.directory),
                    "moonlib": moonlib.__version__,
                    "identity": identity,
                }
                write_json(draft.directory / ABOUT, about)
                unchanged = [
                    _embed_table(encoder, each, draft, old, width, format, device, workers, progress)
                    for each in contents
                ]
            finally:
                for file in (each for copy in copies for each in (copy, pictures_beside(copy))):
                    file.unlink(missing_ok=True)
            if is_there and reuse is None and len(unchanged) == len(tables) and all(unchanged):
                draft.discard()
                settle(place)
            else:
                _finish(draft, out)
    return out


def _finish(draft: Draft, out: Path) -> None:
    """Let a draft take its place, and say which indexes are of other vectors than those that are there now."""
    before = vectors_digest(draft.out) if draft.replaces else None
    draft.finish()
    if draft.replaces and vectors_digest(draft.out) != before:
        for about in sorted(draft.out.glob("*.faiss.json")):
            log.info(f"{out / about.stem} is an index of the vectors before: `moonlib index {out}` builds one of these")


def _read_for(table: str) -> Callable[[str], bool]:
    """Which files of a dataset are read for one of its tables; of a table, all are."""
    return lambda name: not name.startswith("shards/") or name.startswith(f"shards/{table}-")


def _contents(
    run: Run | Export, table: str, path: Path, images: str | Path | None, draft: Draft, batch_size: int
) -> Contents:
    """Contents to encode: a dataset's products or queries, or those of a table."""
    modalities, unreadable = run.modalities(SIDES[table]), draft.directory / f"{table}.{QUARANTINE}"
    if _is_dataset(path):
        shards = SampleReader(path, table)
        dataset = Dataset(path)
        ids = dataset.ids
        quarantine = Quarantine(unreadable, total=len(shards), ids=ids)
        digested = not modalities.image or dataset.image_digests(table) is not None
        hashes = DatasetHashes(dataset, shards, modalities, run.views) if digested else None
        return Contents(shards, SIDES[table], shards.ids, modalities, quarantine, batch_size, ids, run.views, hashes)
    text_ids = table in run.text_ids
    rows = TableReader(path, table, images, modalities, unreadable, draft.work / f"{table}.arrow", run.views, text_ids)
    return Contents(rows, SIDES[table], rows.ids, modalities, rows.quarantine, batch_size, rows.shop_ids, run.views)


def _embed_table(
    encoder: Encoder,
    contents: Contents,
    draft: Draft,
    old: Path | None,
    dim: int,
    format: Literal["npy", "parquet"],
    device: str,
    workers: int,
    progress: Progress | None,
) -> bool:
    """Encode into files what can't be reused, and log what it took and which images could not be read.

    Returns:
        Whether all rows were reused, and none is gone.
    """
    table, total = contents.reader.table, len(contents.ids)
    progress = progress or (lambda *_: None)
    earlier = None
    if old is not None and any((old / f"{table}.{end}").exists() for end in ("npy", "parquet")):
        earlier = Earlier(verified(old), table, draft.work, dim)
        if earlier.hashes is None:
            log.info(
                f"{old} holds no content hashes, as an earlier version of moonlib wrote it: all {table} are encoded"
            )
            earlier = None
    start = time.perf_counter()
    unchanged = False
    with _told_of_workers():
        if earlier is None:
            progress(table, 0, total)
            embed_contents(
                encoder,
                contents,
                draft.directory,
                table,
                dim=dim,
                device=device,
                workers=workers,
                progress=lambda rows: progress(table, rows, total),
                named=True,
                hashed=True,
            )
            progress(table, total, total)
            done = f"{table}: {total:,} vectors of {dim} dimensions"
        else:
            comparison = compare(contents, earlier, draft.work, workers=workers, progress=progress)
            unchanged = comparison.unchanged
            if unchanged and (earlier.directory / f"{table}.{format}").exists():
                keep(earlier, draft.directory)
            else:
                embed_changed(
                    encoder,
                    comparison,
                    draft.directory,
                    draft.work,
                    dim=dim,
                    device=device,
                    workers=workers,
                    progress=progress,
                )
            done = str(comparison.counts)
    if format == "parquet" and not (draft.directory / f"{table}.parquet").exists():
        write_parquet(draft.directory, table, KEYS[table])
    log.info(f"{done} in {time.perf_counter() - start:.1f} s")
    if bad := contents.quarantine.entries():
        where = draft.out / contents.quarantine.path.name
        log.warning(f"{len(bad)} images can't be read; their rows are represented by what else they have; see {where}")
    return unchanged


@contextmanager
def _told_of_workers() -> Iterator[None]:
    """Say what to do where worker processes were killed, or ran out of something."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if told := shortage(error):
            raise RunError(f"{told}, or use fewer --workers; the same command resumes") from error
        if "DataLoader worker" not in str(error):
            raise
        raise RunError(
            "a worker process was killed, by hand or because the system was out of memory: the same command resumes; "
            "fewer --workers or a smaller --batch-size take less memory"
        ) from error


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
