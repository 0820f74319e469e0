"""Keys of results are taken apart as they were put together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlib.data.segments import segment_label
from moonlib.metrics.key import MetricKey
from moonlib.metrics.undefined import is_of_segment, is_of_validation
from moonlib.runs.results import REFERENCES, read_legend

PREFIXES = (*REFERENCES, "popular", "baseline/of_a_plugin")
TASKS = ("image_search", "text_search", "ctr", "retrieval", "relevance", "search", "similar")
NAMES = ("auc", "recall@10", "ndcg@5", "share_new@100", "share_new_gallery", "lift@0.1", "same_category")

values = st.text(min_size=1).map(segment_label)
columns = st.builds("{}={}".format, values, values)
segments = st.sampled_from(["", "new", "tail", "photo", "64d", "user_weight=0.05"]) | columns
keys = st.builds(
    MetricKey,
    st.sampled_from(["test", "valid"]),
    st.sampled_from(["", *PREFIXES]),
    st.sampled_from(TASKS),
    st.sampled_from(NAMES),
    segments,
)
of_values = st.builds(MetricKey, st.just("test"), st.just(""), st.just("text_search"), st.just("recall@10"), values)


@given(keys | of_values)
def test_a_key_is_read_as_it_was_written(key: MetricKey) -> None:
    assert MetricKey.parse(str(key), PREFIXES) == key
    assert is_of_validation(str(key)) == (key.split == "valid")
    assert is_of_segment(str(key)) == (key.segment != "")


@given(st.text())
def test_any_text_is_a_key_and_stays_what_it_was(text: str) -> None:
    key = MetricKey.parse(text, PREFIXES)
    if "//" not in f"/{text}/" and "@@" not in f"{text}@":  # of nothing between two marks nothing is left
        assert str(key) == text


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("ctr/auc", MetricKey("test", "", "ctr", "auc", "")),
        ("valid/ctr/auc@new", MetricKey("valid", "", "ctr", "auc", "new")),
        ("baseline/ctr/auc", MetricKey("test", "baseline", "ctr", "auc", "")),
        ("baseline/shuffled/valid/ctr/auc", MetricKey("valid", "baseline/shuffled", "ctr", "auc", "")),
        ("image_search/recall@10@64d", MetricKey("test", "", "image_search", "recall@10", "64d")),
        ("text_search/recall@10@20", MetricKey("test", "", "text_search", "recall@10", "20")),
        ("ctr/auc@category=a/valid/b", MetricKey("test", "", "ctr", "auc", "category=a/valid/b")),
        ("ctr/auc@category=oracle/x", MetricKey("test", "", "ctr", "auc", "category=oracle/x")),
        ("category_accuracy@2", MetricKey("test", "", "", "category_accuracy@2", "")),
        ("lift", MetricKey("test", "", "", "lift", "")),
        ("valid/lift", MetricKey("valid", "", "", "lift", "")),
    ],
)
def test_the_parts_of_a_key(text: str, key: MetricKey) -> None:
    assert MetricKey.parse(text, PREFIXES) == key and str(key) == text


def test_every_key_of_a_run_is_read_as_it_was_written(unbroken: Path) -> None:
    legend = read_legend(unbroken)
    assert legend is not None
    results = json.loads((unbroken / "results.json").read_text())
    parsed = [legend.key(text) for text in results]
    assert list(map(str, parsed)) == list(results) and [legend.key(str(key)) for key in parsed] == parsed
    assert {key.task for key in parsed} == {"image_search", "text_search", "ctr"}
    assert {key.reference for key in parsed} - {""} == set(legend.references)
