"""Recipes of earlier versions go on working."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import yaml

from moonlib.config import recipe
from moonlib.config.earlier import earlier_reference, present, present_references, present_results
from moonlib.registry import deprecation
from moonlib.runs.ownership import RunExistsError, claim


@pytest.mark.parametrize("words", [["--stages.posttrain.probe.every", "50"], []])
def test_the_old_name_of_a_key_works_and_is_told_once(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deprecation, "_told", set())
    old = tmp_path / "old.yaml"
    old.write_text("extends: iter2\nstages: {posttrain: {probe: {every: 9}}}\n")
    with pytest.warns(FutureWarning, match="key 'probe' is called 'checkpoint_evaluation' now") as warned:
        stage = recipe.load(old, words).stages["posttrain"]
    assert stage.schedule is not None and stage.schedule.every == (50 if words else 9)
    assert len(warned) == 1


def test_both_names_at_once_are_refused(tmp_path: Path) -> None:
    both = tmp_path / "both.yaml"
    both.write_text("extends: iter2\nstages: {posttrain: {probe: {every: 9}, checkpoint_evaluation: {every: 8}}}\n")
    with pytest.raises(recipe.RecipeError, match=r"stages\.posttrain\.probe: unknown key"):
        recipe.load(both)


def test_a_run_of_an_earlier_version_is_resumed_and_not_refused(tmp_path: Path) -> None:
    now = recipe.load("iter1", ["--stages.pretrain.checkpoint_evaluation.every", "50"])
    data = {**now.config["data"], "class_path": "moonlib.data.marketplace.source.Marketplace"}
    stages = {name: dict(stage) for name, stage in now.config["stages"].items()}
    stages["pretrain"]["probe"] = stages["pretrain"].pop("checkpoint_evaluation")
    old = {**now.config, "data": data, "stages": stages}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(old, sort_keys=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        claim(tmp_path, now, replace=False)
    assert recipe.load(tmp_path / "recipe.yaml").config == now.config
    with pytest.raises(RunExistsError, match="seed: 0 -> 1"):
        claim(tmp_path, recipe.load("iter1", ["--seed", "1"]), replace=False)


def test_what_has_not_moved_stays() -> None:
    config = {"data": {"class_path": "my.Source", "init_args": {"class_path": 3, "files": ["moonlib.run"]}}}
    assert present(config) == config


def test_a_class_of_another_name_now_is_called_by_it() -> None:
    probe = {"class_path": "moonlib.representations.probes.contrastive.Contrastive", "init_args": {"temperature": 0.1}}
    assert present({"probes": [probe]}) == {
        "probes": [{**probe, "class_path": "moonlib.probes.contrastive.HeldOutLoss"}]
    }


def test_results_of_a_reference_that_was_renamed_are_read_under_its_new_name() -> None:
    old = {"baseline/untrained/image_search/recall@10": 0.5, "image_search/recall@10": 0.6}
    now = {"baseline/initial/image_search/recall@10": 0.5, "image_search/recall@10": 0.6}
    assert present_results(old) == present_results(now) == now
    assert present_results({**old, **{key: 2 * value for key, value in now.items()}})[next(iter(now))] == 1.0
    titles = {"baseline/untrained": "untrained", "baseline/chance": "chance"}
    assert present_references(titles) == {"baseline/initial": "initial weights", "baseline/chance": "chance"}
    assert (earlier_reference("baseline/initial"), earlier_reference("oracle")) == ("baseline/untrained", "oracle")


def test_the_old_word_for_the_initial_weights_works_in_a_recipe_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deprecation, "_told", set())
    loaded = recipe.load("iter1", ["--stages.represent.module.init_args.of=untrained"])
    with pytest.warns(FutureWarning, match="'untrained' is called 'initial' now"):
        stage = loaded.stages["represent"].module()
    assert stage.of == "initial"  # type: ignore[attr-defined]
