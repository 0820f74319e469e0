"""What training of `mllm` costs on a GPU: samples/s, memory and model FLOP utilisation, bf16.

    python benchmarks/mllm.py --out benchmarks/results/mllm.md

The model has the language model of Qwen2-VL's 0.5B sibling (24 layers, width 896, 151,936 words; Qwen2, arXiv
2407.10671, table 1) and a vision tower of ViT-B's size, with random weights. Both objectives are trained on the `tiny`
marketplace: pairs of query and product as recipes/studies/mllm/mllm.yaml's first phase of post-training draws them (a
sample is a pair, two passes through the model), and questions with answers (a sample is one pass). Steps are forward,
loss, backward and AdamW on batches in memory; the last row trains through `moonlib fit`'s own loop, which loads, crops
and resizes pictures meanwhile.

Model FLOP utilisation (Chowdhery et al., arXiv 2204.02311, appendix B) is what the model's matrix products need, three
times those of a forward pass without any padding, over what the GPU could do in the time: what checkpointing computes
again counts as nothing done. The ratio is the rate of the last row over that of the same step on batches in memory.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import torch
from lightning.pytorch import Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from moonlib.config import recipe as recipes
from moonlib.data.dataset import Dataset
from moonlib.encoders.mllm.encoder import MLLM
from moonlib.encoders.mllm.processor import IMAGE, SPECIAL
from moonlib.encoders.tokenizer import load_or_fit_tokenizer
from moonlib.runs.runner import quiet
from moonlib.runs.step import seed_of
from moonlib.stages.contrastive import Contrastive
from moonlib.stages.generative_pretraining import GenerativePretraining
from moonlib.stages.stage import StageContext

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s by NVIDIA's data sheets."""

HALF_BILLION: dict[str, Any] = {
    "model_type": "qwen2_vl",
    "text_config": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
        "tie_word_embeddings": True,
    },
    "vision_config": {
        "depth": 12,
        "embed_dim": 768,
        "hidden_size": 896,
        "num_heads": 12,
        "mlp_ratio": 4,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "tie_word_embeddings": True,
}

OBJECTIVES = {"pretrain": "questions", "posttrain": "pairs"}
WARM = 4


def write_architecture(directory: Path, dataset: Dataset) -> None:
    """A folder of transformers without weights: `HALF_BILLION`, and a tokenizer fitted on the products."""
    from transformers import AutoConfig, PreTrainedTokenizerFast

    tokenizer = load_or_fit_tokenizer(dataset.splits.known(dataset.products), directory, 4096)
    tokenizer.add_special_tokens(list(SPECIAL))
    config = dict(HALF_BILLION, image_token_id=tokenizer.token_to_id(IMAGE))
    AutoConfig.for_model(config.pop("model_type"), **config).save_pretrained(directory)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)


class Bench:
    """The stages of a recipe and what `fit` would give them."""

    def __init__(self, recipe: recipes.Recipe, dataset: Dataset, folder: Path) -> None:
        self.recipe, self.dataset, self.folder = recipe, dataset, folder
        encoder = recipe.encoder()
        assert isinstance(encoder, MLLM)
        torch.manual_seed(0)
        encoder.setup(dataset.splits.known(dataset.products), folder)
        self.encoder = encoder
        self.flops: dict[tuple[str, int], float] = {}

    def switch(self, checkpointing: bool, packed: bool) -> None:
        """What `mllm` does at its key ``checkpointing``, undone again, and its key ``packed``."""
        if checkpointing:
            self.encoder.body.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.encoder.body.gradient_checkpointing_disable()
        self.encoder.packed = packed

    def prepare(
        self, stage: str, batch_size: int, steps: int
    ) -> tuple[GenerativePretraining | Contrastive, StageContext]:
        """A stage, ready to be run."""
        section = self.recipe.stages[stage]
        trainer: Trainer = section.trainer(
            default_root_dir=str(self.folder),
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            max_steps=steps,
            limit_val_batches=0,
            use_distributed_sampler=False,
        )
        module, data = section.module(), section.data()
        assert isinstance(module, GenerativePretraining | Contrastive)
        data.batch_size = batch_size
        self.encoder.learn("generation" if stage == "pretrain" else "representation")
        return module, StageContext(self.dataset, data, trainer, self.folder, seed_of(0, stage), self.encoder)

    def batches(self, stage: str, batch_size: int, count: int) -> tuple[GenerativePretraining | Contrastive, list[Any]]:
        """A prepared stage and the first batches that it trains on."""
        module, context = self.prepare(stage, batch_size, steps=count + 1)
        module.trainer = context.trainer
        module.prepare(context)
        module.log = lambda *_, **__: None  # type: ignore[method-assign]
        return module, list(itertools.islice(module.train_dataloader(), count))

    def in_memory(self, stage: str, batch_size: int, steps: int, device: torch.device) -> dict[str, float]:
        """Samples/s, tokens/s, peak bytes and model FLOP/s of training on batches that are on the device."""
        module, batches = self.batches(stage, batch_size, 4)
        module.to(device).train()
        batches = [module.transfer_batch_to_device(batch, device, 0) for batch in batches]
        setup: Any = module.configure_optimizers()
        optimizer = setup["optimizer"]
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

        def step(batch: Any) -> None:
            with bf16(device):
                loss = module.training_step(batch, 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        seconds = timed(lambda number: step(batches[number % len(batches)]), steps, device)
        peak = float(torch.cuda.max_memory_allocated()) if device.type == "cuda" else float("nan")
        contents = [content for batch in batches for content in contents_of(batch)]
        tokens = sum(int(content["token_mask"].sum()) for content in contents) / len(batches)
        if (stage, batch_size) not in self.flops:
            with bf16(device):
                self.flops[stage, batch_size] = 3 * self.forward_flops_per_token(stage, contents_of(batches[0]))
        flops = tokens * self.flops[stage, batch_size]
        return {
            "samples": batch_size / seconds,
            "tokens": tokens / seconds,
            "bytes": peak,
            "flops": flops / seconds,
        }

    @torch.no_grad()
    def forward_flops_per_token(self, stage: str, contents: list[dict[str, Tensor]]) -> float:
        """Of the matrix products in a forward pass, rows by themselves, so that nothing is padding."""
        packed, self.encoder.packed = self.encoder.packed, False
        counter, tokens = FlopCounterMode(display=False), 0
        with counter:
            for content, row in itertools.product(contents, range(64)):
                length = int(content["token_mask"][row].sum()) if row < len(content["tokens"]) else 0
                if not length:
                    continue
                one = {name: value[row : row + 1] for name, value in content.items()}
                one |= {name: one[name][:, :length] for name in ("tokens", "token_mask", "answer") if name in one}
                self.encoder.answer_losses(one) if stage == "pretrain" else self.encoder(one)
                tokens += length
        self.encoder.packed = packed
        return counter.get_total_flops() / tokens

    def fit(self, stage: str, batch_size: int, steps: int) -> float:
        """Samples/s of the stage's own training."""
        module, context = self.prepare(stage, batch_size, steps)
        moments: list[float] = []

        def note(outputs: object, batch: object, batch_idx: int) -> None:
            moments.append(time.perf_counter())

        module.on_train_batch_end = note  # type: ignore[method-assign]
        module.run(context)
        # The first steps wait for loader processes to start, and take what these have ready.
        first = min(len(moments) // 2, 30)
        return (len(moments) - 1 - first) * batch_size / (moments[-1] - moments[first])


def contents_of(batch: Any) -> list[dict[str, Tensor]]:
    """Every content of a batch that goes through the model."""
    return [value for value in vars(batch).values() if isinstance(value, dict)]


def bf16(device: torch.device) -> Any:
    """What Lightning's ``precision: bf16-mixed`` wraps a step in."""
    return torch.autocast(device.type, torch.bfloat16) if device.type == "cuda" else nullcontext()


def timed(step: Callable[[int], object], steps: int, device: torch.device) -> float:
    """Seconds of one step, the first few not counted."""
    for number in range(WARM):
        step(number)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for number in range(steps):
        step(number)
    wait()
    return (time.perf_counter() - start) / steps


def matrix_products(device: torch.device, side: int) -> float:
    """FLOP/s of a product of two square bf16 matrices, the most that training could come near."""
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    return 2 * side**3 / timed(lambda _: torch.mm(a, b), 20, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 128, 256, 512], help="samples of a step")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each row (20)")
    parser.add_argument("--image-tokens", type=int, default=64, help="of a picture, 28 pixels square each (64)")
    parser.add_argument("--max-length", type=int, default=64, help="most tokens of a text (64)")
    parser.add_argument("--workers", type=int, default=12, help="loader processes of the last row (12)")
    parser.add_argument("--preset", help="a small architecture of moonlib in place of the 0.5B one, to try this out")
    parser.add_argument("--data", type=Path, default=Path("runs/.data"), help="where datasets are (runs/.data)")
    parser.add_argument("--out", type=Path, help="write the table there too, as Markdown")
    arguments = parser.parse_args()
    quiet()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    peak = next((flops for part, flops in PEAKS.items() if part in name), float("nan"))
    folder = Path(tempfile.mkdtemp())
    overrides = [
        "--data.init_args.size=tiny",
        f"--encoder.init_args.image_tokens={arguments.image_tokens}",
        f"--encoder.init_args.max_length={arguments.max_length}",
        *(f"--stages.{stage}.data.workers={arguments.workers}" for stage in OBJECTIVES),
    ]
    if device.type == "cuda":
        overrides += [f"--stages.{stage}.trainer.precision=bf16-mixed" for stage in OBJECTIVES]
    dataset = Dataset(recipes.load("recipes/studies/mllm/mllm.yaml", overrides).source().prepare(arguments.data))
    if arguments.preset:
        overrides += [f"--encoder.init_args.config={arguments.preset}"]
    else:
        write_architecture(folder / "model", dataset)
        overrides += [f"--encoder.init_args.model={folder / 'model'}", "--encoder.init_args.pretrained=false"]

    bench = Bench(recipes.load("recipes/studies/mllm/mllm.yaml", overrides), dataset, folder)
    rows: list[list[str]] = []
    in_memory: dict[tuple[str, bool, bool, int], float] = {}
    settings = itertools.product((False, True), (False, True), OBJECTIVES, arguments.batch_sizes)
    for checkpointing, packed, stage, batch_size in settings:
        bench.switch(checkpointing, packed)
        setting = ["yes" if on else "no" for on in (checkpointing, packed)]
        try:
            found = bench.in_memory(stage, batch_size, arguments.steps, device)
        except torch.OutOfMemoryError:
            rows.append([OBJECTIVES[stage], *setting, str(batch_size), "out of memory", "", "", "", ""])
        else:
            in_memory[stage, checkpointing, packed, batch_size] = found["samples"]
            rows.append([OBJECTIVES[stage], *setting, str(batch_size), *cells(found, peak)])
        print(*rows[-1], sep=" | ", flush=True)
        for parameter in bench.encoder.parameters():
            parameter.grad = None
        if device.type == "cuda":
            torch.cuda.empty_cache()

    best = max((key for key in in_memory if key[0] == "posttrain"), key=lambda key: in_memory[key])
    stage, checkpointing, packed, batch_size = best
    bench.switch(checkpointing, packed)
    rate = bench.fit(stage, batch_size, 3 * arguments.steps)
    setting = ["yes" if on else "no" for on in (checkpointing, packed)]
    rows.append([f"{OBJECTIVES[stage]}, moonlib fit", *setting, str(batch_size), f"{rate:.0f}", "", "", "", ""])
    shutil.rmtree(folder)

    product = matrix_products(device, 8192 if device.type == "cuda" else 512)
    title = f"{name}, torch {torch.__version__}; a product of bf16 matrices: {product / 1e12:.0f} TFLOP/s"
    heads = [
        "trained on", "checkpointing", "packed", "batch", "samples/s", "tokens/s", "GB", "TFLOP/s", "utilisation"
    ]  # fmt: skip
    table = Table(*heads, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
    if arguments.out:
        lines = [heads, ["---"] * len(heads), *rows]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        arguments.out.write_text(f"`python benchmarks/mllm.py`, {title}\n\n{text}\n", encoding="utf-8")
    print(f"ratio: {rate / in_memory[best]:.2f}")


def cells(found: dict[str, float], peak: float) -> list[str]:
    """The figures of a row as text."""
    return [
        f"{found['samples']:.0f}",
        f"{found['tokens']:,.0f}",
        f"{found['bytes'] / 1e9:.1f}" if found["bytes"] == found["bytes"] else "",
        f"{found['flops'] / 1e12:.1f}",
        f"{found['flops'] / peak:.0%}" if peak == peak else "",
    ]


if __name__ == "__main__":
    main()
