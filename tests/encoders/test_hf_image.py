"""Vision models of transformers as towers, on small checkpoints with random weights: no download."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import numpy as np
import pytest
import torch
from PIL import Image

from moonlib.data.images import UnreadableImage
from moonlib.encoders.dual import DualEncoder
from moonlib.encoders.hf_image import HFImage
from moonlib.encoders.pretrained import UnusableCheckpoint
from moonlib.fusion.sum import Sum
from moonlib.testing import check_encoder, check_image_tower
from moonlib.testing.checkpoints import Checkpoint, example_checkpoint

POOLINGS: list[tuple[Checkpoint, str]] = [
    *((kind, pooling) for kind in ("dinov2", "vit") for pooling in ("cls", "mean", "pooler")),
    ("convnext", "mean"),
    ("convnext", "pooler"),
]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    kinds: tuple[Checkpoint, ...] = ("dinov2", "vit", "convnext", "clip", "bert")
    return {kind: example_checkpoint(kind, folder / kind) for kind in kinds}


def ready(*arguments: Any, **keywords: Any) -> HFImage:
    torch.manual_seed(0)
    tower = HFImage(*arguments, **keywords)
    tower.setup()
    return tower.eval()


def picture(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(3).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize(("kind", "pooling"), POOLINGS)
def test_images_are_encoded_as_transformers_does(kind: str, pooling: str, checkpoints: dict[str, str]) -> None:
    from transformers import AutoImageProcessor, AutoModel

    model = checkpoints[kind]
    tower = ready(model, pooling=pooling)
    pictures = [picture(90, 61), picture(40, 91), picture(32, 32), picture(20, 24)]
    inputs = AutoImageProcessor.from_pretrained(model)(images=pictures, return_tensors="pt")
    with torch.no_grad():
        output = AutoModel.from_pretrained(model).eval()(**inputs)
        found = tower(torch.stack([tower.load_image(png(one)) for one in pictures]))
    states = output.last_hidden_state
    expected = {
        "cls": states[:, 0],
        "mean": states.mean(dim=(2, 3)) if kind == "convnext" else states[:, 1:].mean(dim=1),
        "pooler": output.pooler_output,
    }[pooling]
    assert found.shape == (4, tower.out_features) == (4, 32)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "pooling"), POOLINGS)
def test_keeps_the_promises_of_a_tower(kind: str, pooling: str, checkpoints: dict[str, str]) -> None:
    check_image_tower(lambda: HFImage(checkpoints[kind], pretrained=kind == "vit", pooling=pooling))  # type: ignore[arg-type]


def test_serves_a_dual_encoder(checkpoints: dict[str, str]) -> None:
    check_encoder(lambda: DualEncoder(Sum(), image=HFImage(checkpoints["dinov2"]), dim=8, crop=["full", "box"]))


def test_registers_are_no_patches(tmp_path: Path, checkpoints: dict[str, str]) -> None:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Dinov2WithRegistersModel"):
        pytest.skip("this version of transformers has none")
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8, num_register_tokens=3
    )
    model = transformers.Dinov2WithRegistersModel(config)
    model.save_pretrained(tmp_path)
    shutil.copy(Path(checkpoints["dinov2"]) / "preprocessor_config.json", tmp_path)
    tower = ready(str(tmp_path), pooling="mean")
    image = tower.load_image(png(picture(90, 61)))[None]
    states = model.eval()(pixel_values=(image - tower.mean) / tower.std).last_hidden_state
    assert states.shape[1] == 1 + 3 + 16
    torch.testing.assert_close(tower(image), states[:, 4:].mean(dim=1), rtol=1e-5, atol=1e-5)


def test_a_classifiers_checkpoint_is_read_without_its_head(tmp_path: Path, checkpoints: dict[str, str]) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    shutil.copytree(checkpoints["vit"], tmp_path, dirs_exist_ok=True)
    classifier = ViTForImageClassification(ViTConfig.from_pretrained(tmp_path))
    classifier.save_pretrained(tmp_path)
    weights, published = ready(str(tmp_path)).body.state_dict(), classifier.vit.state_dict()
    assert published and all(torch.equal(weights[name], value) for name, value in published.items())
    with pytest.raises(UnusableCheckpoint, match=r"^model: the weights of .* lack 'pooler\.dense\.bias' and 1 more"):
        ready(str(tmp_path), pooling="pooler")


def test_an_unreadable_image_says_so(checkpoints: dict[str, str]) -> None:
    with pytest.raises(UnreadableImage):
        ready(checkpoints["vit"]).load_image(b"no image")


@pytest.mark.parametrize(
    ("kind", "pooling", "message"),
    [
        ("convnext", "cls", r"^pooling: '.*convnext' has no first token of its own; choose mean or pooler"),
        ("clip", "cls", r"^model: '.*clip' is a clip, a model of images and text; the tower `clip` reads"),
        (
            "bert",
            "cls",
            r"^model: '.*bert' has no preprocessor_config\.json .*an image processor; it holds config",
        ),
    ],
)
def test_a_model_of_another_kind_is_one_line(
    kind: str, pooling: str, message: str, checkpoints: dict[str, str]
) -> None:
    with pytest.raises(UnusableCheckpoint, match=message) as caught:
        ready(checkpoints[kind], pooling=pooling)
    assert "\n" not in str(caught.value)


def test_a_model_that_masks_at_random_is_refused(tmp_path: Path, checkpoints: dict[str, str]) -> None:
    from transformers import ViTMAEConfig, ViTMAEModel

    config = ViTMAEConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    ViTMAEModel(config).save_pretrained(tmp_path)
    shutil.copy(Path(checkpoints["vit"]) / "preprocessor_config.json", tmp_path)
    with pytest.raises(UnusableCheckpoint, match="encodes one image differently each time"):
        ready(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_resize": False}, "makes images of .* and .*; expected one square size"),
        ({"size": {"height": 32, "width": 24}}, r"makes images of \(3, 32, 24\); expected one square size"),
        ({"image_processor_type": "Idefics2ImageProcessor"}, "does not make one square picture of an image"),
        ({"image_processor_type": "NoSuchImageProcessor"}, "transformers cannot load"),
    ],
)
def test_an_image_processor_that_cannot_be_followed_is_one_line(
    change: dict[str, Any], message: str, tmp_path: Path, checkpoints: dict[str, str]
) -> None:
    shutil.copytree(checkpoints["vit"], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UnusableCheckpoint, match=f"^model: .*{message}") as caught:
        ready(str(tmp_path))
    assert "\n" not in str(caught.value)
