"""A folder that `moonlib embed` wrote, opened as a center: its vectors are the one snapshot of the one space."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from moonlib.artifacts.reading import Unreadable, read_mapping
from moonlib.center.aliases import Alias, Target, write_aliases
from moonlib.center.base import write_columns
from moonlib.center.layout import EMBEDDING, PRODUCTS, RECEIVED_AT, SEQUENCE, SPACES, base_of, snapshot_of
from moonlib.center.record import Current, make_record
from moonlib.center.snapshot import Description, index_file, write_description
from moonlib.center.space import Space, space_name
from moonlib.center.writing import make_center
from moonlib.inference.embedding_folder import embedding_identity, is_complete
from moonlib.representations.index import Index, IndexKind, build_index
from moonlib.representations.store import HASH_BYTES, Representations, content_file, unpack_parquet, write_array

_KINDS: tuple[IndexKind, ...] = ("hnsw", "ivf", "flat")


def as_center(folder: Path, alias: str = "live") -> tempfile.TemporaryDirectory[str]:
    """Lay an embedding out as a center, with links to its files, in a temporary directory.

    Args:
        folder: what `moonlib embed` wrote.
        alias: that is to lead to it.

    Returns:
        The directory, which is deleted with this object.

    Raises:
        Unreadable: it is not complete, or broken.
    """
    if not is_complete(folder) or not any((folder / f"{PRODUCTS}.{end}").exists() for end in ("npy", "parquet")):
        raise Unreadable(f"{folder} is not complete; the `moonlib embed` that wrote it resumes it")
    identity, run = embedding_identity(folder / EMBEDDING), Path(str(read_mapping(folder / EMBEDDING).get("run")))
    place = tempfile.TemporaryDirectory(prefix="moonlib-embedding-")
    try:
        center = Path(place.name)
        make_center(center)
        fingerprint, dim = str(identity["encoder"]), int(identity["dim"])
        directory = center / SPACES / space_name(fingerprint, dim, "float32")
        space = Space(directory, fingerprint, dim, "float32")
        make_record(space.record)
        base = base_of(space.record, 1)
        base.mkdir()
        if (folder / f"{PRODUCTS}.parquet").exists():
            unpack_parquet(folder / f"{PRODUCTS}.parquet", base, "item_id")
        else:
            for end in ("npy", "ids.npy", "ids.parquet", "content.npy"):
                if (file := folder / f"{PRODUCTS}.{end}").exists():
                    (base / file.name).symlink_to(file.resolve())
        store = Representations.open(base, PRODUCTS)
        n = len(store.ids)
        if not content_file(base, PRODUCTS).exists():  # an earlier version wrote none
            write_array(content_file(base, PRODUCTS), np.zeros((n, HASH_BYTES), np.uint8))
        write_array(base / SEQUENCE, np.arange(1, n + 1))
        written = (folder / EMBEDDING).stat().st_mtime_ns // 1000
        write_array(base / RECEIVED_AT, np.full(n, written))
        write_columns(base, pl.DataFrame())
        (space.record / "log-000000").rename(space.record / "log-000001")
        Current(1, [1], n).write(space.record)
        Space(directory, fingerprint, dim, "float32", ids="int64" if store.names is None else "text").save()
        if run.is_dir():
            space.encoder.symlink_to(run.resolve())
        snapshot = snapshot_of(directory, 1)
        shutil.copytree(base, snapshot, symlinks=True)
        found = [kind for kind in _KINDS if (folder / f"{PRODUCTS}.{kind}.faiss").exists()]
        kind = found[0] if found else "flat"
        index = index_file(snapshot, kind)
        if found:
            for file in folder.glob(f"{index.name}*"):
                (snapshot / file.name).symlink_to(file.resolve())
            if len(Index.open(index).ids) != int(np.asarray(store.vectors).any(axis=1).sum()):
                raise Unreadable(f"{folder / index.name} is of other vectors: `moonlib index {folder}` builds it again")
        else:
            build_index(store, "flat", index, encoder=fingerprint)
        write_description(snapshot, Description(n, 1, n, 1.0, kind, None, 0))
        write_aliases(center, {alias: Alias(Target(space.name, 1))})
    except BaseException:
        place.cleanup()
        raise
    return place
