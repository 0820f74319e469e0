"""A small center for tests: a run's vectors, published as a snapshot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl

from moonlib.center.aliases import Alias, Target, read_aliases, write_aliases
from moonlib.center.base import write_base
from moonlib.center.layout import CENTER, FORMAT, SNAPSHOT, snapshot_of
from moonlib.center.record import make_record
from moonlib.center.rows import Dtype
from moonlib.center.space import Space, space_name
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


def publish(
    center: Path, run: Path, number: int, dtype: Dtype = "int8", products: int | None = None, shift: int = 0
) -> str:
    """Publish a run's vectors as snapshot ``number``, to which ``live`` then leads; returns ``space@snapshot``.

    Args:
        center: made where it is not there.
        run: whose vectors and encoder.
        number: of the snapshot.
        dtype: of the vectors.
        products: how many; all by default.
        shift: what is added to their ids.
    """
    center.mkdir(exist_ok=True)
    (center / CENTER).write_text(json.dumps({"moonlib_center": FORMAT}))
    store, _ = Run(run).representations()
    fingerprint = Run(run).fingerprint
    space = Space(center / "spaces" / space_name(fingerprint, store.dim, dtype), fingerprint, store.dim, dtype)
    if not space.directory.exists():
        space.directory.mkdir(parents=True)
        export(run, space.encoder)
        space.with_ids("int64").save()
        make_record(space.record)
    kept = Representations(store.ids[:products], store.read(slice(0, products))).as_type(dtype)
    n = len(kept.ids)
    directory = snapshot_of(space.directory, number)
    shutil.rmtree(directory, ignore_errors=True)
    write_base(
        directory,
        pl.Series(kept.ids + shift),
        iter([kept.vectors]),
        store.dim,
        dtype,
        np.zeros((n, 16), np.uint8),
        np.arange(1, n + 1),
        np.zeros(n, np.int64),
        pl.DataFrame(),
        None,
    )
    (directory / SNAPSHOT).write_text("{}")
    before = read_aliases(center).get("live")
    write_aliases(center, {"live": Alias(Target(space.name, number), before and before.now)})
    return f"{space.name}@{number:06d}"
