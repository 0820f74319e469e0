"""Keep what published weights know: frozen at first, with their own batch statistics, averaged with their start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from moonlib.encoders.encoder import Encoder

Share = float | Literal["auto"] | None
"""Share of the start in an average of start and end; ``auto`` to choose it on validation; None for no average."""

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the start that ``auto`` chooses from; of equally good ones the largest."""


def require_published(encoder: Encoder, key: str) -> None:
    """Refuse an argument that says what becomes of published weights, for an encoder without any.

    Raises:
        ValueError: naming the argument.
    """
    if not any(encoder.is_published(name) for name in encoder.state_dict()):
        raise ValueError(
            f"{key}: no weight of this {type(encoder).__name__} is a published one: give it a tower with published "
            f"weights (pretrained or checkpoint), or leave {key} out"
        )


class PublishedWeights:
    """The published weights of an encoder in training.

    Args:
        encoder: set up, before it is trained.
        freeze_until: steps of the optimizer during which they are frozen: no gradient is computed, and their modules
            are in eval mode. 0 for none.
        freeze_batch_norm: let their batch normalisation use the published statistics, and leave these as they are.

    Raises:
        ValueError: there is something to freeze, and no published weights; or no others, which would learn meanwhile.
    """

    def __init__(self, encoder: Encoder, freeze_until: int = 0, freeze_batch_norm: bool = False) -> None:
        for key, given in (("freeze_towers_until", freeze_until), ("freeze_batch_norm", freeze_batch_norm)):
            if given:
                require_published(encoder, key)
        self.freeze_until, self.freeze_batch_norm = freeze_until, freeze_batch_norm
        named = [(name, parameter) for name, parameter in encoder.named_parameters() if encoder.is_published(name)]
        self.parameters = [parameter for _, parameter in named if parameter.requires_grad]
        published = {id(parameter) for _, parameter in named}
        if freeze_until and all(id(each) in published for each in encoder.parameters() if each.requires_grad):
            raise ValueError(
                f"freeze_towers_until: all weights of this {type(encoder).__name__} are published ones, and nothing of "
                f"it would learn in the first {freeze_until} steps: give it a fusion with weights of its own, such as "
                "gated, or leave freeze_towers_until out"
            )
        # A module is frozen with its weights; one that holds others, such as the encoder itself, is not.
        self.modules = [
            module
            for module in encoder.modules()
            if (own := list(module.parameters())) and all(id(parameter) in published for parameter in own)
        ]
        self.batch_norms = [each for each in self.modules if isinstance(each, nn.modules.batchnorm._BatchNorm)]

    def prepare(self, step: int) -> None:
        """Freeze or thaw, and set modes, for a step of the optimizer; a function of the step alone.

        Args:
            step: number of steps taken so far.
        """
        if not self.freeze_until and not self.freeze_batch_norm:
            return
        frozen = step < self.freeze_until
        if self.freeze_until:
            for parameter in self.parameters:
                parameter.requires_grad_(not frozen)
            for module in self.modules:
                module.train(not frozen)
        if self.freeze_batch_norm:
            for module in self.batch_norms:
                module.eval()


class StartWeights:
    """The weights that a training starts from and that were trained before, to be averaged with those at its end.

    Args:
        encoder: with the weights that it starts from.
        trained: whether all of them were trained by stages before; otherwise the published ones count alone.

    Raises:
        ValueError: there are none.

    Source: Wortsman et al., "Robust fine-tuning of zero-shot models" (CVPR 2022, arXiv 2109.01903), WiSE-FT.
    """

    def __init__(self, encoder: Encoder, trained: bool) -> None:
        if not trained:
            require_published(encoder, "average_with_start")
        self.encoder = encoder
        self.start = {
            name: tensor.detach().clone()
            for name, tensor in encoder.state_dict().items()
            if tensor.is_floating_point() and (trained or encoder.is_published(name))
        }

    @torch.no_grad()
    def average(self, end: Mapping[str, Tensor], share: float) -> None:
        """Set the encoder's weights to (1 − share) · end + share · start; what has no start stays at its end.

        Args:
            end: the encoder's weights at the end of training.
            share: of the start, from 0 to 1.
        """
        for name, tensor in self.encoder.state_dict().items():
            start = self.start.get(name)
            value = end[name]
            tensor.copy_(value if start is None else value.lerp(start.to(value.device), share))

    def choose(self, measure: Callable[[], float], higher_is_better: bool) -> tuple[float, float]:
        """Average with the share of `SHARES` that measures best.

        Args:
            measure: value of the encoder as it is.
            higher_is_better: direction of the value.

        Returns:
            The share, and its value.
        """
        end = {name: tensor.detach().clone() for name, tensor in self.encoder.state_dict().items()}
        values: dict[float, float] = {}
        for share in SHARES:
            self.average(end, share)
            values[share] = measure()
        best = max(SHARES, key=lambda share: (values[share] if higher_is_better else -values[share], share))
        self.average(end, best)
        return best, values[best]
