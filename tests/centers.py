"""A small center for tests: a run's vectors, published as a snapshot."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl

from moonlib.center import publishing
from moonlib.center.aliases import Alias, Target, write_aliases
from moonlib.center.record import Record, make_record
from moonlib.center.rows import Dtype, Rows
from moonlib.center.space import Space, space_name
from moonlib.center.writing import make_center
from moonlib.exports.folder import export
from moonlib.representations.store import Representations
from moonlib.runs.run import Run

APPLICATION = [
    "--data.init_args.size=tiny",
    "--stages.pretrain=null",
    "--stages.represent=null",
    "--encoder=null",
    "--stages.application.trainer.max_epochs=1",
    "--stages.application.data.batch_size=2500",
    "--stages.application.module.init_args.features={users.age: categorical, products.region: categorical, "
    "products.attributes: multi_valued, queries.text: categorical, impressions.position: numeric}",
]
"""Makes iter1 an application alone, which takes a second on ``tiny``."""


def make_bare(center: Path, *dtypes: Dtype) -> Path:
    """A center with a space of each type, to the first of which ``live`` leads, without encoders or products."""
    make_center(center)
    for dtype in dtypes:
        space = Space(center / "spaces" / space_name("f" * 16, 8, dtype), "f" * 16, 8, dtype)
        make_record(space.record)
        space.save()
    write_aliases(center, {"live": Alias(Target(space_name("f" * 16, 8, dtypes[0]), 0))})
    return center


def publish(
    center: Path,
    run: Path,
    dtype: Dtype = "int8",
    products: int | None = None,
    shift: int = 0,
    encoder: Path | None = None,
) -> str:
    """Publish a run's vectors as the next snapshot, to which ``live`` then leads; returns ``space@snapshot``.

    Args:
        center: made where it is not there.
        run: whose vectors and encoder.
        dtype: of the vectors.
        products: how many; all by default.
        shift: what is added to their ids.
        encoder: an export of the run, to copy; it is exported by default.
    """
    make_center(center)
    store, _ = Run(run).representations()
    fingerprint = Run(run).fingerprint
    directory = center / "spaces" / space_name(fingerprint, store.dim, dtype)
    space = Space(directory, fingerprint, store.dim, dtype, ids="int64")
    if not directory.exists():
        directory.mkdir(parents=True)
        if encoder is None:
            export(run, space.encoder)
        else:
            shutil.copytree(encoder, space.encoder)
        space.save()
        make_record(space.record)
        write_aliases(center, {"live": Alias(Target(space.name, 0))})
    kept = Representations(store.ids[:products] + shift, store.read(slice(0, products))).as_type(dtype)
    record = Record(space, write=True)
    ids, _ = record.live()
    gone = ids.filter(~ids.is_in(kept.ids.tolist()))
    record.append(Rows.tombstones(gone, store.dim, dtype, record.no_columns, 0))
    n = len(kept.ids)
    zeros = np.zeros((n, 16), np.uint8)
    nothing = pl.repeat(None, n, dtype=pl.Binary, eager=True)
    named = pl.Series(kept.ids)
    record.append(
        Rows(named, kept.vectors, zeros, np.zeros(n, np.int64), np.zeros(n, np.bool_), record.no_columns, nothing)
    )
    return publishing.publish(center, space, kind="flat").name
