"""The check of a stage."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger

from moonlib.artifacts.layout import CODES, PREPROCESSING, WEIGHTS
from moonlib.data.dataset import Dataset
from moonlib.data.restricted import RestrictedDataset
from moonlib.encoders.convnet import ConvNet
from moonlib.encoders.dual import DualEncoder
from moonlib.encoders.encoder import Encoder
from moonlib.encoders.transformer import Transformer
from moonlib.encoders.weights import load_weights, save_weights
from moonlib.fusion.sum import Sum
from moonlib.metrics.key import MetricKey
from moonlib.metrics.metric import Meaning
from moonlib.registry.signature import parameters
from moonlib.representations.residual_kmeans import read_codebooks
from moonlib.representations.store import Representations
from moonlib.stages.comparable import OldRun
from moonlib.stages.stage import Need, Provides, Stage, StageContext
from moonlib.testing.examples import example_dataset, example_representations
from moonlib.testing.promises import check_metrics, directory_state, require

SEED = 7


def check_stage(
    make: Callable[[], Stage],
    data: object = None,
    make_encoder: Callable[[], Encoder] | None = None,
    **trainer: Any,
) -> None:
    """Check a stage: declarations, metrics, what it provides, determinism, and that it may be killed and run again.

    It runs three times on a shop of 96 products, with a small encoder and random representations.

    Args:
        make: returns a fresh stage.
        data: an instance of its ``data_type``; one of defaults if not given.
        make_encoder: returns the encoder to run with, not set up; a small dual encoder if not given.
        trainer: arguments of Lightning's Trainer; ``max_steps=3`` if not given.
    """
    stage = make()
    require(is_dataclass(getattr(stage, "data_type", None)), "data_type: expected a dataclass")
    unknown = stage.needs - set(get_args(Need))
    require(not unknown, f"needs: {sorted(unknown)} is none of {', '.join(get_args(Need))}")
    known = (None, *get_args(Provides))
    require(stage.provides in known, f"provides: {stage.provides!r} is nothing known")
    data = stage.data_type() if data is None else data
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), data, trainer or {"max_steps": 3}, make_encoder or small_encoder)
        dataset, before = bench.dataset, directory_state(bench.dataset.directory)
        names = set(parameters(type(stage)))
        references = stage.references(dataset)
        prefixes = [reference.prefix for reference in references]
        require(
            all(prefixes) and len(set(prefixes)) == len(prefixes), f"references: prefixes are not distinct: {prefixes}"
        )
        for reference in references:
            extra = set(reference.module) - names
            require(not extra, f"references: '{reference.prefix}' sets {sorted(extra)}, which the stage does not take")
            chosen = reference.candidates is None or bool(reference.chosen_by)
            require(chosen, f"references: '{reference.prefix}' has candidates and says not by what they are chosen")
        for key, meaning in stage.meanings().items():
            of_all = MetricKey.parse(key).measured == key
            require(of_all, f"meanings: '{key}' is no key of test days and all rows, such as ctr/auc")
            require(isinstance(meaning, Meaning), f"meanings: '{key}' is {meaning!r}, and no Meaning")
        metrics = bench.run(make(), "unbroken")
        if metrics:
            check_metrics(metrics, "run")
        require(isinstance(metrics, dict), f"run: expected a dictionary of metrics, got {metrics!r}")
        bench.check_provided(stage.provides, "unbroken")
        require(bench.run(make(), "again") == metrics, "run: the same seed gives other metrics")
        bench.check_same(stage.provides, "unbroken", "again", "run: the same seed gives other")
        bench.run_until_killed(make(), "killed")
        resumed = bench.run(make(), "killed")
        require(resumed == metrics, "run: killed and run again in its directory, it gives other metrics")
        bench.check_same(
            stage.provides, "unbroken", "killed", "run: killed and run again in its directory, it gives other"
        )
        require(directory_state(dataset.directory) == before, "run: the stage writes into the dataset's directory")


def small_encoder() -> DualEncoder:
    """A dual encoder, not set up."""
    text = Transformer(vocab_size=300, width=16, depth=1, heads=2, max_length=12)
    return DualEncoder(Sum(), ConvNet(image_size=16, width=8), text, dim=8)


class Killed(Exception):
    """Ends a training at once."""


class Kill(Callback):
    """Ends a training after its second batch."""

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *rest: Any) -> None:
        if trainer.global_step >= 2:
            raise Killed


class Bench:
    """A dataset, an encoder and representations for a stage to run with.

    Args:
        folder: where all of it lies.
        data: the stage's data.
        trainer: arguments of Lightning's Trainer.
        make_encoder: returns the encoder, not set up.

    Attributes:
        comparable: representations of an earlier run, for a stage that is to be compatible with them.
        teachers: vectors of products by what names them, for a stage that learns from them.
    """

    comparable: OldRun | None = None
    teachers: Mapping[str, Representations] = MappingProxyType({})

    def __init__(
        self, folder: Path, data: object, trainer: dict[str, Any], make_encoder: Callable[[], Encoder]
    ) -> None:
        self.folder, self.data, self.trainer, self.make_encoder = folder, data, trainer, make_encoder
        self.dataset: Dataset = example_dataset(folder / "dataset")
        ids = self.dataset.products["item_id"], self.dataset.queries["query_id"]
        products, queries = example_representations(*ids)["random"]
        (folder / "representations").mkdir()
        products.save(folder / "representations", "products")
        queries.save(folder / "representations", "queries")
        save_weights(self.encoder(seed=1), folder / WEIGHTS)

    def encoder(self, seed: int = 0) -> Encoder:
        """The encoder, set up."""
        encoder = self.make_encoder()
        seed_everything(seed, verbose=False)
        encoder.setup(self.dataset.splits.known(self.dataset.products), self.folder / PREPROCESSING)
        return encoder

    def run(self, stage: Stage, name: str, *callbacks: Callback) -> dict[str, float]:
        """Run a stage in the directory ``name`` as an iteration would: with what it needs and nothing else."""
        directory = self.folder / name
        directory.mkdir(exist_ok=True)
        trainer = Trainer(
            accelerator="cpu",
            default_root_dir=directory,
            logger=CSVLogger(directory, name="", version="csv"),
            callbacks=list(callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            **self.trainer,
        )
        needs, reads = stage.needs, type(stage).reads(stage, self.data)
        encoder = self.encoder() if needs & {"encoder", "weights"} else None
        seed_everything(SEED, verbose=False)
        return stage.run(
            StageContext(
                dataset=self.dataset if reads.whole else RestrictedDataset(self.dataset, reads, type(stage).__name__),
                data=self.data,
                trainer=trainer,
                directory=directory,
                seed=SEED,
                encoder=encoder,
                weights=self.folder / WEIGHTS if "weights" in needs else None,
                representations=self.folder / "representations" if "representations" in needs else None,
                checkpoint_seconds=0.0,
                comparable=self.comparable,
                teachers=self.teachers,
            )
        )

    def run_until_killed(self, stage: Stage, name: str) -> None:
        """Run a stage and end it in the midst of its training, if it trains."""
        with suppress(Killed):
            self.run(stage, name, Kill())

    def check_provided(self, provides: str | None, name: str) -> None:
        """The stage's directory holds what its class promises to later stages."""
        directory = self.folder / name
        try:
            if provides == "weights":
                encoder = self.encoder()
                load_weights(encoder, directory / WEIGHTS)
                finite = all(bool(tensor.isfinite().all()) for tensor in encoder.state_dict().values())
                require(finite, "provides: the weights are not finite")
            elif provides == "codes":
                books, codes = read_codebooks(directory), pl.read_parquet(directory / CODES)
                whole = sorted(codes["item_id"]) == sorted(self.dataset.products["item_id"])
                require(whole, "provides: not exactly the products of the dataset have a row of codes")
                require(
                    codes.width == 1 + len(books), f"provides: {codes.width - 1} columns for {len(books)} codebooks"
                )
            elif provides == "representations":
                for table, key in (("products", "item_id"), ("queries", "query_id")):
                    found = Representations.open(directory, table)
                    whole = np.array_equal(found.ids, np.sort(self.dataset.table(table)[key].to_numpy()))
                    require(whole, f"provides: not exactly the {table} of the dataset are represented")
                    require(bool(np.isfinite(found.vectors).all()), f"provides: vectors of {table} are not finite")
            elif provides == "vectors":
                found = Representations.open(directory, "products")
                known = np.isin(found.ids, self.dataset.table("products")["item_id"].to_numpy())
                require(bool(known.all()) and len(found.ids) > 0, "provides: vectors of no products of the dataset")
                require(bool(np.isfinite(found.vectors).all()), "provides: vectors of products are not finite")
        except (OSError, ValueError) as error:
            raise AssertionError(f"provides: {error}") from error

    def check_same(self, provides: str | None, one: str, other: str, what: str) -> None:
        """Two runs left the same weights or representations, bit by bit."""
        folders = self.folder / one, self.folder / other
        if provides == "weights":
            encoders = [self.encoder(), self.encoder()]
            for encoder, folder in zip(encoders, folders, strict=True):
                load_weights(encoder, folder / WEIGHTS)
            states = [encoder.state_dict() for encoder in encoders]
            require(all(torch.equal(states[0][key], states[1][key]) for key in states[0]), f"{what} weights")
        elif provides == "codes":
            books = [read_codebooks(folder) for folder in folders]
            require(torch.equal(*books), f"{what} codebooks")
            tables = [pl.read_parquet(folder / CODES) for folder in folders]
            require(tables[0].equals(tables[1]), f"{what} codes")
        elif provides is not None:
            for table in ("products", "queries") if provides == "representations" else ("products",):
                first, second = (Representations.open(folder, table).vectors for folder in folders)
                require(np.array_equal(first, second), f"{what} representations")
