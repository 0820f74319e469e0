from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from moonlib.encoders.ngram_tokenizer import buckets_of
from moonlib.encoders.ngrams import Ngrams, NgramTokenize
from moonlib.encoders.tokenizer import catalogue_texts
from moonlib.testing import check_text_tower, example_products


def ready(directory: Path, **arguments: object) -> Ngrams:
    torch.manual_seed(0)
    tower = Ngrams(**{"buckets": 500, "width": 16} | arguments)  # type: ignore[arg-type]
    tower.setup(example_products(), directory)
    return tower.eval()


@pytest.mark.parametrize("arguments", [{}, {"n": [], "buckets": 64, "dropout": 0.0}, {"n": [2, 3], "max_features": 8}])
def test_keeps_the_promises_of_a_text_tower(arguments: dict[str, object]) -> None:
    check_text_tower(lambda: Ngrams(**{"buckets": 500, "width": 16} | arguments))  # type: ignore[arg-type]


def test_weights_start_at_the_inverse_document_frequency(tmp_path: Path) -> None:
    tower = ready(tmp_path, n=[])
    texts = catalogue_texts(example_products())
    for bucket in range(500):
        there = sum(bucket in buckets_of(text, [], 500, 256) for text in texts)
        expected = max(0.2, math.log(len(texts) / max(1, there)))
        assert tower.weights[bucket].item() == pytest.approx(expected)
    everywhere, never = buckets_of("goods", [], 500, 256)[0], buckets_of("zeppelin", [], 500, 256)[0]
    assert tower.weights[everywhere].item() == pytest.approx(0.2)
    assert tower.weights[never].item() == pytest.approx(math.log(len(texts)))


def test_no_products_give_finite_weights(tmp_path: Path) -> None:
    tower = Ngrams(buckets=10, width=4)
    tower.setup(example_products()[:0], tmp_path)
    assert tower.weights.tolist() == pytest.approx([0.2] * 10)


def test_counts_are_kept_and_read_again(tmp_path: Path) -> None:
    before = ready(tmp_path / "new").weights
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["ngrams.safetensors"]
    again = Ngrams(buckets=500, width=16)
    again.setup(example_products()[:1], tmp_path / "new")
    assert torch.equal(again.weights, before)
    assert not again.extend(example_products(), tmp_path / "new")


def test_counts_of_something_else_are_refused(tmp_path: Path) -> None:
    ready(tmp_path)
    with pytest.raises(ValueError, match=r"ngrams\.safetensors counts 500 buckets, and `buckets` is 501; remove it"):
        Ngrams(buckets=501).setup(example_products(), tmp_path)
    file = tmp_path / "ngrams.safetensors"
    save_file({"products": load_file(file)["products"]}, file)
    with pytest.raises(ValueError, match=r"ngrams\.safetensors holds no counts of n-grams \('products_with'\)"):
        ready(tmp_path)
    file.write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"ngrams\.safetensors holds no counts of n-grams"):
        ready(tmp_path)


def test_the_output_is_the_weighted_sum_of_the_embeddings_at_length_4(tmp_path: Path) -> None:
    tower = ready(tmp_path)
    texts = ["red mug", "blue 蓝色 lamp, new"]
    output = tower(*tower.tokenize(texts))
    for text, found in zip(texts, output, strict=True):
        total = torch.zeros(16)
        for bucket in buckets_of(text, [4], 500, 256):
            total += tower.weights[bucket] * tower.tokens.weight[bucket]
        torch.testing.assert_close(found, 4 * total / total.norm())


def test_a_row_without_features_gives_no_nan_forward_or_backward(tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        tower = ready(tmp_path).to(dtype).train()
        ids, mask = torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5, dtype=torch.bool)
        mask[0, 0] = True
        output = tower(ids, mask)
        output.float().square().sum().backward()
        assert output.dtype == dtype and output.isfinite().all() and not output[1].any()
        assert all(parameter.grad.isfinite().all() for parameter in tower.parameters())  # type: ignore[union-attr]


def test_a_typo_moves_a_text_less_than_another_word(tmp_path: Path) -> None:
    tower = ready(tmp_path, buckets=32768, width=256)
    right, typo, other = tower(*tower.tokenize(["wireless headphones", "wireles headphnes", "cotton tablecloth"]))
    assert right @ typo > 3 * abs(right @ other)


def test_dropout_leaves_out_features_in_training_and_never_all(tmp_path: Path) -> None:
    tower = ready(tmp_path, dropout=0.9)
    ids, mask = tower.tokenize(["red cotton mug", "a", ""])
    whole = tower(ids, mask)
    assert torch.equal(tower(ids, mask), whole)
    tower.train()
    outputs = torch.stack([tower(ids, mask) for _ in range(50)])
    assert not torch.equal(outputs[0, 0], outputs[1, 0])
    torch.testing.assert_close(outputs[:, :2].norm(dim=2), torch.full((50, 2), 4.0))
    torch.testing.assert_close(outputs[:, 1], whole[1].expand(50, -1))  # one feature stays
    assert not outputs[:, 2].any()


def test_dropout_leaves_out_the_share_that_it_says(tmp_path: Path) -> None:
    tower = ready(tmp_path, dropout=0.3, buckets=2000, width=2000)
    with torch.no_grad():
        tower.tokens.weight.copy_(torch.eye(2000))
    ids, mask = torch.arange(2000).unsqueeze(0), torch.ones(1, 2000, dtype=torch.bool)
    assert (tower.train()(ids, mask) != 0).float().mean().item() == pytest.approx(0.7, abs=0.04)


def test_tokenize_gives_tensors_and_pickles() -> None:
    tokenize = NgramTokenize((4,), 1000, 5)
    ids, mask = tokenize(["red cotton mug", "", "mug"])
    assert ids.shape == mask.shape == (3, 5) and mask.sum(dim=1).tolist() == [5, 0, 3]
    assert ids[2, :3].tolist() == buckets_of("mug", [4], 1000, 5)
    assert tokenize([])[0].shape == (0, 1) and tokenize([""])[1].tolist() == [[False]]
    assert all(map(torch.equal, pickle.loads(pickle.dumps(tokenize))(["a mug"]), tokenize(["a mug"])))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"n": [4, 0]}, r"n is \[4, 0\]; expected lengths of at least 1"),
        ({"buckets": 0}, "buckets is 0; expected at least 1"),
        ({"max_features": 0}, "max_features is 0; expected at least 1"),
        ({"width": 0}, "width is 0; expected at least 1"),
        ({"dropout": 1.0}, r"dropout is 1\.0; expected at least 0 and less than 1"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Ngrams(**arguments)  # type: ignore[arg-type]


def test_a_null_text_is_a_product_without_features(tmp_path: Path) -> None:
    columns = {"title": pl.String, "category": pl.String, "attributes": example_products().schema["attributes"]}
    nothing = pl.DataFrame({name: [None, None] for name in columns}, schema=columns)
    Ngrams(buckets=10).setup(nothing, tmp_path)
    counts = load_file(tmp_path / "ngrams.safetensors")
    assert counts["products"].item() == 2 and not counts["products_with"].any()


def test_as_a_script_it_gives_the_same_without_moonlib() -> None:
    texts = ["Red cotton MUG", "", "红色 mug", '{"quoted"} \\n']
    tokenize = NgramTokenize((2, 4), 1000, 7)
    code = f"{tokenize.script()}\nimport json, sys\nprint(json.dumps(tokenize(json.load(sys.stdin))))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [each.tolist() for each in tokenize(texts)]
