from __future__ import annotations

import pickle

import moonlib.compat  # noqa: F401
import pytest
import torch

from moonlib.encoders.dual import DualEncoder
from moonlib.encoders.hf_text import HFText
from moonlib.fusion.sum import Sum
from moonlib.testing import check_encoder, check_text_tower, example_products

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "red",
    "cotton",
    "t",
    "-",
    "shirt",
    "蓝",
    "色",
    "a",
    "long",
    "title",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BERT of two layers with random weights, as a local folder."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(9)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


def ready(tmp_path, *arguments, **keywords):
    torch.manual_seed(0)
    tower = HFText(*arguments, **keywords)
    tower.setup(example_products(), tmp_path)
    return tower.eval()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("pretrained", [True, False])
def test_keeps_the_promises_of_a_text_tower(folder, pooling, pretrained):
    check_text_tower(lambda: HFText(folder, pretrained=pretrained, pooling=pooling, max_length=24))


def test_serves_a_dual_encoder(folder):
    check_encoder(lambda: DualEncoder(Sum(), text=HFText(folder), dim=8))


def test_pretrained_weights_are_those_of_the_folder_and_random_ones_are_not(folder, tmp_path):
    from transformers import AutoModel

    weights = AutoModel.from_pretrained(folder).embeddings.word_embeddings.weight
    assert torch.equal(ready(tmp_path, folder).body.embeddings.word_embeddings.weight, weights)
    assert not torch.equal(ready(tmp_path, folder, pretrained=False).body.embeddings.word_embeddings.weight, weights)


def test_dropout_is_on_in_training_and_off_afterwards(folder, tmp_path):
    tower = HFText(str(folder))
    tower.setup(example_products(), tmp_path)
    text, mask = tower.tokenize(["red cotton t-shirt"])
    assert not torch.equal(tower(text, mask), tower(text, mask))
    tower.eval()
    assert torch.equal(tower(text, mask), tower(text, mask))


def test_mean_pooling_is_the_mean_over_the_tokens(folder, tmp_path):
    tower = ready(tmp_path, folder)
    ids, mask = tower.tokenize(["red cotton", "a long title red"])
    states = tower.body(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    expected = torch.stack([row[keep].mean(dim=0) for row, keep in zip(states, mask, strict=True)])
    torch.testing.assert_close(tower(ids, mask), expected)


def test_texts_are_cut_at_the_limit(folder, tmp_path):
    tower = ready(tmp_path, folder, max_length=5)
    assert pickle.loads(pickle.dumps(tower.tokenize))(["red " * 50])[0].shape == (1, 5)


def test_a_model_that_cannot_be_had_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="transformers cannot load 'nobody/nothing': ") as caught:
        ready(tmp_path, "nobody/nothing")
    assert "\n" not in str(caught.value)
    assert "local folder" in str(caught.value)


def test_pickled_weights_are_refused(folder, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    place = tmp_path / "pickled"
    model = AutoModel.from_pretrained(folder)
    model.config.save_pretrained(place)
    AutoTokenizer.from_pretrained(folder).save_pretrained(place)
    torch.save(model.state_dict(), place / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        ready(tmp_path, str(place))
