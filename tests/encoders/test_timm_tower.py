from __future__ import annotations

import pytest
import torch

from moonlib.encoders.timm_tower import TimmTower
from moonlib.testing import check_image_tower


def ready(*arguments, **keywords):
    torch.manual_seed(0)
    tower = TimmTower(*arguments, **keywords)
    tower.setup()
    return tower


@pytest.mark.parametrize("model", ["test_vit", "test_convnext"])
def test_keeps_the_promises_of_an_image_tower(model):
    check_image_tower(lambda: TimmTower(model, image_size=32))


def test_without_a_size_the_model_says_it():
    assert ready("test_vit").image_size == 160


def test_normalises_as_the_model_was_trained():
    tower = ready("test_vit", image_size=32).eval()
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = tower.body((image / 255 - 0.5) / 0.5)  # ViTs of timm: mean and std .5
    torch.testing.assert_close(tower(image), expected)


def test_pretrained_asks_timm_for_its_weights(monkeypatch):
    import timm

    asked = {}
    original = timm.create_model

    def create_model(name, pretrained, **arguments):
        asked.update(arguments, name=name, pretrained=pretrained)
        return original(name, **arguments)

    monkeypatch.setattr(timm, "create_model", create_model)
    ready("test_vit", pretrained=True)
    assert asked == {"name": "test_vit", "pretrained": True, "num_classes": 0}


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_a_checkpoint_with_its_classifier_is_loaded_without_it(tmp_path, ending):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(5)
    weights = timm.create_model("test_vit", num_classes=7, img_size=32).state_dict()
    path = tmp_path / f"weights.{ending}"
    save_file(weights, path) if ending == "safetensors" else torch.save(weights, path)
    loaded = ready("test_vit", image_size=32, checkpoint=path).body.state_dict()
    assert loaded.keys() == weights.keys() - {"head.weight", "head.bias"}
    assert all(torch.equal(loaded[name], weights[name]) for name in loaded)


def test_a_checkpoint_of_another_model_is_refused_in_one_line(tmp_path):
    import timm

    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_convnext").state_dict(), path)
    with pytest.raises(ValueError, match=r"weights\.pth does not fit timm's 'test_vit': Missing key") as caught:
        ready("test_vit", image_size=32, checkpoint=path)
    assert "\n" not in str(caught.value)


def test_an_unknown_model_is_answered_with_close_names():
    with pytest.raises(ValueError, match=r"no model 'resnet_18'; did you mean .*resnet18"):
        ready("resnet_18")
