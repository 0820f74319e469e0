"""Encodes only what changed: vectors of rows whose content is what it was are reused from an earlier embedding."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from moonlib.artifacts.checksums import again
from moonlib.artifacts.directories import write_text
from moonlib.artifacts.layout import QUARANTINE
from moonlib.artifacts.reading import Unreadable, read_array
from moonlib.data.quarantine import Quarantine
from moonlib.data.tables import KEYS
from moonlib.embedding.embed import Contents, embed, hash_contents
from moonlib.encoders.encoder import Encoder
from moonlib.inference.embedding_folder import ENDS
from moonlib.representations.store import Chunk, Representations, open_content, unpack_parquet, write_vectors
from moonlib.system.disk import second_name

HASHED_AT_ONCE = 1024
_BLOCK = 16_384
"""Rows merged at once."""


@dataclass(frozen=True)
class Counts:
    """How many rows of a table were reused, and how many not.

    Attributes:
        table: ``products`` or ``queries``.
        rows: how many it has now.
        reused: rows whose content is what it was.
        changed: rows whose content is another.
        new: rows with ids that were not there.
        gone: ids that are not there any more.
    """

    table: str
    rows: int
    reused: int
    changed: int
    new: int
    gone: int

    def __str__(self) -> str:
        of_them = f"{self.reused:,} reused, {self.changed:,} changed, {self.new:,} new, {self.gone:,} gone"
        return f"{self.rows:,} {self.table}: {of_them}"


class Earlier:
    """A table's rows of an earlier embedding: their vectors and the hashes of what these were made from.

    Args:
        directory: the embedding, complete.
        table: which of its tables.
        work: a folder to unpack Parquet into.
        dim: width of its vectors.

    Raises:
        Damaged: a file is not what was written.
        Unreadable: a file is not what its name says, or does not fit the others.
    """

    def __init__(self, directory: Path, table: str, work: Path, dim: int) -> None:
        self.directory, self.table = directory, table
        files = directory
        if (packed := directory / f"{table}.parquet").is_file():
            files = work / "earlier"
            files.mkdir(exist_ok=True)
            unpack_parquet(packed, files, KEYS[table])
        ids_file = files / f"{table}.ids.npy"
        ids = read_array(ids_file)
        if ids.ndim == 1 and len(wrong := np.flatnonzero(ids[1:] <= ids[:-1])):
            row = int(wrong[0]) + 1
            raise Unreadable(
                f"{packed if packed.is_file() else ids_file}: row {row + 1} has the id {ids[row]} after "
                f"{ids[row - 1]}, and ids should ascend; {again(directory)}"
            )
        self.store = Representations.open(files, table)
        if self.store.dim != dim or self.store.vectors.dtype != np.float32:
            found = f"{self.store.vectors.dtype} vectors of {self.store.dim} dimensions"
            raise Unreadable(f"{directory}: {table} are {found}, expected float32 of {dim}; {again(directory)}")
        names = self.store.names
        if names is not None and names.n_unique() < len(names):
            twice = names.filter(names.is_duplicated())[0]
            raise Unreadable(f"{directory}: {table}: the id {twice!r} stands twice; {again(directory)}")
        self.hashes = open_content(files, table, len(self.store.ids))
        """uint8 [N, 16]; None in an embedding of an earlier version."""
        self.quarantine = Quarantine(directory / f"{table}.{QUARANTINE}", total=0).entries()

    def rows(self, contents: Contents) -> NDArray[np.int64]:
        """The row of each id of ``contents``, int64 [N]; -1 where there is none. Ids of another type are others."""
        names, before = contents.names, self.store.names
        if names is None and before is None:
            return self.store.rows(contents.ids)
        if names is None or before is None:
            return np.full(len(contents.ids), -1, np.int64)
        known = pl.DataFrame({"id": before, "row": np.arange(len(before))})
        found = pl.DataFrame({"id": names}).join(known, on="id", how="left", maintain_order="left")
        return found["row"].fill_null(-1).to_numpy()


@dataclass(frozen=True)
class Comparison:
    """A table beside an earlier embedding of it.

    Attributes:
        contents: the table's, N ids.
        earlier: the embedding.
        rows: int64 [N], the earlier row of each id; -1 where there is none.
        same: bool [N], whether its content is what it was.
        counts: how many are.
    """

    contents: Contents
    earlier: Earlier
    rows: NDArray[np.int64]
    same: NDArray[np.bool_]
    counts: Counts

    @property
    def unchanged(self) -> bool:
        """Whether the vectors are those of before, row by row."""
        return (
            self.counts.reused == self.counts.rows == len(self.earlier.store.ids)
            and np.array_equal(self.rows, np.arange(len(self.rows)))
            and np.array_equal(self.contents.ids, self.earlier.store.ids)
        )


def compare(
    contents: Contents, earlier: Earlier, work: Path, *, workers: int, progress: Callable[[str, int, int], None]
) -> Comparison:
    """Hash the content of every row, and compare it with an earlier embedding; no picture is decoded.

    Args:
        contents: what is to be represented, N ids.
        earlier: the embedding; its `Earlier.hashes` are there.
        work: a folder for the hashes; a call that was cut off resumes.
        workers: processes; has no effect on the result.
        progress: called with what is being done, rows that are done, and how many there are.
    """
    assert earlier.hashes is not None
    table, total = earlier.table, len(contents.ids)
    compared = f"{table} compared"
    progress(compared, 0, total)
    hashes = hash_contents(
        contents.only(contents.ids, HASHED_AT_ONCE),
        work / f"{table}.hashes.npy",
        workers=workers,
        progress=lambda rows: progress(compared, rows, total),
    )
    progress(compared, total, total)
    rows = earlier.rows(contents)
    known = rows >= 0
    same = known.copy()
    for start in range(0, total if known.any() else 0, _BLOCK):
        block = slice(start, start + _BLOCK)
        same[block] &= (hashes[block] == earlier.hashes[np.maximum(rows[block], 0)]).all(axis=1)
    reused, there = int(same.sum()), int(known.sum())
    counts = Counts(table, total, reused, there - reused, total - there, len(earlier.store.ids) - there)
    return Comparison(contents, earlier, rows, same, counts)


def embed_changed(
    encoder: Encoder,
    comparison: Comparison,
    directory: Path,
    work: Path,
    *,
    dim: int,
    device: torch.device | str,
    workers: int,
    progress: Callable[[str, int, int], None],
) -> None:
    """Represent every id as `moonlib.embedding.embed.embed` does, but encode only what changed.

    The vector of a row whose content is what it was keeps its bytes. The others are encoded together, in chunks by
    ascending id; the last bits of a vector depend on its chunk.

    A call that was cut off is resumed by the same call, to the same bytes. Memory holds ids, but neither vectors nor
    hashes.

    Args:
        encoder: that of the earlier embedding.
        comparison: of what is to be represented with that embedding.
        directory: where ``{table}.npy`` and the rest are written.
        work: a folder for what is needed until then; kept between calls.
        dim: how many of the vectors' first dimensions to keep.
        device: where to compute.
        workers: processes; has no effect on the result.
        progress: called with what is being done, rows that are done, and how many there are.
    """
    contents, earlier, rows, same = comparison.contents, comparison.earlier, comparison.rows, comparison.same
    table, before = earlier.table, earlier.hashes
    assert before is not None
    if not any((work / name).exists() for name in (f"{table}.npy", f".{table}.npy.partial")):
        # What could not be read while hashing may be readable by now; encoding names what is not.
        contents.quarantine.path.unlink(missing_ok=True)
    part = contents.only(contents.ids[~same])
    encoded: Representations | None = None
    fresh: NDArray[np.uint8] | None = None
    if len(part.ids):
        progress(table, 0, len(part.ids))
        encoded = embed(
            encoder,
            part,
            work,
            table,
            dim=dim,
            device=device,
            workers=workers,
            progress=lambda done: progress(table, done, len(part.ids)),
            hashed=True,
        )
        progress(table, len(part.ids), len(part.ids))
        fresh = open_content(work, table, len(part.ids))
    _write_quarantine(contents, earlier, same)
    place = np.cumsum(~same) - 1

    def merged(first: int) -> Iterator[Chunk]:
        for start in range(first * _BLOCK, len(same), _BLOCK):
            block = slice(start, start + _BLOCK)
            kept, old, new = same[block], rows[block], place[block]
            vectors = np.empty((len(kept), dim), np.float32)
            hashes = np.empty((len(kept), before.shape[1]), np.uint8)
            vectors[kept], hashes[kept] = earlier.store.read(old[kept]), before[old[kept]]
            if encoded is not None and fresh is not None:
                vectors[~kept], hashes[~kept] = encoded.read(new[~kept]), fresh[new[~kept]]
            yield vectors, hashes

    write_vectors(directory, table, contents.ids, dim, _BLOCK, merged, contents.names, hashed=True)


def _write_quarantine(contents: Contents, earlier: Earlier, same: NDArray[np.bool_]) -> None:
    """Name the unreadable images of all rows: of reused ones as before, of others as encoding found them."""
    key, table = KEYS[earlier.table], earlier.table
    found = contents.quarantine.entries()
    known = contents.shop_ids.of(key)
    kind = int if known is None else str
    named = [id for of, id in earlier.quarantine if of == table and isinstance(id, kind)]
    ids = pl.Series(key, named, dtype=pl.Int64 if known is None else pl.String)
    numbers = ids if known is None else known.encode(ids).fill_null(-1)  # text ids have numbers from 0 on
    here = np.isin(numbers.to_numpy(), contents.ids[same])
    found |= {(table, id): earlier.quarantine[table, id] for id, is_here in zip(named, here, strict=True) if is_here}
    if not found:
        contents.quarantine.path.unlink(missing_ok=True)
        return
    # In an order that does not depend on which worker met what first.
    lines = [{"table": of, "id": id, "reason": found[of, id]} for of, id in sorted(found)]
    write_text(contents.quarantine.path, "".join(f"{json.dumps(line)}\n" for line in lines))


def keep(earlier: Earlier, directory: Path) -> None:
    """Take over the files of a table of which nothing changed, without a copy where the file system can."""
    for end in ENDS:
        if (file := earlier.directory / f"{earlier.table}.{end}").is_file():
            second_name(file, directory / file.name)
