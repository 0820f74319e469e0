"""Promises that components of several kinds make."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from moonlib.artifacts.layout import WEIGHTS
from moonlib.encoders.weights import load_weights, save_weights

Module = TypeVar("Module", bound=nn.Module)


def require(condition: bool, promise: str) -> None:
    """Raise an `AssertionError` that names a broken promise."""
    if not condition:
        raise AssertionError(promise)


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree as far as float32 and another order of summation allow."""
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def check_gradients(module: nn.Module, forward: Callable[[], Tensor]) -> None:
    """Every trainable parameter has a finite gradient, and not all are zero."""
    module.train()
    module.zero_grad()
    output = forward()
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not trainable and not output.requires_grad:
        return
    # A random direction: the sum alone is constant after a normalisation.
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    (output * direction).sum().backward()
    for name, parameter in trainable.items():
        require(parameter.grad is not None, f"backward: '{name}' has no gradient")
        require(bool(parameter.grad.isfinite().all()), f"backward: the gradient of '{name}' is not finite")  # type: ignore[union-attr]
    gradients: Sequence[Tensor] = [p.grad for p in trainable.values() if p.grad is not None]
    require(not gradients or any(g.any() for g in gradients), "backward: all gradients are zero")


def check_half_precision(module: nn.Module, forward: Callable[[], Tensor]) -> None:
    """``trainer.precision: bf16-mixed`` gives finite floats of the same shape, and finite gradients."""
    module.eval()
    with torch.no_grad():
        whole = forward()
    module.train()
    module.zero_grad()
    try:
        with torch.autocast("cpu", torch.bfloat16):
            half = forward()
        require(half.is_floating_point(), f"autocast to bfloat16: {half.dtype} is not a float")
        require(half.shape == whole.shape, f"autocast to bfloat16: shape {tuple(half.shape)}, not {tuple(whole.shape)}")
        require(bool(half.isfinite().all()), "autocast to bfloat16: not finite")
        if half.requires_grad:
            half.float().sum().backward()
    except RuntimeError as error:
        raise AssertionError(f"autocast to bfloat16: {error}") from error
    for name, parameter in module.named_parameters():
        finite = parameter.grad is None or bool(parameter.grad.isfinite().all())
        require(finite, f"autocast to bfloat16: the gradient of '{name}' is not finite")


def check_restored(module: Module, other: Module, forward: Callable[[Module], Tensor]) -> None:
    """Check that the weights' file holds all that training changed: read into ``other``, it gives the same output.

    Args:
        module: set up; its weights are changed.
        other: set up with another seed.
        forward: computes an output.
    """
    module.train()
    with torch.no_grad():
        for _ in range(2):  # running statistics move
            forward(module)
        for parameter in module.parameters():
            parameter.mul_(1.1).add_(0.01)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / WEIGHTS
        save_weights(module, file)
        try:
            load_weights(other, file)
        except ValueError as error:
            raise AssertionError(f"state_dict: does not fit a fresh component ({error})") from error
    with torch.no_grad():
        same = close(forward(module.eval()), forward(other.eval()))
    require(same, "state_dict: weights read back give another output")


def check_metrics(values: object, where: str) -> None:
    """Metrics are a dictionary of finite floats under flat keys, not empty."""
    require(isinstance(values, dict) and bool(values), f"{where}: expected a dictionary of metrics, got {values!r}")
    assert isinstance(values, dict)
    for key, value in values.items():
        plain = isinstance(key, str) and key.strip() == key and bool(key)
        require(plain, f"{where}: {key!r} is no key such as image_search/recall@10")
        require(isinstance(value, float), f"{where}: '{key}' is {type(value).__name__} {value!r}, not a float")
        require(math.isfinite(value), f"{where}: '{key}' is {value}; leave out what cannot be measured")


def directory_state(directory: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file in a directory, to see whether it is left alone."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}
