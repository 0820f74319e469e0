from __future__ import annotations

import pickle
import subprocess
import sys

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from moonlib.encoders.tokenizer import (
    BPETokenize,
    catalogue_texts,
    extend_tokenizer,
    fit_tokenizer,
    load_or_fit_tokenizer,
)
from moonlib.testing import example_products

TEXTS = ["Red cotton mug", "red lamp", "红色 马克杯 mug", "蓝色台灯", "a red t-shirt"] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return fit_tokenizer(TEXTS, 300)


def pieces(tokenizer, text):
    return [tokenizer.decode([i]) for i in tokenizer.encode(text).ids]


def test_catalogue_texts_hold_title_category_and_attribute_values():
    texts = catalogue_texts(example_products())
    assert texts[1] == "red 红色 t-shirt T恤 goods t-shirt red 棉 cotton"
    assert texts[0] == "goods mug red 棉 cotton"  # no title
    assert texts[-1] == "green 绿色 bag 手提包 goods bag"  # no attributes


def test_catalogue_texts_where_attributes_are_a_list_of_pairs():
    pairs = pl.List(pl.Struct({"key": pl.String, "value": pl.String}))
    products = pl.DataFrame(
        {
            "title": ["mug"],
            "category": ["a/b"],
            "attributes": [[{"key": "k", "value": "v"}, {"key": "x", "value": None}]],
        },
        schema_overrides={"attributes": pairs},
    )
    assert catalogue_texts(products) == ["mug a b v"]


def test_case_width_and_place_of_a_word_do_not_matter(tokenizer):
    assert tokenizer.encode("RED mug").ids == tokenizer.encode("red mug").ids
    assert tokenizer.encode("mug red").ids == tokenizer.encode("mug").ids + tokenizer.encode("red").ids


def test_frequent_words_are_one_token_and_chinese_characters_are_not_merged(tokenizer):
    assert pieces(tokenizer, "red mug 红色mug") == ["red", "mug", "红", "色", "mug"]


@given(st.text(max_size=30))
def test_any_text_is_tokenised_without_loss(tokenizer, text):
    ids, mask = BPETokenize(tokenizer, 200)([text, ""])
    assert ids.shape == mask.shape and ids.shape[1] >= 1
    assert not mask[1].any()
    normal = tokenizer.normalizer.normalize_str(text)
    assert "".join(tokenizer.decode(ids[0, mask[0]].tolist()).split()) == "".join(normal.split())


@given(st.text(" \t\n\u3000", max_size=5))
def test_blank_texts_have_no_tokens(tokenizer, text):
    assert not BPETokenize(tokenizer, 16)([text])[1].any()


def test_pads_to_the_longest_and_cuts_at_the_limit(tokenizer):
    ids, mask = BPETokenize(tokenizer, 4)(["mug", "red mug", "red " * 9])
    assert mask.tolist() == [[True, False, False, False], [True, True, False, False], [True] * 4]
    assert ids[~mask].unique().tolist() == [0]
    assert torch.equal(ids[1, :1], ids[2, :1])


def test_no_texts_and_blank_texts(tokenizer):
    tokenize = BPETokenize(tokenizer, 4)
    assert tokenize([])[0].shape == (0, 1)
    assert tokenize(["", " "])[1].tolist() == [[False], [False]]


def test_pickles(tokenizer):
    tokenize = BPETokenize(tokenizer, 4)
    copy = pickle.loads(pickle.dumps(tokenize))
    assert all(map(torch.equal, copy(TEXTS), tokenize(TEXTS)))


def test_fit_depends_on_texts_and_size_only():
    script = (
        "from moonlib.encoders.tokenizer import fit_tokenizer;"
        "print(fit_tokenizer(['red mug blue cup %d 红色 杯子' % (i % 7) for i in range(50)], 290).to_str())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads},
            check=True,
            capture_output=True,
        ).stdout
        for seed, threads in [("0", "1"), ("1", "3")]
    }
    assert len(outputs) == 1


def test_a_fitted_tokenizer_is_loaded_not_fitted_again(tmp_path):
    fitted = load_or_fit_tokenizer(example_products(), tmp_path / "new", 300)
    loaded = load_or_fit_tokenizer(example_products()[:1], tmp_path / "new", 300)
    assert loaded.to_str() == fitted.to_str()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tokenizer.json"]


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer .*remove it to fit a new one"):
        load_or_fit_tokenizer(example_products(), tmp_path, 300)


def test_a_vocabulary_smaller_than_the_bytes_is_refused():
    with pytest.raises(ValueError, match="vocab_size is 100; a byte-level tokenizer needs at least 256"):
        fit_tokenizer(["a"], 100)


def catalogue(titles):
    pairs = pl.List(pl.Struct({"key": pl.String, "value": pl.String}))
    rows = {"title": titles, "category": ["goods"] * len(titles), "attributes": [[]] * len(titles)}
    return pl.DataFrame(rows, schema={"title": pl.String, "category": pl.String, "attributes": pairs})


def test_new_words_get_ids_at_the_end_and_other_texts_the_ids_that_they_had(tmp_path):
    before = load_or_fit_tokenizer(catalogue(TEXTS), tmp_path, 400)
    size, old = before.get_vocab_size(), [encoding.ids for encoding in before.encode_batch(TEXTS)]
    new = [*TEXTS, *["zanzibar lamp", "Zanzibar 灯具", "the zanzibars"] * 2, "quokka mug"]
    found = extend_tokenizer(catalogue(new), tmp_path, 400)
    after = load_or_fit_tokenizer(catalogue([]), tmp_path, 400)
    assert [encoding.ids for encoding in after.encode_batch(TEXTS)] == old
    added = [after.id_to_token(number) for number in range(size, after.get_vocab_size())]
    assert added == ["zanzibar", "the", "zanzibars", "具"]  # the most frequent first; quokka stands there once
    assert found == [before.encode(word).ids for word in added]
    assert after.encode("a ZANZIBAR, zanzibara").ids == [
        *before.encode("a").ids,
        size,
        *before.encode(",").ids,
        *before.encode("zanzibara").ids,
    ]
    assert pieces(after, "马克具杯") == ["马", "克", "具", "杯"]


def test_a_tokenizer_that_knows_all_words_stays_as_it_is(tmp_path):
    load_or_fit_tokenizer(catalogue(TEXTS), tmp_path, 400)
    before = (tmp_path / "tokenizer.json").read_bytes()
    assert extend_tokenizer(catalogue(TEXTS), tmp_path, 400) == []
    assert extend_tokenizer(catalogue([]), tmp_path, 400) == []
    assert (tmp_path / "tokenizer.json").read_bytes() == before
    more = catalogue([*TEXTS, "zanzibar", "zanzibar"])
    assert len(extend_tokenizer(more, tmp_path, 400)) == 1
    assert extend_tokenizer(more, tmp_path, 400) == []


def test_a_word_that_a_new_fit_has_no_room_for_is_not_added(tmp_path):
    size = load_or_fit_tokenizer(catalogue(TEXTS), tmp_path, 262).get_vocab_size()
    assert size == 262
    assert extend_tokenizer(catalogue([*TEXTS, "zanzibar", "zanzibar"]), tmp_path, 262) == []


def test_what_is_no_tokenizer_of_ours_is_not_extended(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer\.json is missing: what the encoder starts from has no tokenizer"):
        extend_tokenizer(catalogue(TEXTS), tmp_path, 400)
    Tokenizer(models.WordLevel({"red": 0}, unk_token="red")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"tokenizer\.json was not fitted by moonlib: its model is WordLevel"):
        extend_tokenizer(catalogue(TEXTS), tmp_path, 400)
