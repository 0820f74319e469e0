"""Vectors of a representation center for a stage: those of one snapshot, and its encoder's of the data's queries.

The recipe's key ``representations: {center: PATH, alias: live}`` of a stage names the center. Which snapshot the alias
leads to is looked up once, when the run begins. What the stage reads is copied into a directory of its own among those
of all stages, by the ids of the run's data, and made once for all runs: the center may delete the snapshot one day, and
the run stays whole. A fingerprint holds the snapshot's name and the content of its vectors, and no path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moonlib.artifacts.checksums import sums
from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import EXPORT, EXPORT_WEIGHTS, FROM_CENTER, QUARANTINE
from moonlib.artifacts.reading import Unreadable, read_mapping
from moonlib.center.aliases import find_alias
from moonlib.center.layout import PRODUCTS, SNAPSHOT, SPACES, snapshot_of
from moonlib.center.space import Space
from moonlib.center.writing import require_center
from moonlib.config.fingerprint import made_with
from moonlib.config.merge import Key, RecipeError
from moonlib.config.recipe import REPRESENTATIONS, CenterSource, Recipe
from moonlib.config.warm_start import encoder_at, opened
from moonlib.data.content import Modalities
from moonlib.data.dataset import Dataset
from moonlib.data.digests import digests
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import SampleReader
from moonlib.data.reads import Reads
from moonlib.embedding.embed import Contents, embed
from moonlib.encoders.encoder import Encoder
from moonlib.representations.shared import rows_of_named
from moonlib.representations.store import GrowingArray, Representations, write_array, write_names
from moonlib.runs.run import ready
from moonlib.stages.represent import RepresentData, ids_of
from moonlib.system.progress import StageProgress

QUERIES = "queries"

BLOCK = 65_536
"""Vectors copied at once."""


@dataclass(frozen=True)
class CenterSnapshot:
    """A snapshot of a center, as an alias led to it.

    Attributes:
        center: the center, as the recipe names it.
        space: the space.
        directory: of the snapshot.
        name: ``space@snapshot``, such as ``3f2ab1c09d77-128-int8@000041``.
        content: SHA-256 of the products' ids and vectors, 32 hexadecimal digits.
    """

    center: str
    space: Space
    directory: Path
    name: str
    content: str

    @property
    def identity(self) -> dict[str, str]:
        """The part of a fingerprint: name and content."""
        return {"snapshot": self.name, "content": self.content}


@dataclass(frozen=True)
class CenterVectors:
    """Counts of what was read of a snapshot for the data of a run.

    Attributes:
        snapshot: ``space@snapshot``.
        products: how many products the data has.
        without_vector: how many of them are not in the snapshot.
        queries: how many queries the space's encoder has represented; 0 where the stage reads none.
    """

    snapshot: str
    products: int
    without_vector: int
    queries: int

    def __str__(self) -> str:
        lack = f", {self.without_vector:,} without a vector there" if self.without_vector else ""
        return f"{self.products:,} products{lack}, {self.queries:,} queries, of {self.snapshot}"

    @classmethod
    def read(cls, directory: Path) -> CenterVectors:
        """Read what `read_snapshot` noted.

        Raises:
            Unreadable: the file is broken.
        """
        try:
            return cls(**read_mapping(directory / FROM_CENTER))
        except TypeError as error:
            raise Unreadable(f"{directory / FROM_CENTER} is broken ({error})") from None


def find_snapshot(source: CenterSource, key: Key) -> CenterSnapshot:
    """Find the snapshot that an alias of a center leads to.

    Args:
        source: the center and the alias.
        key: of the recipe, for errors.

    Raises:
        RecipeError: there is no such center or alias, nothing was published yet, or a file is broken.
    """
    place = Path(source.center).expanduser()
    try:
        require_center(place)
        found = find_alias(place, source.alias).now
        space = Space.open(place / SPACES / found.space)
        directory = snapshot_of(space.directory, found.snapshot)
        if not found.snapshot:
            raise ValueError(
                f"{source.center}: alias {source.alias!r} leads to {found.space}, of which nothing was published yet: "
                f"`moonlib publish {source.center}`"
            )
        if not (directory / SNAPSHOT).is_file():
            raise FileNotFoundError(f"{directory} is missing; publish again: `moonlib publish {source.center}`")
        return CenterSnapshot(source.center, space, directory, str(found), content_of(directory))
    except (FileNotFoundError, ValueError) as error:
        raise RecipeError(str(error), key) from error


def find_snapshots(recipe: Recipe) -> dict[str, CenterSnapshot]:
    """The snapshots that a recipe's stages read, by the stage's name.

    Raises:
        RecipeError: see `find_snapshot`.
    """
    return {
        name: find_snapshot(stage.center, ("stages", name, REPRESENTATIONS))
        for name, stage in recipe.stages.items()
        if stage.center is not None
    }


def vectors_identity(snapshot: CenterSnapshot, dataset: Dataset, queries: bool) -> dict[str, Any]:
    """All that the fingerprint of the directory is made of which `read_snapshot` writes.

    Args:
        snapshot: what is read.
        dataset: whose products and queries.
        queries: whether queries are represented too.
    """
    reads, identity = Reads.of(products=()), {"center": snapshot.identity, "dataset": dataset.hash}
    if queries:
        export = _Export(snapshot.space.encoder)
        reads |= Reads.content(QUERIES, [export.query])
        identity |= {"encoder": snapshot.space.fingerprint, "queries": str(export.query), "views": export.views}
        identity |= {"batch_size": export.batch_size} | made_with(export.encoder_config)
    return identity | {"reads": digests(dataset, reads)}


def read_snapshot(
    snapshot: CenterSnapshot,
    dataset: Dataset,
    directory: Path,
    *,
    queries: bool,
    device: torch.device,
    progress: StageProgress,
) -> CenterVectors:
    """Write the vectors of a dataset's products and queries, by its ids and as the space keeps them.

    A product that is not in the snapshot has none; how many these are is noted.

    Args:
        snapshot: what is read.
        dataset: whose products and queries.
        directory: where ``products`` and ``queries`` are written; what an interrupted call left there is resumed.
        queries: whether queries are represented, by the space's encoder; otherwise there are none.
        device: where to represent them.
        progress: shows how far it is.

    Raises:
        ValueError: no product of the dataset is in the snapshot, or ids are text in one and int64 in the other.
    """
    products = np.sort(ids_of(dataset, "products"))
    store = Representations.open(snapshot.directory, PRODUCTS)
    try:
        rows = rows_of_named(store, dataset.ids.decode("item_id", products))
    except ValueError as error:
        raise ValueError(f"{snapshot.center}, {snapshot.name}: {error}") from error
    there = rows >= 0
    if not there.any():
        raise ValueError(
            f"{snapshot.center}, {snapshot.name}: none of the {len(products):,} products of {dataset.directory} has a "
            "vector there: it is a center of another shop, or the products were not upserted yet"
        )
    _copy(store, rows[there], products[there], dataset, directory)
    asked = ids_of(dataset, "queries") if queries else np.zeros(0, np.int64)
    if queries:
        _represent(snapshot.space, dataset, asked, directory, device, progress)
    else:
        Representations(asked, np.zeros((0, store.dim), store.vectors.dtype)).save(directory, QUERIES)
    found = CenterVectors(snapshot.name, len(products), int((~there).sum()), len(asked))
    write_json(directory / FROM_CENTER, asdict(found))
    return found


def _copy(store: Representations, rows: NDArray[Any], ids: NDArray[Any], dataset: Dataset, directory: Path) -> None:
    """Copy the vectors of rows, some at a time."""
    growing = GrowingArray(directory / f"{PRODUCTS}.npy", store.vectors.dtype.str, (len(rows), store.dim))
    if growing.finished:
        return
    if (texts := dataset.ids.of("item_id")) is not None:
        write_names(directory, PRODUCTS, texts.decode(ids).alias("item_id"))
    write_array(directory / f"{PRODUCTS}.ids.npy", ids)
    growing.keep(0)
    for start in range(0, len(rows), BLOCK):
        growing.append(np.take(store.vectors, rows[start : start + BLOCK], axis=0))
    growing.finish()


def _represent(
    space: Space,
    dataset: Dataset,
    ids: NDArray[Any],
    directory: Path,
    device: torch.device,
    progress: StageProgress,
) -> None:
    """Represent queries with the space's encoder, and keep them as the space keeps its products."""
    export, shop_ids = _Export(space.encoder), dataset.ids
    contents = Contents(
        SampleReader(dataset, QUERIES),
        "query",
        ids,
        export.query,
        Quarantine(directory / QUARANTINE, total=len(ids), ids=shop_ids),
        export.batch_size,
        shop_ids,
        export.views,
    )
    with progress.task(QUERIES, len(ids)) as task:
        found = embed(
            export.encoder(),
            contents,
            directory,
            ENCODED,
            dim=space.dim,
            device=device,
            workers=RepresentData().workers,
            named=True,
            progress=task.at,
        )
    found.as_type(space.dtype).save(directory, QUERIES)
    Representations.remove(directory, ENCODED)


ENCODED = "encoded"
"""Name of the queries' vectors while they are as the encoder makes them."""


class _Export:
    """The encoder of a space, as `moonlib export` wrote it, and how it reads queries."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        config: Mapping[str, Any] = read_mapping(directory / EXPORT)
        self.encoder_config = encoder_at(directory)
        self.query = Modalities.parse(config["reads"]["query"])
        self.views = config.get("views", "main")
        self.batch_size = int(config["batch_size"])

    def encoder(self) -> Encoder:
        """The encoder, in eval mode."""
        config = opened(self.encoder_config, self.directory)
        return ready(config, self.directory, 0, self.directory / EXPORT_WEIGHTS)


def content_of(directory: Path) -> str:
    """Digest the ids and vectors of a snapshot, by its checksums where it has some."""
    whole, noted = hashlib.sha256(), sums(directory)
    for name in (f"{PRODUCTS}.ids.npy", f"{PRODUCTS}.ids.parquet", f"{PRODUCTS}.npy"):
        if (directory / name).is_file():
            digest = noted.get(name)
            if digest is None:
                with (directory / name).open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            whole.update(f"{name}={digest}\n".encode())
    return whole.hexdigest()[:32]
