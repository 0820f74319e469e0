"""moonlib writes only into what is its own, and never through a link."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from moonlib.artifacts.checksums import SUMS, sums
from moonlib.artifacts.directories import attempt, link, write_text
from moonlib.config.recipe import load
from moonlib.representations.store import write_array, write_vectors
from moonlib.runs.debug import debug
from moonlib.runs.iteration import fit
from moonlib.runs.ownership import RunExistsError
from moonlib.system import lock


@pytest.fixture
def copied(finished_run: Path, tmp_path: Path) -> Path:
    """A runs directory with the finished iter1, to spoil."""
    shutil.copytree(finished_run.parent, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs"


@pytest.fixture
def other(copied: Path, tmp_path: Path) -> Path:
    """A recipe that differs from that of `copied`, and whose stages are all there but one."""
    config = yaml.safe_load((copied / "iter1/recipe.yaml").read_text())
    config["stages"]["represent"]["module"] = {"class_path": "represent", "init_args": {"ks": [1]}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "other.yaml"


def content(directory: Path) -> dict[str, bytes | str]:
    """Every file and link below a directory."""
    return {
        str(path.relative_to(directory)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def project(place: Path) -> Path:
    """A folder of one's own in which a recipe lies."""
    (place / "points").mkdir(parents=True)
    for name in ("results.json", "costs.json", "points/one.txt"):
        (place / name).write_text("years of work")
    (place / "recipe.yaml").write_text("# a comment\nextends: iter1\n")
    (place / "photos").symlink_to(place.parent)
    return place


def export(place: Path) -> Path:
    """An export, as far as its files tell; `.lock` is of who embeds there."""
    place.mkdir(parents=True)
    for name in ("config.json", "recipe.yaml", "model.safetensors", ".lock"):
        (place / name).write_text("{}")
    return place


@pytest.mark.parametrize("make", [project, export])
def test_a_folder_that_holds_a_recipe_is_no_run_for_that(make: Callable[[Path], Path], tmp_path: Path) -> None:
    make(tmp_path / "runs/mine")
    before = content(tmp_path)
    for replace in (False, True):
        with pytest.raises(
            RunExistsError, match="mine is not a run directory and not empty: give the run another --name"
        ):
            fit("iter1", runs=tmp_path / "runs", name="mine", replace=replace)
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", ["mine", "team/mine", "mine/iter1"])
def test_nothing_is_written_through_a_link(name: str, copied: Path, other: Path, tmp_path: Path) -> None:
    """The link is the run's own name, or stands on the way to it."""
    (copied / "team").mkdir()
    place = copied / (name if name != "mine/iter1" else "mine")
    place.symlink_to(copied / "iter1" if name != "mine/iter1" else copied, target_is_directory=True)
    before = content(tmp_path)
    with pytest.raises(FileExistsError, match=rf"{place} is a symbolic link, and moonlib writes through none"):
        fit(other, runs=copied, name=name, replace=True)
    assert content(tmp_path) == before


@pytest.mark.parametrize("make", [export, None])
def test_a_run_goes_into_no_run_and_no_export(
    make: Callable[[Path], Path] | None, copied: Path, other: Path, tmp_path: Path
) -> None:
    place = make(copied / "shipped") if make else copied / "iter1"
    before = content(tmp_path)
    with pytest.raises(RunExistsError, match=rf"{place} is a run or an export, and holds no run"):
        fit(other, runs=copied, name=f"{place.name}/mine", replace=True)
    assert content(tmp_path) == before


def test_replace_deletes_what_is_the_run_s_and_nothing_else(copied: Path, other: Path, tmp_path: Path) -> None:
    run = copied / "iter1"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/mug.jpg").write_text("a mug")
    (run / "photos").symlink_to(tmp_path / "photos")
    (run / "points/pretrain-2").mkdir(parents=True)
    (run / "points/pretrain-2/probing").symlink_to(str((run / "pretrain").readlink()).replace("..", "../../.."))
    (run / "points/mine.txt").write_text("mine")
    (run / "points.json").write_text("{}")
    (run / "notes.txt").write_text("mine")
    fit(other, runs=copied, name="iter1", replace=True)
    assert (run / "photos/mug.jpg").read_text() == "a mug" and (run / "notes.txt").read_text() == "mine"
    assert [path.name for path in (run / "points").iterdir()] == ["mine.txt"]
    assert not (run / "points.json").exists() and (run / "pretrain/weights.safetensors").exists()


def test_points_of_a_run_that_is_replaced_go_not_through_a_link(copied: Path, other: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "elsewhere/mine.txt").write_text("mine")
    (copied / "iter1/points").symlink_to(tmp_path / "elsewhere")
    fit(other, runs=copied, name="iter1", replace=True)
    assert (tmp_path / "elsewhere/mine.txt").exists() and (tmp_path / "elsewhere/deep").is_dir()


def test_what_has_the_name_of_a_stage_is_told_before_anything_runs(copied: Path, other: Path, tmp_path: Path) -> None:
    run = copied / "iter1"
    (run / "represent").unlink()
    (run / "represent").write_text("notes on what they represent")
    before = content(tmp_path)
    with pytest.raises(RunExistsError, match=r"iter1/represent is in the way of stage represent"):
        fit(other, runs=copied, name="iter1", replace=True)
    assert content(tmp_path) == before


def test_a_planted_link_for_an_unfinished_stage_is_refused(copied: Path, tmp_path: Path) -> None:
    stage = (copied / "iter1/represent").resolve()
    shutil.rmtree(stage)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/mine.txt").write_text("mine")
    stage.with_name(f"{stage.name}.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError, match=r"\.partial is a symbolic link"):
        fit(copied / "iter1/recipe.yaml", runs=copied, name="iter1")
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["mine.txt"]


def test_files_are_not_written_through_a_planted_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("years of work")
    for name in (".a.json.partial", ".a.npy.partial", ".b.npy.partial", ".b.ids.npy.partial", ".c.partial"):
        (tmp_path / name).symlink_to(victim)
    write_text(tmp_path / "a.json", "{}")
    write_array(tmp_path / "a.npy", np.zeros(2))
    write_vectors(tmp_path, "b", np.arange(2), 2, 1, lambda first: [np.zeros((1, 2), np.float32)] * (2 - first))
    (tmp_path / ".stages").mkdir()
    link(tmp_path / "c", tmp_path / ".stages")
    assert victim.read_text() == "years of work"
    assert (tmp_path / "a.json").read_text() == "{}" and not (tmp_path / "a.json").is_symlink()


def test_a_lock_is_not_written_through_a_planted_link(copied: Path, other: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("years of work")
    (copied / "iter1/.lock").unlink()
    (copied / "iter1/.lock").symlink_to(victim)
    with pytest.raises(OSError, match="a symbolic link, and moonlib writes through none"):
        fit(other, runs=copied, name="iter1", replace=True)
    (tmp_path / "stage.partial").mkdir()
    (tmp_path / "stage.partial/.lock").symlink_to(victim)
    with pytest.raises(OSError, match="a symbolic link"), attempt(tmp_path / "stage", print):
        pass
    assert victim.read_text() == "years of work"


def test_a_link_of_a_run_replaces_no_file_and_no_link_of_somebody_s(tmp_path: Path) -> None:
    (tmp_path / ".stages/one").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/file").write_text("years of work")
    (tmp_path / "run/photos").symlink_to(tmp_path)
    for name in ("file", "photos"):
        with pytest.raises(FileExistsError, match="in the way"):
            link(tmp_path / "run" / name, tmp_path / ".stages/one")
    assert (tmp_path / "run/file").read_text() == "years of work"
    for _ in range(2):
        link(tmp_path / "run/stage", tmp_path / ".stages/one")
    assert str((tmp_path / "run/stage").readlink()) == "../.stages/one"


def limited(recipe: str, runs: Path, name: str) -> Path:
    overrides = ["--stages.application=null", "--stages.represent=null", "--data.init_args.size=tiny"]
    small = [
        "--encoder.init_args.image={class_path: convnet, init_args: {image_size: 32, width: 8}}",
        "--encoder.init_args.text={class_path: transformer, init_args: {vocab_size: 300, width: 32, depth: 1}}",
        "--encoder.init_args.dim=32",
        "--stages.pretrain.data.batch_size=32",
        "--stages.pretrain.data.workers=0",
    ]
    return debug("limit", recipe, [*overrides, *small], runs=runs, name=name)


def test_a_debug_run_deletes_stages_of_its_own_and_nothing_else(runs: Path) -> None:
    first = limited("iter1", runs, "first")
    weights = first / "pretrain/weights.safetensors"
    made = weights.stat().st_mtime_ns
    (first / "notes.txt").write_text("mine")
    second = limited("iter1", runs, "second")
    assert weights.stat().st_mtime_ns == made and (second / "pretrain").resolve() != (first / "pretrain").resolve()
    assert limited("iter1", runs, "first") == first
    assert weights.stat().st_mtime_ns > made and (first / "notes.txt").read_text() == "mine"


def test_a_debug_run_that_is_under_way_keeps_what_it_has(runs: Path, tmp_path: Path) -> None:
    root = runs / ".debug/limit/iter1"
    (root / ".stages/half.partial").mkdir(parents=True)
    before = content(tmp_path)
    # A lock holds between processes: this one forgets its own.
    with pytest.MonkeyPatch.context() as patch:

        def taken(path: Path) -> None:
            raise lock.InUse("process 1 on elsewhere")

        patch.setattr(lock, "held", taken)
        with pytest.raises(RunExistsError, match="limit/iter1 is in use by process 1 on elsewhere"):
            limited("iter1", runs, "iter1")
    assert (root / ".stages/half.partial").is_dir() and content(tmp_path) == before


@pytest.mark.parametrize("planted", [".debug", ".debug/limit", ".debug/limit/iter1", ".debug/limit/iter1/.stages"])
def test_a_debug_run_deletes_nothing_through_a_link(planted: str, runs: Path, tmp_path: Path) -> None:
    for deep in ("limit/iter1/.stages", "iter1/.stages", ".stages"):
        (tmp_path / "elsewhere" / deep).mkdir(parents=True)
        (tmp_path / "elsewhere" / deep / "mine.txt").write_text("mine")
    (runs / planted).parent.mkdir(parents=True, exist_ok=True)
    (runs / planted).symlink_to(tmp_path / "elsewhere")
    before = content(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError, match=f"{planted} is a symbolic link"):
        limited("iter1", runs, "iter1")
    assert content(tmp_path / "elsewhere") == before


def test_a_runs_directory_that_is_a_link_is_the_user_s_own_choice(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(copied)
    assert load(copied / "iter1/recipe.yaml").stages
    assert fit(copied / "iter1/recipe.yaml", runs=tmp_path / "linked", name="iter1") == tmp_path / "linked/iter1"


def test_what_only_an_attempt_needs_is_there_until_the_directory_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(directory: Path) -> None:
        with attempt(directory, print, but=["checkpoint.ckpt"]) as partial:
            if partial is not None:
                (partial / "weights").write_text("trained")
                (partial / "checkpoint.ckpt").write_text("all that resume needs")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("moonlib.artifacts.directories.seal", full)
        with pytest.raises(OSError, match="No space left"):
            fill(tmp_path / "stage")
    assert (tmp_path / "stage.partial/checkpoint.ckpt").exists()
    (tmp_path / "stage.partial/.weights.7.partial").write_text("half")  # of a process that was killed
    fill(tmp_path / "stage")
    assert sorted(path.name for path in (tmp_path / "stage").iterdir()) == [SUMS, "weights"]
    assert list(sums(tmp_path / "stage")) == ["weights"]


def test_a_folder_that_only_an_unfinished_attempt_needs_is_gone_and_has_no_checksums(tmp_path: Path) -> None:
    with attempt(tmp_path / "made", lambda holder: None, but=["best", "missing"]) as partial:
        assert partial is not None
        write_text(partial / "kept.txt", "kept")
        (partial / "best/3").mkdir(parents=True)
        write_text(partial / "best/3/weights.safetensors", "x")
    assert not (tmp_path / "made/best").exists()
    assert "kept.txt" in (tmp_path / "made" / SUMS).read_text() and "best" not in (tmp_path / "made" / SUMS).read_text()
