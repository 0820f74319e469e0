"""The oracle beside a run is the best of several candidates on validation days."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moonlib.artifacts.layout import RunLayout
from moonlib.config.recipe import RecipeError, load
from moonlib.metrics.key import MetricKey
from moonlib.runs.iteration import fit
from moonlib.runs.pruning import prune
from moonlib.runs.results import Choice, Legend, read_legend, write_legend
from moonlib.runs.run import Run
from moonlib.runs.runner import Runner
from moonlib.runs.tables import metric_table
from moonlib.stages.oracle_adapters import adapter_name, oracle_candidates
from moonlib.stages.stage import Reference
from moonlib.studies.report.page import report

RECIPE = """
seed: 3
data: {class_path: marketplace, init_args: {size: tiny}}
stages:
  application:
    module:
      class_path: application
      init_args: {adapter: id_only, predictor: {class_path: mlp, init_args: {hidden: [8]}}}
    data: {batch_size: 512, history: 4, query_history: 1}
    trainer: {max_epochs: 1, accelerator: cpu}
"""
ADAPTERS = "--stages.application.module.init_args.oracle_adapters"


@pytest.fixture(scope="module")
def place(data_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, and a folder of runs."""
    place = tmp_path_factory.mktemp("choice")
    (place / "recipe.yaml").write_text(RECIPE)
    (place / "runs").mkdir()
    (place / "runs/.data").symlink_to(data_cache)
    return place


def made(place: Path, name: str, adapters: str, *more: str) -> Path:
    return fit(place / "recipe.yaml", [f"{ADAPTERS}={adapters}", *more], runs=place / "runs", name=name)


@pytest.fixture(scope="module")
def several(place: Path) -> Path:
    return made(place, "several", "[simtier, vector]")


def metrics(directory: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((directory / "metrics.json").read_text())
    return found


def test_the_oracle_is_the_candidate_that_validation_days_say(several: Path) -> None:
    candidates = [several / f"application.oracle.{i}" for i in range(3)]
    names = ["id_only", "simtier", "vector"]
    values = [metrics(each)["valid/ctr/auc"] for each in candidates]
    assert len(set(values)) == 3
    best = values.index(max(values))
    assert (several / "application.oracle").resolve() == candidates[best].resolve()
    results = json.loads((several / "results.json").read_text())
    oracle = {key.removeprefix("oracle/"): value for key, value in results.items() if key.startswith("oracle/")}
    assert oracle == metrics(candidates[best])
    legend = read_legend(several)
    assert legend is not None
    assert legend.choices == {"oracle": Choice(names[best], "ctr/auc", dict(zip(names, values, strict=True)))}
    assert set(legend.references) == {"baseline", "baseline/shuffled", "oracle", "ceiling"}


def test_tables_and_the_report_name_the_adapter(several: Path, tmp_path: Path) -> None:
    legend, results = read_legend(several), json.loads((several / "results.json").read_text())
    assert legend is not None
    said = legend.choices["oracle"].sentence("oracle")
    assert said.startswith(
        f"oracle: with {legend.choices['oracle'].chosen}, the best on validation days (auc: id_only "
    )
    table = metric_table("several", "ctr", [MetricKey.parse("ctr/auc")], results, legend)
    assert said in table.notes
    page = Path(report([several], tmp_path / "report.html")).read_text()
    assert said in page


def test_what_is_finished_is_reused_and_nothing_is_to_be_pruned(several: Path, place: Path) -> None:
    before = (several / "results.json").read_bytes(), (several / "legend.json").read_bytes()
    made(place, "several", "[simtier, vector]")
    costs = json.loads((several / "costs.json").read_text())
    assert all(cost["reused"] for link, cost in costs.items() if link.startswith("application"))
    assert ((several / "results.json").read_bytes(), (several / "legend.json").read_bytes()) == before
    assert not [each for each in prune(place / "runs", older_than=0).found if each.kind == "stage"]


def test_one_candidate_is_no_choice_and_references_do_not_depend_on_the_list(several: Path, place: Path) -> None:
    alone = made(place, "alone", "[]")
    assert (alone / "application.oracle").resolve() == (several / "application.oracle.0").resolve()
    assert not list(alone.glob("application.oracle.*"))
    legend = read_legend(alone)
    assert legend is not None and not legend.choices
    for link in ("application.baseline", "application.baseline.shuffled", "application.ceiling"):
        assert (alone / link).resolve() == (several / link).resolve()


def test_a_warm_start_starts_each_candidate_from_itself(several: Path, place: Path) -> None:
    run = made(place, "later", "[simtier, vector]", f"--stages.application.from={several}")
    counts = json.loads((run / "application.oracle.2/carried_over.json").read_text())
    assert counts["item"]["carried"] > 0
    alone = fit(place / "recipe.yaml", [f"{ADAPTERS}=[]"], runs=place / "runs", name="alone")
    for source, adapters in ((alone, "[]"), (several, "[]")):  # where the candidate stands alone, there or here
        made(place, f"from-{source.name}", adapters, f"--stages.application.from={source}")
    with pytest.raises(RecipeError, match=r"application\.oracle\.1 is missing"):
        made(place, "lacking", "[vector]", f"--stages.application.from={alone}")


def test_what_was_not_defined_is_told_of_the_chosen_alone(several: Path) -> None:
    assert not [key for key in Run(several).undefined if key.startswith(("oracle/0", "oracle/1", "oracle/2"))]
    assert set(RunLayout.of(several).references("application")) == {
        "baseline",
        "baseline/shuffled",
        "oracle",
        "ceiling",
    }


def test_without_validation_it_is_the_own_adapter(several: Path, tmp_path: Path) -> None:
    steps: dict[str, Any] = {}
    for name, found in (("own", {"ctr/auc": 0.5}), ("other", {"valid/ctr/auc": 0.9})):
        (tmp_path / ".stages" / name).mkdir(parents=True)
        (tmp_path / ".stages" / name / "metrics.json").write_text(json.dumps(found))
        steps[name] = SimpleNamespace(fingerprint=name)
    (tmp_path / "run").mkdir()
    said: list[str] = []
    runner = Runner.__new__(Runner)
    runner.run, runner.show = RunLayout(tmp_path / "run", tmp_path), said.append
    stage: Any = SimpleNamespace(name="application")
    choice = runner.choose(stage, Reference("oracle", "oracle", chosen_by="ctr/auc"), steps)
    assert choice.chosen == "own" and (tmp_path / "run/application.oracle").resolve().name == "own"
    assert "oracle: with own, as not all were measured on validation days" in said[0]


def test_a_choice_survives_the_file_and_goes_with_the_legend(tmp_path: Path) -> None:
    choice = Choice("b", "ctr/auc", {"a": 0.1, "b": 0.2})
    write_legend(tmp_path, Legend({"oracle": "oracle"}) | Legend(choices={"oracle": choice}))
    read = read_legend(tmp_path)
    assert read is not None and read.choices == {"oracle": choice}
    assert read.chosen("ctr", ["baseline", "oracle"]) == [choice.sentence("oracle")]
    assert read.chosen("image_search", ["oracle"]) == []


def test_candidates_are_the_own_adapter_and_the_list_without_what_is_the_same() -> None:
    pair = {"class_path": "concat", "init_args": {"adapters": ["cube", "simtier", "interaction"]}}
    assert list(oracle_candidates({"adapter": pair})) == ["cube + simtier + interaction"]
    wide = {"class_path": "moonlib.adapters.interaction.Interaction", "init_args": {"width": 32}}
    found = oracle_candidates({"adapter": wide, "oracle_adapters": ["interaction"]})
    assert found == {"interaction(width=32)": {}, "interaction": {"adapter": "interaction"}}
    assert adapter_name("vector") == adapter_name({"class_path": "moonlib.adapters.vector.Vector"}) == "vector"


def test_an_adapter_in_place_of_another_takes_none_of_its_arguments(place: Path) -> None:
    wide = "--stages.application.module.init_args.adapter={class_path: interaction, init_args: {width: 7}}"
    stage = load(place / "recipe.yaml", [wide]).stages["application"]
    other = stage.replace({"adapter": "interaction"})
    assert stage.module().adapter.width == 7 and other.module().adapter.width is None


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        ("[vektor]", r"stages\.application\.module\.init_args\.oracle_adapters\.0: unknown .*vector"),
        ("[{class_path: interaction, init_args: {wide: 3}}]", r"oracle_adapters\.0\.init_args\.wide: unknown key"),
        ("[id_only]", "oracle_adapters: IdOnly reads no representations; leave it out"),
    ],
)
def test_a_list_that_is_wrong_is_refused(adapters: str, message: str, place: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        made(place, "wrong", adapters)
    assert not (place / "runs/wrong").exists()
