"""A module's weights in one safetensors file."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from moonlib.artifacts.checksums import verified
from moonlib.system.disk import replacing


def save_weights(module: nn.Module, path: Path) -> None:
    """Write the parameters and buffers of ``module`` to ``path``, whole or not at all.

    Tensors that modules share are written once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_model(module, str(temporary))


def save_state(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name to ``path`` as `save_weights` does those of a module, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Tensor] = {}
    # The same memory under another name is written once, and the metadata says under which.
    names: dict[tuple[int, tuple[int, ...]], str] = {}
    metadata = {"format": "pt"}
    for name, tensor in state.items():
        first = names.setdefault((tensor.data_ptr(), tuple(tensor.shape)), name)
        if first == name or tensor.numel() == 0:
            kept[name] = tensor.contiguous()
        else:
            metadata[name] = first
    with replacing(path) as temporary:
        save_file(kept, str(temporary), metadata=metadata)


def load_weights(module: nn.Module, path: Path) -> None:
    """Read the parameters and buffers of ``module`` from ``path``; nothing is changed if they do not fit.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: its content is not what was written, see `moonlib.artifacts.checksums`.
        ValueError: the file is not a safetensors file, or belongs to a module of other names or shapes.
    """
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}")
    verified(path)
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
            # The metadata maps the names of shared tensors to the name they were written under.
            shared = set(file.metadata() or {}) - {"format"}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error}); copy it again, or train again") from None
    expected = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    difference = first_difference(found, expected, shared)
    if difference:
        remedy = "give the recipe the encoder that these weights are of, or remove them and train again"
        raise ValueError(f"{path} belongs to another encoder: {difference}; {remedy}")
    load_model(module, path)


def grow_weights(source: Path, target: Path, rows: Mapping[str, Sequence[Sequence[int]]]) -> None:
    """Copy weights to another file, with more rows in some of them.

    Args:
        source: file of the weights.
        target: where they go, whole or not at all.
        rows: by the name of a weight, for each new row the old ones whose mean it is; see
            `moonlib.encoders.encoder.Encoder.extend`.

    Raises:
        Damaged: the content is not what was written.
        ValueError: it is no safetensors file, or has fewer rows than are named.
    """
    verified(source)
    rows = {name: means for name, means in rows.items() if means}
    try:
        with safe_open(source, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(source) if rows else {}
    except SafetensorError as error:
        raise ValueError(f"{source} is not a safetensors file ({error}); copy it again, or train again") from None
    for name, means in rows.items():
        # The metadata maps the names of shared tensors to the name they were written under.
        old = tensors.get(name)
        if old is None and name not in metadata:
            raise ValueError(f"{source} belongs to another encoder: it lacks '{name}'")
        if old is None:
            continue
        if (last := max(max(each) for each in means)) >= len(old):
            raise ValueError(f"{source} belongs to another tokenizer: '{name}' has {len(old)} rows, and no row {last}")
        new = torch.stack([old[list(each)].mean(dim=0) for each in means])
        tensors[name] = torch.cat([old, new.to(old.dtype)])
    with replacing(target) as temporary:
        if rows:
            save_file(tensors, str(temporary), metadata=metadata)
        else:
            shutil.copyfile(source, temporary)


def first_difference(
    found: dict[str, list[int]], expected: dict[str, list[int]], shared: Collection[str] = ()
) -> str | None:
    """Say in what the tensors of a file differ first from those of a module.

    Args:
        found: shape of each tensor in the file.
        expected: shape of each tensor of the module.
        shared: names that the file holds under another name.

    Returns:
        None if they agree.
    """
    for name, shape in expected.items():
        if name not in found:
            if name not in shared:
                return f"it lacks '{name}' {shape}"
        elif found[name] != shape:
            return f"'{name}' is {found[name]} there and {shape} here"
    extra = [name for name in found if name not in expected]
    return f"'{extra[0]}' {found[extra[0]]} is not part of this one" if extra else None
