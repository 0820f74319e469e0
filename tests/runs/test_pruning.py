"""Pruning deletes what no run needs, and nothing that a run links, that is locked, or that nobody can know about."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from moonlib import fit
from moonlib.artifacts.directories import LOCK
from moonlib.artifacts.layout import PRUNE_LOCK
from moonlib.artifacts.reading import read_mapping
from moonlib.runs import pruning, runner
from moonlib.runs.pruning import DAY, prune
from moonlib.runs.run import RunError
from moonlib.system import lock

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def stage(runs: Path, name: str, *, dataset: str = "d0", size: int = 100, age: float = 2 * DAY) -> Path:
    """A stage, finished or (``x.partial``) not."""
    place = runs / ".stages" / name
    place.mkdir(parents=True)
    (place / "identity.json").write_text(json.dumps({"dataset": dataset}))
    (place / "content").write_bytes(b"x" * size)
    for path in (*place.iterdir(), place):
        os.utime(path, (time.time() - age, time.time() - age))
    return place


def run_of(runs: Path, name: str, links: dict[str, str], data: str = "") -> Path:
    """A run that links stages, as `moonlib fit` leaves it; those of ``links`` need not be there."""
    run = runs / name
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(yaml.safe_dump({"stages": {link: {} for link in links if "/" not in link}}))
    for link, target in links.items():
        (run / link).parent.mkdir(exist_ok=True)
        (run / link).symlink_to(os.path.relpath(runs / ".stages" / target, (run / link).parent))
    if data:
        (run / "run.json").write_text(json.dumps({"data": {"hash": data, "place": f"../.data/{data}"}}))
    return run


def dataset(runs: Path, name: str) -> Path:
    """A dataset, as far as its identity goes."""
    place = runs / ".data" / name
    place.mkdir(parents=True)
    day = "2025-01-01T00:00:00+00:00"
    moments = dict.fromkeys(("behaviour_until", "train_until", "valid_until", "test_until"), day)
    counts = dict.fromkeys(("products", "queries", "users", "searches", "impressions"), 0)
    about = {"format": 1, "name": name, "version": "1", "hash": name, "counts": counts, "splits": moments}
    (place / "dataset.json").write_text(json.dumps(about))
    return place


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_only_listed_at_first_and_deleted_when_told_to(tmp_path: Path) -> None:
    stage(tmp_path, "linked")
    stage(tmp_path, "forgotten", size=5000)
    run_of(tmp_path, "week1", {"pretrain": "linked"}, data="d0")
    dataset(tmp_path, "d0")
    dataset(tmp_path, "d1")
    listed = prune(tmp_path)
    assert {(each.place.name, each.kind) for each in listed.found} == {("forgotten", "stage"), ("d1", "dataset")}
    assert not listed.deleted and names(tmp_path / ".stages") == {"linked", "forgotten"}
    done = prune(tmp_path, delete=True)
    assert done.deleted and done.bytes == listed.bytes > 5000
    assert {(each.place.name, each.kind) for each in done.found} == {("forgotten", "stage"), ("d1", "dataset")}
    assert names(tmp_path / ".stages") == {"linked"} and names(tmp_path / ".data") == {"d0"}
    assert prune(tmp_path).found == ()


@given(
    st.dictionaries(
        st.sampled_from("abcdefgh"),
        st.tuples(
            st.sampled_from(["whole", "partial", "both"]),
            st.sampled_from(["", "stage", "partial", "deep", "hidden", "elsewhere"]),
            st.sampled_from([0.5, 2.0]),
        ),
    )
)
def test_what_a_run_links_stays_and_all_else_goes(
    tmp_path_factory: pytest.TempPathFactory, found: dict[str, tuple[str, str, float]]
) -> None:
    runs = tmp_path_factory.mktemp("runs")
    (runs / ".stages").mkdir()
    stays, goes = set(), set()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (runs / "moved").symlink_to(elsewhere)
    for name, (made, linked, days) in found.items():
        parts = {"whole": [name], "partial": [f"{name}.partial"], "both": [name, f"{name}.partial"]}[made]
        for part in parts:
            stage(runs, part, age=days * DAY)
            kept = bool(linked) or (part != name and days < 1)
            (stays if kept else goes).add(part)
        if linked == "elsewhere":  # a folder that the folder of runs links to, with an absolute link
            (elsewhere / f"run-{name}").mkdir()
            (elsewhere / f"run-{name}" / "pretrain").symlink_to((runs / ".stages" / name).resolve())
        elif linked:
            run = {"deep": f"study/{name}", "hidden": f".put-aside/{name}"}.get(linked, f"run-{name}")
            link = f"points/pretrain-{name}/represent" if linked == "deep" else "pretrain"
            (runs / run / link).parent.mkdir(parents=True)
            run_of(runs, f"{run}/x", {"represent": f"{name}.partial" if linked == "partial" else name})
    prune(runs, delete=True)
    assert names(runs / ".stages") == stays
    assert not goes & stays


def test_what_somebody_works_on_stays(tmp_path: Path) -> None:
    place = stage(tmp_path, "a.partial")
    (place / LOCK).touch()
    os.utime(place / LOCK, (0, 0))
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom moonlib.system import lock\n"
        f"with lock.held(Path({str(place / LOCK)!r})):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdout.readline()
        for path in (place / LOCK, place):
            os.utime(path, (0, 0))
        assert f"process {holder.pid} on" in (lock.holder(place / LOCK) or "")
        found = prune(tmp_path, delete=True)
        holder.stdin.close()
    assert place.is_dir() and found.found == ()
    assert f"process {holder.pid} on" in found.kept[0] and "works on it" in found.kept[0]
    assert lock.holder(place / LOCK) is None
    assert [each.kind for each in prune(tmp_path, delete=True, older_than=-1).found] == ["half-finished"]


def test_to_ask_for_a_holder_does_not_end_a_lock_of_ones_own(tmp_path: Path) -> None:
    code = (
        f"from pathlib import Path\nfrom moonlib.system import lock\nprint(lock.holder(Path({str(tmp_path / LOCK)!r})))"
    )
    with lock.held(tmp_path / LOCK):
        assert str(os.getpid()) in (lock.holder(tmp_path / LOCK) or "")
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert str(os.getpid()) in other.stdout
    assert lock.holder(tmp_path / LOCK) is None and lock.holder(tmp_path / "no such file") is None


def test_a_kill_leaves_nothing_half_under_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(tmp_path, "forgotten")
    stage(tmp_path, "linked")
    run_of(tmp_path, "week1", {"pretrain": "linked"})

    def killed(place: Path) -> None:
        (place / "content").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(pruning, "_remove", killed)
        prune(tmp_path, delete=True)
    assert names(tmp_path / ".stages") == {"linked", ".forgotten.pruned"}
    stage(tmp_path, "forgotten")  # a run made it again meanwhile
    run_of(tmp_path, "week2", {"pretrain": "forgotten"})
    assert [each.kind for each in prune(tmp_path, delete=True).found] == ["half-deleted"]
    assert names(tmp_path / ".stages") == {"linked", "forgotten"}


def test_nobody_links_a_stage_while_others_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(tmp_path, "forgotten")
    file = str(tmp_path / PRUNE_LOCK)
    code = f"from pathlib import Path\nfrom moonlib.system import lock\nprint(lock.holder(Path({file!r})))"
    told: list[str] = []
    put_away = pruning._put_away

    def watched(each: pruning.Prunable) -> Path:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        told.append(done.stdout)
        return put_away(each)

    monkeypatch.setattr(pruning, "_put_away", watched)
    prune(tmp_path, delete=True)
    assert len(told) == 1 and str(os.getpid()) in told[0]


def test_hard_links_to_elsewhere_free_nothing(tmp_path: Path) -> None:
    one, two = dataset(tmp_path, "d1"), dataset(tmp_path, "d2")
    (tmp_path / ".stages").mkdir()
    run_of(tmp_path, "week2", {}, data="d2")
    (one / "shard").write_bytes(b"x" * 9000)
    os.link(one / "shard", two / "shard")
    (found,) = prune(tmp_path).found
    assert found.place == one and found.bytes == (one / "dataset.json").stat().st_size
    shutil.rmtree(tmp_path / "week2")
    assert prune(tmp_path).bytes > 9000  # of both, the shard is freed once


@pytest.mark.parametrize("how", ["running", "unread", "unknown", "debug"])
def test_datasets_stay_where_a_run_may_need_them(tmp_path: Path, how: str) -> None:
    dataset(tmp_path, "d1")
    run = run_of(tmp_path, "week1", {}, data="d0")
    if how == "unread":
        (run / "run.json").write_text("{")
    elif how == "unknown":
        (run / "run.json").unlink()
    held = run / LOCK
    if how == "debug":
        held = tmp_path / ".debug/limit/x" / LOCK
        held.parent.mkdir(parents=True)
    if how in ("running", "debug"):
        with lock.held(held):
            found = prune(tmp_path, delete=True)
    else:
        found = prune(tmp_path, delete=True)
    assert found.found == () and (tmp_path / ".data/d1").is_dir()
    assert "its datasets may be needed" in found.kept[0] and str(held.parent) in found.kept[0]


def test_a_dataset_that_can_not_be_read_stays_and_is_told(tmp_path: Path) -> None:
    place = dataset(tmp_path, "d1")
    (place / "dataset.json").write_text("[]")
    found = prune(tmp_path, delete=True)
    assert found.found == () and found.kept[0].startswith(f"{place}: ")


def test_what_several_folders_may_share_stays(tmp_path: Path) -> None:
    stage(tmp_path / "shared", "forgotten")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/.stages").symlink_to("../shared/.stages")
    found = prune(tmp_path / "runs", delete=True)
    assert found.found == () and "which other folders of runs may share" in found.kept[0]


def test_stages_stay_where_a_run_of_somebody_else_can_not_be_read(tmp_path: Path) -> None:
    place = stage(tmp_path, "forgotten")
    closed = run_of(tmp_path, "theirs", {"pretrain": "forgotten"})
    closed.chmod(0)
    for above in (tmp_path, *tmp_path.parents[:3]) if os.geteuid() == 0 else ():
        above.chmod(0o777)
    code = (
        "import os, sys\nfrom moonlib.runs.pruning import prune\nfrom moonlib.runs.listing import list_runs\n"
        "if os.geteuid() == 0:\n    os.setuid(65534)  # root may read everything\n"
        f"found = prune({str(tmp_path)!r}, delete=True)\nprint(found.found, found.kept)\n"
        f"print([(run.name, run.state, run.problem) for run in list_runs({str(tmp_path)!r})])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    closed.chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert place.is_dir() and done.stdout.startswith("() ") and "what can't be read may link its stages" in done.stdout
    assert "('theirs', 'damaged'" in done.stdout and "Permission denied" in done.stdout


def test_a_checkpoint_goes_once_every_run_has_evaluated_it(tmp_path: Path) -> None:
    place = stage(tmp_path, "trained")
    for step in (10, 20):
        weights = place / "snapshots" / str(step) / "weights.safetensors"
        weights.parent.mkdir(parents=True)
        weights.write_bytes(b"x" * 400)
    (place / "weights.safetensors").write_bytes(b"x")
    first = run_of(tmp_path, "first", {"pretrain": "trained"})
    second = run_of(tmp_path, "second", {"pretrain": "trained"})
    both = [{"key": f"trained/snapshots/{step}"} for step in (10, 20)]
    (first / "points.json").write_text(json.dumps({"points": both}))
    assert prune(tmp_path).found == ()
    (second / "points.json").write_text(json.dumps({"points": both[:1]}))
    done = prune(tmp_path, delete=True)
    assert [(each.kind, each.bytes) for each in done.found] == [("checkpoint", 400)]
    assert names(place / "snapshots") == {"10", "20"}  # the steps are still known
    assert names(place / "snapshots/10") == set() and names(place / "snapshots/20") == {"weights.safetensors"}
    assert (place / "weights.safetensors").exists()


def test_only_a_folder_of_runs_is_pruned(tmp_path: Path) -> None:
    stage(tmp_path, "a")
    run = run_of(tmp_path, "study/week1", {"pretrain": "a"})
    with pytest.raises(RunError, match=r"study has no \.stages and no \.data; the runs in it keep theirs in "):
        prune(tmp_path / "study", delete=True)
    with pytest.raises(RunError, match="is a run itself; give the folder that holds the runs"):
        prune(run, delete=True)
    with pytest.raises(RunError, match="there is no such folder"):
        prune(tmp_path / "no", delete=True)
    assert names(tmp_path / ".stages") == {"a"}


def test_after_pruning_a_listed_run_reuses_every_stage(
    cli: Cli, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(finished_run.parent, runs, symlinks=True)
    stage(runs, "f" * 16, size=3000)
    listed = cli("runs", "prune")
    assert listed.returncode == 0, listed.stderr
    assert ".stages/ffffffffffffffff  stage" in listed.stdout and "--yes` deletes it" in listed.stdout
    assert max(map(len, listed.stdout.splitlines())) <= 80
    done = cli("runs", "prune", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert [each["place"] for each in json.loads(done.stdout)["found"]] == [f"runs/.stages/{'f' * 16}"]
    linked: list[bool] = []
    attempt = runner.attempt

    def watched(directory: Path, *args: object, **options: object) -> object:
        linked.append(any(link.is_symlink() and link.resolve() == directory.resolve() for link in run.iterdir()))
        return attempt(directory, *args, **options)  # type: ignore[arg-type]

    run = runs / finished_run.name
    monkeypatch.setattr(runner, "attempt", watched)
    before = read_mapping(run / "run.json")
    fit(run / "recipe.yaml", runs=runs, name=run.name)
    costs = read_mapping(run / "costs.json")
    assert all(cost["reused"] for stage, cost in costs.items() if stage != "data") and len(costs) > 2
    assert linked and all(linked)  # a stage is linked before it is found, and so can't vanish in between
    assert read_mapping(run / "run.json")["finished"] == before["finished"]
