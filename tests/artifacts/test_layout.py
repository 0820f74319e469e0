"""Names and places of what moonlib writes: one module spells them, and they stay what they are on disk."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import moonlib
from moonlib.artifacts import layout
from moonlib.artifacts.layout import (
    RunLayout,
    checkpoint_link,
    is_checkpoint_link,
    link_name,
    reference_of,
    runs_of,
    snapshot,
    snapshot_steps,
    stage_of,
)

PACKAGE = Path(moonlib.__file__).parent
NAMES = {name: value for name, value in vars(layout).items() if name.isupper()}
SPELLED = {value for value in NAMES.values() if "." in value} - {layout.EXPORT} | {layout.PREPROCESSING}
"""Names that mean nothing else; ``config.json`` is also a file of Hugging Face's models, and a report is a word."""
WORDS = st.text("abcxyz_-+09", min_size=1, max_size=8)


def spelled(source: str) -> Iterator[str]:
    """Strings of a module that name one of the files or folders; in docstrings and sentences they are words."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            parts = [] if " " in node.value else [node.value, node.value.rpartition("/")[2]]
            if (
                any(part == name or part.endswith(f".{name}") for part in parts for name in SPELLED - {".data"})
                or node.value == ".data"
            ):
                yield node.value


def test_a_name_that_is_spelled_is_found() -> None:
    told = '"""Of results.json."""\nf("no results.json", x / "results.json", f"{y}.quarantine.jsonl", "a/cost.json")'
    assert set(spelled(told)) == {"results.json", ".quarantine.jsonl", "a/cost.json"}


def test_no_other_module_spells_a_name() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}: {text}"
        for path in PACKAGE.rglob("*.py")
        if path != Path(layout.__file__)
        for text in spelled(path.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_names_are_those_of_runs_that_are_on_disk() -> None:
    """Runs of earlier versions are read by them, and plugins and scripts may rely on them."""
    on_disk = {
        "STAGES": ".stages",
        "DATASETS": ".data",
        "RECIPE": "recipe.yaml",
        "RESULTS": "results.json",
        "COSTS": "costs.json",
        "CHECKPOINT_EVALUATIONS": "points.json",
        "CHECKPOINT_LINKS": "points",
        "PREPROCESSING": "preprocessing",
        "WEIGHTS": "weights.safetensors",
        "SNAPSHOTS": "snapshots",
        "IDENTITY": "identity.json",
        "METRICS": "metrics.json",
        "SEARCHES": "searches.parquet",
        "PREDICTIONS": "predictions.parquet",
        "QUARANTINE": "quarantine.jsonl",
    }
    assert {name: NAMES[name] for name in on_disk} == on_disk
    assert len(set(NAMES.values())) == len(NAMES)


@given(stage=WORDS, reference=st.lists(WORDS, max_size=3).map("/".join))
def test_a_link_says_which_stage_and_which_reference_it_is(stage: str, reference: str) -> None:
    link = link_name(stage, reference)
    assert (stage_of(link), reference_of(link)) == (stage, reference)
    assert "/" not in link


def test_a_stage_that_is_being_made_is_linked_and_not_finished(tmp_path: Path) -> None:
    stage = tmp_path / ".stages/0123abcd"
    layout.partial(stage).mkdir(parents=True)
    link = tmp_path / "run/pretrain"
    link.parent.mkdir()
    assert not layout.is_finished(link)
    link.symlink_to("../.stages/0123abcd.partial")
    assert link.is_dir() and not layout.is_finished(link)
    layout.partial(stage).rename(stage)  # by another run
    assert not layout.is_finished(link)
    link.unlink()
    link.symlink_to("../.stages/0123abcd")
    assert layout.is_finished(link)


def test_places_of_a_run(tmp_path: Path) -> None:
    for name in ("application", "application.baseline", "application.baseline.shuffled", "applications.oracle"):
        (tmp_path / "study/run" / name).mkdir(parents=True)
    (tmp_path / layout.STAGES).mkdir()
    run = RunLayout.of(tmp_path / "study/run")
    assert run.runs == tmp_path and run.stages == tmp_path / ".stages" and run.datasets == tmp_path / ".data"
    assert run.references("application") == {
        "baseline": run.directory / "application.baseline",
        "baseline/shuffled": run.directory / "application.baseline.shuffled",
    }
    assert run.references("represent") == {}
    assert run.link("application", "baseline/shuffled") == run.directory / "application.baseline.shuffled"
    assert run.abtest("application", "iter1") == run.directory / "abtest/iter1.json"
    assert run.abtest("application.baseline.shuffled", "iter1").name == "baseline.shuffled.vs.iter1.json"


def test_the_folder_of_all_runs_is_the_one_with_stages_or_else_that_of_the_run(tmp_path: Path) -> None:
    run = tmp_path / "runs/study/run"
    run.mkdir(parents=True)
    assert runs_of(run) == tmp_path / "runs/study"
    (tmp_path / "runs/.stages").mkdir()
    assert runs_of(run) == tmp_path / "runs"
    (tmp_path / "link").symlink_to(run)
    assert runs_of(tmp_path / "link") == tmp_path / "runs"


def test_a_link_is_followed_to_the_fingerprint_of_its_stage(tmp_path: Path) -> None:
    (tmp_path / ".stages/0123abcd").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/pretrain").symlink_to("../.stages/0123abcd")
    assert RunLayout.of(tmp_path / "run").fingerprint("pretrain") == "0123abcd"


def test_checkpoints_lie_in_the_stage_that_trained_and_what_else_lies_there_is_none(tmp_path: Path) -> None:
    for step in (200, 20, 1000):
        snapshot(tmp_path, step).mkdir(parents=True)
    (tmp_path / layout.SNAPSHOTS / ".DS_Store").touch()
    assert snapshot_steps(tmp_path) == [20, 200, 1000]
    assert snapshot_steps(tmp_path / "none") == []
    assert snapshot("0123abcd", 20).as_posix() == "0123abcd/snapshots/20"


@pytest.mark.parametrize("step", [None, 20])
def test_what_evaluates_a_checkpoint_is_told_from_stages(step: int | None) -> None:
    assert is_checkpoint_link(checkpoint_link("pretrain", step, "probing"))
    assert not is_checkpoint_link("points-of-view") and not is_checkpoint_link("application.baseline")
