"""An image tower from timm, the collection of image models."""

from __future__ import annotations

from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import torch
from torch import Tensor, nn

from moonlib.data.images import decode_image
from moonlib.encoders.pretrained import OUT_OF_REACH, UnusableCheckpoint, asking_the_hub, offline
from moonlib.encoders.tower import ImageTower

HUB = ("hf-hub:", "hf_hub:")
PUBLISHED = (*HUB, "local-dir:")
"""Prefixes of the names of models whose architecture is read from the hub or a folder."""


class TimmTower(ImageTower):
    """Any timm model without its classifier.

    Models with batch normalisation work, but in training a row then depends on its batch, which GradCache and several
    processes cannot reproduce; prefer group- or layer-normalised ones (``convnext_*``, ``vit_*``, ``resnetv2_*_gn``).

    Args:
        model: a name as in ``timm.list_models()``, optionally with a tag (``vit_tiny_patch16_224.augreg_in21k``), or
            ``hf-hub:owner/name``.
        pretrained: download timm's weights from the hub (cached there); otherwise they are random.
        image_size: side of the images in pixels; ``None`` for the size the model was made for.
        checkpoint: a file of weights (safetensors, or pth that holds tensors only) to start from instead.

    Raises:
        ValueError: the model is unknown, or the checkpoint is of another model.

    Example:
        >>> tower = TimmTower("convnext_atto", image_size=96)
    """

    body: nn.Module
    mean: Tensor
    std: Tensor

    def __init__(
        self, model: str, pretrained: bool = False, image_size: int | None = None, checkpoint: Path | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.pretrained = pretrained
        self.requested_size = image_size
        self.checkpoint = checkpoint

    @property
    def is_published(self) -> bool:
        """See `ImageTower.is_published`."""
        return self.pretrained or self.checkpoint is not None

    def setup(self) -> None:
        """Make, download or load the weights."""
        import timm
        from timm.data.config import resolve_model_data_config

        if not self.model.startswith(PUBLISHED) and not timm.is_model(self.model):
            close = get_close_matches(self.model.split(".")[0], timm.list_models(), n=3)
            hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists the names"
            raise ValueError(f"timm {timm.__version__} has no model '{self.model}'; {hint}")
        published = self.model.startswith(HUB)
        try:
            with asking_the_hub(published or self.pretrained):
                body = self._body()
        except UnusableCheckpoint:
            raise
        except Exception as error:  # of timm, the hub and the HTTP library, which each raise their own
            if not published and not self.pretrained:
                raise
            reason = OUT_OF_REACH if offline() else str(error).strip().split("\n")[0]
            raise UnusableCheckpoint(
                f"timm cannot load '{self.model}': {reason}; without a network give a file of weights as checkpoint"
            ) from error
        if self.checkpoint is not None:
            _load(body, self.model, self.checkpoint)
        self.body = body
        resolved = resolve_model_data_config(body)
        self.image_size = self.requested_size or resolved["input_size"][-1]
        self.load_image = partial(decode_image, size=self.image_size)
        self.out_features = int(body.num_features)
        for name in ("mean", "std"):
            self.register_buffer(name, 255 * torch.tensor(resolved[name]).view(3, 1, 1), persistent=False)
        # CPUs multiply convolutions faster so than channels first; the values are the same but for rounding.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _body(self) -> Any:
        """Make timm's model, with its weights where they are asked for."""
        import timm

        config = timm.models.get_pretrained_cfg(self.model, allow_unregistered=True)
        # Only models with a fixed grid of positions take the size as an argument; convolutions take any image.
        fixed = config is not None and config.fixed_input_size and self.requested_size is not None
        size: dict[str, Any] = {"img_size": self.requested_size} if fixed else {}
        return timm.create_model(self.model, pretrained=self.pretrained, num_classes=0, **size)

    def save_architecture(self, directory: Path) -> dict[str, Any]:
        """Write the configuration of a model that timm itself does not know; see `Encoder.save_architecture`."""
        weightless = {"pretrained": False, "checkpoint": None}
        if not self.model.startswith(PUBLISHED):
            return weightless if self.pretrained or self.checkpoint else {}
        from timm.models._hub import save_config_for_hf

        directory.mkdir(parents=True)
        save_config_for_hf(self.body, str(directory / "config.json"))
        return {"model": f"local-dir:{directory}", **weightless}

    def forward(self, image: Tensor) -> Tensor:
        """Return float [B, out_features]; see `ImageTower.forward`."""
        pixels = image.contiguous(memory_format=torch.channels_last)
        return self.body((pixels - self.mean) / self.std)


def _load(body: Any, model: str, checkpoint: Path) -> None:
    """Read the weights of a timm model, less its classifier's."""
    from timm.models import load_state_dict

    if not checkpoint.exists():
        raise FileNotFoundError(f"no weights at {checkpoint}")
    try:
        weights = load_state_dict(str(checkpoint), weights_only=True)
    except Exception as error:  # pickle, zip, torch and safetensors each have their own
        problem = str(error).partition("\n")[0]
        raise ValueError(
            f"{checkpoint} holds no weights that can be read safely ({problem}); expected safetensors, or a state dict "
            "of tensors that torch.save wrote"
        ) from None
    classifier = body.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{name}." for name in ((classifier,) if isinstance(classifier, str) else classifier))
    try:
        body.load_state_dict({name: value for name, value in weights.items() if not name.startswith(heads)})
    except RuntimeError as error:
        first = str(error).split("\n")[1].strip()
        raise ValueError(f"{checkpoint} does not fit timm's '{model}': {first}") from None
