"""What `moonlib fit` costs on top of bare training: samples/s of its loop over forward, backward, step in memory.

    python benchmarks/overhead.py

Both sides train the encoder of recipes/iter2.yaml on pairs of the `small` marketplace with the same batches, loss and
optimizer, in pretraining (whose loader augments images) and post-training (whose does not): `fit` through shards,
loader processes, Lightning, logs and checkpoints at their defaults; the bare loop from batches that are all in memory.
They take turns, the first turn of each is not counted.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import moonlib.compat  # noqa: F401
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from rich.table import Table

from moonlib.config import recipe as recipes
from moonlib.data.dataset import Dataset
from moonlib.optimizers.adamw import warmup_cosine
from moonlib.runs.runner import quiet
from moonlib.runs.step import seed_of
from moonlib.stages.contrast import contrastive_loss
from moonlib.stages.contrastive import Contrastive
from moonlib.stages.stage import StageContext


def stage_and_context(
    recipe: recipes.Recipe, stage: str, dataset: Dataset, folder: Path, steps: int
) -> tuple[Contrastive, StageContext]:
    """A stage of the recipe and what `fit` would give it, writing to ``folder``."""
    section = recipe.stages[stage]
    trainer = section.trainer(
        default_root_dir=str(folder),
        logger=[CSVLogger(folder, name="", version="csv"), TensorBoardLogger(folder, name="", version="logs")],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        max_steps=steps,
        use_distributed_sampler=False,
    )
    encoder = recipe.encoder()
    assert encoder is not None
    torch.manual_seed(0)
    encoder.setup(dataset.splits.known(dataset.products), folder)
    module = section.module()
    assert isinstance(module, Contrastive)
    return module, StageContext(dataset, section.data(), trainer, folder, seed_of(0, stage), encoder)


def fit(recipe: recipes.Recipe, stage: str, dataset: Dataset, steps: int) -> float:
    """Samples/s of the stage's own training, from its first step to its last checkpointable one."""
    folder = Path(tempfile.mkdtemp())
    module, context = stage_and_context(recipe, stage, dataset, folder, steps)
    moments: list[float] = []
    hook = module.on_train_batch_end if hasattr(module, "on_train_batch_end") else None

    def note(outputs: object, batch: object, batch_idx: int) -> None:
        moments.append(time.perf_counter())

    assert hook is not None
    module.on_train_batch_end = note  # type: ignore[method-assign, assignment]
    module.run(context)
    shutil.rmtree(folder)
    # The first steps warm caches and loader processes up on either side.
    return (len(moments) - 1 - WARM) * context.data.batch_size / (moments[-1] - moments[WARM])


def bare(recipe: recipes.Recipe, stage: str, dataset: Dataset, steps: int) -> float:
    """Samples/s of the same steps on batches in memory."""
    folder = Path(tempfile.mkdtemp())
    module, context = stage_and_context(recipe, stage, dataset, folder, steps)
    assert context.encoder is not None
    module.trainer = context.trainer
    module.prepare(context)
    batches = list(itertools.islice(module.train_dataloader(), 40))
    module.train()
    setup = module.configure_optimizers()
    optimizer = setup["optimizer"]  # type: ignore[index, call-overload]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, 10, steps))
    moments = []
    for batch in itertools.islice(itertools.cycle(batches), steps):
        loss = contrastive_loss(
            module.encoder, batch, module.loss, module.samplers, both_directions=module.pairs.both_directions
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        moments.append(time.perf_counter())
    shutil.rmtree(folder)
    return (len(moments) - 1 - WARM) * context.data.batch_size / (moments[-1] - moments[WARM])


WARM = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150, help="of each turn (150)")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each side, the first not counted (4)")
    parser.add_argument("--data", type=Path, default=Path("runs/.data"), help="where datasets are (runs/.data)")
    parser.add_argument("--size", default="small", help="of the marketplace (small)")
    arguments = parser.parse_args()
    quiet()
    recipe = recipes.load("iter2", [f"--data.init_args.size={arguments.size}"])
    dataset = Dataset(recipe.source().prepare(arguments.data))
    table = Table("stage", "moonlib fit, samples/s", "bare loop, samples/s", "ratio", "lowest", "highest")
    ratios = {}
    for stage in ("pretrain", "posttrain"):
        rounds = [
            (fit(recipe, stage, dataset, arguments.steps), bare(recipe, stage, dataset, arguments.steps))
            for _ in range(arguments.rounds)
        ][1:]
        ours, theirs = (statistics.median(rates) for rates in zip(*rounds, strict=True))
        ratios[stage] = ours / theirs
        of_rounds = [one / other for one, other in rounds]
        table.add_row(
            stage,
            f"{ours:.0f}",
            f"{theirs:.0f}",
            *(f"{x:.2f}" for x in (ratios[stage], min(of_rounds), max(of_rounds))),
        )
    Console().print(table)
    print(f"ratio: {min(ratios.values()):.2f}")


if __name__ == "__main__":
    main()
