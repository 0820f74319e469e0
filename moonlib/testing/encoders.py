"""Checks of what makes a representation: encoders, towers, fusions."""

from __future__ import annotations

import io
import pickle
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import torch
from PIL import Image
from torch import Tensor, nn

from moonlib.artifacts.layout import WEIGHTS
from moonlib.data.content import Content
from moonlib.encoders.encoder import ContentBatch, Encoder
from moonlib.encoders.tower import ImageTower, TextTower
from moonlib.encoders.weights import load_weights, save_weights
from moonlib.fusion.fusion import Fusion
from moonlib.testing.examples import example_contents, example_jpeg, example_products
from moonlib.testing.promises import check_gradients, check_half_precision, check_restored, close, require

Fitted = TypeVar("Fitted", Encoder, TextTower)


def check_encoder(make: Callable[[], Encoder]) -> None:
    """Check an encoder: shapes, rows, missing modalities, determinism, pickling, gradients, dtype, weights.

    Args:
        make: returns a fresh encoder that `Encoder.setup` was not called on.
    """
    contents = example_contents()
    with tempfile.TemporaryDirectory() as folder:
        encoder = _seeded(make, Path(folder))
        again = _seeded(make, Path(folder), products=example_products()[:1], seed=1)
        save_weights(encoder, Path(folder) / WEIGHTS)
        load_weights(again, Path(folder) / WEIGHTS)
    require(encoder.dim > 0, f"dim is {encoder.dim}")
    require(encoder.image_dim > 0 or encoder.text_dim > 0, "image_dim and text_dim are both 0")

    batch = encoder.preprocessor(contents, "product")
    for name, tensor in batch.items():
        require(len(tensor) == len(contents), f"preprocessor: '{name}' has {len(tensor)} rows of {len(contents)}")
    copy = pickle.loads(pickle.dumps(encoder.preprocessor))(contents, "product")
    require(_same_batch(batch, copy), "preprocessor: gives other tensors after pickling")
    encoder.preprocessor(contents, "query")

    encoder.eval()
    rows = _encode(encoder, batch)
    require(rows.shape == (len(contents), encoder.dim), f"forward: shape {tuple(rows.shape)} is not [B, dim]")
    require(rows.is_floating_point(), f"forward: {rows.dtype} is not a float")
    require(bool(rows.isfinite().all()), "forward: a row with a missing modality is not finite")
    require(close(rows, _encode(encoder, batch)), "forward: a second call in eval mode gives another result")
    order = torch.arange(len(contents)).flip(0)
    flipped = _encode(encoder, {name: tensor[order] for name, tensor in batch.items()})
    require(close(rows[order], flipped), "forward: a row depends on its place in the batch")
    for i, content in enumerate(contents):
        alone = _encode(encoder, encoder.preprocessor([content], "product"))[0]
        require(close(rows[i], alone), f"forward: row {i} alone differs from row {i} in a batch")
    restored = _encode(again.eval(), again.preprocessor(contents, "product"))
    require(close(rows, restored), "setup: preprocessing read back from its directory and weights give another result")
    with tempfile.TemporaryDirectory() as folder:
        fresh = _seeded(make, Path(folder)).eval()
        require(
            close(rows, _encode(fresh, fresh.preprocessor(contents, "product"))),
            "setup: the same products and seed give another result",
        )
    _check_encode(encoder, contents, rows)
    _check_told(encoder, batch)
    check_gradients(encoder, lambda: encoder(batch))
    check_half_precision(encoder, lambda: encoder(batch))
    check_restored(encoder, again, lambda module: module(batch))


def _check_encode(encoder: Encoder, contents: Sequence[Content], rows: Tensor) -> None:
    """Encoder.encode gives what forward gives, detached, and leaves the encoder as it was."""
    plain = [i for i, content in enumerate(contents) if content.box is None]
    given: dict[str, Any] = {}
    if encoder.image_dim:
        given["images"] = [contents[i].image for i in plain]
    if encoder.text_dim:
        given["texts"] = [contents[i].text for i in plain]
    encoder.train()
    vectors = encoder.encode(**given, batch_size=2)
    require(encoder.training, "encode: leaves the encoder in eval mode")
    encoder.eval()
    require(vectors.dtype == torch.float32, f"encode: {vectors.dtype} is not float32")
    require(not vectors.requires_grad, "encode: the vectors carry a gradient")
    require(close(vectors, rows[plain].float()), "encode: gives something else than preprocessor and forward")
    for name, rows_of_one in given.items():
        one = encoder.encode(**{name: rows_of_one})
        require(one.shape == vectors.shape, f"encode: {name} alone give shape {tuple(one.shape)}, not [N, dim]")
        require(bool(one.isfinite().all()), f"encode: {name} alone are not finite")


def _check_told(encoder: Encoder, batch: ContentBatch) -> None:
    """Check what an encoder says of itself: inputs to augment, learning-rate factors, parts."""
    named = encoder.augmented_inputs()
    there = [name for name in named if name in batch]
    require(bool(there) or not named, f"augmented_inputs: the preprocessor makes none of {', '.join(named)}")
    for name, tensor in batch.items():
        pictures = tensor.dtype == torch.uint8 and tensor.ndim == 4 and tensor.shape[1] == 3
        require(pictures or name not in there, f"augmented_inputs: '{name}' is not uint8 [B, 3, H, W]")
        require(not pictures or name in there, f"augmented_inputs: '{name}' looks like images, and is not among them")
    for name, _ in encoder.named_parameters():
        factor = encoder.learning_rate_factor(name)
        good = isinstance(factor, (int, float)) and 0 <= factor < float("inf")
        require(good, f"learning_rate_factor: {factor!r} of '{name}' is not a number >= 0")
    for name, part in encoder.exported_parts().items():
        require(isinstance(part, nn.Module), f"exported_parts: '{name}' is {type(part).__name__}, not a module")


def check_image_tower(make: Callable[[], ImageTower]) -> None:
    """Check an image tower: decoding, boxes, shapes, rows, determinism, pickling, gradients, dtype, weights.

    Args:
        make: returns a fresh tower that `ImageTower.setup` was not called on.
    """
    towers = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        tower = make()
        tower.setup()
        towers.append(tower.eval())
    tower, twin, other = towers
    load = pickle.loads(pickle.dumps(tower.load_image))
    images = [tower.load_image(example_jpeg(seed, width=90, height=60 + seed)) for seed in range(3)]
    for seed, image in enumerate(images):
        require(image.dtype == torch.uint8, f"load_image: {image.dtype} is not uint8")
        expected = (3, tower.image_size, tower.image_size)
        require(tuple(image.shape) == expected, f"load_image: shape {tuple(image.shape)} is not {expected}")
        copy = load(example_jpeg(seed, width=90, height=60 + seed))
        require(torch.equal(image, copy), "load_image: gives another image after pickling")
    _check_boxes(tower)
    batch = torch.stack([*images, torch.zeros_like(images[0]), torch.full_like(images[0], 255)])
    with torch.no_grad():
        rows = tower(batch)
        require(rows.is_floating_point(), f"forward: {rows.dtype} is not a float")
        expected_shape = (len(batch), tower.out_features)
        require(rows.shape == expected_shape, f"forward: shape {tuple(rows.shape)} is not [B, out_features]")
        require(bool(rows.isfinite().all()), "forward: an all-black, all-white or ordinary image is not finite")
        require(close(rows.flip(0), tower(batch.flip(0))), "forward: a row depends on its place in the batch")
        require(close(rows[:1], tower(batch[:1])), "forward: a row alone differs from the row in a batch")
        require(close(rows, twin(batch)), "setup: the same seed gives other weights")
    check_gradients(tower, lambda: tower(batch))
    check_half_precision(tower, lambda: tower(batch))
    check_restored(tower, other, lambda module: module(batch))


def _check_boxes(tower: ImageTower) -> None:
    """Check that a box is loaded like a picture cut out beforehand."""
    with Image.open(io.BytesIO(example_jpeg(0, width=80, height=60))) as opened:
        picture = opened.convert("RGB")

    def png(image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    whole, part = tower.load_image(png(picture)), tower.load_image(png(picture.crop((20, 15, 70, 60))))
    for box, expected in [((0.0, 0.0, 1.0, 1.0), whole), ((0.25, 0.25, 0.875, 1.0), part)]:
        difference = (tower.load_image(png(picture), box).float() - expected.float()).abs().mean()
        require(float(difference) < 2, f"load_image: box {box} gives something else than that part of the picture")


def check_text_tower(make: Callable[[], TextTower]) -> None:
    """Check a text tower: tokens and masks, blank texts, padding, rows, determinism, gradients, dtype, weights.

    Args:
        make: returns a fresh tower that `TextTower.setup` was not called on.
    """
    texts = ["red cotton t-shirt", "", "蓝色 马克杯", "a long title with a great many more words than the others", "  "]
    blank = torch.tensor([not text.strip() for text in texts])
    with tempfile.TemporaryDirectory() as folder:
        tower = _seeded(make, Path(folder))
        loaded = _seeded(make, Path(folder), products=example_products()[:1], seed=1)
    with tempfile.TemporaryDirectory() as folder:
        refitted = _seeded(make, Path(folder))
    ids, mask = tower.tokenize(texts)
    require(ids.dtype == torch.int64 and mask.dtype == torch.bool, "tokenize: not int64 ids and a bool mask")
    require(ids.shape == mask.shape and len(ids) == len(texts), "tokenize: ids and mask are not both [B, T]")
    require(bool((mask.any(dim=1) != blank).all()), "tokenize: not exactly the blank texts have an all-False mask")
    require(tower.tokenize([""])[0].shape[1] > 0, "tokenize: T is 0 where all texts are blank")
    copies = [pickle.loads(pickle.dumps(tower.tokenize)), loaded.tokenize, refitted.tokenize]
    for copy, how in zip(copies, ["after pickling", "read back from the directory", "fitted again"], strict=True):
        require(all(map(torch.equal, copy(texts), (ids, mask))), f"tokenize: {how}, gives other tokens")

    tower.eval()
    with torch.no_grad():
        rows = tower(ids, mask)
        require(rows.shape == (len(texts), tower.out_features), f"forward: shape {tuple(rows.shape)} is not [B, F]")
        require(rows.is_floating_point(), f"forward: {rows.dtype} is not a float")
        require(bool(rows.isfinite().all()), "forward: a blank text is not finite")
        require(close(rows.flip(0), tower(ids.flip(0), mask.flip(0))), "forward: a row depends on its place")
        require(close(rows, refitted.eval()(ids, mask)), "setup: the same seed gives other weights")
        for i in torch.arange(len(texts))[~blank].tolist():
            alone = tower(*tower.tokenize([texts[i]]))[0]
            require(close(rows[i], alone), "forward: padding changes the output of a text")
        junk = torch.where(mask, ids, ids.max())
        require(close(rows[~blank], tower(junk, mask)[~blank]), "forward: the ids of padding change the output")
    check_gradients(tower, lambda: tower(ids, mask))
    check_half_precision(tower, lambda: tower(ids, mask))
    check_restored(tower, loaded, lambda module: module(ids, mask))


def check_fusion(make: Callable[[], Fusion]) -> None:
    """Check a fusion: shapes, missing modalities, independent rows, determinism, gradients, dtype, weights.

    Args:
        make: returns a fresh fusion that `Fusion.setup` was not called on.
    """
    dim = 6
    for image_dim, text_dim in [(5, 7), (5, 0), (0, 7)]:
        where = f"with image_dim {image_dim} and text_dim {text_dim}"
        fusions = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            fusion = make()
            fusion.setup(image_dim, text_dim, dim)
            fusions.append(fusion.eval())
        fusion, twin, other = fusions
        rng = torch.Generator().manual_seed(1)
        image, text = torch.randn(8, image_dim, generator=rng), torch.randn(8, text_dim, generator=rng)
        has_image = torch.tensor([True, True, False, False] * 2) & bool(image_dim)
        has_text = torch.tensor([True, False, True, False] * 2) & bool(text_dim)
        with torch.no_grad():
            rows = fusion(image, text, has_image, has_text)
            require(rows.shape == (8, dim), f"forward: shape {tuple(rows.shape)} is not [B, dim] {where}")
            require(bool(rows.isfinite().all()), f"forward: not finite {where}")
            neither = ~(has_image | has_text)
            require(not rows[neither].any(), f"forward: a row with neither modality is not all zeros {where}")
            some = rows[~neither].abs().amax(dim=1)
            require(bool((some > 0).all()), f"forward: a row with a modality is all zeros {where}")
            flipped = fusion(image.flip(0), text.flip(0), has_image.flip(0), has_text.flip(0))
            require(close(rows.flip(0), flipped), f"forward: a row depends on its place in the batch {where}")
            alone = fusion(image[:1], text[:1], has_image[:1], has_text[:1])
            require(close(rows[:1], alone), f"forward: a row alone differs from the row in a batch {where}")
            require(close(rows, twin(image, text, has_image, has_text)), f"setup: the same seed, other weights {where}")
        for junk in (1e3, torch.nan):
            junk_image = image.masked_fill(~has_image.unsqueeze(1), junk).requires_grad_()
            junk_text = text.masked_fill(~has_text.unsqueeze(1), junk).requires_grad_()
            output = fusion(junk_image, junk_text, has_image, has_text)
            require(close(rows, output), f"forward: {junk} in a missing row changes the output {where}")
            output.square().sum().backward()
            for values, present in ((junk_image, has_image), (junk_text, has_text)):
                if values.grad is not None:
                    require(not values.grad[~present].any(), f"backward: a missing row has a gradient {where}")
                    require(bool(values.grad.isfinite().all()), f"backward: {junk} in a missing row spreads {where}")
        inputs = (image, text, has_image, has_text)
        check_gradients(fusion, partial(fusion, *inputs))
        check_half_precision(fusion, partial(fusion, *inputs))
        check_restored(fusion, other, partial(_fuse, inputs))


def _seeded(make: Callable[[], Fitted], directory: Path, products: pl.DataFrame | None = None, seed: int = 0) -> Fitted:
    torch.manual_seed(seed)
    component = make()
    component.setup(example_products() if products is None else products, directory)
    return component


def _fuse(inputs: tuple[Tensor, ...], fusion: Fusion) -> Tensor:
    return fusion(*inputs)


def _encode(encoder: Encoder, batch: ContentBatch) -> Tensor:
    with torch.no_grad():
        return encoder(batch)


def _same_batch(a: ContentBatch, b: ContentBatch) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
