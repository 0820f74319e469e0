"""Loggers that a recipe names, called after the run and the stage."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import moonlib.compat  # noqa: F401
import pytest
from lightning.pytorch.loggers import CSVLogger, Logger

from moonlib.config.loggers import NAMED, LoggerRecipe, read_loggers
from moonlib.config.recipe import RecipeError
from moonlib.runs import loggers
from moonlib.runs.iteration import fit
from moonlib.runs.loggers import Guarded

STEP: Any = SimpleNamespace(link="pretrain", fingerprint="0123abcd")


class Broken(Logger):
    """Reaches nobody."""

    def __init__(self, name: str = "", group: str = "") -> None:
        super().__init__()
        self.told, self.group, self.calls = name, group, 0

    @property
    def name(self) -> str:
        return self.told

    @property
    def version(self) -> str:
        return "0"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.calls += 1
        raise ConnectionError("no route to host\nand much more")

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        raise ConnectionError


@pytest.fixture
def copied(finished_run: Path, tmp_path: Path) -> Path:
    """A runs directory whose pretraining is still to be done."""
    shutil.copytree(finished_run.parent, tmp_path / "runs", symlinks=True)
    shutil.rmtree((tmp_path / "runs/iter1/pretrain").resolve())
    return tmp_path / "runs"


def trained(runs: Path, named: str) -> bytes:
    run = fit(runs / "iter1/recipe.yaml", ["--stages.represent=null", f"--loggers={named}"], runs=runs, name="mine")
    return (run / "pretrain/weights.safetensors").read_bytes()


def test_a_run_is_logged_to_wandb_and_mlflow_at_once_and_has_the_same_bits(
    copied: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb, mlflow = pytest.importorskip("wandb"), pytest.importorskip("mlflow")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = f"file:{copied}/mlruns"
    named = (
        f"[{{class_path: wandb, init_args: {{mode: offline}}}}, "
        f"{{class_path: mlflow, init_args: {{tracking_uri: '{store}'}}}}]"
    )
    try:
        bits = trained(copied, named)
        assert wandb.run is None  # the next stage begins a run of its own
    finally:
        wandb.teardown()
    assert bits == (finished_run / "pretrain/weights.safetensors").read_bytes()
    stage = (copied / "mine/pretrain").resolve()
    assert stage.name == (finished_run / "pretrain").resolve().name  # loggers are no part of its fingerprint
    (offline,) = (copied / "mine/wandb").glob("offline-run-*/*.wandb")
    content = offline.read_bytes()
    assert all(word in content for word in (b"mine", b"pretrain", b"learning_rate", b"gradient_norm"))

    client = mlflow.tracking.MlflowClient(store)
    experiment = client.get_experiment_by_name("mine")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("pretrain", "FINISHED")
    assert run.data.tags["moonlib_run"] == "mine" and run.data.tags["moonlib_fingerprint"] == stage.name
    assert [each.step for each in client.get_metric_history(run.info.run_id, "loss")] == [0, 1, 2]
    assert (stage / "csv/metrics.csv").is_file() and not (stage / "logs").exists()  # no tensorboard was asked for


def test_a_logger_that_fails_is_told_of_once_and_the_training_goes_on(
    copied: Path, finished_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bits = trained(copied, f"[tensorboard, {{class_path: {__name__}.Broken}}]")
    assert bits == (finished_run / "pretrain/weights.safetensors").read_bytes()
    told = [record.getMessage() for record in caplog.records if "logger" in record.getMessage()]
    assert told == [
        f"the logger {__name__}.Broken failed, and logs no more of this stage, which goes on: "
        "ConnectionError: no route to host"
    ]


def test_any_logger_gets_the_names_that_it_takes_and_is_left_alone_once_it_failed(tmp_path: Path) -> None:
    named = read_loggers([{"class_path": f"{__name__}.Broken", "init_args": {"group": "mine"}}])
    csv, guarded = loggers.made(named, STEP, tmp_path / "iter9", tmp_path / "stage", writes=True)
    assert isinstance(csv, CSVLogger) and isinstance(guarded, Guarded)
    assert (guarded.name, guarded.group) == ("iter9", "mine")
    for step in range(3):
        guarded.log_metrics({"loss": 1.0}, step)
    assert guarded.calls == 1


def test_a_resumed_training_goes_on_under_the_same_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    named = read_loggers(["wandb", {"class_path": "mlflow", "init_args": {"tracking_uri": f"file:{tmp_path}/ml"}}])
    ids = []
    (tmp_path / "stage").mkdir()
    for _ in range(2):
        _, wandb, mlflow = loggers.made(named, STEP, tmp_path / "iter9", tmp_path / "stage", writes=True)
        mlflow.log_metrics({"loss": 1.0}, 0)
        ids.append((wandb.version, mlflow.version))
    assert ids[0] == ids[1] and all(ids[0])
    (tmp_path / "other").mkdir()
    _, wandb, _ = loggers.made(named, STEP, tmp_path / "iter9", tmp_path / "other", writes=True)
    assert wandb.version != ids[0][0]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    with pytest.raises(RecipeError, match=rf"loggers\.0: {name} is not installed: pip install .*\[{name}\]'"):
        loggers.require([LoggerRecipe(NAMED[name])])


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({"class_path": "nowhere.Logger"}, r"loggers\.0\.class_path: nowhere\.Logger cannot be imported"),
        ({"class_path": "pathlib.Path"}, r"loggers\.0\.class_path: pathlib\.Path is no lightning"),
        ({"class_path": "csv", "init_args": {"flush": 3}}, r"loggers\.0\.init_args: csv: .*'flush'"),
    ],
)
def test_what_can_be_no_logger_is_told_before_anything_is_made(named: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=told):
        loggers.require(read_loggers([named]))
