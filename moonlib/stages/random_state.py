"""State of the global random generators, to go on with after an interruption or an excursion."""

from __future__ import annotations

import random
from typing import Any

import moonlib.compat  # noqa: F401
import numpy as np
import torch
from torch import Tensor


def generators() -> dict[str, Any]:
    """State of the global random generators of torch, of every accelerator, of numpy and of Python, as plain values."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  (libraries draw from it)
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "cuda": [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()],
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "python": random.getstate(),
    }


def set_generators(state: dict[str, Any]) -> None:
    """Put the generators back to what `generators` returned."""

    def tensor(data: bytes) -> Tensor:
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)

    torch.set_rng_state(tensor(state["torch"]))
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all([tensor(device) for device in state["cuda"]])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])
