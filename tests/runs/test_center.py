"""An application that reads the vectors of a representation center."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moonlib.artifacts.layout import FROM_CENTER, IDENTITY
from moonlib.center.aliases import Alias, Target, read_aliases, write_aliases
from moonlib.center.base import write_base
from moonlib.center.layout import CENTER, FORMAT, SNAPSHOT, snapshot_of
from moonlib.center.record import make_record
from moonlib.center.rows import Dtype
from moonlib.center.space import Space, space_name
from moonlib.config.recipe import RecipeError, load
from moonlib.data.dataset import Dataset
from moonlib.exports.folder import export
from moonlib.representations.store import Representations
from moonlib.runs.iteration import fit
from moonlib.runs.listing import list_runs
from moonlib.runs.run import Run


def publish(center: Path, run: Path, number: int, dtype: Dtype = "int8", dim: int = 32, products: int | None = None) -> str:
    """Publish a run's vectors as snapshot ``number`` of the alias live; returns ``space@snapshot``."""
    center.mkdir(exist_ok=True)
    (center / CENTER).write_text(json.dumps({"moonlib_center": FORMAT}))
    store, _ = Run(run).representations()
    space = Space(center / "spaces" / space_name(Run(run).fingerprint, dim, dtype), Run(run).fingerprint, dim, dtype)
    if not space.directory.exists():
        space.directory.mkdir(parents=True)
        export(run, space.encoder)
        space.save()
        make_record(space.record)
    rows = slice(0, products)
    kept = Representations(store.ids[rows], store.read(rows)[:, :dim]).as_type(dtype)
    n = len(kept.ids)
    write_base(
        snapshot_of(space.directory, number),
        pl.Series(kept.ids),
        iter([kept.vectors]),
        dim,
        dtype,
        np.zeros((n, 16), np.uint8),
        np.arange(1, n + 1),
        np.zeros(n, np.int64),
        pl.DataFrame(),
        None,
    )
    (snapshot_of(space.directory, number) / SNAPSHOT).write_text("{}")
    before = read_aliases(center).get("live")
    write_aliases(center, {"live": Alias(Target(space.name, number), before and before.now)})
    return f"{space.name}@{number:06d}"


APPLICATION = [
    "--data.init_args.size=tiny",
    "--stages.pretrain=null",
    "--stages.represent=null",
    "--encoder=null",
    "--stages.application.trainer.max_epochs=1",
    "--stages.application.data.batch_size=2500",
]


@pytest.fixture(scope="module")
def center(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A center with the vectors of `finished_run`; read it."""
    place = tmp_path_factory.mktemp("center") / "center"
    publish(place, finished_run, 1)
    return place


def test_x(center: Path, runs: Path, tiny: Dataset) -> None:
    run = fit("iter1", [*APPLICATION, f"--stages.application.representations.center={center}"], runs=runs)
    print(list(run.rglob("*")))
    print((run / "run.json").read_text())
