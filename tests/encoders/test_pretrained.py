"""Checkpoints that are missing, damaged, incomplete or of another kind; by a name on the hub, or in a folder."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import moonlib.compat  # noqa: F401
import pytest
import torch
from safetensors.torch import load_file, save_file

from moonlib.cli import main
from moonlib.encoders import pretrained
from moonlib.encoders.clip.encoder import CLIP
from moonlib.encoders.clip.image_tower import CLIPImage
from moonlib.encoders.clip.text_tower import CLIPText
from moonlib.encoders.dual import DualEncoder
from moonlib.encoders.encoder import Encoder
from moonlib.encoders.hf_image import HFImage
from moonlib.encoders.hf_text import HFText
from moonlib.encoders.pretrained import UnusableCheckpoint
from moonlib.encoders.timm_tower import TimmTower
from moonlib.fusion.sum import Sum
from moonlib.testing import example_products
from moonlib.testing.checkpoints import example_checkpoint

MAKERS: dict[str, Callable[[str], Encoder]] = {
    "clip": CLIP,
    "clip towers": lambda model: DualEncoder(Sum(), CLIPImage(model), CLIPText(model)),
    "hf_image": lambda model: DualEncoder(Sum(), HFImage(model)),
    "hf_text": lambda model: DualEncoder(Sum(), text=HFText(model)),
}
KEYS = {
    "clip": "model",
    "clip towers": "image.init_args.model",
    "hf_image": "image.init_args.model",
    "hf_text": "text.init_args.model",
}
KINDS = {"clip": "clip", "clip towers": "clip", "hf_image": "vit", "hf_text": "bert"}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {kind: example_checkpoint(kind, folder / kind) for kind in ("clip", "vit", "bert")}  # type: ignore[arg-type]


@pytest.fixture
def copy(originals: dict[str, str], tmp_path: Path) -> Callable[[str], Path]:
    return lambda component: Path(shutil.copytree(originals[KINDS[component]], tmp_path / "model"))


def refused(component: str, model: str | Path, folder: Path) -> str:
    """The message with which a component refuses a checkpoint; one line, with the key."""
    with pytest.raises(UnusableCheckpoint) as caught:
        MAKERS[component](str(model)).setup(example_products(), folder)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{KEYS[component]}: ") and str(model) in message
    return message


@pytest.mark.parametrize("component", MAKERS)
def test_a_name_that_is_not_there_is_told_at_once(
    component: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    asked: list[str] = []

    class Unreachable:
        def head(self, url: str, timeout: float) -> None:
            asked.append(url)
            raise ConnectionError("no network")

    pretrained._answers.cache_clear()
    monkeypatch.setattr("huggingface_hub.get_session", Unreachable)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    began = time.monotonic()
    message = refused(component, "nobody/nothing", tmp_path)
    pretrained._answers.cache_clear()
    assert asked == [constants.ENDPOINT], "the hub is asked once"
    assert time.monotonic() - began < 20, "it went on asking"  # transformers alone takes half a minute
    assert "transformers cannot load 'nobody/nothing': the hub cannot be reached" in message
    assert "hf download nobody/nothing" in message and "local folder" in message


def test_offline_by_the_variable_is_not_asked_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_session", lambda: pytest.fail("the hub was asked"))
    assert "the hub cannot be reached" in refused("hf_image", "nobody/nothing", tmp_path)


@pytest.mark.parametrize(
    ("model", "pretrained"), [("test_vit", True), ("hf-hub:nobody/nothing", True), ("hf-hub:nobody/nothing", False)]
)
def test_timms_weights_are_not_waited_for_either(model: str, pretrained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    def refuse(endpoint: str) -> bool:
        return False

    monkeypatch.setattr("moonlib.encoders.pretrained._answers", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    began = time.monotonic()
    with pytest.raises(UnusableCheckpoint, match=rf"^model: timm cannot load '{model}': the hub cannot be reached"):
        TimmTower(model, pretrained=pretrained).setup()
    assert time.monotonic() - began < 20, "it went on asking"
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize(
    ("encoder", "key"),
    [
        ({"class_path": "clip", "init_args": {"model": "nobody/nothing"}}, "encoder.init_args.model"),
        (
            {
                "class_path": "dual",
                "init_args": {
                    "fusion": "sum",
                    "image": {"class_path": "hf_image", "init_args": {"model": "nobody/nothing"}},
                },
            },
            "encoder.init_args.image.init_args.model",
        ),
    ],
)
def test_a_run_names_the_key_of_its_recipe(
    encoder: dict[str, object], key: str, data_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".data").symlink_to(data_cache)
    words = ["--encoder", json.dumps(encoder), "--data.init_args.size", "tiny", "--runs", str(tmp_path)]
    assert main(["fit", "--config", "iter1", *words]) == 2
    assert f"{key}: transformers cannot load 'nobody/nothing': the hub cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize("component", MAKERS)
@pytest.mark.parametrize("model", ["./nowhere", "/no/where", "a/b/c", "~/models"])
def test_a_folder_that_is_not_there(component: str, model: str, tmp_path: Path) -> None:
    assert f"there is no folder '{model}'" in refused(component, model, tmp_path)


@pytest.mark.parametrize("component", MAKERS)
def test_a_folder_without_a_configuration(component: str, copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy(component)
    (folder / "config.json").unlink()
    assert f"'{folder}' has no config.json, so it is without a configuration" in refused(component, folder, tmp_path)
    (folder / "config.json").write_text('{"model_type":')
    assert f"transformers cannot load '{folder}': " in refused(component, folder, tmp_path)


@pytest.mark.parametrize("component", ["clip", "clip towers", "hf_text"])
def test_a_checkpoint_without_its_tokenizer(component: str, copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy(component)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(
        UnusableCheckpoint, match=r"has no tokenizer\.json \(or .*, so it is without a tokenizer"
    ) as told:
        MAKERS[component](str(folder)).setup(example_products(), tmp_path)
    assert str(told.value).startswith("model: " if component == "clip" else "text.init_args.model: ")


@pytest.mark.parametrize("component", ["clip", "clip towers", "hf_image"])
def test_a_checkpoint_without_its_image_processor(component: str, copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy(component)
    (folder / "preprocessor_config.json").unlink()
    message = refused(component, folder, tmp_path)
    assert f"'{folder}' has no preprocessor_config.json (or processor_config.json)" in message
    assert "without an image processor; it holds config.json" in message


@pytest.mark.parametrize("component", MAKERS)
def test_pickled_weights_are_never_loaded(component: str, copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder, harm = copy(component), tmp_path / "harm"

    class Touch:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (harm,))

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weights": Touch()}))
    key = "image.init_args.model" if component == "clip towers" else KEYS[component]
    message = refused(component, folder, tmp_path)
    assert message.startswith(f"{key}: '{folder}' has no model.safetensors") and "others are never loaded" in message
    assert not harm.exists()


@pytest.mark.parametrize("component", MAKERS)
@pytest.mark.parametrize("length", [0, 5, 1000, -100])
def test_truncated_weights(component: str, length: int, copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy(component)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    assert "model.safetensors" in refused(component, folder, tmp_path)


@pytest.mark.parametrize("component", ["clip", "clip towers", "hf_image"])
def test_incomplete_weights_and_those_of_another_size(
    component: str, copy: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copy(component)
    file = folder / "model.safetensors"
    whole = load_file(file)
    name = next(name for name in whole if "mlp.fc1" in name or "intermediate" in name)
    save_file({other: value for other, value in whole.items() if other != name}, file, metadata={"format": "pt"})
    assert "lack '" in (message := refused(component, folder, tmp_path)) and "incomplete" in message
    save_file(whole | {name: torch.zeros(3)}, file, metadata={"format": "pt"})
    assert "transformers cannot load" in refused(component, folder, tmp_path)


@pytest.mark.parametrize("component", ["clip", "clip towers"])
def test_a_checkpoint_of_another_class(component: str, originals: dict[str, str], tmp_path: Path) -> None:
    message = refused(component, originals["bert"], tmp_path)
    assert "is a bert; expected a CLIP, SigLIP or SigLIP2" in message
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "siglip2"}))
    if "NaFlex" not in (message := refused(component, tmp_path, tmp_path)):
        assert "siglip2" in message  # which older versions of transformers do not know


@pytest.mark.parametrize("component", ["clip", "clip towers"])
def test_a_tokenizer_or_a_processor_of_another_checkpoint(
    component: str, copy: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copy(component)
    words = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(words | {"another": len(words)}))
    with pytest.raises(UnusableCheckpoint, match=r"the tokenizer of .* has ids up to .* they do not belong together"):
        MAKERS[component](str(folder)).setup(example_products(), tmp_path)
    file = folder / "preprocessor_config.json"
    size = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
    file.write_text(json.dumps(json.loads(file.read_text()) | size))
    message = refused(component, folder, tmp_path)
    assert "makes images of 48 pixels, and its weights are of 32: they do not belong together" in message
