"""A dual encoder as a program that runs without moonlib: an ONNX model, or what `torch.export` makes.

    model.onnx, model.pt2   the program; its weights are in it, or beside it (model.onnx.data) where they exceed 2 GB
    tokenizer.json          the text tower's tokenizer, which the library tokenizers reads, with its padding and limit
    tokenizer.py            in its place, of a tokenizer of moonlib's own: Python that needs nothing else
    preprocessor_config.json    how pictures are resized, where the image tower has an image processor of transformers
    config.json             inputs and outputs, and what else a program that calls it has to know
    recipe.yaml             what it was trained with
    README.md               the model card
    moonlib.sha256          checksums of all but the model card

The program takes a batch of any size. Each modality comes with a flag per row that says whether it is there; no shape
depends on the flags, so every row costs the same. It is compared with the encoder before the folder takes its name.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any, Literal, get_args

import moonlib.compat  # noqa: F401
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from moonlib.encoders.dual import DualEncoder
from moonlib.encoders.encoder import ContentBatch, Encoder
from moonlib.encoders.tower import Scripted, Tokenize
from moonlib.runs.errors import RunError
from moonlib.system.versions import DISTRIBUTION

Kind = Literal["onnx", "torch"]

FORMAT = 1
"""Of a program's config.json."""

FILES: dict[Kind, str] = {"onnx": "model.onnx", "torch": "model.pt2"}
TOKENIZER, SCRIPT, PROCESSOR = "tokenizer.json", "tokenizer.py", "preprocessor_config.json"
OUTPUT = "representation"

TOLERANCE = 1e-4
"""How far a vector may be from the encoder's, in its largest component, relative to the longest vector of the batch."""

BATCHES = (1, 2, 7)
"""Sizes of the batches that a program is compared with the encoder on."""

LONG = " ".join(f"mug {number}" for number in range(2048))
TEXTS = ("red cotton mug, 350 ml", "红色棉布 mug", "a", "Tasse en coton rouge № 5 — été", LONG)

LARGEST_BATCH = 1 << 16


@dataclass(frozen=True)
class Input:
    """One input of a program.

    Attributes:
        name: as the program calls it.
        shape: a name stands for a dimension of any size.
        dtype: of its values.
        meaning: for people.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype
    meaning: str

    @property
    def type(self) -> str:
        """Name of the dtype, as numpy has it."""
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Program:
    """A program that was written.

    Attributes:
        inputs: in their order.
        length: what the program takes of a text's tokens: at most so many, or exactly so many; 0 without texts.
        padded: whether all texts have that many.
        tokenizer: name of the file that makes tokens of texts; empty without texts.
        difference: the largest from the encoder's vectors that was found, see TOLERANCE.
    """

    inputs: Sequence[Input]
    length: int
    padded: bool
    tokenizer: str
    difference: float


class DualProgram(nn.Module):
    """`DualEncoder.forward` over plain tensors: both towers see every row, and flags choose among their outputs.

    Args:
        encoder: in eval mode.
    """

    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def names(self) -> list[str]:
        """Names of the inputs, in their order."""
        names = []
        if self.encoder.image is not None:
            names += ["image", "has_image", *(["subject", "has_subject"] if len(self.encoder.crop) == 2 else [])]
        if self.encoder.text is not None:
            names += ["text", "text_mask", "has_text"]
        return names

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return float32 [B, dim]; the inputs are those of `names`, see `inputs_of`."""
        given = dict(zip(self.names, inputs, strict=True))
        encoder, rows = self.encoder, inputs[0].shape[0]
        image = text = inputs[0].new_zeros((rows, 0), dtype=torch.float32)
        has_image = has_text = inputs[0].new_zeros((rows,), dtype=torch.bool)
        if encoder.image is not None:
            has_image = given["has_image"]
            image = encoder.image(given["image"])
            if "subject" in given:
                subject = torch.where(given["has_subject"].unsqueeze(1), encoder.image(given["subject"]), image)
                image = torch.cat([image, subject], dim=1)
            image = torch.where(has_image.unsqueeze(1), image, 0)
        if encoder.text is not None:
            has_text = given["has_text"] & given["text_mask"].any(dim=1)
            text = torch.where(has_text.unsqueeze(1), encoder.text(given["text"], given["text_mask"]), 0)
        return encoder.in_heads(encoder.fusion(image, text, has_image, has_text)).to(torch.float32)


def require(kind: str) -> None:
    """Refuse what no program can be made of here, before any work is done.

    Raises:
        RunError: the kind is unknown, or a package is missing.
    """
    if kind not in get_args(Kind):
        raise RunError(f"--to {kind}: a run's encoder can be exported to {', '.join(get_args(Kind))}, or without --to")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" and find_spec(name) is None]
    if missing:
        raise RunError(f"--to onnx needs {', '.join(missing)}: pip install '{DISTRIBUTION}[onnx]'")


def write_program(encoder: Encoder, kind: Kind, folder: Path, told: str) -> Program:
    """Write the program and the tokenizer.

    Args:
        encoder: in eval mode, on the CPU.
        kind: of the program.
        folder: where to.
        told: how errors call the encoder's run.

    Raises:
        RunError: the encoder is no dual encoder, torch cannot follow one of its towers, its tokenizer can be written
            neither for the library tokenizers nor as a script, or the program's vectors differ from the encoder's.
    """
    if not isinstance(encoder, DualEncoder):
        raise RunError(
            f"{told}: its encoder is a {type(encoder).__name__}, and only dual encoders can be exported --to {kind}; "
            "without --to, `moonlib export` writes a folder that moonlib opens"
        )
    length, padded = (0, False) if encoder.text is None else _length(encoder.text.tokenize)
    if encoder.text is not None:
        _write_tokenizer(encoder.text.tokenize, length, padded, folder, told)
    if (processor := processor_of(encoder)) is not None:
        processor.to_json_file(folder / PROCESSOR)
    wrapper = DualProgram(encoder).eval()
    inputs = inputs_of(encoder, length, padded)
    exported = _followed(wrapper, inputs, length, told)
    if kind == "onnx":
        run = _onnx(exported, inputs, folder / FILES[kind], told)
    else:
        run = _torch(exported, folder / FILES[kind])
    return Program(inputs, length, padded, tokenizer_of(encoder), _compared(encoder, inputs, run, kind, told))


def processor_of(encoder: DualEncoder) -> Any:
    """The image processor of transformers by which the image tower resizes; None if it does so by itself."""
    found = None if encoder.image is None else getattr(encoder.image.load_image, "processor", None)
    return found if hasattr(found, "to_json_file") else None


def tokenizer_of(encoder: DualEncoder) -> str:
    """Name of the file that makes tokens of texts beside the encoder's program; empty for an encoder of images."""
    if encoder.text is None:
        return ""
    return SCRIPT if isinstance(encoder.text.tokenize, Scripted) else TOKENIZER


def inputs_of(encoder: DualEncoder, length: int, padded: bool) -> list[Input]:
    """The inputs of an encoder's program.

    Args:
        encoder: after `setup`.
        length: of a text in tokens, at most.
        padded: whether all texts have that many.
    """
    found = []
    if encoder.image is not None:
        size = encoder.image.image_size
        shape = ("batch", 3, size, size)
        part = "the crop to the product (all of the picture where there is none)" if encoder.crop == ("box",) else ""
        about = f"{part or 'the picture'}, RGB, 0 to 255; it is scaled and normalised inside"
        found += [
            Input("image", shape, torch.uint8, about),
            Input("has_image", ("batch",), torch.bool, "whether the row has a picture; if not, `image` has no effect"),
        ]
        if len(encoder.crop) == 2:
            found += [
                Input("subject", shape, torch.uint8, "the picture cropped to its main subject, then resized alike"),
                Input("has_subject", ("batch",), torch.bool, "whether the row has a crop; if not, the picture counts"),
            ]
    if encoder.text is not None:
        tokens = ("batch", length if padded else "length")
        limit = f"exactly {length}" if padded else f"1 to {length} of them"
        found += [
            Input("text", tokens, torch.int64, f"token ids as {tokenizer_of(encoder)} gives them, {limit}"),
            Input("text_mask", tokens, torch.bool, "false for padding"),
            Input("has_text", ("batch",), torch.bool, "whether the row has a text; if not, `text` has no effect"),
        ]
    return found


def _length(tokenize: Tokenize) -> tuple[int, bool]:
    """How many tokens a text has at most, and whether all have that many."""
    length = tokenize(TEXTS[-1:])[0].shape[1]
    return length, tokenize(["a"])[0].shape[1] == length


def _write_tokenizer(tokenize: Tokenize, length: int, padded: bool, folder: Path, told: str) -> None:
    """Write a text tower's tokenizer, so that without moonlib a text becomes what the tower makes of it."""
    if isinstance(tokenize, Scripted):
        (folder / SCRIPT).write_text(tokenize.script(), encoding="utf-8")
        return
    own = getattr(tokenize, "tokenizer", None)
    own = getattr(own, "backend_tokenizer", own)
    if not isinstance(own, Tokenizer):
        raise RunError(
            f"{told}: its text tower's tokenizer, a {type(own if own is not None else tokenize).__name__}, can't be "
            "written for the library tokenizers, without which the program cannot read a text"
        )
    fast: Any = Tokenizer.from_str(own.to_str())
    fast.enable_truncation(length)
    ids, mask = tokenize([TEXTS[2], TEXTS[-1]])
    padding = ids[0][~mask[0]]
    pad = int(padding[0]) if len(padding) else 0
    side = "right" if mask[0, 0] else "left"
    token = fast.id_to_token(pad) or ""
    fast.enable_padding(direction=side, pad_id=pad, pad_token=token, length=length if padded else None)
    ids, mask = tokenize(TEXTS)
    found = fast.encode_batch(list(TEXTS))
    for row, text in enumerate(TEXTS):
        if found[row].ids != ids[row].tolist() or list(map(bool, found[row].attention_mask)) != mask[row].tolist():
            raise RunError(
                f"{told}: the library tokenizers alone makes other tokens of {text[:24]!r} than the text tower does "
                f"({found[row].ids[:8]} and {ids[row, :8].tolist()}); it cannot be exported as a program"
            )
    fast.save(str(folder / TOKENIZER))


def _followed(wrapper: DualProgram, inputs: Sequence[Input], length: int, told: str) -> Any:
    """Let torch follow the encoder; returns an ExportedProgram with batches and texts of any length."""
    sizes = {"batch": torch.export.Dim("batch", min=1, max=LARGEST_BATCH)}
    if any("length" in each.shape for each in inputs):
        sizes["length"] = torch.export.Dim("length", min=1, max=length)
    # Sizes of an example may mean themselves where they are 0 or 1, or equal another; 3 and 5 are neither.
    example = {"batch": 3, "length": min(5, length)}
    tensors = tuple(
        torch.ones([example[size] if isinstance(size, str) else size for size in each.shape], dtype=each.dtype)
        for each in inputs
    )
    shapes = tuple(
        {axis: sizes[size] for axis, size in enumerate(each.shape) if isinstance(size, str)} for each in inputs
    )
    try:
        with torch.no_grad(), quiet():
            exported = torch.export.export(wrapper, tensors, dynamic_shapes=(shapes,), strict=False)
    except Exception as error:  # torch.export raises all kinds, and whatever the tower raised
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        towers = [type(part).__name__ for part in (wrapper.encoder.image, wrapper.encoder.text) if part is not None]
        raise RunError(f"{told}: torch.export cannot follow its towers ({', '.join(towers)}): {reason}") from error
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of files of this machine
    return exported


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch and the converter tell on the way: the comparison at the end says whether it mattered."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


Run = Callable[[Sequence[Tensor]], Tensor]
"""A program that was written and opened again: its inputs in their order → representations."""


def _torch(exported: Any, file: Path) -> Run:
    with quiet():
        torch.export.save(exported, file)
        program: Any = torch.export.load(file).module()

    def run(tensors: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            output: Tensor = program(*tensors)
        return output

    return run


def _onnx(exported: Any, inputs: Sequence[Input], file: Path, told: str) -> Run:
    import onnx
    import onnxruntime

    names = [each.name for each in inputs]
    try:
        with quiet():
            program = torch.onnx.export(exported, dynamo=True, input_names=names, output_names=[OUTPUT], verbose=False)
    except Exception as error:  # as torch.export
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise RunError(f"{told}: torch.onnx cannot write its encoder: {reason}") from error
    assert program is not None
    program.save(file)
    model = onnx.load(str(file), load_external_data=False)
    _without_traces(model)
    for each, value in zip([*inputs, None], [*model.graph.input, *model.graph.output], strict=True):
        shape: Sequence[int | str] = ("batch", 0) if each is None else each.shape
        for size, dimension in zip(shape, value.type.tensor_type.shape.dim, strict=True):
            if isinstance(size, str):
                dimension.dim_param = size
    onnx.save(model, str(file))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(tensors: Sequence[Tensor]) -> Tensor:
        given = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return torch.from_numpy(session.run([OUTPUT], given)[0])

    return run


def _without_traces(model: Any) -> None:
    """Take out where each node came from, which names files of this machine, and the sizes of what lies between."""
    graph = model.graph
    for node in [*graph.node, *(node for function in model.functions for node in function.node)]:
        del node.metadata_props[:]
        node.doc_string = ""
    for part in (graph, model, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]


def _compared(encoder: DualEncoder, inputs: Sequence[Input], run: Run, kind: Kind, told: str) -> float:
    """Compare a program with its encoder; returns the largest difference."""
    worst = 0.0
    for size, there, batch, tensors in _examples(encoder, inputs):
        with torch.no_grad():
            expected = encoder(batch).float()
        found = run(tensors)
        if found.shape != expected.shape or not torch.isfinite(found).all():
            difference = float("inf")
        else:
            difference = float((found - expected).abs().max() / expected.norm(dim=1).max().clamp(min=1))
        if difference > TOLERANCE:
            raise RunError(
                f"{told}: the program's vectors ({kind}) differ from the encoder's by {difference:.2g}, and at most "
                f"{TOLERANCE:g} is allowed, on a batch of {size} with {there}; nothing was written"
            )
        worst = max(worst, difference)
    return worst


def _examples(
    encoder: DualEncoder, inputs: Sequence[Input]
) -> Iterator[tuple[int, str, ContentBatch, Sequence[Tensor]]]:
    """Batches of every combination of modalities, alone and mixed.

    Yields:
        Size, what is there in words, the encoder's input, the program's. Where a modality is missing, the program is
        given noise, and the encoder what its preprocessor gives.
    """
    flags = [each.name for each in inputs if each.name.startswith("has_")]
    combinations = [
        dict(zip(flags, values, strict=True))
        for values in product((True, False), repeat=len(flags))
        if "has_subject" not in flags or values[flags.index("has_image")] or not values[flags.index("has_subject")]
    ]
    generator = torch.Generator().manual_seed(0)
    for size in BATCHES:
        mixed = list(islice(cycle(combinations), size))
        for rows in [*([combination] * size for combination in combinations), mixed]:
            has = {name: torch.tensor([row[name] for row in rows]) for name in flags}
            given = dict(has)
            batch: ContentBatch = {}
            for name in ("image", "subject"):
                if f"has_{name}" in has:
                    shape = next(each.shape for each in inputs if each.name == name)
                    pixels = torch.randint(0, 256, (size, *map(int, shape[1:])), generator=generator).to(torch.uint8)
                    there = has[f"has_{name}"].view(-1, 1, 1, 1)
                    given[name], batch[name], batch[f"has_{name}"] = pixels, pixels * there, has[f"has_{name}"]
            if encoder.text is not None:
                texts = list(islice(cycle(TEXTS), size))
                given["text"], given["text_mask"] = encoder.text.tokenize(texts)
                present = [text if row["has_text"] else "" for text, row in zip(texts, rows, strict=True)]
                batch["text"], batch["text_mask"] = encoder.text.tokenize(present)
            words = [name.removeprefix("has_") for name, value in rows[0].items() if value]
            told = "a mixture of modalities" if rows is mixed else " and ".join(words) or "nothing"
            yield size, told, batch, [given[each.name] for each in inputs]


def program_config(program: Program, kind: Kind, encoder: Encoder) -> dict[str, Any]:
    """Describe a program for config.json, which says of its run, too."""
    inputs = {
        each.name: {"dtype": each.type, "shape": list(each.shape), "meaning": each.meaning} for each in program.inputs
    }
    described: dict[str, Any] = {
        "program": kind,
        "file": FILES[kind],
        "inputs": inputs,
        "outputs": {OUTPUT: {"dtype": "float32", "shape": ["batch", encoder.dim]}},
    }
    if program.length:
        described["text"] = {"tokenizer": program.tokenizer, "max_length": program.length, "padded": program.padded}
    described["largest_difference"] = float(f"{program.difference:.1e}")
    return described
