"""A snapshot of a space: the rows of a base, under a number, with an index of their vectors; it never changes.

snapshots/000041/
  (files of a base)            hard links to them, see `moonlib.center.base`
  products.hnsw.faiss          an index, see `moonlib.representations.index.build_index`
  snapshot.json                what it covers, and what was measured
  moonlib.sha256               checksums of all but the pictures
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

import moonlib
from moonlib.artifacts.checksums import again, seal
from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import partial, pruned
from moonlib.artifacts.reading import Unreadable, read_mapping
from moonlib.center.at_rest import recall_at_rest
from moonlib.center.base import Base
from moonlib.center.layout import PICTURES, PRODUCTS, SNAPSHOT, SNAPSHOTS, snapshot_numbers, snapshot_of
from moonlib.center.space import Space
from moonlib.representations.index import IndexKind, build_index
from moonlib.representations.store import Representations
from moonlib.system.disk import rename, second_name, sync

COVERAGE = 0.999
"""Of the products with something to represent, the share that must have a vector."""
RECALL = 0.95
"""Recall@10 of the index against the exact search that is asked for."""
_PROBE_K = 10


class GateFailed(ValueError):
    """A snapshot that is not good enough to be published; the message says why."""


@dataclass(frozen=True)
class Probe:
    """A query whose answer is known.

    Attributes:
        name: what to call it in an error.
        vector: float32 [D].
        expected: ids of products, of which one must be among the first ten.
    """

    name: str
    vector: NDArray[np.float32]
    expected: Sequence[int | str]


@dataclass(frozen=True)
class Description:
    """Content of ``snapshot.json``.

    Attributes:
        sequence: of the last row that is covered.
        base: number of the base whose rows these are.
        products: how many there are.
        coverage: share of the products with something to represent that have a vector.
        kind: of the index.
        recall_at_10: of the index, against the exact search; None where there was nothing to compare.
        probes: how many probe queries passed.
        recall_of_vectors: see `moonlib.center.at_rest.recall_at_rest`; None where it was not measured.
        moonlib: the version that made it.
    """

    sequence: int
    base: int
    products: int
    coverage: float
    kind: IndexKind
    recall_at_10: float | None
    probes: int
    moonlib: str = moonlib.__version__
    recall_of_vectors: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that is opened.

    Attributes:
        number: its number.
        base: its rows.
        about: what is known of it.
        index: file of the index.
    """

    number: int
    base: Base
    about: Description
    index: Path

    @classmethod
    def open(cls, space: Space, number: int) -> Snapshot:
        """Map the files of a snapshot; the index is opened by `moonlib.representations.index.Index.open`.

        Raises:
            FileNotFoundError: there is none of this number.
            Damaged: a file is not what was written.
            Unreadable: a file is not what its name says.
        """
        directory = snapshot_of(space.directory, number)
        if not (directory / SNAPSHOT).is_file():
            kept = ", ".join(map(str, snapshot_numbers(space.directory))) or "none"
            raise FileNotFoundError(f"{directory} is not there any more; snapshots of {space.name}: {kept}")
        about = describe(space, number)
        return cls(number, Base(directory), about, index_file(directory, about.kind))


def index_file(directory: Path, kind: IndexKind) -> Path:
    """File of a snapshot's index."""
    return directory / f"{PRODUCTS}.{kind}.faiss"


def describe(space: Space, number: int) -> Description:
    """Read what is known of a snapshot.

    Raises:
        FileNotFoundError: there is none of this number.
        Unreadable: it is broken.
    """
    file = snapshot_of(space.directory, number) / SNAPSHOT
    found = read_mapping(file)
    try:
        return Description(**{name.replace("@", "_at_"): value for name, value in found.items()})
    except TypeError as error:
        raise Unreadable(f"{file} is broken ({error}); {again(file)}") from None


def build(
    space: Space,
    base: Base,
    base_number: int,
    sequence: int,
    number: int,
    *,
    kind: IndexKind = "hnsw",
    nothing: bytes | None = None,
    probes: Sequence[Probe] = (),
    whole: Representations | None = None,
) -> Description:
    """Build a snapshot beside the others, and check it.

    Args:
        space: whose snapshot it is.
        base: its rows.
        base_number: the base's number.
        sequence: of the base's last row.
        number: of the snapshot.
        kind: of the index.
        nothing: content hash of a product of which nothing can be read: it needs no vector. None where not known.
        probes: queries whose answers are known.
        whole: vectors of the products as the encoder made them, to compare those at rest with.

    Raises:
        GateFailed: too few products have a vector, the vectors at rest have lost too many neighbours, the index finds
            too little, or a probe query does not find what it should. Nothing of the snapshot stays.
    """
    directory = snapshot_of(space.directory, number)
    made = partial(directory)
    shutil.rmtree(made, ignore_errors=True)  # of a writer that was killed
    made.mkdir(parents=True)
    try:
        for file in sorted(base.directory.iterdir()):
            second_name(file, made / file.name)
        represented = np.concatenate(
            [np.zeros(0, np.bool_)] + [block.any(axis=1) for block in np.array_split(base.store.vectors, _parts(base))]
        )
        needed = np.ones(len(base), np.bool_)
        if nothing is not None:
            needed = represented | (base.content != np.frombuffer(nothing, np.uint8)).any(axis=1)
        coverage = float(represented[needed].mean()) if needed.any() else 0.0
        if coverage < COVERAGE:
            missing = base.ids.filter(pl.Series(needed & ~represented))
            raise GateFailed(
                f"{space.name}: {len(missing):,} of {int(needed.sum()):,} products have no vector, a coverage of "
                f"{coverage:.4f}, and {COVERAGE} is asked for; such as item {missing[0]}: upsert them again, with "
                "pictures that can be read"
                if len(missing)
                else f"{space.name}: there is no product with a vector; upsert some"
            )
        at_rest = None if whole is None else recall_at_rest(base, whole)
        if at_rest is not None and at_rest < RECALL:
            raise GateFailed(
                f"{space.name}: vectors of {space.dim} dimensions kept as {space.dtype} have a recall@10 of "
                f"{at_rest:.3f} against those that the encoder makes, and {RECALL} is asked for: make a space of more "
                "dimensions, or of float16"
            )
        index = build_index(base.store, kind, index_file(made, kind), encoder=space.fingerprint)
        recall = None if index.about.comparison is None else index.about.comparison.recall_at_10
        if recall is not None and recall < RECALL:
            raise GateFailed(
                f"{space.name}: the {kind} index has a recall@10 of {recall:.3f}, and {RECALL} is asked for: publish "
                "with another kind of index, such as flat, which is exact"
            )
        for probe in probes:
            rows = index.search(probe.vector[None], _PROBE_K)[0][0]
            found = (
                rows.tolist() if index.names is None else [base.store.named(int(row)) for row in base.store.rows(rows)]
            )
            if not set(found) & set(probe.expected):
                raise GateFailed(
                    f"{space.name}: the probe query {probe.name!r} finds none of {list(probe.expected)} among its "
                    f"first {_PROBE_K}, but {found[:3]} and others"
                )
        about = Description(
            sequence, base_number, len(base), coverage, kind, recall, len(probes), recall_of_vectors=at_rest
        )
        write_description(made, about)
        seal(made, [file for file in made.iterdir() if file.name != PICTURES])
        rename(made, directory)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return about


def write_description(directory: Path, about: Description) -> None:
    """Write ``snapshot.json``."""
    write_json(directory / SNAPSHOT, {name.replace("_at_", "@"): value for name, value in asdict(about).items()})


def _parts(base: Base) -> int:
    return max(1, len(base) // 65_536)


def next_number(space: Space, taken: Sequence[int]) -> int:
    """Number of the next snapshot; none is used twice.

    Args:
        space: whose snapshot it is to be.
        taken: numbers that aliases lead to.
    """
    return max([*snapshot_numbers(space.directory), *taken], default=0) + 1


def remove_snapshots(space: Space, keep: int, needed: Sequence[int]) -> list[int]:
    """Delete all snapshots but the newest, and those that an alias leads to.

    Whoever has one mapped goes on with it.

    Args:
        space: whose snapshots they are.
        keep: how many of the newest to keep.
        needed: numbers that aliases lead to, now or before.

    Returns:
        Numbers of the deleted ones.
    """
    numbers = snapshot_numbers(space.directory)
    gone = [number for number in numbers[:-keep] if number not in needed]
    folder = space.directory / SNAPSHOTS
    for number in gone:
        place = snapshot_of(space.directory, number)
        place.rename(pruned(place))
    for left in folder.glob(".*.pruned"):
        shutil.rmtree(left, ignore_errors=True)
    if gone:
        sync(folder)
    return gone
