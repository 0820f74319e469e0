"""`moonlib runs` lists what is there: finished, cut off, running or broken, in the order of descent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from moonlib.artifacts.directories import LOCK
from moonlib.runs.listing import list_runs, runs_table
from moonlib.runs.run import Run, RunError
from moonlib.system import lock

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def made_run(
    runs: Path, name: str, *, stages: tuple[str, ...] = ("posttrain",), finished: str = "", **sources: str
) -> Path:
    """A run as `moonlib fit` leaves it, of stages with one file of 1,000 bytes.

    Args:
        runs: the folder of all runs.
        name: of the run; its stages are named after it.
        stages: links that it has, or ``link=directory`` for a directory of another name.
        finished: when.
        sources: what its encoder, or a stage, starts from.
    """
    run = runs / name
    run.mkdir(parents=True)
    config: dict[str, dict[str, object]] = {}
    for each in stages:
        link, _, directory = each.partition("=")
        config[link] = {"from": sources[link]} if link in sources else {}
        place = runs / ".stages" / (directory or f"{name}-{link}".replace("/", "-"))
        if not place.exists():
            place.mkdir(parents=True)
            (place / "weights").write_bytes(b"x" * 1000)
        (run / link).symlink_to(os.path.relpath(place, run))
    recipe: dict[str, object] = {"stages": config}
    if "encoder" in sources:
        (run / "preprocessing").symlink_to(os.path.relpath(runs / ".stages" / f"{name}-posttrain", run))
        recipe["encoder"] = {"class_path": "x.Y", "from": sources["encoder"]}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (run / "results.json").write_text(json.dumps({"ctr/auc": 0.7, "ctr/ne": 0.9, "baseline/ctr/auc": 0.6}))
    data = {"name": "shop", "hash": "d" * 64, "until": "2025-01-08T00:00:00+00:00", "place": "../../shop"}
    (run / "run.json").write_text(json.dumps({"recipe": "weekly", "data": data, "finished": finished}))
    return run


def day(number: int) -> str:
    return f"2025-01-{number:02}T12:30:00+00:00"


def test_parents_come_first_whatever_they_are_called(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    made_run(runs, "a", finished=day(3), encoder="runs/z")
    made_run(runs, "m", finished=day(2), posttrain="runs/z/posttrain")
    made_run(runs, "b", finished=day(9), posttrain="runs/a")
    made_run(runs, "z", finished=day(5))
    made_run(runs, "study/deep", finished=day(1))
    found = list_runs(runs)
    assert [run.name for run in found] == ["study/deep", "z", "m", "a", "b"]
    assert [str(parent) for parent in found[3].parents] == ["runs/z"] and found[3].parents[0].how == "encoder"
    assert found[2].parents[0].how == "stage posttrain" and found[2].parents[0].place == runs / "z"
    assert {run.state for run in found} == {"finished"}
    first = found[1]
    assert (first.recipe, first.data, first.data_hash) == ("weekly", "shop", "d" * 64)
    assert [(figure.key, figure.value) for figure in first.figures] == [("ctr/auc", 0.7)]
    assert first.finished is not None and first.finished.isoformat() == day(5)


def test_a_folder_that_was_moved_keeps_its_parents_and_a_lost_one_is_told(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    made_run(runs, "week1", finished=day(1))
    second = made_run(runs, "week2", finished=day(2), encoder="somewhere/week1")
    record = json.loads((second / "run.json").read_text())
    (second / "run.json").write_text(json.dumps({**record, "parents": {"encoder": "../week1"}}))
    assert Run(second).parents[0].place == runs / "week1"
    runs.rename(tmp_path / "kept")
    (parent,) = Run(tmp_path / "kept/week2").parents
    assert parent.place is not None and parent.place.samefile(tmp_path / "kept/week1")
    shutil.rmtree(tmp_path / "kept/week1")
    (found,) = list_runs(tmp_path / "kept")
    assert str(found.parents[0]) == "somewhere/week1: no longer there" and found.state == "finished"
    lines = [line for line, _ in runs_table(tmp_path, [found]).lines(80)]
    assert "week2 came from somewhere/week1: no longer there (encoder)" in lines


def test_broken_runs_are_rows_with_a_reason(tmp_path: Path) -> None:
    made_run(tmp_path, "whole", finished=day(1))
    (made_run(tmp_path, "unread") / "recipe.yaml").write_text("{")
    (made_run(tmp_path, "numbers") / "results.json").write_text('{"ctr/auc": "high"}')
    (made_run(tmp_path, "noted") / "run.json").write_text('{"finished": "yesterday"}')
    (made_run(tmp_path, "lost") / "recipe.yaml").unlink()
    dangling = made_run(tmp_path, "dangling", finished=day(2))
    shutil.rmtree(tmp_path / ".stages/dangling-posttrain")
    cut_off = made_run(tmp_path, "cut-off", stages=("posttrain=x.partial",))
    made_run(tmp_path, "early", stages=())
    (tmp_path / "early/results.json").unlink()
    odd = os.fsdecode(b"odd [red]\n\xff")
    made_run(tmp_path, odd, finished=day(1))
    with lock.held(made_run(tmp_path, "running", finished=day(1)) / LOCK):
        found = {run.name: run for run in list_runs(tmp_path)}
    states = {name: run.state for name, run in found.items()}
    assert states == {
        "whole": "finished",
        "unread": "damaged",
        "numbers": "damaged",
        "noted": "damaged",
        "lost": "damaged",
        "dangling": "damaged",
        "cut-off": "cut off",
        "early": "cut off",
        "running": "running",
        odd: "finished",
    }
    assert "recipe.yaml cannot be read" in found["unread"].problem
    assert "'ctr/auc' is 'high', and should be a number" in found["numbers"].problem
    assert (
        f"{dangling}/posttrain leads to ../.stages/dangling-posttrain, which is not there" in found["dangling"].problem
    )
    assert found["cut-off"].problem.startswith("posttrain missing; `moonlib fit --config ")
    assert f"process {os.getpid()} on" in found["running"].problem
    assert found["dangling"].finished is None and cut_off.is_dir()
    text = [line for line, _ in runs_table(tmp_path, list(found.values())).lines(80)]
    assert any(line.startswith("odd [red]") for line in text)
    json.dumps([run.to_json() for run in found.values()])


def test_sizes_tell_what_a_run_has_alone(tmp_path: Path) -> None:
    made_run(tmp_path, "one", stages=("pretrain=both", "posttrain"), finished=day(1))
    made_run(tmp_path, "two", stages=("pretrain=both",), finished=day(2))
    one, two = list_runs(tmp_path)
    own = sum(path.lstat().st_size for path in (tmp_path / "one").iterdir() if not path.is_symlink())
    assert (one.own_bytes, one.shared_bytes) == (own + 1000, 1000)
    assert two.own_bytes < 1000 and two.shared_bytes == 1000


def test_a_circle_of_parents_is_told(tmp_path: Path) -> None:
    for name, parent in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")):
        made_run(tmp_path, name, finished=day(1), posttrain=str(tmp_path / parent))
    found = {run.name: run for run in list_runs(tmp_path)}
    assert "a came from b came from c came from a" in found["c"].problem and not found["d"].problem
    assert sorted(found) == ["a", "b", "c", "d"]


def test_a_dataset_that_a_run_came_from_is_not_taken_for_a_run_of_its_name(tmp_path: Path) -> None:
    made_run(tmp_path, "week1", finished=day(1))
    scratch = made_run(tmp_path, "scratch2", finished=day(8))
    record = json.loads((scratch / "run.json").read_text())
    (scratch / "run.json").write_text(json.dumps({**record, "parents": {"data": "../../data/week1"}}))
    found = {run.name: run for run in list_runs(tmp_path)}
    (text,) = [line for line, _ in runs_table(tmp_path, [found["scratch2"]]).lines(200) if "scratch2  " in line]
    assert " data week1 " in text
    assert runs_table(tmp_path, [found["week1"]]).title.startswith("1 run in ")


def test_the_command_line_prints_a_table_or_json(cli: Cli, tmp_path: Path) -> None:
    made_run(tmp_path / "runs", "week1-of-the-long-autumn-sale", finished=day(1))
    made_run(tmp_path / "runs", "week2", finished=day(8), encoder="runs/week1-of-the-long-autumn-sale")
    done = cli("runs")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 runs in runs\n") and max(map(len, done.stdout.splitlines())) <= 80
    assert "0.7000" in done.stdout and "2025-01-07" in done.stdout and "weekly" in done.stdout
    found = json.loads(cli("runs", "runs", "--json").stdout)
    assert [each["name"] for each in found] == ["week1-of-the-long-autumn-sale", "week2"]
    assert found[1]["parents"][0] == {
        "how": "encoder",
        "path": "runs/week1-of-the-long-autumn-sale",
        "place": "runs/week1-of-the-long-autumn-sale",
    }
    (tmp_path / "empty").mkdir()
    assert "empty holds no runs" in cli("runs", "empty").stdout
    for words, told in (
        (("runs", "nowhere"), "nowhere: there is no such folder"),
        (("runs", "runs/week2"), "runs/week2 is a run itself; give the folder that holds the runs"),
        (("runs", "--yes"), "--yes is of `moonlib runs prune`"),
        (("runs", "a", "b"), "one folder of runs at a time"),
    ):
        refused = cli(*words)
        assert refused.returncode == 2 and told in refused.stderr


def test_a_run_notes_its_data_its_recipe_and_when_it_finished(finished_run: Path) -> None:
    record = Run(finished_run).record
    assert record is not None and record.recipe == "iter1" and record.finished
    dataset = Run(finished_run).dataset()
    assert (record.data.name, record.data.hash) == (dataset.name, dataset.hash)
    assert Run(finished_run).data_place is not None and Run(finished_run).parents == ()


def test_a_folder_that_is_no_folder_of_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file: is no folder"):
        list_runs(tmp_path / "file")
    assert list_runs(tmp_path) == []
