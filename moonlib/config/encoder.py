"""A trained encoder, from its configuration and its files alone: no stage, and nothing that trains, is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch

from moonlib.artifacts.checksums import verified
from moonlib.artifacts.layout import INITIAL_WEIGHTS
from moonlib.config.typing import construct_component
from moonlib.encoders.pretrained import keys_within
from moonlib.encoders.weights import load_weights

if TYPE_CHECKING:
    from moonlib.encoders.encoder import Encoder


def ready(config: Mapping[str, Any], preprocessing: Path, seed: int, weights: Path | None) -> Encoder:
    """Make an encoder from its configuration, its fitted preprocessing and its weights.

    Args:
        config: as a recipe writes a component in full.
        preprocessing: directory of what `Encoder.setup` fitted.
        seed: of the weights where ``weights`` is None; torch's own generator stays as it is.
        weights: file of them; None for those that it starts from, random ones or a warm start's.

    Returns:
        The encoder in eval mode.

    Raises:
        RecipeError: it cannot be constructed.
        PolarsError: the preprocessing is not there.
        Damaged: a file of it, or the weights, are not what was written.
        ValueError: the weights belong to another encoder.
    """
    encoder: Encoder = construct_component("encoders", config, ("encoder",)).build()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # A table without columns: preprocessing that is not there must not be fitted on nothing in silence.
        with keys_within("encoder"):
            encoder.setup(pl.DataFrame(), verified(preprocessing))
    initial = preprocessing / INITIAL_WEIGHTS
    if weights is not None or initial.is_file():
        load_weights(encoder, weights or initial)
    return encoder.eval()
