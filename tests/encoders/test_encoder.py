"""What every encoder offers: vectors of images and texts from Python, and what it tells stages of itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from moonlib.data.content import Content
from moonlib.data.images import UnreadableImage
from moonlib.encoders.dual import DualEncoder
from moonlib.encoders.encoder import Encoder
from moonlib.encoders.transformer import Transformer
from moonlib.fusion.sum import Sum
from moonlib.testing import check_encoder, example_jpeg, example_products
from moonlib.testing.stages import small_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    made = small_encoder()
    made.setup(example_products(), tmp_path_factory.mktemp("encoder"))
    return made


def forward(encoder: Encoder, contents: list[Content], side: str = "product") -> torch.Tensor:
    with torch.no_grad():
        return encoder.eval()(encoder.preprocessor(contents, side))  # type: ignore[arg-type]


def test_bytes_paths_and_pictures_are_the_same_image(encoder: Encoder, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(example_jpeg(0))).save(buffer, "PNG")
    data = buffer.getvalue()
    (tmp_path / "mug.png").write_bytes(data)
    picture = Image.open(io.BytesIO(data))
    vectors = encoder.encode(images=[data, tmp_path / "mug.png", str(tmp_path / "mug.png"), picture])
    assert all(torch.equal(row, vectors[0]) for row in vectors)
    torch.testing.assert_close(vectors[:1], forward(encoder, [Content(data, None)]))


def test_either_list_may_be_missing_and_any_entry(encoder: Encoder) -> None:
    image = example_jpeg(1)
    vectors = encoder.encode(images=[image, None, image, None], texts=["mug", "mug", None, None])
    contents = [Content(image, "mug"), Content(None, "mug"), Content(image, None), Content(None, None)]
    torch.testing.assert_close(vectors, forward(encoder, contents))
    torch.testing.assert_close(encoder.encode(texts=["mug"]), vectors[1:2])
    assert vectors.dtype == torch.float32 and vectors.device.type == "cpu" and not vectors.requires_grad
    assert encoder.encode(texts=[]).shape == (0, encoder.dim)


def test_no_number_of_rows_at_once_matters_and_training_goes_on(encoder: Encoder) -> None:
    texts = [f"mug {i}" for i in range(7)]
    encoder.train()
    torch.testing.assert_close(encoder.encode(texts=texts, batch_size=2), encoder.encode(texts=texts))
    assert encoder.training
    head = nn.Linear(encoder.dim, 1)
    head(encoder.encode(texts=texts)).sum().backward()  # vectors serve as the input of another model
    assert head.weight.grad is not None


def test_what_cannot_be_encoded_is_named(encoder: Encoder) -> None:
    with pytest.raises(UnreadableImage, match=r"images\[3\]: not a readable image"):
        encoder.encode(images=[example_jpeg(0), None, example_jpeg(1), b"no picture"], batch_size=2)
    with pytest.raises(ValueError, match="2 images and 1 texts; give None where a row lacks one"):
        encoder.encode(images=[None, None], texts=["mug"])
    with pytest.raises(ValueError, match="give images, texts, or both"):
        encoder.encode()


def test_one_value_in_place_of_a_list_is_not_taken_apart(encoder: Encoder, tmp_path: Path) -> None:
    picture = Image.open(io.BytesIO(example_jpeg(0)))
    for one in (tmp_path / "mug.jpg", "mug.jpg", example_jpeg(0), picture):
        with pytest.raises(ValueError, match=r"encode: images: expected a list, got one \w+; put it into \[ \]"):
            encoder.encode(images=one)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="encode: texts: expected a list, got one str"):
        encoder.encode(texts="red mug")
    with pytest.raises(ValueError, match=r"encode: images\[1\]: expected bytes, a path or a PIL image, got Tensor"):
        encoder.encode(images=[None, torch.zeros(3, 4, 4)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"encode: texts\[0\]: expected text, got float"):
        encoder.encode(texts=[float("nan")])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="encode: side: expected 'product' or 'query', got 'item'"):
        encoder.encode(texts=["mug"], side="item")  # type: ignore[arg-type]
    with pytest.raises(UnreadableImage, match=r"images\[1\]: pixels of mode F"):
        encoder.encode(images=[None, Image.new("F", (4, 4))])


def test_a_picture_of_a_turned_camera_stands_upright(encoder: Encoder) -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.open(io.BytesIO(example_jpeg(0))).save(buffer, "PNG", exif=exif)
    vectors = encoder.encode(images=[buffer.getvalue(), Image.open(buffer)])
    assert torch.equal(vectors[0], vectors[1])


def test_an_encoder_of_one_modality_refuses_the_other(tmp_path: Path) -> None:
    texts = DualEncoder(Sum(), text=Transformer(vocab_size=300, width=16, depth=1, heads=2), dim=8)
    images = DualEncoder(Sum(), small_encoder().image, dim=8)
    for made in (texts, images):
        made.setup(example_products(), tmp_path)
    assert texts.encode([None, None], ["mug", None]).shape == (2, 8)
    assert images.encode([example_jpeg(0)]).shape == (1, 8)
    with pytest.raises(ValueError, match="encode: this encoder reads no images: leave them out"):
        texts.encode([example_jpeg(0)], ["mug"])
    with pytest.raises(ValueError, match="encode: this encoder reads no texts: leave them out"):
        images.encode(texts=["mug"])


def test_an_encoder_may_call_its_own_components_parts(tmp_path: Path) -> None:
    class Parted(DualEncoder):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.parts = nn.ModuleList([nn.Linear(2, 2)])

    encoder = Parted(Sum(), small_encoder().image, dim=8)
    assert len(encoder.parts) == 1 and "parts" in encoder.exported_parts()


def test_an_encoder_without_images_has_nothing_to_augment(encoder: Encoder, tmp_path: Path) -> None:
    assert encoder.augmented_inputs() == ("image", "subject")
    texts = DualEncoder(Sum(), text=Transformer(vocab_size=300, width=16, depth=1, heads=2), dim=8)
    texts.setup(example_products(), tmp_path)
    assert texts.augmented_inputs() == ()


def test_parts_are_the_components_of_the_recipe(encoder: Encoder) -> None:
    assert list(encoder.exported_parts()) == ["image", "text", "fusion"]


class Renamed(DualEncoder):
    """Calls its images something else than it says."""

    def augmented_inputs(self) -> tuple[str, ...]:
        return ("photo",)


class Forgetful(DualEncoder):
    def augmented_inputs(self) -> tuple[str, ...]:
        return ()


class Backward(DualEncoder):
    def learning_rate_factor(self, name: str) -> float:
        return -1.0


class Attached(DualEncoder):
    def encode(self, *args, **kwargs):
        return super().encode(*args, **kwargs).requires_grad_()


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Renamed, "augmented_inputs: the preprocessor makes none of photo"),
        (Forgetful, "augmented_inputs: 'image' looks like images, and is not among them"),
        (Backward, r"learning_rate_factor: -1.0 of '.*' is not a number >= 0"),
        (Attached, "encode: the vectors carry a gradient"),
    ],
)
def test_broken_promises_are_found(cls: type[DualEncoder], message: str) -> None:
    def make() -> DualEncoder:
        small = small_encoder()
        return cls(small.fusion, small.image, small.text, dim=8)

    with pytest.raises(AssertionError, match=message):
        check_encoder(make)
