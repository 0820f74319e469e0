"""Training a click model: rows per second of moonlib's application stage, of two peers' DIN, and of a bare loop.

    python benchmarks/ctr.py
    python benchmarks/ctr.py --rows 20000 --rounds 1     quick

All read the same impressions of a marketplace with the same inputs: user, target, category, merchant, price and the
last 50 items, embeddings of width 16, an MLP of 128 and 64, batches of 1024, Adam at .003, one epoch. Ours attends over
ids (no representations), as DIN does, and is timed with all that the stage does: it makes vocabularies, looks ids up,
cuts histories, and trains through Lightning. What is ready before the clock starts: DeepCTR-Torch has padded arrays,
which it batches itself; FuxiCTR has batches as its DIN takes them, because its own loader would be slower; the bare
loop, which is our model and ``torch.optim.Adam`` with nothing around, has batches of tensors.

Rounds take turns; medians. AUC is that of the test days after the one epoch, mean of the rounds, each with its own
seed. Ends with ``ratio``: the time of the faster peer over ours. Needs deepctr-torch and fuxictr (extra ``bench``).
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import moonlib.compat  # noqa: F401
import numpy as np
import torch
from lightning import Trainer, seed_everything
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from moonlib.adapters.target_attention import TargetAttention
from moonlib.clicks.impressions import ImpressionBatch, Impressions, Lookups, Vocabularies
from moonlib.data.dataset import Dataset
from moonlib.metrics.auc import auc
from moonlib.predictors.mlp import MLP
from moonlib.representations.store import Representations
from moonlib.sources.marketplace.source import Marketplace
from moonlib.stages.application import Application, ClickModel, ImpressionData
from moonlib.stages.stage import StageContext

HISTORY, WIDTH, BATCH, HIDDEN, RATE = 50, 16, 1024, (128, 64), 3e-3


class IdsOnly(Application):
    """The stage without representations, as DIN has none, and without predictions, which the peers' ``fit`` lacks."""

    @property
    def needs(self) -> frozenset:
        return frozenset()

    def predict(self, impressions: Impressions) -> NDArray[np.float64]:
        return np.full(len(impressions), 0.5)

    def read_representations(self, context: StageContext) -> tuple[Representations | None, Representations | None]:
        return None, None


class Data:
    """The rows, in the form of each side."""

    def __init__(self, dataset: Dataset, rows: int | None) -> None:
        self.dataset = dataset
        train = dataset.splits.select(dataset.impressions, "train")
        self.train = train if rows is None else train.head(rows)
        self.test = dataset.splits.select(dataset.impressions, "test")
        self.vocabularies = Vocabularies.of(dataset, self.train)
        lookups = Lookups.of(dataset, self.vocabularies, products=None, queries=None)
        self.impressions = {
            name: Impressions(table, lookups, history=HISTORY, query_history=0)
            for name, table in (("train", self.train), ("test", self.test))
        }
        names = ("user", "item", "category", "merchant")
        self.sizes = {name: len(getattr(self.vocabularies, name)) for name in names}
        self.sizes["category"] += 1
        self.clicked = torch.tensor(self.test["clicked"].to_numpy())

    def batches(self, split: str, seed: int | None) -> list[ImpressionBatch]:
        """All batches of a split, shuffled unless there is no seed."""
        n = len(self.impressions[split])
        order = np.arange(n) if seed is None else np.random.default_rng(seed).permutation(n)
        return [self.impressions[split][order[start : start + BATCH]] for start in range(0, n, BATCH)]

    def auc(self, probability: torch.Tensor) -> float:
        """Of the test days."""
        return float(auc(probability.double(), self.clicked))


def ours(data: Data, seed: int) -> tuple[float, float]:
    """Seconds of the application stage's training, and its AUC."""
    seed_everything(seed, verbose=False)
    stage = IdsOnly(TargetAttention("id"), MLP(HIDDEN), id_dim=WIDTH, learning_rate=RATE)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=1,
            limit_train_batches=-(-len(data.train) // BATCH),
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        about = ImpressionData(batch_size=BATCH, history=HISTORY, query_history=0)
        start = time.perf_counter()
        stage.run(StageContext(data.dataset, about, trainer, Path(folder), seed=seed))
        took = time.perf_counter() - start
        return took, data.auc(torch.from_numpy(Application.predict(stage, data.impressions["test"])))


def bare(data: Data, seed: int) -> tuple[float, float]:
    """Seconds of a loop over ready batches, and its AUC."""
    batches = data.batches("train", seed)
    torch.manual_seed(seed)
    model = ClickModel(TargetAttention("id"), MLP(HIDDEN), data.sizes, WIDTH, dim=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    start = time.perf_counter()
    for batch in batches:
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(batch), batch.clicked).backward()
        optimizer.step()
    took = time.perf_counter() - start
    with torch.inference_mode():
        logits = [model.eval()(batch) for batch in data.batches("test", None)]
    return took, data.auc(torch.cat(logits))


def deepctr(data: Data, seed: int) -> tuple[float, float]:
    """Seconds and AUC of DeepCTR-Torch's DIN on padded arrays."""
    from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat
    from deepctr_torch.models import DIN

    def arrays(split: str) -> tuple[dict[str, NDArray], NDArray]:
        impressions = data.impressions[split]
        batch = impressions[np.arange(len(impressions))]
        inputs = {name: getattr(batch, name).numpy() for name in ("user", "category", "merchant", "price")}
        lengths = batch.history_mask.sum(dim=1).clamp(min=1).numpy()
        inputs |= {"item": batch.target.numpy(), "hist_item": batch.history.numpy(), "length": lengths}
        return inputs, batch.clicked.numpy()

    columns = [SparseFeat(name, size, embedding_dim=WIDTH) for name, size in data.sizes.items()]
    columns.append(DenseFeat("price", 1))
    past = SparseFeat("hist_item", data.sizes["item"], embedding_dim=WIDTH, embedding_name="item")
    columns.append(VarLenSparseFeat(past, maxlen=HISTORY, length_name="length"))
    inputs, clicked = arrays("train")
    model = DIN(columns, ["item"], dnn_hidden_units=HIDDEN, device="cpu", seed=seed)
    model.compile(torch.optim.Adam(model.parameters(), lr=RATE), "binary_crossentropy")
    start = time.perf_counter()
    model.fit(inputs, clicked, batch_size=BATCH, epochs=1, verbose=0)
    took = time.perf_counter() - start
    return took, data.auc(torch.from_numpy(model.predict(arrays("test")[0], 4 * BATCH)[:, 0]))


class FuxiBatches:
    """Batches as FuxiCTR's DIN takes them: features, items with the target last, mask."""

    def __init__(self, batches: list[ImpressionBatch]) -> None:
        names = ("user", "category", "merchant", "price", "clicked")
        self.batches = [
            (
                {name: getattr(batch, name) for name in names},
                {"item": torch.cat([batch.history, batch.target.unsqueeze(1)], dim=1).flatten()},
                batch.history_mask.float(),
            )
            for batch in batches
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple]:
        # Its model replaces what is in a batch's dictionary.
        return ((dict(features), dict(items), mask) for features, items, mask in self.batches)


def fuxictr(data: Data, seed: int) -> tuple[float, float]:
    """Seconds and AUC of FuxiCTR's DIN on ready batches."""
    from fuxictr.features import FeatureMap
    from model_zoo.LongCTR.DIN.DIN import DIN

    with tempfile.TemporaryDirectory() as folder:
        features = FeatureMap("moonlib", folder)
        for name, size in data.sizes.items():
            source = "item" if name == "item" else ""
            features.features[name] = {"type": "categorical", "vocab_size": size, "source": source, "padding_idx": 0}
        features.features["price"] = {"type": "numeric", "source": ""}
        features.labels = ["clicked"]
        features.num_fields = len(features.features)
        features.default_emb_dim = WIDTH
        features.set_column_index()
        torch.manual_seed(seed)
        model = DIN(
            features,
            dnn_hidden_units=list(HIDDEN),
            learning_rate=RATE,
            embedding_dim=WIDTH,
            optimizer="adam",
            loss="binary_crossentropy",
            metrics=["AUC"],
            verbose=0,
            model_root=folder,
        )
        model._max_gradient_norm = 10.0
        model._eval_steps, model._total_steps, model._stop_training = 10**9, 0, False
        batches = FuxiBatches(data.batches("train", seed))
        start = time.perf_counter()
        model.train_epoch(batches)
        took = time.perf_counter() - start
        return took, data.auc(torch.from_numpy(model.predict(FuxiBatches(data.batches("test", None)))))


def main() -> None:
    """Time all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/.data"), help="where datasets are built")
    parser.add_argument("--rows", type=int, help="of training (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data = Data(Dataset(Marketplace("small", seed=0).prepare(arguments.data)), arguments.rows)
    sides = {"moonlib": ours, "FuxiCTR": fuxictr, "DeepCTR-Torch": deepctr, "bare loop": bare}
    found: dict[str, list[SimpleNamespace]] = {name: [] for name in sides}
    for seed in range(arguments.rounds):
        for name, side in sides.items():
            seconds, value = side(data, seed)
            found[name].append(SimpleNamespace(seconds=seconds, auc=value))
    rows = len(data.train)
    table = Table("", "rows/s, median", "slowest", "fastest", "AUC", title=f"one epoch over {rows:,} rows")
    medians = {}
    for name, results in found.items():
        speed = sorted(rows / result.seconds for result in results)
        medians[name] = float(np.median(speed))
        mean = np.mean([result.auc for result in results])
        table.add_row(name, *(f"{value:,.0f}" for value in (medians[name], speed[0], speed[-1])), f"{mean:.4f}")
    Console(width=100).print(table)
    print(f"of the bare loop: {medians['moonlib'] / medians['bare loop']:.2f}")
    print(f"ratio: {medians['moonlib'] / max(medians['FuxiCTR'], medians['DeepCTR-Torch']):.2f}")


if __name__ == "__main__":
    main()
