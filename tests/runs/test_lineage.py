"""Which stage reads what of which, derived from recipes of every shape, and found again in a run directory."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

import moonlib
from moonlib.artifacts import layout
from moonlib.artifacts.layout import RunLayout
from moonlib.config.recipe import Recipe, RecipeError, load
from moonlib.data.dataset import Dataset
from moonlib.registry import registry
from moonlib.runs.checkpoint_evaluation import EncoderCheckpoint, checkpoints_of, light_represent
from moonlib.runs.lineage import Lineage, lineage_of, training_stages
from moonlib.runs.run import Run
from moonlib.runs.runner import Runner
from moonlib.stages.stage import Need, Provides, Stage, StageContext
from moonlib.system.interruption import Interruption

CONSTRUCTED: list[str] = []


@dataclass
class NoData:
    """Nothing to configure."""


class Tabulate(Stage):
    """A plugin's stage: representations from elsewhere, without an encoder."""

    data_type: ClassVar[type] = NoData
    provides: ClassVar[Provides | None] = "representations"

    def __init__(self) -> None:
        super().__init__()
        CONSTRUCTED.append(type(self).__name__)

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset()

    def run(self, context: StageContext) -> dict[str, float]:
        return {}


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    moonlib.register("stages", "tabulate")(Tabulate)
    CONSTRUCTED.clear()


TRAIN = {
    "module": {"class_path": "pretraining", "init_args": {"loss": "info_nce", "negatives": ["in_batch"]}},
    "data": {"tasks": {"image -> title": 1.0}},
}
STEPS = {"trainer": {"max_steps": 6}}
PROBED = {**TRAIN, **STEPS, "checkpoint_evaluation": {"every": 2}}
REPRESENT: dict[str, Any] = {"module": "represent"}
INITIAL: dict[str, Any] = {"module": {"class_path": "represent", "init_args": {"of": "initial"}}}
TABULATE: dict[str, Any] = {"module": "tabulate"}
APPLICATION = {"module": {"class_path": "application", "init_args": {"adapter": "vector", "predictor": "mlp"}}}
ENCODER = {"class_path": "dual", "init_args": {"image": "convnet", "text": "transformer", "fusion": "gated"}}


def recipe_of(folder: Path, stages: dict[str, Any], encoder: dict[str, Any] | None = ENCODER) -> Recipe:
    config: dict[str, Any] = {"data": {"class_path": "marketplace", "init_args": {"size": "tiny"}}, "stages": stages}
    file = folder / layout.RECIPE
    file.write_text(yaml.safe_dump(config | ({"encoder": encoder} if encoder else {}), sort_keys=False))
    return load(file)


def run_of(folder: Path, stages: dict[str, Any], snapshots: dict[str, list[int]] | None = None) -> Run:
    """A run directory whose stages have finished, each in a directory called ``made-<name>``."""
    (folder / "run").mkdir(parents=True)
    recipe = recipe_of(folder / "run", stages)
    recipe.path.write_text(yaml.safe_dump(recipe.config, sort_keys=False))
    for name in (layout.PREPROCESSING, *stages):
        made = folder / layout.STAGES / f"made-{name}"
        made.mkdir(parents=True)
        (folder / "run" / name).symlink_to(f"../{layout.STAGES}/made-{name}")
        if stages.get(name) is REPRESENT:
            (made / "queries.npy").touch()
        for step in (snapshots or {}).get(name, []):
            layout.snapshot(made, step).mkdir(parents=True)
    return Run(folder / "run")


def checkpoints(run: Run) -> list[EncoderCheckpoint]:
    return checkpoints_of(run.layout, run.recipe)


def test_a_lineage_never_changes_and_a_step_further_is_another() -> None:
    start = Lineage("data", "preprocessing")
    trained = start.after("weights", "pretrain")
    assert (start.weights, trained.weights, trained.representations) == (None, "pretrain", None)
    assert trained.after(None, "application") is trained
    assert trained.after("representations", "represent") == Lineage("data", "preprocessing", "pretrain", "represent")
    with pytest.raises(FrozenInstanceError):
        start.weights = "x"  # type: ignore[misc]


def test_a_stage_reads_what_it_needs_and_no_more() -> None:
    whole = Lineage("data", "preprocessing", "pretrain", "represent")
    assert whole.read(()) == Lineage("data")
    assert whole.read({"encoder"}) == Lineage("data", "preprocessing")
    assert whole.read({"weights"}) == Lineage("data", "preprocessing", "pretrain")
    assert whole.read({"representations"}) == Lineage("data", representations="represent")
    assert whole.read({"encoder", "weights", "representations"}) == whole


def test_two_represent_stages_and_a_retraining_after_the_first(tmp_path: Path) -> None:
    stages = {"pretrain": TRAIN, "first": REPRESENT, "refine": TRAIN, "second": REPRESENT, "application": APPLICATION}
    provides = recipe_of(tmp_path, stages).provides
    found = {name: lineage_of(provides, name) for name in stages}
    assert {name: (at.weights, at.representations) for name, at in found.items()} == {
        "pretrain": (None, None),
        "first": ("pretrain", None),
        "refine": ("pretrain", "first"),
        "second": ("refine", "first"),
        "application": ("refine", "second"),
    }
    assert lineage_of(provides) == found["application"]
    assert training_stages(provides) == ["pretrain", "refine"]
    assert training_stages(provides, until="refine") == ["pretrain"]


def test_what_a_stage_provides_is_read_from_its_class(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, {"tabulate": TABULATE, "application": APPLICATION}, encoder=None)
    assert recipe.provides == {"tabulate": "representations", "application": None}
    assert lineage_of(recipe.provides, "application").representations == "tabulate"
    assert CONSTRUCTED == []


def test_a_run_is_told_its_stages_by_the_same_derivation(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"pretrain": TRAIN, "represent": REPRESENT, "refine": TRAIN, "application": APPLICATION})
    # What trains after the representations are made has no part in them.
    assert run.trained_by == ["pretrain"]
    assert run.weights is not None and run.weights.parent.name == "made-pretrain"
    assert run.represent is not None and run.represent.name == "represent"
    again = run_of(tmp_path / "again", {"pretrain": TRAIN, "refine": TRAIN})
    assert again.trained_by == ["pretrain", "refine"] and again.represent is None


def test_checkpoints_are_those_that_were_kept_the_ends_and_the_final_representations(tmp_path: Path) -> None:
    stages = {"pretrain": PROBED, "posttrain": TRAIN, "represent": REPRESENT, "application": APPLICATION}
    run = run_of(tmp_path, stages, {"pretrain": [4, 2], "posttrain": [9]})
    assert checkpoints(run) == [
        EncoderCheckpoint("pretrain", 2, "made-pretrain/snapshots/2"),
        EncoderCheckpoint("pretrain", 4, "made-pretrain/snapshots/4"),
        EncoderCheckpoint("pretrain", 6, "made-pretrain"),
        EncoderCheckpoint("posttrain", None, "made-posttrain", "made-represent"),
    ]
    assert light_represent(run.recipe).name == "represent"


def test_the_end_that_is_the_final_representations_is_one_checkpoint(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"pretrain": PROBED, "represent": REPRESENT}, {"pretrain": [2]})
    assert [(each.step, each.representations) for each in checkpoints(run)] == [(2, None), (6, "made-represent")]
    # Where those of queries are missing, they are made.
    (tmp_path / layout.STAGES / "made-represent/queries.npy").unlink()
    assert [(each.step, each.representations) for each in checkpoints(run)] == [(2, None), (6, None)]


def test_the_end_of_a_stage_that_keeps_its_best_weights_is_of_no_step_that_is_known(tmp_path: Path) -> None:
    best = {**PROBED, "validate": {"every": 2}, "keep": "best"}
    run = run_of(tmp_path, {"pretrain": best, "represent": REPRESENT}, {"pretrain": [2]})
    assert [(each.step, each.representations) for each in checkpoints(run)] == [(2, None), (None, "made-represent")]


def test_a_retraining_after_represent_leaves_the_final_representations_those_of_before(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"pretrain": TRAIN, "represent": REPRESENT, "refine": PROBED}, {"refine": [2]})
    assert checkpoints(run) == [
        EncoderCheckpoint("refine", 2, "made-refine/snapshots/2"),
        EncoderCheckpoint("refine", 6, "made-refine"),
        EncoderCheckpoint("pretrain", None, "made-pretrain", "made-represent"),
    ]


@pytest.mark.parametrize("stage", [TABULATE, INITIAL], ids=["plugin", "initial"])
def test_representations_that_read_no_weights_are_a_checkpoint_of_their_own(
    stage: dict[str, Any], tmp_path: Path
) -> None:
    run = run_of(tmp_path, {"pretrain": PROBED, "last": stage}, {"pretrain": []})
    assert checkpoints(run) == [
        EncoderCheckpoint("pretrain", 6, "made-pretrain"),
        EncoderCheckpoint("last", None, None, "made-last"),
    ]


def test_of_a_run_that_only_trains_the_last_training_is_final_and_without_one_what_was_given(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a", {"pretrain": PROBED, "refine": {**TRAIN, **STEPS}}, {"pretrain": []})
    assert [(each.stage, each.key) for each in checkpoints(run)] == [
        ("pretrain", "made-pretrain"),
        ("refine", "made-refine"),
    ]
    (only,) = checkpoints(run_of(tmp_path / "b", {"application": APPLICATION}))
    assert only == EncoderCheckpoint("given", None, None) and only.key == "given"


def test_a_stage_that_has_not_finished_is_named(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"pretrain": TRAIN, "represent": REPRESENT, "refine": TRAIN})
    (run.directory / "represent").unlink()
    with pytest.raises(FileNotFoundError, match="is not finished: represent is missing; resume it"):
        checkpoints(run)


def runner_of(tmp_path: Path, dataset: Dataset, stages: dict[str, Any], encoder: dict[str, Any] | None) -> Runner:
    recipe = recipe_of(tmp_path, stages, encoder)
    return Runner(recipe, dataset, RunLayout(tmp_path / "run", tmp_path), {}, Interruption())


def test_a_fingerprint_is_made_of_what_the_stage_reads(tmp_path: Path, tiny: Dataset) -> None:
    stages = {"represent": REPRESENT, "application": APPLICATION}
    runner = runner_of(tmp_path, tiny, stages, ENCODER)
    lineage = Lineage(tiny.hash, "p", "w", "r")
    represent, application = (runner.step(stage, lineage) for stage in runner.recipe.stages.values())
    keys = ["config", "dataset", "preprocessing", "weights", "representations", "reads", "seed", "versions"]
    assert [key for key in represent.identity if key not in ("code", "files")] == keys
    reads = {name: [step.identity[key] for key in keys[1:5]] for name, step in (("r", represent), ("a", application))}
    assert reads == {"r": [tiny.hash, "p", "w", None], "a": [tiny.hash, None, None, "r"]}
    assert "products.title" in represent.identity["reads"] and "products.price" not in represent.identity["reads"]
    assert "products.title" not in application.identity["reads"] and "products.price" in application.identity["reads"]
    # The whole dataset's hash says where a stage was made, and does not count.
    assert runner.step(application.recipe, Lineage("other", "p", "w", "r")).fingerprint == application.fingerprint
    # What a stage does not read may change: its directory is reused.
    other = Lineage(tiny.hash, "p", "other", "r")
    assert runner.step(application.recipe, other).fingerprint == application.fingerprint
    assert runner.step(represent.recipe, other).fingerprint != represent.fingerprint


def test_a_reference_is_linked_beside_its_stage_and_reads_what_it_needs_itself(tmp_path: Path, tiny: Dataset) -> None:
    runner = runner_of(tmp_path, tiny, {"represent": REPRESENT}, ENCODER)
    lineage, stage = Lineage(tiny.hash, "p", "w"), runner.recipe.stages["represent"]
    references = runner.step(stage, lineage).module.references(tiny)
    found = [step for each in references for step in runner.reference_steps(stage, each, lineage).values()]
    steps = {step.link: step for step in found}
    assert steps["represent.baseline.initial"].prefix == "baseline/initial"
    assert steps["represent.baseline.initial"].reads == Lineage(tiny.hash, "p")
    assert steps["represent.oracle"].reads == Lineage(tiny.hash)


def test_without_an_encoder_given_representations_are_read_and_nothing_else(
    tmp_path: Path, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_of(tmp_path, tiny, {"application": APPLICATION}, None)
    stage, lineage = runner.recipe.stages["application"], runner.begin()
    assert lineage == Lineage(tiny.hash)
    with pytest.raises(RecipeError, match=r"stages\.application needs a represent stage before it"):
        runner.step(stage, lineage)
    monkeypatch.setattr(Dataset, "representations", property(lambda dataset: tmp_path))
    step = runner.step(stage, lineage)
    assert step.reads == lineage  # they are part of the data and of its hash
    context = runner.context(step, runner.trainer(step, tmp_path), tmp_path)
    assert (context.representations, context.encoder, context.weights) == (tmp_path, None, None)


def test_a_stage_that_needs_an_encoder_is_refused_without_one(tmp_path: Path, tiny: Dataset) -> None:
    runner = runner_of(tmp_path, tiny, {"represent": REPRESENT}, None)
    with pytest.raises(RecipeError, match=r"stages\.represent needs an encoder: declare one"):
        runner.step(runner.recipe.stages["represent"], runner.begin())


def test_representations_of_an_earlier_stage_go_before_given_ones(
    tmp_path: Path, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dataset, "representations", property(lambda dataset: tmp_path))
    runner = runner_of(tmp_path, tiny, {"application": APPLICATION}, None)
    step = runner.step(runner.recipe.stages["application"], Lineage(tiny.hash, representations="made"))
    context = runner.context(step, runner.trainer(step, tmp_path), tmp_path)
    assert context.representations == tmp_path / layout.STAGES / "made"
