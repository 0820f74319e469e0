"""The dual encoder: an image tower, a text tower and a fusion."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import get_worker_info

from moonlib.data.content import Box, Content, Side, View
from moonlib.data.reads import NOTHING, Reads
from moonlib.encoders.encoder import ContentBatch, Encoder
from moonlib.encoders.learning_rates import LearningRates
from moonlib.encoders.pretrained import keys_within
from moonlib.encoders.tower import ImageTower, LoadImage, TextTower, Tokenize
from moonlib.fusion.fusion import Fusion


@dataclass(frozen=True)
class DualPreprocessor:
    """Decodes the images and tokenises the texts of a batch; products and queries alike.

    Attributes:
        load_image: the image tower's, ``None`` without one.
        image_size: height and width of what ``load_image`` returns.
        tokenize: the text tower's, ``None`` without one.
        crop: the views of an image, see `DualEncoder`.
    """

    load_image: LoadImage | None
    image_size: int
    tokenize: Tokenize | None
    crop: Sequence[View] = ("full",)

    def __call__(self, contents: Sequence[Content], side: Side) -> ContentBatch:
        """Return what the towers there are read, under the names that `ContentBatch` lists.

        ``image`` is the whole image if ``crop`` names it, else the crop. ``subject`` is there where both are named.
        """
        batch: ContentBatch = {}
        if self.load_image is not None:
            whole = "full" in self.crop
            views = [(content.image, None if whole else content.box) for content in contents]
            batch["image"], batch["has_image"] = self._load(self.load_image, views)
            if whole and "box" in self.crop:
                views = [(None if content.box is None else content.image, content.box) for content in contents]
                batch["subject"], batch["has_subject"] = self._load(self.load_image, views)
        if self.tokenize is not None:
            batch["text"], batch["text_mask"] = self.tokenize([content.text or "" for content in contents])
        return batch

    def _load(self, load_image: LoadImage, views: Sequence[tuple[bytes | None, Box | None]]) -> tuple[Tensor, Tensor]:
        """Return the images, uint8 [B, 3, image_size, image_size], and which of them there are, bool [B]."""
        images = _zeros(len(views), 3, self.image_size, self.image_size)
        for row, (data, box) in enumerate(views):
            if data is not None:
                images[row] = load_image(data, box)
        return images, torch.tensor([data is not None for data, _ in views], dtype=torch.bool)


def _zeros(*shape: int) -> Tensor:
    """uint8 zeros; in a loader worker, in memory that the main process shares.

    As in torch's own collation, what is written there need not be copied there. Memory that is not written, because
    images are missing, is never touched at all.
    """
    if get_worker_info() is None:
        return torch.zeros(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


class DualEncoder(Encoder):
    """Encodes image and text apart, then fuses them; any modality may be missing in any row.

    A row without a modality costs that tower nothing, and is represented by the other one. A row with neither is all
    zeros.

    Args:
        fusion: joins the two modalities (or projects the only one).
        image: the image tower, ``None`` for an encoder of texts.
        text: the text tower, ``None`` for an encoder of images.
        dim: width of the representation; 0 for the towers' own.
        crop: what the image tower sees of an image: all of it (``full``), the box around its main subject (``box``; all
            of it where there is no box), or both. One tower then encodes both, and its two outputs stand side by side
            as the image's features (``image_dim`` = 2 ``out_features``), so that the fusion can tell the subject from
            its surroundings, or learn to average them. Without a box the two are equal, and computed once. The order of
            the names has no meaning.
        heads: names and widths of parts of the representation, for losses of different kinds: ``{identity: 96, look:
            32}`` for what a product is and how it looks. The widths add up to ``dim``, in the order of the names'
            letters. Each part is scaled to unit length, so that the cosine of two representations is the mean of its
            parts' cosines, weighted by the squares of ``head_weights``. None for a representation without parts.
        head_weights: length of each head's part, above 0; 1 for a head that is not named.
        learning_rates: pattern → factor. A parameter in whose name the pattern is found (a regular expression; the
            first one counts) is trained at the stage's learning rate times the factor; at 0 it is frozen. Towers with
            published weights want less than what is new: ``{^image: 0.1, ^text: 0.1}``.

    Raises:
        ValueError: neither tower is given; ``crop`` is empty, names a view twice, or one that there is not; a pattern
            is not a regular expression or matches nothing.

    Source: CLIP (Radford et al., 2021, section 2.3) for the two towers. A sister paper of MOON's (arXiv 2508.11999)
    crops the main subject; that both views pass through one tower, and how they are joined, is our choice.

    Example:
        >>> from moonlib.encoders.convnet import ConvNet
        >>> from moonlib.fusion.sum import Sum
        >>> encoder = DualEncoder(Sum(), image=ConvNet(), crop=["full", "box"])
    """

    def __init__(
        self,
        fusion: Fusion,
        image: ImageTower | None = None,
        text: TextTower | None = None,
        dim: int = 128,
        crop: Sequence[View] = ("full",),
        learning_rates: dict[str, float] = {},  # noqa: B006  (a recipe's default is read, never written)
        heads: dict[str, int] | None = None,
        head_weights: dict[str, float] = {},  # noqa: B006  (a recipe's default is read, never written)
    ) -> None:
        super().__init__()
        if image is None and text is None:
            raise ValueError("a dual encoder needs an image tower or a text tower; give `image`, `text` or both")
        if not crop or len(set(crop)) < len(crop) or not set(crop) <= {"full", "box"}:
            raise ValueError(f"crop is {list(crop)}; expected [full], [box] or [full, box]")
        self.image = image
        self.text = text
        self.fusion = fusion
        self.dim = dim
        self.crop = tuple(crop)
        self.learning_rates = LearningRates(learning_rates)
        self.head_widths, self.head_weights = heads_of(heads or {}, head_weights, dim)

    def reads(self) -> Reads:
        """Declare what the text tower fits its tokenizer to; see `Encoder.reads`."""
        return NOTHING if self.text is None else self.text.reads()

    def setup(self, products: pl.DataFrame, directory: Path) -> None:
        """Set up the towers, then the fusion; see `Encoder.setup`.

        The order (image, text, fusion) is fixed: each draws its weights from torch's global generator.
        """
        if self.image is not None:
            with keys_within("image"):
                self.image.setup()
        if self.text is not None:
            with keys_within("text"):
                self.text.setup(products, directory)
        self.image_dim = 0 if self.image is None else len(self.crop) * self.image.out_features
        self.text_dim = 0 if self.text is None else self.text.out_features
        self.dim = self.dim or self.image_dim or self.text_dim
        self.fusion.setup(self.image_dim, self.text_dim, self.dim)
        self.preprocessor = DualPreprocessor(
            load_image=None if self.image is None else self.image.load_image,
            image_size=0 if self.image is None else self.image.image_size,
            tokenize=None if self.text is None else self.text.tokenize,
            crop=self.crop,
        )
        for name, trainable in self.learning_rates.trainable(self).items():
            self.get_parameter(name).requires_grad_(trainable)

    def extend(self, products: pl.DataFrame, directory: Path) -> Mapping[str, Sequence[Sequence[int]]]:
        """Extend the text tower's tokenizer; see `Encoder.extend`."""
        rows = {} if self.text is None else self.text.extend(products, directory)
        return {f"text.{name}": each for name, each in rows.items()}

    def learning_rate_factor(self, name: str) -> float:
        """The factor on the stage's learning rate of the parameter of this name."""
        return self.learning_rates.factor(name)

    def is_published(self, name: str) -> bool:
        """Whether the weight of this name is one of a tower that starts from published weights."""
        tower = {"image": self.image, "text": self.text}.get(name.partition(".")[0])
        return tower is not None and tower.is_published

    def forward(self, batch: ContentBatch) -> Tensor:
        """Return float32 or wider [B, dim]; see `Encoder.forward`."""
        some = next(iter(batch.values()))
        image = text = torch.zeros(len(some), 0, device=some.device)
        has_image = has_text = torch.zeros(len(some), dtype=torch.bool, device=some.device)
        if self.image is not None:
            has_image = batch["has_image"]
            image = self._encode_images(self.image, batch)
        if self.text is not None:
            has_text = batch["text_mask"].any(dim=1)
            text = _encode_present(self.text, has_text, batch["text"], batch["text_mask"])
        return self.in_heads(self.fusion(image, text, has_image, has_text))

    def heads(self) -> Mapping[str, slice]:
        """Which dimensions each head makes; see `Encoder.heads`."""
        ends = list(itertools.accumulate(self.head_widths.values()))
        return {
            name: slice(end - self.head_widths[name], end) for name, end in zip(self.head_widths, ends, strict=True)
        }

    def in_heads(self, fused: Tensor) -> Tensor:
        """The representation of what the fusion made, float32 or wider [B, dim]: each head's part at its length.

        Args:
            fused: float [B, dim].
        """
        fused = fused.to(torch.promote_types(fused.dtype, torch.float32))
        heads = self.heads()
        if not heads:
            return fused
        parts = [F.normalize(fused[:, place], dim=1) * self.head_weights[name] for name, place in heads.items()]
        return torch.cat(parts, dim=1)

    def _encode_images(self, tower: ImageTower, batch: ContentBatch) -> Tensor:
        """Return the features of the one view or of both, float [B, image_dim]."""
        if len(self.crop) == 1:
            return _encode_present(tower, batch["has_image"], batch["image"])
        # Of one kind and size, the views go through the tower together.
        there = torch.cat([batch["has_image"], batch["has_subject"]])
        whole, subject = _encode_present(tower, there, torch.cat([batch["image"], batch["subject"]])).chunk(2)
        subject = torch.where(batch["has_subject"].unsqueeze(1), subject, whole)
        return torch.cat([whole, subject], dim=1)


def heads_of(
    widths: Mapping[str, int], weights: Mapping[str, float], dim: int
) -> tuple[dict[str, int], dict[str, float]]:
    """Widths and lengths of heads, in the order of their names' letters, which a recipe's files can't change.

    Raises:
        ValueError: they don't add up to ``dim``, or are none; or a weight is of no head, or not above 0.

    Example:
        >>> heads_of({"look": 2, "identity": 6}, {"look": 0.5}, 8)
        ({'identity': 6, 'look': 2}, {'identity': 1.0, 'look': 0.5})
    """
    if wrong := [name for name in weights if name not in widths]:
        raise ValueError(f"head_weights: there is no head '{wrong[0]}'; heads are {', '.join(widths) or 'none'}")
    if any(not weight > 0 for weight in weights.values()):
        raise ValueError(f"head_weights: expected numbers above 0, got {dict(weights)}")
    if widths and (sum(widths.values()) != dim or any(width < 1 for width in widths.values())):
        told = " + ".join(str(width) for width in widths.values())
        raise ValueError(f"heads: expected widths of at least 1 that add up to dim, {dim}, got {told}")
    names = sorted(widths)
    return {name: widths[name] for name in names}, {name: weights.get(name, 1.0) for name in names}


def _encode_present(tower: ImageTower | TextTower, present: Tensor, *inputs: Tensor) -> Tensor:
    """Run ``tower`` over the rows that are present, and put its output among rows of zeros.

    If none is, the first row is encoded nonetheless, and the fusion masks it. So every parameter of the tower has a
    gradient (of zeros) rather than none: where ranks see different modalities, DistributedDataParallel would otherwise
    wait for gradients that never come, and optimizers would differ between "no gradient" and "a gradient of zero".
    """
    rows = present.nonzero().squeeze(1)
    if len(rows) == len(present):
        return tower(*inputs)
    if len(rows) == 0:
        rows = torch.zeros(1, dtype=torch.int64, device=present.device)
    encoded: Tensor = tower(*(tensor.index_select(0, rows) for tensor in inputs))
    return encoded.new_zeros(len(present), encoded.shape[1]).index_copy(0, rows, encoded)
