# ruff: noqa: E402
"""The towers against open_clip itself, on small architectures with random weights: no download."""

from __future__ import annotations

import gc
import io
import json
import logging
import pickle
import sys
import weakref
from pathlib import Path
from typing import Any

import moonlib.compat
import numpy as np
import pytest
import torch
from PIL import Image

open_clip = pytest.importorskip("open_clip")

from safetensors.torch import load_file, save_file

import moonlib
from moonlib.config import recipe as recipes
from moonlib.config.typing import class_path
from moonlib.data.images import UnreadableImage
from moonlib.encoders.dual import DualEncoder
from moonlib.encoders.openclip.image_tower import OpenClipImage
from moonlib.encoders.openclip.model import build
from moonlib.encoders.openclip.text_tower import OpenClipText
from moonlib.encoders.pretrained import UnusableCheckpoint
from moonlib.fusion.sum import Sum
from moonlib.registry.moved import present_path
from moonlib.registry.registry import get
from moonlib.testing import check_encoder, check_image_tower, check_text_tower, example_jpeg, example_products

SMALL = str(Path(__file__).with_name("small.json"))
TEXTS = ["red cotton t-shirt", "蓝色 马克杯", "wow!!! !", "a long title with a great many words " * 5, "x"]
VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "clip": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT},
    "resnet": {"embed_dim": 24, "vision_cfg": VISION | {"layers": [1, 1, 1, 1], "width": 8}, "text_cfg": TEXT},
    "timm": {
        "embed_dim": 24,
        "vision_cfg": {"timm_model_name": "test_vit", "timm_model_pretrained": True, "image_size": 32},
        "text_cfg": TEXT,
    },
    "bidirectional": {  # as SigLIP: sees the whole text at once, padding too, and reads its output off the last place
        "embed_dim": 24,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": VISION,
        "text_cfg": TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
    "coca": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": VISION | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": TEXT | {"attn_pooler_heads": 2},
    },
}


def save(folder: Path, name: str, config: dict[str, Any]) -> str:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config))
    return str(path)


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return save(tmp_path, f"test-{request.param}", ARCHITECTURES[request.param])


def save_weights(path: Path, model: str, seed: int = 7) -> Path:
    """Weights of open_clip's own model of this architecture, as it would publish them."""
    open_clip.add_model_config(model)
    torch.manual_seed(seed)
    weights = open_clip.create_model(Path(model).stem, pretrained_text=False).state_dict()
    weights = {name: value.contiguous().clone() for name, value in weights.items()}
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    return path


def image_tower(*arguments: Any) -> OpenClipImage:
    torch.manual_seed(0)
    tower = OpenClipImage(*arguments)
    tower.setup()
    return tower.eval()


def text_tower(folder: Path, *arguments: Any) -> OpenClipText:
    torch.manual_seed(0)
    tower = OpenClipText(*arguments)
    tower.setup(example_products(), folder)
    return tower.eval()


def picture(kind: str, width: int, height: int) -> bytes:
    data = io.BytesIO()
    noise = np.random.default_rng(3).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(data, kind)
    return data.getvalue()


def test_images_keep_the_promises_of_a_tower(model: str) -> None:
    check_image_tower(lambda: OpenClipImage(model))


def test_texts_keep_the_promises_of_a_tower(model: str) -> None:
    check_text_tower(lambda: OpenClipText(model))


def test_both_serve_a_dual_encoder() -> None:
    check_encoder(lambda: DualEncoder(Sum(), OpenClipImage(SMALL), OpenClipText(SMALL), dim=8))


def test_images_are_encoded_as_open_clip_does(model: str, tmp_path: Path) -> None:
    weights = save_weights(tmp_path / "weights.safetensors", model)
    reference, _, preprocess = open_clip.create_model_and_transforms(Path(model).stem, str(weights))
    tower = image_tower(model, str(weights))
    data = [picture("PNG", 90, 61), example_jpeg(1, width=200, height=77), picture("JPEG", 20, 24)]
    with torch.no_grad():
        expected = reference.eval().encode_image(
            torch.stack([preprocess(Image.open(io.BytesIO(one))) for one in data]), normalize=True
        )
        found = torch.nn.functional.normalize(tower(torch.stack([tower.load_image(one) for one in data])), dim=-1)
    assert found.shape == (3, tower.out_features) == (3, 24)
    # Pillow and moonlib's own JPEG decoder may differ by one of 255 levels in a pixel; everything after is float32.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-5)  # PNG is exact


def test_texts_are_encoded_as_open_clip_does(model: str, tmp_path: Path) -> None:
    weights = save_weights(tmp_path / "weights.safetensors", model)
    reference = open_clip.create_model(Path(model).stem, str(weights)).eval()
    tower = text_tower(tmp_path, model, str(weights))
    with torch.no_grad():
        expected = reference.encode_text(open_clip.get_tokenizer(Path(model).stem)(TEXTS), normalize=True)
        found = torch.nn.functional.normalize(tower(*tower.tokenize(TEXTS)), dim=-1)
        short = torch.nn.functional.normalize(tower(*tower.tokenize(TEXTS[-1:])), dim=-1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(short, expected[-1:])


@pytest.mark.parametrize("mode", ["squash", "shortest", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(91, 40), (40, 91), (20, 9), (32, 32)], ids=str)
def test_a_published_model_is_resized_and_normalised_as_it_says(
    mode: str, interpolation: str, size: tuple[int, int], tmp_path: Path
) -> None:
    config = {
        "model_cfg": ARCHITECTURES["clip"],
        "preprocess_cfg": {
            "mean": [0.5, 0.4, 0.3],
            "std": [0.2, 0.3, 0.4],
            "interpolation": interpolation,
            "resize_mode": mode,
            "fill_color": 9,
        },
    }
    save(tmp_path, "open_clip_config", config)
    save_weights(tmp_path / "open_clip_model.safetensors", save(tmp_path, "test-clip", ARCHITECTURES["clip"]))
    reference, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    tower = image_tower(f"local-dir:{tmp_path}")
    data = picture("PNG", *size)
    expected = preprocess(Image.open(io.BytesIO(data)))[None]
    image = tower.load_image(data)[None]
    # To 255 levels and back is a rounding error of float32, not of uint8: open_clip resizes in uint8 too.
    torch.testing.assert_close((image - tower.mean) / tower.std, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(tower(image), reference.eval().encode_image(expected), rtol=1e-4, atol=1e-5)


def test_both_towers_get_the_weights_of_the_same_model(tmp_path: Path) -> None:
    weights = str(save_weights(tmp_path / "weights.safetensors", SMALL))
    reference = open_clip.create_model("small", weights, force_custom_text=True)
    for tower, half in ((image_tower(SMALL, weights), "visual"), (text_tower(tmp_path, SMALL, weights), "text")):
        expected = getattr(reference, half).state_dict()
        found = tower.body.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)


def test_without_weights_they_are_random_and_follow_the_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import timm

    asked = []
    original = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda *names, **rest: asked.append(rest["pretrained"]) or original(*names, **rest)
    )
    model = save(tmp_path, "test-timm", ARCHITECTURES["timm"])  # its configuration asks for ImageNet's weights
    first, again = image_tower(model).state_dict(), image_tower(model).state_dict()
    assert asked == [False, False]
    assert all(torch.equal(first[name], again[name]) for name in first)
    torch.manual_seed(1)
    other = OpenClipImage(model)
    other.setup()
    assert not all(torch.equal(first[name], value) for name, value in other.state_dict().items())


def test_a_tower_keeps_its_half_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    halves: dict[str, weakref.ref[torch.nn.Module]] = {}
    original = open_clip.create_model

    def create_model(*names: Any, **rest: Any) -> Any:
        whole = original(*names, **rest)
        halves.update(visual=weakref.ref(whole.visual), text=weakref.ref(whole.text))
        return whole

    monkeypatch.setattr(open_clip, "create_model", create_model)
    image = image_tower(SMALL)
    gc.collect()
    assert halves["text"]() is None and halves["visual"]() is image.body
    text = text_tower(tmp_path, SMALL)
    gc.collect()
    assert halves["visual"]() is None and halves["text"]() is text.body


def test_a_title_costs_its_own_length_where_the_model_looks_back(tmp_path: Path) -> None:
    tower = text_tower(tmp_path, SMALL)
    ids, mask = tower.tokenize(["red mug", " "])
    assert ids.shape == (2, 4) and mask.tolist() == [[True] * 4, [False] * 4]  # start, red, mug, end
    seen = []
    tower.body.transformer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    tower(ids, mask)
    assert seen == [4]


def test_no_texts_at_all(tmp_path: Path) -> None:
    ids, mask = text_tower(tmp_path, SMALL).tokenize([])
    assert ids.shape == mask.shape == (0, 1)


def test_a_loader_worker_needs_no_weights(tmp_path: Path) -> None:
    assert b"_rebuild_tensor" not in pickle.dumps(image_tower(SMALL).load_image)
    assert b"_rebuild_tensor" not in pickle.dumps(text_tower(tmp_path, SMALL).tokenize)


def test_an_unreadable_image_says_so() -> None:
    with pytest.raises(UnreadableImage):
        image_tower(SMALL).load_image(b"no image")


@pytest.fixture
def bert(tmp_path: Path) -> str:
    """A tokenizer and a BERT of two layers with random weights, in a folder."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path / "bert"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "cotton", "蓝", "色", "x", "a", "long"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("pooler", ["mean_pooler", "cls_pooler"])
def test_a_text_model_of_transformers_with_its_tokenizer(pooler: str, bert: str, tmp_path: Path) -> None:
    text = {"hf_model_name": bert, "hf_tokenizer_name": bert, "hf_pooler_type": pooler, "context_length": 12}
    model = save(tmp_path, "test-bert", {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": text})
    check_text_tower(lambda: OpenClipText(model))
    weights = str(save_weights(tmp_path / "weights.safetensors", model))
    tower = text_tower(tmp_path, model, weights)
    reference = open_clip.create_model("test-bert", weights).eval()
    with torch.no_grad():
        expected = reference.encode_text(open_clip.get_tokenizer("test-bert")(TEXTS))
        torch.testing.assert_close(tower(*tower.tokenize(TEXTS)), expected)


def test_code_from_the_hub_is_not_run(tmp_path: Path) -> None:
    text = TEXT | {"tokenizer_kwargs": {"trust_remote_code": True}}
    model = save(tmp_path, "test-code", ARCHITECTURES["clip"] | {"text_cfg": text})
    with pytest.raises(ValueError, match="wants code from the hub to be run"):
        text_tower(tmp_path, model)


def test_a_checkpoint_of_tensors_is_read(tmp_path: Path) -> None:
    plain = save_weights(tmp_path / "weights.pt", SMALL)
    safe = save_weights(tmp_path / "weights.safetensors", SMALL)
    one, other = image_tower(SMALL, str(plain)).state_dict(), image_tower(SMALL, str(safe)).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


class Touch:
    """Unpickled without care, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


class TouchAfterConfusion(Touch):
    """The same, but what is unpickled first makes torch's careful reader stumble over a `TypeError`."""

    def __reduce__(self) -> Any:
        return (torch.Size, (7, Touch(self.path)))


@pytest.mark.parametrize("kind", [Touch, TouchAfterConfusion])
@pytest.mark.parametrize("ending", ["pt", "bin", "safetensors", "npz", "npy"])
def test_a_malicious_pickle_is_refused(kind: type[Touch], ending: str, tmp_path: Path) -> None:
    harm, path = tmp_path / "harm", tmp_path / f"weights.{ending}"
    torch.save({"state_dict": kind(harm)}, path) if ending in ("pt", "bin") else path.write_bytes(
        pickle.dumps(kind(harm))
    )
    with pytest.raises(ValueError, match=rf"cannot load '.*weights\.{ending}' as weights of .*small\.json'") as caught:
        image_tower(SMALL, str(path))
    assert "\n" not in str(caught.value)
    assert not harm.exists()


def test_weights_of_another_architecture_are_refused_in_one_line(tmp_path: Path) -> None:
    weights = save_weights(tmp_path / "weights.safetensors", SMALL)
    with pytest.raises(ValueError, match=r"test-clip\.json': text pos_embed width changed") as caught:
        image_tower(save(tmp_path, "test-clip", ARCHITECTURES["clip"]), str(weights))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vit-b/32"], r"no model 'vit-b/32'; did you mean ViT-B-32"),
        (["zzz"], r"no model 'zzz'; open_clip.list_models\(\) lists the names"),
        (["ViT-B-32", "laion2b_s34b_b79"], r"neither a file nor a tag of 'ViT-B-32'; its tags: laion2b_s34b_b79k"),
        (["/nowhere/small.json"], r"/nowhere/small\.json is not the configuration of a model: .*No such file"),
        (["local-dir:/nowhere"], "cannot read 'local-dir:/nowhere': .*No such file"),
        (["hf-hub:a/b", "openai"], "cannot read 'hf-hub:a/b'"),
    ],
)
def test_what_cannot_be_had_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        image_tower(*arguments)
    assert "\n" not in str(caught.value)


def test_a_published_model_takes_no_other_weights(tmp_path: Path) -> None:
    save(tmp_path, "open_clip_config", {"model_cfg": ARCHITECTURES["clip"], "preprocess_cfg": {}})
    with pytest.raises(ValueError, match="comes with its weights; leave out pretrained"):
        image_tower(f"local-dir:{tmp_path}", "openai")
    with pytest.raises(ValueError, match="cannot load 'local-dir:"):  # and here they are missing
        image_tower(f"local-dir:{tmp_path}")


def test_a_file_that_is_no_architecture_or_takes_a_models_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it lacks text_cfg, vision_cfg"):
        image_tower(save(tmp_path, "half", {"embed_dim": 3}))
    with pytest.raises(ValueError, match="open_clip has a model 'ViT-B-32'; give the file another name"):
        image_tower(save(tmp_path, "ViT-B-32", ARCHITECTURES["clip"]))


def test_weights_from_the_hub_bring_their_normalisation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save(tmp_path, "open_clip_config", {"preprocess_cfg": {"mean": [0.1] * 3, "resize_mode": "squash"}})
    weights = save_weights(tmp_path / "open_clip_model.safetensors", SMALL)

    def download(repository: str, filename: str = "open_clip_model.safetensors") -> str:
        assert repository == "owner/name"
        return str(tmp_path / filename)

    monkeypatch.setattr("open_clip.pretrained.download_pretrained_from_hf", download)
    tower = image_tower(SMALL, "hf-hub:owner/name")
    assert torch.equal(tower.mean, 255 * torch.tensor([0.1] * 3).view(3, 1, 1))
    expected = build(SMALL, str(weights)).visual.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in tower.body.state_dict().items())


def test_a_tokenizer_that_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    text = TEXT | {"hf_tokenizer_name": "nobody/nothing"}
    model = save(tmp_path, "test-nobody", ARCHITECTURES["clip"] | {"text_cfg": text})
    with pytest.raises(ValueError, match=r"cannot get the tokenizer of '.*test-nobody\.json': ") as caught:
        text_tower(tmp_path, model)
    assert "\n" not in str(caught.value)


def test_the_log_of_open_clip_stays_its_own(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    handlers = list(logging.getLogger().handlers)
    text_tower(tmp_path, SMALL)
    assert not caplog.records and logging.getLogger().handlers == handlers
    logging.warning("others are heard")
    assert len(caplog.records) == 1


def test_the_published_recipe_takes_both_halves_of_one_model() -> None:
    encoder = recipes.load("pretrained/openclip").encoder()  # makes no weights: nothing is downloaded
    assert isinstance(encoder, DualEncoder)
    for tower, kind in ((encoder.image, OpenClipImage), (encoder.text, OpenClipText)):
        assert isinstance(tower, kind)
        assert tower.pretrained in open_clip.list_pretrained_tags_by_model(tower.model)


def test_it_trains(tmp_path: Path) -> None:
    words = ["--data.init_args.size", "tiny"]
    for stage in ("pretrain", "posttrain"):
        words += [f"--stages.{stage}.trainer.max_steps", "3", f"--stages.{stage}.data.batch_size", "16"]
    for tower in ("image", "text"):
        arguments = {"model": SMALL, "pretrained": "null"}
        words += [w for key, to in arguments.items() for w in (f"--encoder.init_args.{tower}.init_args.{key}", to)]
    run = moonlib.fit("pretrained/openclip", words, runs=tmp_path / "runs")
    results = json.loads((run / "results.json").read_text())
    assert 0 <= results["image_search/recall@10"] <= 1 and 0 <= results["ctr/auc"] <= 1
    trained, untrained = (load_file(run / stage / "weights.safetensors") for stage in ("posttrain", "pretrain"))
    names = {name.split(".")[0] for name, value in trained.items() if not torch.equal(value, untrained[name])}
    assert {"image", "text", "fusion"} <= names


@pytest.mark.parametrize("make", [image_tower, lambda model: text_tower(Path(), model)])
def test_without_open_clip_the_extra_is_named(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ValueError, match=r"pip install 'moonlib-embedding\[openclip\]'"):
        make(SMALL)


def test_a_run_of_the_plugin_before_is_read_by_its_class_paths() -> None:
    assert present_path("moonlib_openclip.image_tower.OpenClipImage") == class_path(OpenClipImage)
    assert present_path("moonlib_openclip.text_tower.OpenClipText") == class_path(OpenClipText)


def test_weights_on_the_hub_are_not_waited_for_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    def nothing() -> Any:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.get_session", nothing)
    assert constants.HF_HUB_OFFLINE
    with pytest.raises(UnusableCheckpoint, match=r"^pretrained: .*laion2b_s34b_b79k.*: the hub cannot be reached"):
        image_tower("ViT-B-32", "laion2b_s34b_b79k")
    image_tower(SMALL)


def test_its_names_are_those_of_the_plugin_before() -> None:
    assert get("image_towers", "openclip") is OpenClipImage
    assert get("text_towers", "openclip") is OpenClipText
