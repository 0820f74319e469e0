"""The whole path on the tiny marketplace: what a user sees of a run."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml

from moonlib.config.recipe import StageRecipe, load, spelled
from moonlib.data.build import build
from moonlib.data.dataset import Dataset
from moonlib.data.evaluation import evaluation_searches
from moonlib.runs.iteration import fit, next_command
from moonlib.runs.ownership import RunExistsError
from moonlib.runs.run import Run
from moonlib.stages.application import Application
from moonlib.testing.data import write_pictures

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
ROOT = Path(__file__).parents[2]
ITER1, ITER2 = ROOT / "recipes/iter1.yaml", ROOT / "recipes/iter2.yaml"
SHORT = [
    "--data.init_args.size=tiny",
    "--encoder.init_args.text.init_args.vocab_size=512",
    "--stages.pretrain.trainer.max_steps=3",
    "--stages.pretrain.data.batch_size=32",
    "--stages.pretrain.data.workers=0",
    "--stages.pretrain.trainer.log_every_n_steps=1",
    "--stages.represent.data.workers=0",
]
SHORT2 = [
    *SHORT,
    "--stages.posttrain.trainer.max_steps=3",
    "--stages.posttrain.data.batch_size=32",
    "--stages.posttrain.data.workers=0",
]


@pytest.fixture(scope="module")
def runs(data_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs directory whose datasets are those of the test session."""
    runs = tmp_path_factory.mktemp("runs")
    (runs / ".data").symlink_to(data_cache)
    return runs


@pytest.fixture(scope="module")
def iter1(runs: Path) -> Path:
    return fit(ITER1, SHORT, runs=runs)


@pytest.fixture(scope="module")
def iter2(runs: Path, iter1: Path) -> Path:
    return fit(ITER2, SHORT2, runs=runs)


def results(run: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((run / "results.json").read_text())
    return found


def test_results_hold_every_number_beside_its_baselines_and_bounds(iter2: Path) -> None:
    found = results(iter2)
    for key in ("image_search/recall@1", "image_search/recall@10", "text_search/recall@10"):
        assert 0 <= found[key] <= 1
        assert 0 <= found[f"baseline/initial/{key}"] <= found[f"oracle/{key}"] <= 1
    assert "baseline/thumbnail/image_search/recall@10" in found
    assert "baseline/thumbnail/text_search/recall@10" not in found
    for key in ("auc", "gauc", "logloss", "ne", "pcoc", "ece"):
        for prefix in ("", "baseline/", "baseline/shuffled/", "oracle/", "ceiling/"):
            assert f"{prefix}ctr/{key}" in found
    for key in ("image_search/recall@10@new", "text_search/recall@10@tail", "ctr/auc@new", "ctr/auc@tail"):
        assert key in found
    assert found["oracle/image_search/recall@10"] > 0.9
    assert found["ceiling/ctr/auc"] > max(found["ctr/auc"], found["baseline/ctr/auc"])


def test_iter2_takes_over_what_iter1_finished(iter1: Path, iter2: Path) -> None:
    for name in (
        "preprocessing",
        "pretrain",
        "represent.oracle",
        "represent.baseline.initial",
        "application.baseline",
    ):
        assert (iter1 / name).resolve() == (iter2 / name).resolve(), name
    for name in ("represent", "application", "application.oracle"):
        assert (iter1 / name).resolve() != (iter2 / name).resolve(), name
    costs = json.loads((iter2 / "costs.json").read_text())
    assert costs["pretrain"]["reused"] and not costs["posttrain"]["reused"]


def test_the_same_recipe_again_runs_nothing_and_changes_nothing(runs: Path, iter1: Path) -> None:
    before = (iter1 / "results.json").read_bytes()
    fit(ITER1, SHORT, runs=runs)
    assert (iter1 / "results.json").read_bytes() == before
    costs = json.loads((iter1 / "costs.json").read_text())
    assert all(cost["reused"] for stage, cost in costs.items() if stage != "data")


def test_results_depend_on_seed_and_recipe_only(data_cache: Path, tmp_path: Path, iter1: Path) -> None:
    (tmp_path / ".data").symlink_to(data_cache)
    workers = ["--stages.pretrain.data.workers=2", "--stages.represent.data.workers=1"]
    again = fit(ITER1, SHORT + workers, runs=tmp_path, name="again")
    assert (again / "results.json").read_bytes() == (iter1 / "results.json").read_bytes()
    assert (again / "pretrain").resolve().name == (iter1 / "pretrain").resolve().name
    for weights in ("pretrain/weights.safetensors", "application/weights.safetensors", "represent/products.npy"):
        assert (again / weights).read_bytes() == (iter1 / weights).read_bytes()


def test_changing_one_application_key_reruns_the_application_only(runs: Path, iter1: Path) -> None:
    changed = fit(ITER1, [*SHORT, "--stages.application.module.init_args.learning_rate=0.01"], runs=runs, name="faster")
    costs = json.loads((changed / "costs.json").read_text())
    ran = {stage for stage, cost in costs.items() if stage != "data" and not cost["reused"]}
    assert ran and all(stage.startswith("application") for stage in ran)


def test_a_differing_recipe_is_refused_with_its_difference_and_nothing_is_lost(runs: Path, iter1: Path) -> None:
    before = (iter1 / "results.json").read_bytes()
    with pytest.raises(RunExistsError, match=r"max_steps: 3 -> 2[\s\S]*--replace"):
        fit(ITER1, [*SHORT, "--stages.pretrain.trainer.max_steps=2"], runs=runs)
    assert (iter1 / "results.json").read_bytes() == before


def test_replace_takes_the_directory_over(data_cache: Path, tmp_path: Path, runs: Path, iter1: Path) -> None:
    copied = tmp_path / "runs"
    shutil.copytree(runs, copied, symlinks=True)
    run = fit(
        ITER1,
        [*SHORT, "--stages.application.module.init_args.adapter=similarity"],
        runs=copied,
        name="iter1",
        replace=True,
    )
    config = yaml.safe_load((run / "recipe.yaml").read_text())
    assert config["stages"]["application"]["module"]["init_args"]["adapter"]["class_path"].endswith("Similarity")
    assert results(run)["ctr/auc"] != results(iter1)["ctr/auc"]


def test_a_directory_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "iter1").mkdir()
    (tmp_path / "iter1/thesis.tex").write_text("years of work")
    with pytest.raises(RunExistsError, match="not a run directory"):
        fit(ITER1, SHORT, runs=tmp_path, replace=True)
    assert (tmp_path / "iter1/thesis.tex").exists()


def test_a_stage_cut_off_half_way_is_run_again(data_cache: Path, tmp_path: Path, iter1: Path) -> None:
    (tmp_path / ".data").symlink_to(data_cache)
    stage = (iter1 / "pretrain").resolve()
    half = tmp_path / ".stages" / f"{stage.name}.partial"
    half.mkdir(parents=True)
    (half / "weights.safetensors").write_bytes(b"half a file")
    run = fit(ITER1, SHORT, runs=tmp_path)
    assert (run / "pretrain/weights.safetensors").read_bytes() == (stage / "weights.safetensors").read_bytes()
    assert not half.exists()


def test_predictions_cover_every_test_impression_once(iter1: Path, runs: Path) -> None:
    predictions = pl.read_parquet(iter1 / "application/predictions.parquet").filter(pl.col("split") == "test")
    assert predictions.select("search_id", "item_id").is_duplicated().sum() == 0
    assert predictions["probability"].is_between(0, 1).all()


def test_logs_are_there_for_spreadsheets_and_tensorboard(iter1: Path) -> None:
    assert list((iter1 / "pretrain").rglob("metrics.csv"))
    assert list((iter1 / "pretrain").rglob("events.out.tfevents*"))


def test_an_encoder_with_one_tower_does_what_it_can(runs: Path) -> None:
    overrides = [*SHORT, "--encoder.init_args.text=null", "--stages.pretrain=null", "--stages.application=null"]
    found = results(fit(ITER1, overrides, runs=runs, name="image-only"))
    assert "image_search/recall@10" in found and "text_search/recall@10" not in found


def test_k_beyond_the_gallery_is_an_error_with_the_size(runs: Path) -> None:
    overrides = [*SHORT, "--stages.pretrain=null", "--stages.application=null"]
    with pytest.raises(ValueError, match=r"recall@5000.*choose a smaller K"):
        fit(ITER1, [*overrides, "--stages.represent.module.init_args.ks=[5000]"], runs=runs, name="too-many")


def test_a_users_own_tables_and_images_run_the_same_recipe(tiny: Dataset, runs: Path, tmp_path: Path) -> None:
    """Tables and pictures in folders → shards → the recipe; without latents there is no oracle and no ceiling."""
    tables, images = tmp_path / "tables", tmp_path / "images"
    tables.mkdir()
    for name in ("products", "queries"):
        write_pictures(tiny, name, tiny.table(name), images).write_parquet(tables / f"{name}.parquet")
    for name in ("searches", "impressions"):
        tiny.table(name).write_parquet(tables / f"{name}.parquet")
    own = build(tables, images, tmp_path / "mine", splits=tiny.splits, workers=1)
    source = f"--data={{class_path: shards, init_args: {{path: {own}}}}}"
    found = results(fit(ITER1, [*SHORT[1:], source], runs=runs, name="own"))
    expected = {"image_search/recall@10", "ctr/auc", "baseline/ctr/auc", "baseline/thumbnail/image_search/recall@10"}
    assert expected <= set(found)
    assert not any(key.startswith(("oracle/", "ceiling/")) for key in found)


def test_the_command_line_runs_a_recipe_and_ends_with_table_path_and_next_command(
    cli: Cli, data_cache: Path, tiny: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/.data").symlink_to(data_cache)
    done = cli("fit", "--config", "iter2", *SHORT2)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    table = lines[lines.index("iter2: image_search on test days, n: searches") :]
    (row,) = [line.split() for line in table[: table.index("")] if line.startswith("recall@10")]
    asked = len(evaluation_searches(tiny, "test", "image_search"))
    assert row[:3] == ["recall@10", str(asked), f"{results(tmp_path / 'runs/iter2')['image_search/recall@10']:.4f}"]
    narrow = [line for line in table[: table.index("run: runs/iter2")] if not line.startswith("below the initial")]
    assert max(map(len, narrow)) <= 80
    assert "run: runs/iter2" in lines
    assert lines[-1].startswith("next: ")
    refused = cli("fit", "--config", "iter2", *SHORT2, "--seed", "7")
    assert refused.returncode == 2
    assert "seed: 0 -> 7" in refused.stderr and "--replace" in refused.stderr
    typo = cli("fit", "--config", "iter2", "--stages.posttrain.trainer.max_step", "7")
    assert typo.returncode == 2
    assert typo.stderr.count("\n") == 1 and "max_steps" in typo.stderr


def test_the_next_command_keeps_what_the_command_line_said() -> None:
    overrides = ["--data", "my shop", "--seed=3"]
    words = shlex.split(next_command(load("iter2", ["--seed=3"]), overrides))
    assert words[:4] == ["moonlib", "fit", "--config", "iter2"] and words[4:7] == overrides
    assert words[7:] == ["--name", "iter2-seed4", "--seed", "4"]  # of two seeds the last one counts
    assert load(words[3], [*overrides[2:], *words[9:]]).seed == 4
    again = shlex.split(next_command(load("iter2", ["--seed=3"]), overrides, "autumn/mine-seed3"))
    assert again[7:] == ["--name", "autumn/mine-seed4", "--seed", "4"]  # the run's own name, not the recipe's
    elsewhere = shlex.split(next_command(load("iter2"), runs=Path("my runs"), days=3))
    assert elsewhere[4:] == ["--runs", "my runs", "--days", "3", "--name", "iter2-seed1", "--seed", "1"]
    assert "--days --name" in next_command(load("iter2"), days=0)


def test_infinity_in_a_recipe_is_noted_in_json_that_any_tool_reads(runs: Path) -> None:
    own = ["--stages.pretrain.trainer.gradient_clip_val=.inf", "--stages.represent=null", "--stages.application=null"]
    run = fit(ITER1, [*SHORT, *own], runs=runs, name="infinite")
    text = (run / "pretrain/identity.json").read_text()
    assert "Infinity" not in text and '"gradient_clip_val": ".inf"' in text
    # And read back as the number that it was.
    init_args = spelled({"adapter": "id_only", "predictor": "mlp", "learning_rate": float("-inf")})
    module = StageRecipe("application", {"module": {"class_path": "application", "init_args": init_args}}).module()
    assert isinstance(module, Application) and module.optimizer.learning_rate == float("-inf")


def test_results_of_an_earlier_version_that_hold_nan_are_read_without_it(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "old", symlinks=True)
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps(results | {"ctr/auc": float("nan")}))
    assert Run(run).results == results
