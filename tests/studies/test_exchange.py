"""`moonlib exchange`: what it makes of points, and real runs whose trainings were probed."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from moonlib.artifacts.checksums import SUMS, Damaged
from moonlib.artifacts.layout import SNAPSHOTS
from moonlib.artifacts.reading import Unreadable
from moonlib.runs.checkpoint_evaluation import checkpoints_of
from moonlib.runs.iteration import fit
from moonlib.runs.run import Run
from moonlib.studies.exchange import (
    EvaluatedPoint,
    Exchange,
    ExchangeError,
    Rate,
    Steering,
    distinct,
    exchange,
    exchange_tables,
    iteration_key,
    rates,
)
from moonlib.system.console import Terminal

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

PROBED = ["--stages.pretrain.checkpoint_evaluation.every=2", "--stages.posttrain.checkpoint_evaluation.every=1"]


def points(slope: float = 0.05, noise: float = 1e-4) -> list[EvaluatedPoint]:
    """Three iterations on two marketplaces: recall buys ``slope``, another metric is noise, a third is constant."""
    rng = np.random.default_rng(0)
    found = []
    for iteration in range(3):
        for seed in range(2):
            for step in range(4):
                recall = 0.2 + 0.1 * iteration + 0.05 * step + 0.02 * rng.random()
                auc = 0.6 + 0.05 * seed + slope * recall + noise * rng.standard_normal()
                metrics = {"search/recall@10": recall, "cluster_nmi": rng.random(), "category_accuracy": 1.0}
                about = {"run": f"iter{iteration}-{seed}", "iteration": f"iter{iteration}", "dataset": f"shop-{seed}"}
                about |= {"stage": "posttrain", "step": step, "key": f"{iteration}-{seed}-{step}"}
                found.append(EvaluatedPoint(about, f"hash{seed}", f"iter{iteration}", metrics | {"ctr/auc": auc}))
    return found


def test_the_rate_the_points_were_made_with_comes_back_and_its_metric_is_chosen() -> None:
    found, steer_by, constant = rates(points(), samples=200, seed=0)
    by_name = {row.intermediate: row for row in found}
    recall = by_name["search/recall@10"]
    assert recall.estimate == pytest.approx(0.05, abs=0.002)
    assert recall.low < 0.05 < recall.high and recall.high - recall.low < 0.01
    assert (recall.points, recall.runs) == (24, 6) and recall.spearman > 0.98
    assert recall.loo_error < by_name["cluster_nmi"].loo_error
    assert constant == ["category_accuracy"] and "category_accuracy" not in by_name
    chosen = steer_by["ctr/auc"]
    assert (chosen.rate.intermediate, chosen.by, chosen.runner_up) == (
        "search/recall@10",
        "loo_error",
        "cluster_nmi",
    )
    assert chosen.sure == 1.0 and chosen.loo_error_of_mean > 5 * chosen.rate.loo_error


def test_a_metric_of_one_iteration_alone_does_not_make_the_others_constant() -> None:
    found = points()
    for point in found:
        if point.iteration == "iter2" and point.about["step"] == 3:
            point.metrics["search/recall@10@64d"] = point.metrics["search/recall@10"]
    found.append(EvaluatedPoint(found[-1].about | {"key": "again"}, "hash2", "iter2", dict(found[-1].metrics)))
    assert rates(found, samples=10, seed=0)[2] == ["category_accuracy", "search/recall@10@64d"]


def test_of_one_iteration_the_rank_correlation_chooses() -> None:
    _, steer_by, _ = rates([point for point in points() if point.iteration == "iter1"], samples=50, seed=0)
    chosen = steer_by["ctr/auc"]
    assert (chosen.by, chosen.rate.intermediate, chosen.rate.loo_error) == ("spearman", "search/recall@10", None)
    assert chosen.sure > 0.9


def test_one_run_has_a_rate_and_no_interval() -> None:
    found, steer_by, _ = rates([point for point in points() if point.about["run"] == "iter1-0"], samples=50, seed=0)
    row = next(row for row in found if row.intermediate == "search/recall@10")
    assert row.estimate == pytest.approx(0.05, abs=0.01) and row.low is row.high is None
    assert steer_by["ctr/auc"].sure is None
    json.dumps(Exchange("valid", [], found, steer_by, [], Path("e.json")).to_json(), allow_nan=False)


def test_what_no_rate_can_be_found_from_is_refused_with_a_reason() -> None:
    with pytest.raises(ExchangeError, match=r"2 points, and a rate needs at least 3: .*checkpoint_evaluation\.every"):
        rates(points()[:2], samples=10, seed=0)
    same = [EvaluatedPoint(p.about, p.dataset, p.iteration, {"cluster_nmi": 0.5, "ctr/auc": 0.6}) for p in points()]
    with pytest.raises(ExchangeError, match=r"no metric has a rate: .*constant: cluster_nmi, ctr/auc"):
        rates(same, samples=10, seed=0)
    silent = [EvaluatedPoint(p.about, p.dataset, p.iteration, {"cluster_nmi": 0.5}) for p in points()]
    with pytest.raises(ExchangeError, match="no downstream metric"):
        rates(silent, samples=10, seed=0)


def test_errors_compare_on_the_same_points() -> None:
    """A candidate that only some points have has a rate, and is not chosen for an error on fewer."""
    some = points()
    for point in some[:6]:
        point.metrics["attribute_accuracy"] = point.metrics["ctr/auc"]
    found, steer_by, _ = rates(some, samples=50, seed=0)
    assert next(row for row in found if row.intermediate == "attribute_accuracy").points == 6
    assert steer_by["ctr/auc"].candidates == 2


def test_a_shared_point_counts_once_for_the_run_with_the_fewest() -> None:
    def point(run: str, key: str, iteration: str) -> EvaluatedPoint:
        return EvaluatedPoint({"run": run, "key": key}, "hash", iteration, {})

    longer = [point("b-seed1", key, "B") for key in ("x", "y", "z")]
    shorter = [point("a-seed1", key, "A") for key in ("x", "y")]
    found = distinct([longer, shorter, [point("a-seed2", "w", "A")], [point("a-7", "v", "C")]])
    assert [(p.about["run"], p.about["iteration"]) for p in found] == [
        ("a-seed2", "a"),
        ("a-7", "a-7"),  # another recipe, and its short name is taken
        ("a-seed1", "a"),
        ("a-seed1", "a"),
        ("b-seed1", "b"),
    ]


def test_recipes_that_differ_in_seeds_probes_and_workers_are_one_iteration() -> None:
    stage = {"module": {"class_path": "x"}, "data": {"workers": 2, "batch_size": 8}, "trainer": {"max_steps": 3}}
    base = {"seed": 0, "data": {"class_path": "m", "init_args": {"seed": 0}}, "stages": {"pretrain": stage}}
    other = {"seed": 4, "data": {"class_path": "m", "init_args": {"seed": 9}}}
    same = other | {
        "stages": {
            "pretrain": {**stage, "checkpoint_evaluation": {"every": 1}, "data": {"workers": 0, "batch_size": 8}}
        }
    }
    named = {**stage, "module": {"class_path": "x", "init_args": {"metrics": [{"class_path": "m"}]}}}
    bare = {**stage, "module": {"class_path": "x"}}
    assert iteration_key(base | {"stages": {"a": named}}) == iteration_key(base | {"stages": {"a": bare}})
    longer = other | {"stages": {"pretrain": {**stage, "trainer": {"max_steps": 4}}}}
    assert iteration_key(base) == iteration_key(same) != iteration_key(longer)


# --- real runs


@pytest.fixture(scope="module")
def probed(unbroken: Path, data_cache: Path, short_iter2: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of iter2 on the tiny marketplace, probed on its way; its stages without a probe are reused."""
    runs = tmp_path_factory.mktemp("probed")
    (runs / ".data").symlink_to(data_cache)
    shutil.copytree(unbroken.parent / ".stages", runs / ".stages", symlinks=True)
    return fit("iter2", [*short_iter2, *PROBED], runs=runs)


def test_a_probed_run_has_its_points_and_everything_else_as_without(probed: Path, unbroken: Path) -> None:
    assert (probed / "results.json").read_text() == (unbroken / "results.json").read_text()
    for stage in ("pretrain", "posttrain"):
        weights = (probed / stage / "weights.safetensors").read_bytes()
        assert weights == (unbroken / stage / "weights.safetensors").read_bytes()
        assert (probed / stage).resolve().name != (unbroken / stage).resolve().name
    found = json.loads((probed / "points.json").read_text())["points"]
    # The end of the last training is the run's final point: it is there once.
    assert [(point["stage"], point["step"]) for point in found] == [
        ("pretrain", 2),
        ("pretrain", 4),
        ("posttrain", 1),
        ("posttrain", 2),
        ("posttrain", 3),
    ]
    keys = {"image_search/recall@10", "search/recall@50@photo", "category_accuracy", "cluster_nmi", "alignment"}
    keys |= {"ctr/auc", "ctr/gauc@new", "retrieval/recall@10", "relevance/auc", "contrastive_loss"}
    for point in found:
        assert keys <= point["metrics"].keys() and {f"valid/{key}" for key in keys} <= point["metrics"].keys()
    # What the run measured of its final representations and what the point says are one.
    results = json.loads((probed / "results.json").read_text())
    assert found[-1]["metrics"]["image_search/recall@10"] == results["image_search/recall@10"]
    assert found[0]["metrics"]["alignment"] != found[-1]["metrics"]["alignment"]


def test_snapshots_are_the_encoder_on_its_way(probed: Path) -> None:
    kept = sorted(path.parent.name for path in (probed / "posttrain/snapshots").glob("*/weights.safetensors"))
    assert kept == ["1", "2"]  # two accumulated batches are one step; the last step is the stage's own
    files = [probed / "pretrain/snapshots/2/weights.safetensors", probed / "pretrain/weights.safetensors"]
    assert files[0].read_bytes() != files[1].read_bytes()


def test_a_training_that_was_cut_off_ends_with_the_same_snapshots_and_points(
    probed: Path, runs: Path, short_iter2: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from moonlib.stages.training import Checkpoints

    class CutOff(Exception):
        pass

    # What is made of the trainings is made again: of all that follows, only what reads no weights stays.
    shutil.copytree(probed.parent / ".stages", runs / ".stages", symlinks=True)
    for link in (*probed.glob("p*"), *probed.glob("points/posttrain-1/*")):
        if link.is_symlink() and link.name != "preprocessing":
            shutil.rmtree(runs / ".stages" / link.resolve().name)
    hook = Checkpoints.on_train_batch_end
    cuts = [2, 3]  # after the first snapshot's batch in one training, and within an accumulated step in the other

    def cut_off(self: Checkpoints, trainer: object, module: object, out: object, batch: object, i: int) -> None:
        hook(self, trainer, module, out, batch, i)  # type: ignore[arg-type]
        if cuts and i == cuts[0]:
            cuts.pop(0)
            raise CutOff

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", cut_off)
    for _ in range(2):
        with pytest.raises(CutOff):
            fit("iter2", [*short_iter2, *PROBED], runs=runs, checkpoint_seconds=0)
    run = fit("iter2", [*short_iter2, *PROBED], runs=runs, checkpoint_seconds=0)
    for snapshot in ("pretrain/snapshots/2", "posttrain/snapshots/1", "posttrain/snapshots/2"):
        file = f"{snapshot}/weights.safetensors"
        assert (run / file).read_bytes() == (probed / file).read_bytes(), file
    assert (run / "points.json").read_bytes() == (probed / "points.json").read_bytes()


def test_the_command_evaluates_what_is_missing_and_then_only_reads(probed: Path, unbroken: Path, cli: Cli) -> None:
    """`unbroken` never had a probe: of it, the final point alone is evaluated."""
    runs = probed.parent
    plain = runs / "plain-seed3"
    shutil.copytree(unbroken, plain, symlinks=True)
    before = {path.name for path in (runs / ".stages").iterdir()}
    first = cli("exchange", probed, plain, "--split", "test")
    assert first.returncode == 0, first.stderr
    assert "steer by" in first.stdout and str(runs / "exchange.json") in first.stdout
    file = json.loads((runs / "exchange.json").read_text())
    # Their last points have other weights' directories and equal weights: they are two.
    assert [(p["run"], p["stage"], p["step"]) for p in file["points"]].count(("plain-seed3", "posttrain", 3)) == 1
    assert len(file["points"]) == 6 and file["split"] == "test"
    assert len({row["intermediate"] for row in file["rates"] if row["downstream"] == "ctr/auc"}) >= 6
    made = {path.name for path in (runs / ".stages").iterdir()}
    assert made > before
    times = {path: path.stat().st_mtime_ns for path in (runs / ".stages").iterdir()}
    again = exchange([probed, plain], split="test", out=runs / "again.json")
    assert {path: path.stat().st_mtime_ns for path in (runs / ".stages").iterdir()} == times
    assert json.loads((runs / "again.json").read_text()) == file
    exchange_tables(again)


@pytest.mark.parametrize("reached", ["study", "linked"])
def test_points_of_a_study_lie_deeper_than_other_runs(
    reached: str, probed: Path, short_iter2: list[str], tmp_path: Path
) -> None:
    """Their stages are those of all runs, also where the study is reached through a link."""
    runs = probed.parent
    point = fit("iter2", [*short_iter2, *PROBED], runs=runs, name=f"{reached}/64-seed0")
    place = point.parent
    if reached == "linked":
        place = tmp_path / "elsewhere"
        place.symlink_to(point.parent)
    shutil.rmtree(point / "points")
    before = {path.name for path in (runs / ".stages").iterdir()}
    found = exchange([place / "64-seed0"], split="test", out=tmp_path / "exchange.json")
    assert len(found.points) == 5
    assert {path.name for path in (runs / ".stages").iterdir()} == before
    assert sorted(path.name for path in place.iterdir()) == ["64-seed0"]
    links = [path for path in (point / "points").rglob("*") if path.is_symlink()]
    assert links and all(link.is_dir() for link in links)


def test_runs_of_other_data_and_unfinished_ones_are_refused(probed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(probed, other, symlinks=True)
    recipe = yaml.safe_load((other / "recipe.yaml").read_text())
    recipe["data"]["init_args"]["size"] = "small"
    (other / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(ExchangeError, match="different kinds of data"):
        exchange([probed, other])
    unfinished = probed.parent / "unfinished"
    shutil.copytree(probed, unfinished, symlinks=True)
    (unfinished / "represent").unlink()
    with pytest.raises(ValueError, match="represent is missing; resume it"):
        exchange([unfinished])
    with pytest.raises(ExchangeError, match="at least one run"):
        exchange([])


def test_metrics_of_a_point_that_are_none_end_in_one_sentence(probed: Path, tmp_path: Path) -> None:
    run = shutil.copytree(probed.parent, tmp_path / "runs", symlinks=True) / probed.name
    (tmp_path / "runs/exchange.json").unlink(missing_ok=True)
    file = (run / "represent").resolve() / "metrics.json"
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"0", b"1", 1))
    with pytest.raises(Damaged, match=r"metrics\.json is damaged"):
        exchange([run])
    (file.parent / SUMS).unlink()
    for content, told in (("[]", "holds no JSON object"), ('{"image_search/recall@10": "0.5"}', "should be a number")):
        file.write_text(content)
        with pytest.raises(Unreadable, match=told):
            exchange([run])
    assert not (tmp_path / "runs/exchange.json").exists()


def test_a_file_that_is_no_snapshot_is_no_point(probed: Path, tmp_path: Path) -> None:
    run = shutil.copytree(probed.parent, tmp_path / "runs", symlinks=True) / probed.name
    before = checkpoints_of(Run(run).layout, Run(run).recipe)
    for snapshots in {place.parent for place in (tmp_path / "runs/.stages").glob(f"*/{SNAPSHOTS}/*")}:
        (snapshots / ".DS_Store").touch()
    assert checkpoints_of(Run(run).layout, Run(run).recipe) == before


def test_tables_of_long_keys_fit_80_columns() -> None:
    keys = ["image_search/recall@10@category=Home & Garden/Vases and bowls", "text_search/recall@1"]
    rows = [Rate(key, "ctr/auc", 0.0123, -0.0456, 0.0789, 0.91, 0.0012, 1234, 56) for key in keys]
    steered = {"ctr/auc": Steering(rows[0], "loo_error", 0.87, keys[1], 2, 0.0034)}
    found = Exchange("valid", [], rows, steered, [], Path("exchange.json"))
    file = io.StringIO()
    Terminal(file=file, force_terminal=True, color_system=None, _environ={"COLUMNS": "80"}).print(
        exchange_tables(found)
    )
    lines = file.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines) and "…" not in file.getvalue()
    assert (
        lines.count("  " + keys[0]) == 1 and lines.count(keys[0]) == 1
    )  # a line of its own: it is longer than a column
    assert any("+0.00012  -0.00046 to +0.00079" in line and "1234" in line and line.endswith("56") for line in lines)
    assert any("ctr/auc, n: 1234 points of 56 runs" in line for line in lines)
