"""Training a click model: rows per second of moonlib's application stage and of DeepCTR-Torch's DIN.

    python benchmarks/ctr.py --data runs/.data/marketplace-v1-small-0

Both read the same impressions of a marketplace with the same inputs: user, target, category, merchant, price and the
last 50 items, embeddings of width 16 and batches of 1024; ours attends over ids (no representations), as DIN does, and
is timed with everything that a stage does: it looks ids up, cuts histories, and trains through Lightning. DeepCTR-Torch
is given padded arrays, which are made before the clock starts. Rounds alternate. Ends with ``ratio``: its time divided
by ours, the median of the rounds.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from pathlib import Path

import moonlib.compat  # noqa: F401
import numpy as np
import torch
from lightning import Trainer, seed_everything
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from moonlib.adapters.target_attention import TargetAttention
from moonlib.data.dataset import Dataset
from moonlib.data.impressions import Impressions, Lookups, Vocabularies
from moonlib.predictors.mlp import MLP
from moonlib.stages.application import Application, ImpressionData
from moonlib.stages.stage import StageContext

HISTORY, WIDTH, BATCH = 50, 16, 1024


class TrainOnly(Application):
    """The stage without its predictions, which DeepCTR-Torch's ``fit`` does not make either."""

    @property
    def needs(self) -> frozenset:
        return frozenset()

    def predict(self, impressions: Impressions) -> NDArray[np.float64]:
        return np.full(len(impressions), 0.5)

    def read_representations(self, context: StageContext) -> tuple[None, None]:
        return None, None


def ours(dataset: Dataset, steps: int) -> float:
    """Seconds of the application stage."""
    seed_everything(0, verbose=False)
    stage = TrainOnly(TargetAttention("id"), MLP((128, 64)), id_dim=WIDTH)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_steps=steps,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        data = ImpressionData(batch_size=BATCH, history=HISTORY, query_history=0)
        start = time.perf_counter()
        stage.run(StageContext(dataset, data, trainer, Path(folder), seed=0))
        return time.perf_counter() - start


class Peer:
    """DeepCTR-Torch's DIN on padded arrays."""

    def __init__(self, dataset: Dataset, rows: int) -> None:
        train = dataset.splits.select(dataset.impressions, "train").head(rows)
        vocabularies = Vocabularies.of(dataset, train)
        lookups = Lookups.of(dataset, vocabularies, products=None, queries=None)
        batch = Impressions(train, lookups, history=HISTORY, query_history=0)[np.arange(rows)]
        self.sizes = {
            "user": len(vocabularies.user),
            "item": len(vocabularies.item),
            "category": len(vocabularies.category) + 1,
            "merchant": len(vocabularies.merchant),
        }
        self.inputs = {
            "user": batch.user.numpy(),
            "item": batch.target.numpy(),
            "category": batch.category.numpy(),
            "merchant": batch.merchant.numpy(),
            "price": batch.price.numpy(),
            "hist_item": batch.history.numpy(),
            "length": batch.history_mask.sum(dim=1).clamp(min=1).numpy(),
        }
        self.clicked = batch.clicked.numpy()

    def fit(self) -> float:
        """Seconds of one epoch over the rows."""
        from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat
        from deepctr_torch.models import DIN

        columns = [SparseFeat(name, size, embedding_dim=WIDTH) for name, size in self.sizes.items()]
        columns.append(DenseFeat("price", 1))
        past = SparseFeat("hist_item", self.sizes["item"], embedding_dim=WIDTH, embedding_name="item")
        columns.append(VarLenSparseFeat(past, maxlen=HISTORY, length_name="length"))
        torch.manual_seed(0)
        model = DIN(columns, ["item"], dnn_hidden_units=(128, 64), device="cpu")
        model.compile("adam", "binary_crossentropy")
        start = time.perf_counter()
        model.fit(self.inputs, self.clicked, batch_size=BATCH, epochs=1, verbose=0)
        return time.perf_counter() - start


def main() -> None:
    """Time both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory of a marketplace")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    dataset = Dataset(arguments.data)
    rows = arguments.steps * BATCH
    peer = Peer(dataset, rows)
    ours(dataset, 2)
    times: dict[str, list[float]] = {"moonlib": [], "DeepCTR-Torch": []}
    for _ in range(arguments.rounds):
        times["moonlib"].append(ours(dataset, arguments.steps))
        times["DeepCTR-Torch"].append(peer.fit())
    table = Table("", "rows/s, median", "slowest", "fastest")
    for name, seconds in times.items():
        speed = sorted(rows / value for value in seconds)
        table.add_row(name, f"{np.median(speed):,.0f}", f"{speed[0]:,.0f}", f"{speed[-1]:,.0f}")
    Console(width=100).print(table)
    ratios = np.array(times["DeepCTR-Torch"]) / np.array(times["moonlib"])
    print(f"ratio: {np.median(ratios):.2f}")


if __name__ == "__main__":
    main()
