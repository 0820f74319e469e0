"""A run whose represent stage says `views: mean`: its vectors, and those of embed and of an export, are averages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import moonlib
from moonlib.data.dataset import Dataset
from moonlib.data.reader import SampleReader
from moonlib.data.shards import write_dataset
from moonlib.data.tables import Tables, validate
from moonlib.exports.folder import Export
from moonlib.representations.store import Representations
from moonlib.runs.iteration import fit
from moonlib.runs.run import Run


@pytest.fixture(scope="module")
def shop(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny marketplace; every other product has the picture of the one before it as a second one."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "photos").mkdir()
    names: list[str | None] = []
    for table in ("products", "queries"):
        reader = SampleReader(tiny.directory, table)
        for sample in reader.read(reader.ids):
            if sample.image is not None:
                (folder / "photos" / f"{sample.id}.jpg").write_bytes(sample.image)
            if table == "products":
                names.append(None if sample.image is None else f"{sample.id}.jpg")
    lists = [
        [name, names[i - 1]] if i % 2 and name and names[i - 1] else [name] if name else None
        for i, name in enumerate(names)
    ]
    products = tiny.products.with_columns(pl.Series("image", names), pl.Series("images", lists))
    photos = pl.when(pl.col("image").is_not_null()).then(pl.format("{}.jpg", "query_id"))
    queries = tiny.queries.with_columns(image=photos)
    tables = validate(Tables(products, queries, tiny.users, tiny.searches, tiny.impressions))
    (folder / "data").mkdir()
    read = Photos(folder / "photos")
    write_dataset(folder / "data", tables, read, tiny.splits, name="several", version="1", workers=0)
    tables.products.select("item_id", "title", "image", "images", "box").write_parquet(folder / "products.parquet")
    return folder


class Photos:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, table: str, name: str) -> bytes:
        return (self.folder / name).read_bytes()


@pytest.fixture(scope="module")
def runs(shop: Path) -> dict[str, Run]:
    small = [
        f"--data={{class_path: shards, init_args: {{path: {shop / 'data'}}}}}",
        "--encoder.init_args.image={class_path: convnet, init_args: {image_size: 32, width: 8}}",
        "--encoder.init_args.text={class_path: transformer, init_args: {vocab_size: 300, width: 32, depth: 1}}",
        "--encoder.init_args.dim=32",
        "--stages.pretrain.trainer.max_steps=3",
        "--stages.pretrain.data.batch_size=32",
        "--stages.pretrain.data.workers=0",
        "--stages.represent.data.workers=0",
        "--stages.application=null",
    ]
    found = {}
    for views in ("main", "mean"):
        made = fit("iter1", [*small, f"--stages.represent.data.views={views}"], runs=shop / "runs", name=views)
        found[views] = Run(made)
    return found


def test_the_key_is_part_of_the_fingerprint_of_represent_alone(runs: dict[str, Run]) -> None:
    main, mean = ({name: run.layout.fingerprint(name) for name in ("pretrain", "represent")} for run in runs.values())
    assert main["pretrain"] == mean["pretrain"] and main["represent"] != mean["represent"]


def test_only_products_with_several_pictures_have_other_vectors(runs: dict[str, Run], shop: Path) -> None:
    main, mean = (run.representations()[0] for run in runs.values())
    reader = SampleReader(shop / "data", "products")
    several = np.isin(main.ids, reader.ids[reader.pictures > 1])
    assert several.any() and not several.all()
    np.testing.assert_allclose(mean.vectors[~several], main.vectors[~several], atol=1e-6)
    assert (np.abs(mean.vectors - main.vectors)[several].max(axis=1) > 1e-4).mean() > 0.9


@pytest.mark.parametrize("views", ["main", "mean"])
def test_embed_and_an_export_do_as_the_run_did(runs: dict[str, Run], shop: Path, tmp_path: Path, views: str) -> None:
    run = runs[views]
    moonlib.embed(run.directory, shop / "data", tmp_path / "dataset", workers=0)
    expected = (run.directory / "represent" / "products.npy").read_bytes()
    assert (tmp_path / "dataset" / "products.npy").read_bytes() == expected
    identity = json.loads((tmp_path / "dataset" / "embedding.json").read_text())["identity"]
    assert identity.get("views", "main") == views and ("views" in identity) == (views == "mean")
    shipped = moonlib.export(run.directory, tmp_path / "shipped")
    config = json.loads((shipped / "config.json").read_text())
    assert Export(shipped).views == views and config["moonlib_export"] == {"main": 1, "mean": 2}[views]
    moonlib.embed(shipped, shop / "products.parquet", tmp_path / "table", images=shop / "photos", workers=2)
    store = Representations.open(tmp_path / "table", "products")
    np.testing.assert_allclose(store.vectors, run.representations()[0].vectors, atol=1e-6)
    assert sorted(path.name for path in (tmp_path / "table").iterdir() if path.name.startswith(".")) == [".lock"]
