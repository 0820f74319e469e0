"""The image half of an open_clip model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import moonlib.compat  # noqa: F401  (before torchvision, in a loader worker that unpickles `LoadImage` too)
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from moonlib.data.content import Box
from moonlib.data.images import decode_image
from moonlib.encoders.openclip.model import build, configuration, has_weights, known_name, library
from moonlib.encoders.tower import ImageTower

if TYPE_CHECKING:
    from open_clip.transform import PreprocessCfg
    from torchvision.transforms import Compose


@dataclass(frozen=True)
class LoadImage:
    """Decodes an image as moonlib does, and resizes it as open_clip does.

    Attributes:
        resize: open_clip's own steps on an RGB picture of Pillow, from whatever size to the model's.
    """

    resize: Compose

    def __call__(self, data: bytes, box: Box | None = None) -> Tensor:
        """Return uint8 [3, size, size], of the box alone if one is given.

        Raises:
            UnreadableImage: see `moonlib.data.images.decode_image`.
        """
        picture = self.resize(Image.fromarray(decode_image(data, box).permute(1, 2, 0).numpy()))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


class OpenClipImage(ImageTower):
    """The image half of any open_clip model, with that model's own transform.

    Images are resized, cropped or padded by open_clip's own steps (``resize_mode`` squash, shortest or longest), so
    that the tower agrees with open_clip's ``preprocess`` followed by ``encode_image``. Two things are moonlib's:
    pictures that EXIF says to turn are turned, and transparent pixels become white. The mean and the standard
    deviation that the weights were trained with are applied on the device.

    Models with batch normalisation (``RN50``, …) work, but in training a row then depends on its batch, which GradCache
    and several processes cannot reproduce.

    Args:
        model: a name as in ``open_clip.list_models()``, the path of a JSON file with ``embed_dim``, ``vision_cfg`` and
            ``text_cfg``, or a published model with its weights: ``hf-hub:owner/name`` or ``local-dir:folder``.
        pretrained: the weights: a tag of the model (``open_clip.list_pretrained_tags_by_model``), the path of a file
            (safetensors, or one that holds tensors only), or ``hf-hub:owner/name``. ``None``: random.

    Raises:
        ValueError: the model is unknown, or the weights cannot be had or are of another model.

    Source: Radford et al., 2021, section 2.4; Ilharco et al., 2021, open_clip.

    Example:
        >>> tower = OpenClipImage("ViT-B-32", pretrained="laion2b_s34b_b79k")
    """

    body: nn.Module
    mean: Tensor
    std: Tensor

    def __init__(self, model: str, pretrained: str | None = None) -> None:
        super().__init__()
        self.model = model
        self.pretrained = pretrained

    @property
    def is_published(self) -> bool:
        """See `ImageTower.is_published`."""
        return has_weights(self.model, self.pretrained)

    def setup(self) -> None:
        """Make, read or download the weights; the text half is let go."""
        library()
        from open_clip.transform import PreprocessCfg

        visual = build(self.model, self.pretrained).visual
        self.out_features = int(configuration(known_name(self.model))["embed_dim"])
        self.body = visual
        how = PreprocessCfg(**visual.preprocess_cfg)
        size = (how.size, how.size) if isinstance(how.size, int) else tuple(how.size)
        if size[0] != size[1]:
            raise ValueError(f"'{self.model}' reads images of {size[0]} x {size[1]} pixels; moonlib's are square")
        self.image_size = int(size[0])
        self.load_image = LoadImage(_resizing(how))
        for name, value in (("mean", how.mean), ("std", how.std)):
            self.register_buffer(name, 255 * torch.tensor(value).view(-1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return float [B, out_features], not normalised; see `ImageTower.forward`."""
        encoded: Any = self.body((image - self.mean) / self.std)
        # The models that also write captions return their tokens beside the pooled output.
        return encoded[0] if isinstance(encoded, tuple) else encoded


def _resizing(how: PreprocessCfg) -> Compose:
    """The steps of open_clip's transform for inference before a picture becomes a normalised tensor."""
    from open_clip.transform import MaybeConvertMode, MaybeToTensor, image_transform_v2
    from torchvision.transforms import Compose, Normalize

    steps = image_transform_v2(how, is_train=False).transforms
    last = [type(step) for step in steps[-3:]]
    if last != [MaybeConvertMode, MaybeToTensor, Normalize]:
        raise ValueError(
            f"open_clip {library().__version__} ends its transform with {last}, which this moonlib does not know"
        )
    return Compose(steps[:-3])
