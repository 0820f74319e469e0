"""What a finished run is for: embedding a catalogue, indexing and searching it, evaluating on other data."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
import torch
import yaml
from numpy.typing import NDArray

import moonlib
from moonlib.artifacts.checksums import SUMS, again, seal, verified
from moonlib.artifacts.directories import LOCK, write_json
from moonlib.artifacts.layout import QUARANTINE
from moonlib.artifacts.reading import Unreadable, read_mapping
from moonlib.config.recipe import RecipeError, StageRecipe
from moonlib.config.typing import construct_component
from moonlib.data import table_files
from moonlib.data.content import Content, Side
from moonlib.data.dataset import Dataset
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import SampleReader
from moonlib.data.tables import KEYS
from moonlib.embedding.embed import Contents
from moonlib.embedding.embed import embed as embed_contents
from moonlib.embedding.tables import TableReader
from moonlib.exports.folder import Export, opened
from moonlib.inference.hits import Hit
from moonlib.metrics import undefined
from moonlib.representations.index import Index, build_index, nearest
from moonlib.representations.store import Representations, write_parquet
from moonlib.runs.results import Legend, beside
from moonlib.runs.run import Run, RunError
from moonlib.runs.runner import quiet
from moonlib.stages.represent import Represent
from moonlib.stages.stage import StageContext
from moonlib.system import lock
from moonlib.system.console import progress
from moonlib.system.terminal import say
from moonlib.system.workers import shortage

if TYPE_CHECKING:
    from moonlib.encoders.encoder import Encoder

SIDES: dict[str, Side] = {"products": "product", "queries": "query"}


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
) -> Path:
    """Represent products, and queries where given, with a run's encoder; memory does not grow with their number.

    A call that was cut off is continued by the same call, to the same bytes. Vectors are not normalised: divide by
    their length to compare cosines. A row whose image can't be read is represented by what else it has and named in
    ``products.quarantine.jsonl``; a row of zeros says that nothing could be represented.

    Args:
        run: a run directory, or an export of one.
        products: a table (``.parquet`` or ``.csv``, a file or a folder of such files, with ``item_id`` and what the
            run's encoder reads of ``title``, ``image``, ``category``, ``attributes``, ``box``) or the directory of a
            dataset.
        out: the directory to write.
        queries: a table (``query_id``, ``text``, ``image``, ``box``) or the directory of a dataset.
        images: folder that the tables' image names start from.
        dim: keep only the first so many dimensions. That is sensible for an encoder trained with Matryoshka
            dimensions, such as iter3's; with others, recall falls by more than it must.
        format: ``npy`` writes ``products.ids.npy`` (int64 [N], ascending) and ``products.npy`` (float32 [N, dim]);
            ``parquet`` writes ``products.parquet`` with ``item_id`` int64 and ``vector`` fixed_size_list<float32>.
        batch_size: rows encoded at once; by default as many as the run's own representations were made with, because
            the last bits of a vector depend on it.
        workers: processes that read, decode and, on a CPU, encode; by default as many as there are CPUs.
        device: where to compute; by default a GPU if there is one.

    Returns:
        ``out``.

    Raises:
        RunError: see `Run.encoder`.
        Damaged: ``out`` is complete, and a file in it is not what was written.
        ValueError: ``out`` holds another embedding, ``dim`` is wider than the vectors, or a table is not as it should.

    Example: ``embed("runs/iter2", "catalogue.parquet", "vectors", images="photos")``
    """
    source, out = opened(run), Path(out)
    encoder = source.encoder()
    width = encoder.dim if dim is None else dim
    if not 1 <= width <= encoder.dim:
        raise ValueError(f"dim {width}: the vectors of {run} have {encoder.dim} dimensions; keep 1 to {encoder.dim}")
    batch_size = source.batch_size if batch_size is None else batch_size
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: encode at least 1 row at once")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    workers = _cpus() if workers is None else workers
    folder = None if images is None else Path(images)
    if folder is not None and not folder.is_dir():
        raise ValueError(f"{folder} is no folder of images")
    tables = {"products": Path(products)} | ({} if queries is None else {"queries": Path(queries)})
    identity: dict[str, Any] = {
        "encoder": source.fingerprint,
        "dim": width,
        "batch_size": batch_size,
        "format": format,
        "device": torch.device(device).type,
    }
    for table, path in tables.items():
        identity |= {table: _hash(path), f"{table} read for": str(source.modalities(SIDES[table]))}
    with _embedding(out, identity, source):
        for table, path in tables.items():
            if not (out / f"{table}.{format}").exists():
                contents = _contents(source, table, path, folder, out, batch_size)
                _embed_table(encoder, contents, out, table, width, device, workers)
                if format == "parquet":
                    write_parquet(out, table, KEYS[table])
                (out / f".{table}.arrow").unlink(missing_ok=True)
    return out


def _contents(run: Run | Export, table: str, path: Path, images: Path | None, out: Path, batch_size: int) -> Contents:
    """What to encode: a dataset's products or queries, or those of a table."""
    modalities, unreadable = run.modalities(SIDES[table]), out / f"{table}.{QUARANTINE}"
    if _is_dataset(path):
        shards = SampleReader(path, table)
        quarantine = Quarantine(unreadable, total=len(shards))
        return Contents(shards, SIDES[table], shards.ids, modalities, quarantine, batch_size)
    rows = TableReader(path, table, images, modalities, unreadable, out / f".{table}.arrow")
    return Contents(rows, SIDES[table], rows.ids, modalities, rows.quarantine, batch_size)


def _embed_table(
    encoder: Encoder, contents: Contents, out: Path, table: str, dim: int, device: str, workers: int
) -> None:
    """Encode into files, showing how far it is and what it took."""
    start = time.perf_counter()
    with progress() as bars:
        task = bars.add_task(table, total=len(contents.ids))

        def show(rows: int) -> None:
            bars.update(task, completed=rows)

        try:
            embed_contents(encoder, contents, out, table, dim=dim, device=device, workers=workers, progress=show)
        except (RuntimeError, OSError) as error:
            if told := shortage(error):
                raise RunError(f"{told}, or use fewer --workers; the same command continues") from error
            if "DataLoader worker" not in str(error):
                raise
            raise RunError(
                "a worker process was killed, by hand or by the system for want of memory: the same command "
                "continues; fewer --workers or a smaller --batch-size take less memory"
            ) from error
    seconds = time.perf_counter() - start
    say(f"{table}: {len(contents.ids):,} vectors of {dim} dimensions in {seconds:.1f} s")
    if bad := contents.quarantine.entries():
        where = contents.quarantine.path
        say(f"{len(bad)} images can't be read; their rows are represented by what else they have; see {where}")


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
                before = _identity(file)
                keys = [key for key in {**before, **identity} if before.get(key) != identity.get(key)]
                if keys:
                    lines = ", ".join(f"{key} {before.get(key)} (now {identity.get(key)})" for key in keys)
                    raise ValueError(f"{out} holds another embedding: {lines}; choose another place")
            else:
                about = {"run": str(run.directory), "moonlib": moonlib.__version__, "identity": identity}
                write_json(file, about)
            yield
            if (out / SUMS).is_file():
                verified(out)
            else:
                names = ("npy", "ids.npy", "parquet", QUARANTINE)
                seal(out, [file, *(out / f"{table}.{name}" for table in KEYS for name in names)])
    except lock.InUse as holder:
        raise ValueError(f"{out} is in use by {holder}: wait for it to end, or choose another place") from None


def _identity(file: Path) -> dict[str, Any]:
    """What an embedding was made of, from its description."""
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


def index(
    place: str | Path, kind: Literal["flat", "hnsw", "ivf"] = "hnsw", out: str | Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """Build a faiss index of the products' vectors, scaled to unit length, and compare it with the exact search.

    Args:
        place: a run directory, or what `embed` wrote as ``npy``.
        kind: see `moonlib.representations.index.build_index`.
        out: the file; by default ``products.KIND.faiss`` in ``place``. Ids and a description are written beside it.

    Returns:
        The file, and the description.

    Raises:
        RunError: the run has no representations.
        ValueError: ``place`` is neither, or holds nothing to index.
    """
    place = Path(place)
    queries: Representations | None = None
    if (place / "embedding.json").is_file():
        if (place / "products.parquet").exists():
            raise ValueError(f"{place} holds Parquet; an index is built from --format npy")
        encoder = str(_identity(place / "embedding.json").get("encoder"))
        if not (place / "products.npy").exists():
            raise ValueError(f"{place} is not complete; the `moonlib embed` that wrote it continues it")
        products = Representations.open(place, "products")
        if (place / "queries.npy").exists():
            queries = Representations.open(place, "queries")
    else:
        run = Run(place)
        (products, queries), encoder = run.representations(), run.fingerprint
    path = Path(out) if out else place / f"products.{kind}.faiss"
    sample = queries.vectors if queries is not None and len(queries.ids) else None
    return path, build_index(products, kind, path, encoder=encoder, queries=sample).about


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
        ValueError: nothing to search for, or an index of another encoder.
    """
    source = opened(run)
    if k < 1:
        raise ValueError(f"k {k}: ask for at least 1 product")
    found = None if index is None else Index.open(Path(index))
    if found is not None and found.about.get("encoder") != source.fingerprint:
        raise ValueError(f"{index} is an index of another encoder than {run}'s: build one with `moonlib index {run}`")
    vector = query_vector(source.encoder(), None if image is None else Path(image).read_bytes(), text)
    try:
        dataset = source.dataset()
    except RunError:
        if new_only:
            raise
        dataset = None
    among = None
    if new_only:
        assert dataset is not None
        new = dataset.products.filter(pl.col("listed_at") >= dataset.splits.train_until)
        among = new["item_id"].to_numpy()
    if found is None:
        ids, scores = nearest(source.representations()[0], vector, k, among)
    else:
        ids, scores = found.search(vector, k, among)
    there = np.isfinite(scores[0])
    hits = [
        Hit(rank, float(score), int(item), {}, None)
        for rank, (item, score) in enumerate(zip(ids[0][there], scores[0][there], strict=True), 1)
    ]
    if dataset is None:
        return hits
    reader = SampleReader(dataset.directory, "products")
    known = np.isin([hit.item_id for hit in hits], reader.ids)
    samples = {sample.id: sample for sample in reader.read(ids[0][there][known])}
    return [
        replace(hit, row=samples[hit.item_id].row, image=samples[hit.item_id].image) if hit.item_id in samples else hit
        for hit in hits
    ]


def query_vector(encoder: Encoder, image: bytes | None, text: str | None) -> NDArray[np.float32]:
    """Encode one query, float32 [1, dim].

    Raises:
        ValueError: the encoder does not read what is given, the image is none, or nothing of it is left to search for.
    """
    if image is None and not (text or "").strip():
        raise ValueError("nothing to search for: give an image, a text, or both")
    for what, given, width in (("images", image, encoder.image_dim), ("texts", text, encoder.text_dim)):
        if given is not None and not width:
            raise ValueError(f"this run's encoder reads no {what}")
    batch = encoder.preprocessor([Content(image, (text or "").strip() or None)], "query")
    with torch.inference_mode():
        vector: NDArray[np.float32] = encoder(batch).float().numpy()
    if not vector.any():
        raise ValueError(f"the encoder sees nothing in {text!r}" if image is None else "the encoder sees nothing in it")
    return vector


def evaluate(run: str | Path, data: str | Path, out: str | Path | None = None, *, workers: int = 2) -> dict[str, Any]:
    """Measure a run's encoder on another dataset, as the run's represent stage measures it on its own.

    The encoder, its preprocessing, what products and queries are read for, the K of recall@K and the segments are the
    run's. The same baselines stand beside, and for a simulated dataset the oracle. A segment whose column the data
    lacks is left out, and told. Features and filters are of other stages, and their columns are not needed.

    Args:
        run: a run directory.
        data: the directory of a dataset, or a source as a recipe's key ``data`` says it (YAML), such as
            ``{class_path: marketplace, init_args: {size: tiny, seed: 7}}``; that is built where `moonlib fit` builds.
        out: the JSON file to write; by default ``evaluations/NAME-HASH.json`` in the run directory.
        workers: processes that read, decode and, on a CPU, encode; has no effect on the result.

    Returns:
        What the file holds: ``run``, ``encoder``, ``dataset`` (name, version, hash, directory), ``references`` (title
        of each reference's prefix), ``metrics`` (title and direction of each, by its key), ``results`` (flat keys as in
        results.json), ``undefined`` (why a metric is not among them, by its key) and ``left_out`` (columns of queries
        whose segments are not there).

    Raises:
        RunError: see `Run.encoder`.
        ValueError: there is no such data, or it holds no search that ended in an order on its validation or test days.
    """
    source = Run(run)
    fingerprint, dataset = source.fingerprint, _dataset(data, source.cache)
    stage = source.represent or StageRecipe("represent", {"module": "represent"})
    main = stage.module()
    assert isinstance(main, Represent)
    steps: list[tuple[str, StageRecipe]] = [("", stage)]
    references = main.references(dataset)
    legend = Legend.of(main, references)
    for reference in references:
        steps.append((reference.prefix, stage.override(dict(reference.module))))
    columns = dataset.arrow("queries").column_names
    segments = [column for column in stage.data().segments if column in columns]
    lacking = [column for column in stage.data().segments if column not in columns]
    if lacking:
        say(
            f"segments left out: {', '.join(lacking)}: the queries of {dataset.directory} have no such column; "
            f"theirs are {', '.join(columns)}",
            file=sys.stderr,
        )
    name = f"{dataset.directory.name}-{dataset.hash[:8]}.json"
    file = Path(out) if out else source.layout.evaluations / name
    file.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, float] = {}
    left_out: dict[str, str] = {}
    quiet()
    for prefix, step in steps:
        module = step.module()
        assert isinstance(module, Represent)
        trainer = step.trainer(logger=False, enable_checkpointing=False, enable_model_summary=False)
        encoder = source.encoder(trained=module.of == "encoder") if "encoder" in module.needs else None
        settings = replace(step.data(), workers=workers, segments=segments)
        with tempfile.TemporaryDirectory(prefix=f".{file.stem}.", dir=file.parent) as scratch:
            context = StageContext(dataset, settings, trainer, Path(scratch), seed=0, encoder=encoder)
            metrics = module.retrieval(context)
            left_out |= {beside(key, prefix): why for key, why in undefined.noted(context.directory).items()}
        if not metrics:
            raise ValueError(f"{dataset.directory} has no search of validation or test days that ended in an order")
        results |= {beside(key, prefix): value for key, value in metrics.items()}
    found = {
        "run": str(source.directory),
        "encoder": fingerprint,
        "dataset": {
            "name": dataset.name,
            "version": dataset.version,
            "hash": dataset.hash,
            "directory": str(dataset.directory),
        },
        "references": dict(legend.references),
        "metrics": {key: asdict(meaning) for key, meaning in legend.metrics.items()},
        "results": dict(sorted(results.items())),
        "undefined": dict(sorted(left_out.items())),
        "left_out": lacking,
    }
    write_json(file, found)
    return found | {"file": str(file)}


def _dataset(data: str | Path, cache: Path) -> Dataset:
    """The dataset that a directory or a source names."""
    if Path(data).is_dir():
        return Dataset(data)
    try:
        value = yaml.safe_load(str(data))
        return Dataset(construct_component("sources", value, ("data",)).build().prepare(cache))
    except (yaml.YAMLError, RecipeError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"'{data}' is neither the directory of a dataset nor a source ({problem})") from error
