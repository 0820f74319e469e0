"""What results mean stays with them, and is known of runs that were made before it was stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from moonlib.artifacts import layout
from moonlib.artifacts.reading import Unreadable
from moonlib.metrics.metric import Meaning
from moonlib.runs.results import REFERENCES, Legend, add_legend, legend_of_run, read_legend, write_legend
from moonlib.runs.tables import own_rows

LEGEND = Legend(
    {"oracle": "oracle", "naive": "a guess", "baseline/x": "x", "baseline": "id only"},
    {"ctr/brier": Meaning("Brier score", False), "lengths/mean": Meaning("mean length")},
)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_legend(tmp_path) is None
    write_legend(tmp_path, LEGEND)
    assert read_legend(tmp_path) == LEGEND == legend_of_run(tmp_path, [])


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"references": 1, "metrics": {}}', '{"references": {}, "metrics": {"a": 1}}']
)
def test_a_damaged_one_names_its_file(text: str, tmp_path: Path) -> None:
    (tmp_path / layout.LEGEND).write_text(text)
    with pytest.raises(Unreadable, match=layout.LEGEND):
        read_legend(tmp_path)


def test_what_is_added_stands_beside_what_was_there_and_replaces_what_cannot_be_read(tmp_path: Path) -> None:
    add_legend(tmp_path, LEGEND)
    add_legend(tmp_path, Legend({"ceiling": "ceiling"}))
    assert read_legend(tmp_path) == LEGEND | Legend({"ceiling": "ceiling"})
    (tmp_path / layout.LEGEND).write_text("{")
    add_legend(tmp_path, LEGEND)
    assert read_legend(tmp_path) == LEGEND


@pytest.mark.parametrize("legend", [None, "{"])
def test_a_run_of_an_earlier_version_that_is_resumed_keeps_the_titles_of_its_results(
    legend: str | None, tmp_path: Path
) -> None:
    (tmp_path / layout.RESULTS).write_text('{"baseline/shuffled/ctr/auc": 0.5, "ctr/auc": 0.6}')
    if legend:
        (tmp_path / layout.LEGEND).write_text(legend)
    add_legend(tmp_path, Legend({"baseline/chance": "chance"}))
    assert list(legend_of_run(tmp_path, []).own(["baseline/shuffled/ctr/auc", "ctr/auc"])) == ["ctr/auc"]


def test_meanings_are_those_of_the_legend_then_moonlibs_own_then_none() -> None:
    assert LEGEND.meaning("naive/valid/ctr/brier@new") == Meaning("Brier score", False)
    assert LEGEND.meaning("ctr/logloss") == Meaning("log loss, nats", False)
    assert LEGEND.meaning("retrieval/recall@100@tail") == Meaning("recall@100", True)
    assert LEGEND.meaning("retrieval/user_weight") == Meaning("user_weight")
    assert LEGEND.meaning("similar/recall@10") == Meaning("recall@10")  # a plugin's, which says nothing of it


def test_baselines_stand_before_upper_bounds() -> None:
    assert list(LEGEND.baselines_first) == ["baseline", "baseline/x", "oracle", "naive"]


def test_two_legends_together_keep_both_titles_of_a_prefix() -> None:
    both = LEGEND | Legend({"baseline": "popular", "oracle": "oracle"}, {"ctr/brier": Meaning("Brier", False)})
    assert both.references["baseline"] == "id only / popular" and both.references["oracle"] == "oracle"
    assert both.meaning("ctr/brier").title == "Brier"
    assert (both | both).references == both.references


def test_a_run_without_one_has_moonlibs_titles_and_those_of_its_directories(tmp_path: Path) -> None:
    for name in ("application.baseline", "lengths.naive.guess"):
        (tmp_path / name).mkdir()
    legend = legend_of_run(tmp_path, ["application", "lengths"])
    assert legend.references == REFERENCES | {"naive/guess": "guess"}
    assert legend.key("naive/guess/lengths/mean").task == "lengths"
    assert legend.key("baseline/cosine/relevance/auc").reference == "baseline/cosine"


def test_numbers_of_rows_are_stored_with_the_legend_and_a_stage_s_go_over_its_references(tmp_path: Path) -> None:
    write_legend(tmp_path, Legend({}, {}, {"ctr/n": 12, "ctr/n@new": 3}) | Legend({}, {}, {"ctr/n": 7, "lengths/n": 5}))
    read = read_legend(tmp_path)
    assert read is not None and read.rows == {"ctr/n": 12, "ctr/n@new": 3, "lengths/n": 5}


def test_rows_are_the_runs_own_results_of_test_days() -> None:
    results = dict.fromkeys(
        ["ctr/auc", "ctr/auc@new", "valid/ctr/auc", "naive/lengths/mean", "lengths/mean", "accuracy@colour"], 0.5
    )
    shown = [str(key) for key in own_rows(results, LEGEND)]
    assert shown == ["ctr/auc", "ctr/auc@new", "lengths/mean", "accuracy@colour"]
    assert "naive/lengths/mean" in map(
        str, own_rows(results, Legend())
    )  # who does not know of the reference takes it for a task
