"""Make a space of a center, for the encoder of a run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from moonlib.center.layout import ENCODER, SPACES
from moonlib.center.record import make_record
from moonlib.center.rows import ColumnType, Dtype
from moonlib.center.space import Space, check_columns, space_name, spaces
from moonlib.exports.folder import Export, export
from moonlib.inference.incoming import KEPT
from moonlib.runs.run import Run
from moonlib.system.disk import rename, sync, unfinished


def make_space(
    center: Path,
    source: Run | Export,
    dtype: Dtype,
    dim: int | None,
    columns: Sequence[str] | Mapping[str, ColumnType] | None,
    pictures: bool,
) -> Space:
    """Make a space, whole or not at all; one that is there is left as it is.

    Args:
        center: its folder. The caller holds its lock.
        source: a run, or an export of one, whose encoder the space is for.
        dtype: of the vectors at rest.
        dim: how many dimensions to keep; by default all.
        columns: to keep beside the vectors; by default `KEPT`, or those of the space that is there.
        pictures: whether to keep small pictures.

    Raises:
        ValueError: ``dim`` is wider than the vectors, or the space that is there keeps other columns.
    """
    kept = kept_types(columns)
    folder = center / SPACES
    folder.mkdir(exist_ok=True)
    for left in folder.glob(".*.partial"):  # of a writer that was killed
        shutil.rmtree(left)
    same = [each for each in spaces(center).values() if each.fingerprint == source.fingerprint and each.dtype == dtype]
    if dim is not None:
        same = [each for each in same if each.dim == dim]
    if len(same) == 1:
        there = same[0].columns
        if columns is not None and (kept != there if isinstance(columns, Mapping) else {*columns} != {*there}):
            named = ", ".join(f"{name} ({kind})" for name, kind in there.items()) or "no columns"
            raise ValueError(
                f"{center}: space {same[0].name} keeps {named}, and that can't be changed: leave the columns out, or "
                "make another center"
            )
        return same[0]
    made = unfinished(folder / "space")
    try:
        made.mkdir()
        if isinstance(source, Export):
            source.encoder()  # opens
            shutil.copytree(source.directory, made / ENCODER)
        else:
            export(source.directory, made / ENCODER)
        exported = Export(made / ENCODER)
        width = int(exported.config["dim"])
        if dim is not None and not 1 <= dim <= width:
            raise ValueError(f"dim {dim}: the encoder's vectors have {width} dimensions; keep 1 to {width}")
        directory = folder / space_name(source.fingerprint, width if dim is None else dim, dtype)
        sides: tuple[Literal["product", "query"], ...] = ("product", "query")
        space = Space(
            directory,
            source.fingerprint,
            width if dim is None else dim,
            dtype,
            kept,
            {side: str(exported.modalities(side)) for side in sides},
            pictures=pictures,
        )
        make_record(made / space.record.relative_to(directory))
        space.save(made)
        for file in made.rglob("*"):
            sync(file)
        if not directory.exists():
            rename(made, directory)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return space


def kept_types(columns: Sequence[str] | Mapping[str, ColumnType] | None) -> dict[str, ColumnType]:
    """Kept columns with their types.

    Args:
        columns: names of `KEPT`, or any name with its type; None for all of `KEPT`.

    Raises:
        ValueError: one has no known type.
    """
    if columns is None:
        return dict(KEPT)
    if isinstance(columns, Mapping):
        return check_columns(columns)
    for column in columns:
        if column not in KEPT:
            raise ValueError(f"column {column!r}: its type is not known: give {{{column!r}: 'text'}}, or another type")
    return {column: KEPT[column] for column in columns}
