"""The section of a program's model card: its inputs, and a script that calls it without moonlib."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from moonlib.data.images import decode_image
from moonlib.encoders.dual import DualEncoder
from moonlib.encoders.encoder import Encoder
from moonlib.exports.model_card import fenced, plain
from moonlib.exports.program import BATCHES, FILES, OUTPUT, PROCESSOR, SCRIPT, TOKENIZER, processor_of


def program_use(described: Mapping[str, Any], encoder: Encoder) -> str:
    """The section of the model card that tells how to call a program."""
    inputs: Mapping[str, Mapping[str, Any]] = described["inputs"]
    rows = [
        f"| `{name}` | {each['dtype']} | {', '.join(map(str, each['shape']))} | {each['meaning']} |"
        for name, each in inputs.items()
    ]
    parts = [
        "Products and queries go through the same program; in the run it read "
        f"`{plain(described['reads']['product'])}` of products and `{plain(described['reads']['query'])}` of queries. "
        "A modality that a row lacks is said by its flag, whatever stands in its place. A row with none is all zeros. "
        "Vectors are not normalised: divide by their length to compare cosines.",
        "\n".join(
            [
                "| input | type | shape | |",
                "| --- | --- | --- | --- |",
                *rows,
                f"| **output** `{OUTPUT}` | float32 | batch, {encoder.dim} | the vectors |",
            ]
        ),
    ]
    if described["reads"]["product"].startswith("rich"):
        parts.append(
            "The text of a product is its title, the last part of its category and the values of its attributes, "
            "joined by blanks."
        )
    if "image" in inputs and isinstance(encoder, DualEncoder) and encoder.image is not None:
        size, load = encoder.image.image_size, encoder.image.load_image
        if isinstance(load, partial) and load.func is decode_image:
            how = (
                f"A picture is turned upright (EXIF), laid on white where it is transparent, and resized to {size} × "
                f"{size} whatever its proportions, bilinear with antialiasing."
            )
        elif processor_of(encoder) is not None:
            how = (
                f"A picture is turned upright (EXIF), laid on white where it is transparent, and then resized and "
                f"cropped to {size} × {size} as `{PROCESSOR}` says, the image processor of transformers that the tower "
                "came with; the script resizes it whatever its proportions, which is near and not the same."
            )
        else:
            name = getattr(load, "__qualname__", type(load).__qualname__)
            how = f"A picture is resized to {size} × {size} by the image tower's own `{name}`."
        parts.append(f"{how} Nothing is subtracted or divided: the program does that itself.")
    runtime = "onnxruntime" if described["program"] == "onnx" else "torch"
    libraries = [runtime, "numpy"] if runtime == "onnxruntime" else [runtime]
    tokenizer = described.get("text", {}).get("tokenizer", "")
    libraries += ["tokenizers"] if tokenizer == TOKENIZER else []
    libraries += ["Pillow"] if "image" in inputs else []
    code = _onnx_code(inputs, tokenizer)
    beside = f", and `{SCRIPT}`, which is in this folder" if tokenizer == SCRIPT else ""
    parts += [
        f"It runs with {', '.join(libraries)} alone{beside}:",
        fenced(code if described["program"] == "onnx" else _with_torch(code, inputs), "python"),
        f"Its vectors were compared with the encoder's on batches of {', '.join(map(str, BATCHES))}, with every "
        f"combination of modalities; they differed by at most {described['largest_difference']:.1e}.",
    ]
    return "\n\n".join(parts)


_PICTURE = """picture = Image.new("RGB", (600, 400), "red")  # or ImageOps.exif_transpose(Image.open("photo.jpg"))
picture = np.asarray(picture.convert("RGB").resize(({size}, {size}), Image.Resampling.BILINEAR))"""


def _onnx_code(inputs: Mapping[str, Mapping[str, Any]], tokenizer: str) -> str:
    """A script that represents two rows: one with a picture and a text, as far as the program takes them, one less."""
    pictures, texts = "image" in inputs, "text" in inputs
    lines = ["import numpy as np", "import onnxruntime"]
    lines += ["from PIL import Image"] if pictures else []
    lines += ["from tokenizers import Tokenizer"] if tokenizer == TOKENIZER else []
    lines += ["from tokenizer import tokenize"] if tokenizer == SCRIPT else []
    lines += ["", f'session = onnxruntime.InferenceSession("{FILES["onnx"]}")', "inputs = {}"]
    if tokenizer == TOKENIZER:
        lines += [
            f'tokenizer = Tokenizer.from_file("{TOKENIZER}")',
            'encodings = tokenizer.encode_batch(["red mug", "红色马克杯"])',
            "ids, mask = [each.ids for each in encodings], [each.attention_mask for each in encodings]",
        ]
    if tokenizer == SCRIPT:
        lines += ['ids, mask = tokenize(["red mug", "红色马克杯"])']
    if texts:
        lines += [
            'inputs["text"] = np.array(ids, dtype=np.int64)',
            'inputs["text_mask"] = np.array(mask, dtype=bool)',
            'inputs["has_text"] = np.array([True, True])',
        ]
    if pictures:
        size = inputs["image"]["shape"][2]
        lines += [
            _PICTURE.format(size=size),
            f'inputs["image"] = np.zeros((2, 3, {size}, {size}), dtype=np.uint8)',
            'inputs["image"][0] = picture.transpose(2, 0, 1)',
            'inputs["has_image"] = np.array([True, False])  # the second row has none',
        ]
    if "subject" in inputs:
        lines += [
            'inputs["subject"] = np.zeros_like(inputs["image"])',
            'inputs["has_subject"] = np.array([False, False])  # no crop of either',
        ]
    lines += [
        f'(vectors,) = session.run(["{OUTPUT}"], inputs)  # float32 [2, dim]',
        "unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)",
        "cosines = unit @ unit.T",
    ]
    return "\n".join(lines)


def _with_torch(code: str, inputs: Mapping[str, Mapping[str, Any]]) -> str:
    """The same with torch."""
    code = code.replace("import onnxruntime", "import torch")
    code = code.replace(
        f'session = onnxruntime.InferenceSession("{FILES["onnx"]}")',
        f'program = torch.export.load("{FILES["torch"]}").module()',
    )
    names = ", ".join(f'"{name}"' for name in inputs)
    called = f"tensors = [torch.from_numpy(inputs[name]) for name in ({names},)]\nwith torch.no_grad():\n"
    return re.sub(r"\(vectors,\) = .*", f"{called}    vectors = program(*tensors).numpy()  # float32 [2, dim]", code)
