"""The shipped recipe runs on the data set as it is published, without an encoder, and says what it can't do."""

from __future__ import annotations

import json
import math
from pathlib import Path

import polars as pl
import pytest

from moonlib.cli import main
from moonlib.data.dataset import Dataset
from moonlib.runs.run import Run
from moonlib.testing import example_dataset

RECIPE = Path(__file__).parents[3] / "recipes/data/taobao_mm.yaml"


def fit(raw: Path, runs: Path, *words: str) -> int:
    arguments = {"directory": raw, "users": 1.0, "valid": 0.1}
    data = [f"--data.init_args.{name}={value}" for name, value in arguments.items()]
    return main(["fit", "--config", str(RECIPE), "--runs", str(runs), *data, *words])


@pytest.fixture(scope="module")
def run(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert fit(raw, runs) == 0
    return runs / "taobao_mm"


def test_the_recipe_runs_from_the_given_vectors(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    assert {"ctr/auc", "ctr/gauc", "valid/ctr/auc", "baseline/ctr/auc", "baseline/shuffled/ctr/auc"} <= set(results)
    assert all(math.isfinite(value) for value in results.values())
    predictions = pl.read_parquet(run / "application/predictions.parquet")
    assert predictions.filter(pl.col("split") == "test").height == 540
    # Vectors are read: shuffled among the products, they give other predictions.
    shuffled = pl.read_parquet(run / "application.baseline.shuffled/predictions.parquet")
    assert (predictions["probability"] != shuffled["probability"]).any()


def test_given_representations_are_part_of_what_a_stage_depends_on(run: Path, raw: Path, tmp_path: Path) -> None:
    assert isinstance(Run(run).dataset(), Dataset)
    identity = json.loads((run / "application/identity.json").read_text())
    assert identity["dataset"] == Run(run).dataset().hash and identity["representations"] is None
    stage = (run / "application").resolve()
    assert fit(raw, run.parent, "--name", "again", "--stages.application.data.workers=0") == 0
    assert (run.parent / "again/application").resolve() == stage


@pytest.mark.parametrize(
    "words",
    [
        ("search", "{run}", "--text", "mug"),
        ("evaluate", "{run}", "--data", "{data}"),
        ("embed", "{run}", "--products", "{data}", "--out", "{out}"),
        ("index", "{run}"),
    ],
    ids=lambda words: words[0],
)
def test_verbs_that_want_an_encoder_say_so(
    run: Path, tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"run": run, "data": Run(run).dataset().directory, "out": tmp_path / "out"}
    assert main([word.format(**places) for word in words]) == 2
    error = capsys.readouterr().err
    assert "its recipe declares no encoder" in error or "its recipe has no represent stage" in error
    assert not (tmp_path / "out").exists() and not (run / "evaluations").exists()


def test_without_any_representations_the_application_says_what_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = example_dataset(tmp_path / "example")
    data = f"--data={{class_path: shards, init_args: {{path: {example.directory}}}}}"
    assert main(["fit", "--config", str(RECIPE), "--runs", str(tmp_path), data]) == 2
    assert "stages.application needs a represent stage before it" in capsys.readouterr().err
