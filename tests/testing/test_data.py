"""The conformance checks of sources, filters, probes and stages: they pass ours and find what is broken."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import pytest
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.utils.data import DataLoader

from moonlib.adapters.simtier import SimTier
from moonlib.data.check import check
from moonlib.data.dataset import Dataset
from moonlib.data.shards import build_once, write_dataset
from moonlib.data.tables import Tables
from moonlib.encoders.weights import save_weights
from moonlib.filters.filter import Encoded, Filter, Filtered, without_products
from moonlib.losses.info_nce import InfoNCE
from moonlib.metrics.metric import Meaning
from moonlib.negatives.in_batch import InBatch
from moonlib.predictors.mlp import MLP
from moonlib.probes.probe import Probe, Represented
from moonlib.sources.shards import Shards
from moonlib.sources.source import Source
from moonlib.stages.application import Application, ImpressionData
from moonlib.stages.contrastive import PairData
from moonlib.stages.posttraining import Posttraining, SearchData
from moonlib.stages.pretraining import Pretraining
from moonlib.stages.represent import Represent, RepresentData
from moonlib.stages.stage import Stage, StageContext
from moonlib.templates.filters import Template as Silent
from moonlib.templates.stages import Template as Similar
from moonlib.testing import (
    EXAMPLE_SPLITS,
    check_filter,
    check_probe,
    check_source,
    check_stage,
    example_dataset,
    example_picture,
    example_tables,
)


def test_the_example_dataset_is_sound_and_has_all_that_may_be_missing(tmp_path: Path) -> None:
    dataset = example_dataset(tmp_path / "example")
    report = check(dataset.directory)
    assert report.ok and not report.warnings
    assert all(rows > 10 for rows in (*report.splits["searches"].values(), *report.splits["impressions"].values()))
    products = dataset.products
    have = {(row["image"] is not None, row["title"] is not None) for row in products.iter_rows(named=True)}
    assert have == {(True, True), (False, True), (False, False)}
    assert products["item_id"].min() == -(2**63) and products["item_id"].max() == 2**63 - 1
    assert len(dataset.splits.known(products)) < len(products)


# --- sources


def test_our_sources_pass(tiny: Dataset) -> None:
    check_source(lambda: Shards(tiny.directory))


class Example(Source):
    """The example tables as a source."""

    def prepare(self, cache: Path) -> Path:
        return build_once(cache / "example", self.build)

    def build(self, draft: Path) -> None:
        write_dataset(draft, self.tables(), example_picture, EXAMPLE_SPLITS, name="x", version="1", workers=1)

    def tables(self) -> Tables:
        return example_tables()


def test_a_sound_source_passes() -> None:
    check_source(Example)


_count = itertools.count()


class Unrepeatable(Example):
    def tables(self) -> Tables:
        tables = super().tables()
        return replace(tables, products=tables.products.with_columns(price=pl.lit(float(next(_count)))))


class Rebuilding(Example):
    def prepare(self, cache: Path) -> Path:
        return build_once(cache / f"example-{next(_count)}", self.build)


class InPlace(Example):
    """Writes where the dataset belongs, so that a build that breaks off is taken for something else."""

    def prepare(self, cache: Path) -> Path:
        directory = cache / "example"
        if not directory.exists():
            directory.mkdir(parents=True)
            self.build(directory)
        return directory


class Leaking(Example):
    """Every search is repeated two days later: the same search_id in two splits."""

    def tables(self) -> Tables:
        tables = super().tables()
        later = tables.searches.with_columns(pl.col("ts") + pl.duration(days=2))
        later = later.filter(pl.col("ts") < EXAMPLE_SPLITS.test_until)
        return replace(tables, searches=pl.concat([tables.searches, later]))


class Late(Example):
    def tables(self) -> Tables:
        tables = super().tables()
        return replace(tables, products=tables.products.with_columns(listed_at=pl.lit(EXAMPLE_SPLITS.valid_until)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Unrepeatable, "built again, the content differs"),
        (Rebuilding, "a second call returns another directory"),
        (InPlace, "after a build that broke off, the next one fails"),
        (Leaking, "moonlib data check finds .*search_id"),
        (Late, "no product is listed before training ends"),
    ],
)
def test_broken_sources_are_found(make: Callable[[], Source], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_source(make)


# --- filters


class Everything(Filter):
    def __call__(self, tables: Tables, encoded: Encoded | None = None) -> Filtered:
        return without_products(tables, tables.products["item_id"], "all of them")


class Nearby(Filter):
    """Removes products whose representation is zero."""

    reads_representations: ClassVar[bool] = True

    def __call__(self, tables: Tables, encoded: Encoded | None = None) -> Filtered:
        assert encoded is not None
        zero = pl.Series(encoded.products.ids[~encoded.products.vectors.any(axis=1)])
        return without_products(tables, zero, "no representation")


@pytest.mark.parametrize("make", [Silent, Everything, Nearby])
def test_sound_filters_pass(make: Callable[[], Filter]) -> None:
    check_filter(make)


class InSilence(Everything):
    def __call__(self, tables: Tables, encoded: Encoded | None = None) -> Filtered:
        return Filtered(super().__call__(tables).tables, {})


class Dangling(Filter):
    def __call__(self, tables: Tables, encoded: Encoded | None = None) -> Filtered:
        rows = tables.products.height // 2
        return Filtered(
            replace(tables, products=tables.products.head(rows)),
            {"products": {"half": tables.products.height - rows}},
        )


class Bare(Silent):
    def __call__(self, tables: Tables, encoded: Encoded | None = None) -> Any:
        return super().__call__(tables).tables


class Rolling(Filter):
    drops: ClassVar = itertools.count(1)

    def __call__(self, tables: Tables, encoded: Encoded | None = None) -> Filtered:
        return without_products(tables, tables.products["item_id"][: next(self.drops)], "by lot")


class Narrowing(Filter):
    def __call__(self, tables: Tables, encoded: Encoded | None = None) -> Filtered:
        return Filtered(replace(tables, products=tables.products.drop("price")), {})


class Tampering(Filter):
    def __call__(self, tables: Tables, encoded: Encoded | None = None) -> Filtered:
        tables.users.extend(pl.DataFrame({"user_id": [10**6 + next(_count)]}))
        return Filtered(tables, {})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (InSilence, "products: 96 rows in, 0 out, but removed are none"),
        (Dangling, "the tables that are left are not valid: searches"),
        (Bare, "expected a Filtered, got Tables"),
        (Rolling, "the same tables give another result"),
        (Narrowing, "products: columns or types changed"),
        (Tampering, "users: the filter changes what it is given"),
    ],
)
def test_broken_filters_are_found(make: Callable[[], Filter], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_filter(make)


# --- probes


class Norm(Probe):
    def __call__(self, represented: Represented) -> dict[str, float]:
        return {"norm": float(np.linalg.norm(represented.products.vectors, axis=1).mean())}


def test_a_sound_probe_passes() -> None:
    check_probe(Norm)


class Nothing(Probe):
    def __call__(self, represented: Represented) -> dict[str, float]:
        return {}


class Dividing(Probe):
    def __call__(self, represented: Represented) -> dict[str, float]:
        vectors = represented.products.vectors
        with np.errstate(all="ignore"):
            return {"mean": float((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).mean())}


class Normalising(Norm):
    def __call__(self, represented: Represented) -> dict[str, float]:
        represented.products.vectors[:] *= 2
        return super().__call__(represented)


class Arrays(Probe):
    def __call__(self, represented: Represented) -> Any:
        return {"norm": np.float32(1)}


class Named(Probe):
    def __call__(self, represented: Represented) -> dict[str, float]:
        return {f"{represented.split}/norm": 1.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Nothing, "expected a dictionary of metrics"),
        (Dividing, "'mean' is nan; leave out what cannot be measured"),
        (Normalising, "read-only"),
        (Arrays, "'norm' is float32 .*, not a float"),
        (Named, "keys differ between splits"),
    ],
)
def test_broken_probes_are_found(make: Callable[[], Probe], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_probe(make)


# --- stages


@pytest.mark.parametrize(
    ("make", "data", "trainer"),
    [
        (
            lambda: Pretraining(InfoNCE(), [InBatch()]),
            PairData({"image -> title": 1.0}, 16, workers=0),
            {"max_steps": 4},
        ),
        (
            lambda: Posttraining(InfoNCE(), [InBatch()]),
            SearchData({"image -> title+image": 1.0}, 16, workers=0),
            {"max_steps": 4},
        ),
        (Represent, RepresentData(workers=0), {}),
        (lambda: Application(SimTier(), MLP()), ImpressionData(batch_size=32), {"max_epochs": 1}),
        (Similar, None, {}),
    ],
    ids=["pretraining", "posttraining", "represent", "application", "similar"],
)
def test_our_stages_pass(make: Callable[[], Stage], data: object, trainer: dict[str, Any]) -> None:
    check_stage(make, data, **trainer)


class Random(Similar):
    def run(self, context: StageContext) -> dict[str, float]:
        return {"value": float(next(_count))}


class Untidy(Similar):
    def run(self, context: StageContext) -> dict[str, float]:
        (context.dataset.directory / "cache.bin").write_bytes(b"x")
        return super().run(context)


class Once(Similar):
    """Cannot work where an earlier attempt was cut off."""

    def run(self, context: StageContext) -> dict[str, float]:
        attempt = context.directory / "attempt"
        value = float(attempt.exists())
        attempt.touch()
        return {"value": value}


class Promising(Similar):
    provides = "weights"


class Nested(Similar):
    def run(self, context: StageContext) -> Any:
        return {"similar": {"products": 1.0}}


class Typeless(Similar):
    data_type = dict


class Needy(Similar):
    @property
    def needs(self) -> Any:
        return frozenset({"gpu"})


class Segmented(Similar):
    """Says of every segment what holds of all rows."""

    def meanings(self) -> dict[str, Meaning]:
        return {"similar/products@new": Meaning("products")}


class Untitled(Similar):
    def meanings(self) -> Any:
        return {"similar/products": "products"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Random, "the same seed gives other metrics"),
        (Untidy, "writes into the dataset's directory"),
        (Once, "killed and run again in its directory, it gives other metrics"),
        (Promising, "provides: no weights at"),
        (Nested, "'similar' is dict .*, not a float"),
        (Typeless, "data_type: expected a dataclass"),
        (Needy, r"needs: \['gpu'\] is none of"),
        (Segmented, "meanings: 'similar/products@new' is no key of test days and all rows"),
        (Untitled, "meanings: 'similar/products' is 'products', and no Meaning"),
    ],
)
def test_broken_stages_are_found(make: Callable[[], Stage], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_stage(make)


@dataclass
class Steps:
    """Nothing to say."""


class Restarting(Stage):
    """Trains with a plain trainer, and begins with the weights that a killed attempt left."""

    data_type: ClassVar[type] = Steps
    provides = "weights"

    @property
    def needs(self) -> Any:
        return frozenset({"encoder"})

    def run(self, context: StageContext) -> dict[str, float]:
        assert context.encoder is not None
        self.encoder, self.file = context.encoder, context.directory / "bias.pt"
        self.bias = torch.nn.Parameter(torch.load(self.file) if self.file.exists() else torch.zeros(1))
        context.trainer.fit(self, DataLoader([0.0] * 8, batch_size=2))
        save_weights(self.encoder, context.directory / "weights.safetensors")
        return {"bias": float(self.bias)}

    def training_step(self, batch: torch.Tensor, step: int) -> torch.Tensor:
        torch.save(self.bias.data, self.file)
        return (self.bias - 1).square().sum()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return torch.optim.SGD([self.bias], lr=0.1)


def test_a_training_that_forgets_where_it_was_is_found() -> None:
    with pytest.raises(AssertionError, match="killed and run again in its directory, it gives other metrics"):
        check_stage(Restarting, max_steps=4)
