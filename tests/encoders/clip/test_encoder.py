"""CLIP, SigLIP and SigLIP2 against transformers itself, on small checkpoints with random weights: no download."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from moonlib.data.content import Content
from moonlib.encoders.clip.encoder import CLIP
from moonlib.encoders.clip.image_tower import CLIPImage
from moonlib.encoders.clip.text_tower import CLIPText
from moonlib.fusion.gated import Gated
from moonlib.testing import check_encoder, check_image_tower, check_text_tower, example_products
from moonlib.testing.checkpoints import Checkpoint, example_checkpoint
from moonlib.testing.processes import run_program

KINDS: tuple[Checkpoint, ...] = ("clip", "siglip", "siglip2")
TEXTS = ["red mug", "a red, red mug!", "wow", "a long title of many words " * 12, "x"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Checkpoint], str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    made: dict[str, str] = {}

    def make(kind: Checkpoint) -> str:
        return made.setdefault(kind, "") or made.update({kind: example_checkpoint(kind, folder / kind)}) or made[kind]

    return make


def pixels(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def vectors(output: Any) -> Tensor:
    """Of ``get_..._features``, which returns the vectors or an object that has them, by the version."""
    return output if isinstance(output, Tensor) else output.pooler_output


def ready(tower: Any, folder: Path) -> Any:
    torch.manual_seed(0)
    tower.setup(*(() if isinstance(tower, CLIPImage) else (example_products(), folder)))
    return tower.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_texts_are_encoded_as_transformers_does(
    kind: Checkpoint, checkpoint: Callable[[Checkpoint], str], tmp_path: Path
) -> None:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = checkpoint(kind)
    reference = AutoModel.from_pretrained(model).eval()
    image, text = ready(CLIPImage(model), tmp_path), ready(CLIPText(model), tmp_path)
    pictures = [pixels(90, 61), pixels(40, 91, 1), pixels(32, 32, 2), pixels(20, 24, 3)]
    processor, tokenizer = AutoImageProcessor.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    with torch.no_grad():
        expected = vectors(reference.get_image_features(**processor(images=pictures, return_tensors="pt")))
        found = image(torch.stack([image.load_image(png(picture)) for picture in pictures]))
        assert found.shape == (4, image.out_features) == (4, 24 if kind == "clip" else 32)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        padding = {"padding": True} if kind == "clip" else {"padding": "max_length", "max_length": 64}
        tokens = tokenizer(TEXTS, truncation=True, return_tensors="pt", **padding)
        if kind != "clip":
            tokens = {"input_ids": tokens["input_ids"]}  # they were trained without a mask
        expected = vectors(reference.get_text_features(**tokens))
        found = text(*text.tokenize(TEXTS))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert (expected[0] - expected[1]).abs().max() > 1e-3  # the texts do differ
        torch.testing.assert_close(text(*text.tokenize(TEXTS[-1:])), expected[-1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_before_training_it_ranks_as_the_checkpoint_does(
    kind: Checkpoint, checkpoint: Callable[[Checkpoint], str], tmp_path: Path
) -> None:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = checkpoint(kind)
    encoder = ready(CLIP(model), tmp_path)
    pictures = [pixels(64, 48, seed) for seed in range(5)]
    inputs = AutoImageProcessor.from_pretrained(model)(images=pictures, return_tensors="pt")
    padding = {"padding": True} if kind == "clip" else {"padding": "max_length", "max_length": 64}
    tokens = AutoTokenizer.from_pretrained(model)(TEXTS, truncation=True, return_tensors="pt", **padding)
    with torch.no_grad():
        expected = AutoModel.from_pretrained(model).eval()(input_ids=tokens["input_ids"], **inputs).logits_per_image
        images = encoder(encoder.preprocessor([Content(png(picture), None) for picture in pictures], "product"))
        texts = encoder(encoder.preprocessor([Content(None, text) for text in TEXTS], "query"))
    assert encoder.dim == images.shape[1] == (24 if kind == "clip" else 32)
    scale, bias = encoder.logit_scale()
    torch.testing.assert_close(images @ texts.T * scale + bias, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_towers_and_the_encoder_keep_their_promises(
    kind: Checkpoint, checkpoint: Callable[[Checkpoint], str]
) -> None:
    model = checkpoint(kind)
    check_image_tower(lambda: CLIPImage(model))
    check_text_tower(lambda: CLIPText(model, pretrained=False))
    check_encoder(lambda: CLIP(model))
    check_encoder(lambda: CLIP(model, pretrained=False, fusion=Gated(), dim=8, crop=["full", "box"]))


def test_siglip2_reads_texts_in_lower_case(checkpoint: Callable[[Checkpoint], str], tmp_path: Path) -> None:
    tower = ready(CLIPText(checkpoint("siglip2")), tmp_path)
    assert torch.equal(tower.tokenize(["Red MUG"])[0], tower.tokenize(["red mug"])[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moonlib.encoders.clip.text_tower.lower_case", lambda tokenizer: None)
        as_it_comes = ready(CLIPText(checkpoint("siglip2")), tmp_path)
    assert not torch.equal(as_it_comes.tokenize(["Red MUG"])[0], tower.tokenize(["Red MUG"])[0])


def test_siglip2s_own_tokenizer_gives_the_same_tokens(checkpoint: Callable[[Checkpoint], str], tmp_path: Path) -> None:
    """That of newer versions of transformers, which writes lower case by itself."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Siglip2Tokenizer"):
        pytest.skip("this version of transformers has none")
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("siglip2"), folder)
    reference = transformers.Siglip2Tokenizer.from_pretrained(folder, padding_side="right")
    ids, mask = ready(CLIPText(str(folder)), tmp_path).tokenize(["Red MUG", "ÄÖ İ"])
    expected = reference(["Red MUG", "ÄÖ İ"], padding="max_length", max_length=64, return_tensors="pt")
    assert torch.equal(ids, expected["input_ids"]) and torch.equal(mask, expected["attention_mask"].bool())


SIGLIPS_TOKENIZER = """
import sys
from pathlib import Path

import torch
from sentencepiece import SentencePieceTrainer
from transformers import SiglipTokenizer

from moonlib.encoders.clip.text_tower import CLIPText
from moonlib.testing import check_text_tower, example_products

folder, scratch = map(Path, sys.argv[1:])
corpus = scratch / "corpus.txt"
corpus.write_text("\\n".join(["red mug", "a blue mug", "cotton shirt, long", "wow", "title of many words"] * 20))
SentencePieceTrainer.Train(
    input=str(corpus), model_prefix=str(scratch / "spiece"), vocab_size=60, hard_vocab_limit=False
)
SiglipTokenizer(str(scratch / "spiece.model")).save_pretrained(folder)
tower = CLIPText(str(folder))
tower.setup(example_products(), scratch)
tower.eval()
reference = SiglipTokenizer.from_pretrained(folder)
texts = ["Red MUG!", "a long title of many words"]
ids, mask = tower.tokenize(texts)
expected = reference(texts, padding="max_length", max_length=64, return_tensors="pt", return_attention_mask=True)
assert torch.equal(ids, expected["input_ids"]) and torch.equal(mask, expected["attention_mask"].bool())
assert torch.equal(ids[:1], tower.tokenize(["red mug"])[0])
check_text_tower(lambda: CLIPText(str(folder)))
"""


def test_siglips_own_tokenizer_is_read(checkpoint: Callable[[Checkpoint], str], tmp_path: Path) -> None:
    """In a process of its own: sentencepiece writes much to the standard error."""
    pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("siglip"), folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (tmp_path / "scratch").mkdir()
    done = run_program(["-c", SIGLIPS_TOKENIZER, folder, tmp_path / "scratch"])
    assert done.returncode == 0, done.stderr


def test_weights_are_the_checkpoints_and_random_ones_follow_the_seed(
    checkpoint: Callable[[Checkpoint], str], tmp_path: Path
) -> None:
    model = checkpoint("clip")
    published, random = ready(CLIP(model), tmp_path), ready(CLIP(model, pretrained=False), tmp_path)
    again = ready(CLIP(model, pretrained=False), tmp_path)
    name = "text.body.embeddings.token_embedding.weight"
    name = name if name in dict(published.named_parameters()) else next(n for n, _ in published.named_parameters())
    assert not torch.equal(published.get_parameter(name), random.get_parameter(name))
    assert torch.equal(random.get_parameter(name), again.get_parameter(name))


def test_a_half_precision_checkpoint_is_trained_in_float32(
    checkpoint: Callable[[Checkpoint], str], tmp_path: Path
) -> None:
    from transformers import AutoModel

    folder = tmp_path / "half"
    shutil.copytree(checkpoint("clip"), folder)
    AutoModel.from_pretrained(folder).half().save_pretrained(folder)
    assert {p.dtype for p in ready(CLIP(str(folder)), tmp_path).parameters()} == {torch.float32}


def test_learning_rates_name_its_parameters(checkpoint: Callable[[Checkpoint], str], tmp_path: Path) -> None:
    encoder = ready(CLIP(checkpoint("siglip"), learning_rates={"^image": 0.0, "^text": 0.1}), tmp_path)
    assert not any(p.requires_grad for p in encoder.image.parameters())
    assert all(p.requires_grad for p in encoder.text.parameters())


def test_other_widths_need_a_fusion_that_projects(checkpoint: Callable[[Checkpoint], str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"without a projection needs vectors of one width: image 24, text 24, .*8"):
        ready(CLIP(checkpoint("clip"), dim=8), tmp_path)
    with pytest.raises(ValueError, match="image 48, text 24"):
        ready(CLIP(checkpoint("clip"), crop=["full", "box"]), tmp_path)
