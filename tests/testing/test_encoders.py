"""The conformance checks catch components that are broken on purpose."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from moonlib.data.images import decode_image
from moonlib.encoders.convnet import ConvNet
from moonlib.encoders.dual import DualEncoder
from moonlib.encoders.transformer import Transformer
from moonlib.fusion.sum import Sum
from moonlib.testing import check_encoder, check_fusion, check_image_tower, check_text_tower


class LeakyFusion(Sum):
    """Lets the values of missing rows through."""

    def forward(self, image, text, has_image, has_text):
        everything = torch.ones_like(has_image)
        neither = ~(has_image | has_text)
        fused = super().forward(image, text, everything & bool(image.shape[1]), everything & bool(text.shape[1]))
        return fused.masked_fill(neither.unsqueeze(1), 0)


class MultiplyingFusion(Sum):
    """Masks the images by multiplication, so that NaN in a missing row spreads."""

    def forward(self, image, text, has_image, has_text):
        image = image * has_image.unsqueeze(1)
        shown = super().forward(image, text, has_image | bool(image.shape[1]), has_text & False)
        return shown * has_image.unsqueeze(1) + super().forward(image, text, has_image & False, has_text)


class BiasedFusion(Sum):
    """Gives rows with neither modality a vector."""

    def forward(self, *inputs):
        return super().forward(*inputs) + 1


class CentredFusion(Sum):
    """Subtracts the batch's mean."""

    def forward(self, image, text, has_image, has_text):
        fused = super().forward(image, text, has_image, has_text)
        return torch.where((has_image | has_text).unsqueeze(1), fused - fused.mean(0), 0)


class ForgottenFusion(Sum):
    """Has a parameter that nothing uses."""

    def setup(self, image_dim, text_dim, dim):
        super().setup(image_dim, text_dim, dim)
        self.unused = nn.Parameter(torch.ones(3))


class RandomFusion(Sum):
    """Ignores the seed."""

    def setup(self, image_dim, text_dim, dim):
        super().setup(image_dim, text_dim, dim)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(id(self) % 2**31))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (LeakyFusion, "in a missing row changes the output"),
        (MultiplyingFusion, "nan in a missing row changes the output"),
        (BiasedFusion, "a row with neither modality is not all zeros"),
        (CentredFusion, "a row alone differs from the row in a batch"),
        (ForgottenFusion, "'unused' has no gradient"),
        (RandomFusion, "the same seed, other weights"),
    ],
)
def test_broken_fusions_are_caught(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_fusion(broken)


class Dual(DualEncoder):
    def __init__(self):
        super().__init__(
            Sum(),
            ConvNet(image_size=16, width=8),
            Transformer(vocab_size=300, width=16, depth=1, heads=2, max_length=12),
            dim=8,
        )


class CentredEncoder(Dual):
    """Rows depend on the batch."""

    def forward(self, batch):
        rows = super().forward(batch)
        return rows - rows.mean(0)


class NoisyEncoder(Dual):
    """Not deterministic in eval mode."""

    def forward(self, batch):
        return super().forward(batch) + torch.rand(1)


class UnseededEncoder(Dual):
    """The weights made by setup do not depend on the seed alone."""

    def setup(self, products, directory):
        super().setup(products, directory)
        nn.init.normal_(self.fusion.space.image.weight, generator=torch.Generator().manual_seed(id(self) % 2**31))


class UnpicklableEncoder(Dual):
    """The preprocessor cannot go to a worker."""

    def setup(self, products, directory):
        super().setup(products, directory)
        preprocess = self.preprocessor
        self.preprocessor = lambda contents, side: preprocess(contents, side)


class NarrowEncoder(Dual):
    """Says another width than it gives."""

    def forward(self, batch):
        return super().forward(batch)[:, 1:]


class DivisiveEncoder(Dual):
    """A row with neither modality is 0 / 0."""

    def forward(self, batch):
        rows = super().forward(batch)
        return rows / rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (CentredEncoder, "row 0 alone differs from row 0 in a batch"),
        (NoisyEncoder, "a second call in eval mode gives another result"),
        (UnseededEncoder, "the same products and seed give another result"),
        (NarrowEncoder, "is not \\[B, dim\\]"),
        (DivisiveEncoder, "a row with a missing modality is not finite"),
    ],
)
def test_broken_encoders_are_caught(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_encoder(broken)


def test_a_preprocessor_that_cannot_be_pickled_is_caught():
    with pytest.raises((AssertionError, AttributeError, TypeError), match=r"pickle"):
        check_encoder(UnpicklableEncoder)


class BatchNormTower(ConvNet):
    """Normalises by its batch even in eval mode."""

    def forward(self, image):
        rows = super().forward(image)
        return (rows - rows.mean(0)) / (rows.std(0, correction=0) + 1)


class WrongWidthTower(ConvNet):
    """out_features is off by one."""

    def setup(self):
        super().setup()
        self.out_features += 1


class BoxlessTower(ConvNet):
    """Takes a box and loads the whole picture."""

    def setup(self):
        super().setup()
        self.load_image = partial(load_whole, size=self.image_size)


def load_whole(data, box=None, *, size):
    return decode_image(data, size=size)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (BoxlessTower, "gives something else than that part of the picture"),
        (BatchNormTower, "a row alone differs from the row in a batch"),
        (WrongWidthTower, "is not \\[B, out_features\\]"),
    ],
)
def test_broken_image_towers_are_caught(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_image_tower(lambda: broken(image_size=16, width=8))


class UnmaskedTower(Transformer):
    """Averages over the padding too."""

    def forward(self, text, mask):
        return super().forward(text, torch.ones_like(mask))


class RefittingTower(Transformer):
    """Fits its tokenizer anew each time."""

    def setup(self, products, directory):
        super().setup(products, directory / str(len(products)))


class NaNTower(Transformer):
    """A blank text is 0 / 0."""

    def forward(self, text, mask):
        weights = mask.float().unsqueeze(2)
        return (self.tokens(text) * weights).sum(1) / weights.sum(1)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (UnmaskedTower, "padding changes the output"),
        (RefittingTower, "read back from the directory, gives other tokens"),
        (NaNTower, "a blank text is not finite"),
    ],
)
def test_broken_text_towers_are_caught(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_text_tower(lambda: broken(vocab_size=300, width=16, heads=2, max_length=12))


class RunningFusion(Sum):
    """Keeps a running mean, and keeps it to itself."""

    mean = 0.0

    def forward(self, image, text, has_image, has_text):
        fused = super().forward(image, text, has_image, has_text)
        if self.training:
            self.mean = self.mean + fused.abs().mean().detach()
        return fused * (1 + self.mean)


class StubbornTower(ConvNet):
    """Computes in float64, which autocast to bfloat16 does not expect."""

    def forward(self, image):
        return super().forward(image).to(self.body[0][0].weight.dtype) @ torch.eye(self.out_features).double()


class UnsavedTower(Transformer):
    """Its embedding is no parameter of the module."""

    def setup(self, products, directory):
        super().setup(products, directory)
        self.hidden = [nn.Parameter(torch.randn(self.out_features))]

    def forward(self, text, mask):
        return super().forward(text, mask) + self.hidden[0].detach()


class UnsavedEncoder(Dual):
    """A scale that is drawn at setup and saved nowhere."""

    def setup(self, products, directory):
        super().setup(products, directory)
        self.scale = float(torch.rand(1)) + 1

    def forward(self, batch):
        return super().forward(batch) * self.scale


def test_state_that_is_saved_nowhere_is_caught():
    with pytest.raises(AssertionError, match="state_dict: weights read back give another output"):
        check_fusion(RunningFusion)
    with pytest.raises(AssertionError, match="state_dict: weights read back give another output"):
        check_text_tower(lambda: UnsavedTower(vocab_size=300, width=16, heads=2, max_length=12))
    with pytest.raises(AssertionError, match="read back from its directory and weights give another result"):
        check_encoder(UnsavedEncoder)


def test_a_tower_that_mixes_types_is_caught():
    with pytest.raises((AssertionError, RuntimeError), match="dtype"):
        check_image_tower(lambda: StubbornTower(image_size=16, width=8))
