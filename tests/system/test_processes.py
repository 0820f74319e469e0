"""Processes that are left over find their own end; those that train together end without waiting for each other."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import moonlib.compat  # noqa: F401
import pytest
from torch import nn
from torch.multiprocessing import ProcessRaisedException
from torch.nn.parallel import DistributedDataParallel

from moonlib.cli import main
from moonlib.system import processes
from moonlib.testing.processes import Program, process_group, run_processes, run_program

WAITING = """
import sys, time
from moonlib.system.processes import end_with_parent
print("waiting", flush=True)
end_with_parent()
time.sleep(600)
"""

STARTING = f"""
import subprocess, sys
from moonlib.system.processes import meeting_point
meeting_point()
print(subprocess.Popen([sys.executable, "-c", {WAITING!r}], stdout=subprocess.DEVNULL).pid, flush=True)
sys.stdin.read()
"""


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "MOONLIB_FIRST_PROCESS"} | more


def test_a_process_ends_with_the_one_that_started_it() -> None:
    first = subprocess.Popen([sys.executable, "-c", STARTING], stdin=-1, stdout=-1, text=True, env=environment())
    assert first.stdout and first.stdin
    follower = int(first.stdout.readline())
    time.sleep(1)
    assert alive(follower)
    first.kill()
    first.communicate()
    while alive(follower):  # or the test's own limit ends it
        time.sleep(0.1)


def test_a_process_whose_parent_was_gone_before_it_looked_ends_too() -> None:
    """Killed while the process it had started was still importing, the first one is never seen alive by it."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    env = environment(MOONLIB_FIRST_PROCESS=str(gone.pid))
    late = subprocess.run([sys.executable, "-c", WAITING], env=env, stdout=-1, text=True)
    assert late.returncode == 1 and late.stdout == "waiting\n"


ENDING = """
import gc, os, sys
from pathlib import Path
import moonlib.compat
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from moonlib.cli import main

destroy = distributed.destroy_process_group

def watched(*args):
    models = [item for item in gc.get_objects() if issubclass(type(item), DistributedDataParallel)]
    held = [model for model in models if "reducer" in vars(model) or "logger" in vars(model)]
    destroy(*args)
    Path(f"ended-{os.getpid()}").write_text(f"{len(held)} {distributed.is_initialized()}")

distributed.destroy_process_group = watched
keeping = []
if sys.argv[1] == "keep":
    from lightning.pytorch.strategies import DDPStrategy

    configure = DDPStrategy.configure_ddp
    DDPStrategy.configure_ddp = lambda strategy: (configure(strategy), keeping.append(strategy.model))
sys.exit(main(sys.argv[2:]))
"""
"""moonlib, in each of its processes noting who still holds the process group when it ends."""


@pytest.fixture
def sparse(unbroken: Path, tmp_path: Path, short_iter2: list[str]) -> list[str]:
    """The words of a run whose click model, alone, is trained by two processes with sparse gradients."""
    shutil.copytree(unbroken.parent, tmp_path / "runs", symlinks=True)
    shutil.rmtree(tmp_path / "runs/iter2")
    stage = "--stages.application"
    pair = [f"{stage}.trainer.{key}" for key in ("devices=2", "accelerator=cpu", "strategy=ddp", "max_epochs=1")]
    return [
        *("fit", "--config", "iter2", "--name", "pair", "--runs", str(tmp_path / "runs")),
        *(*short_iter2, *pair, f"{stage}.module.init_args.sparse=true"),
    ]


def apply_again(runs: Path) -> None:
    """Forget the click models, so that the same command trains them once more."""
    for link in runs.glob("pair/application*"):
        shutil.rmtree(link.resolve())
        link.unlink()


@pytest.mark.first
@pytest.mark.parametrize("kept", [pytest.param("free", marks=pytest.mark.slow), "keep"])
def test_nothing_holds_the_process_group_when_it_ends(kept: str, sparse: list[str], tmp_path: Path) -> None:
    """Also where somebody, such as a callback, keeps the model that held it."""
    (tmp_path / "ending.py").write_text(ENDING)
    command = [sys.executable, "ending.py", kept, *sparse]
    done = subprocess.run(command, cwd=tmp_path, stdout=-1, stderr=-1, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert [file.read_text() for file in tmp_path.glob("ended-*")] == ["0 False", "0 False"]


@pytest.mark.slow
def test_fifty_runs_on_two_processes_end(sparse: list[str], tmp_path: Path) -> None:
    """A gloo thread that frees a sparse gradient while the group ends waited for ever, about once in a hundred runs."""
    for _ in range(50):
        command = [sys.executable, "-m", "moonlib", *sparse]
        done = subprocess.run(command, cwd=tmp_path, stdout=-1, stderr=-1, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        apply_again(tmp_path / "runs")


def test_a_group_that_something_outlives_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(ProcessRaisedException, match="a DistributedDataParallel is left where its process group ends"):
        run_processes(_outliving, str(tmp_path), processes=1)


def _outliving(rank: int, directory: str) -> None:
    with process_group(rank, directory, processes=1):
        kept = DistributedDataParallel(nn.Linear(2, 1))
    assert kept


def test_a_program_is_a_process_of_its_own(tmp_path: Path) -> None:
    code = (
        "import multiprocessing, os, sys;"
        "print(os.getpid(), os.getcwd(), sys.argv[1:], os.environ['WORD'], multiprocessing.get_start_method());"
        "sys.exit('no')"
    )
    program = Program(["-c", code, "a", "b"], cwd=tmp_path, env={**os.environ, "WORD": "word"})
    out, err = program.communicate(timeout=60)
    method = subprocess.run(
        [sys.executable, "-c", "import multiprocessing; print(multiprocessing.get_start_method())"],
        stdout=-1,
        text=True,
    ).stdout.strip()
    assert out == f"{program.pid} {tmp_path} ['a', 'b'] word {method}\n" and program.pid != os.getpid()
    assert (program.returncode, err) == (1, "no\n")


def test_a_program_that_raises_is_killed_or_takes_long_says_so(tmp_path: Path) -> None:
    (tmp_path / "raising.py").write_text("import sys; raise KeyError(sys.argv[1])")
    done = run_program(["raising.py", "missing"], cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.endswith("KeyError: 'missing'\n")
    waiting = Program(["-c", "import time; time.sleep(600)"])
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.communicate(timeout=0.1)
    assert waiting.poll() is None
    waiting.send_signal(signal.SIGTERM)
    waiting.communicate(timeout=60)
    assert waiting.returncode == -signal.SIGTERM


def test_programs_come_from_a_process_that_runs_a_single_thread() -> None:
    """A copy of one that runs several may wait for ever for what another thread held."""
    code = "import os, sys; print(len(os.listdir(f'/proc/{os.getppid()}/task')), 'torch' in sys.modules)"
    program = run_program(["-c", code], env=os.environ)
    threads, preloaded = program.stdout.split()
    assert preloaded == "True"
    # numpy's linear algebra may have threads of its own where OMP_NUM_THREADS is not 1; it knows of copies.
    assert int(threads) == 1 or os.environ.get("OMP_NUM_THREADS") != "1"


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is waited for by nobody does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


SLURM = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "seeds"}
POD = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "nobody.invalid", "MASTER_PORT": "1"}


@pytest.fixture
def alone(finished_run: Path, tmp_path: Path) -> list[str]:
    """The words of a run on one device, of which one training is left to do."""
    shutil.copytree(finished_run.parent, tmp_path / "runs", symlinks=True)
    shutil.rmtree((tmp_path / "runs/iter1/pretrain").resolve())
    return [
        "fit",
        "--config",
        str(tmp_path / "runs/iter1/recipe.yaml"),
        "--runs",
        str(tmp_path / "runs"),
        "--name",
        "x",
    ]


@pytest.mark.parametrize(
    "ranks", [POD, {"LOCAL_RANK": "1"}, {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", **SLURM}, {"NODE_RANK": "2"}]
)
def test_a_rank_is_no_reason_to_wait_where_all_is_trained_by_one_process(
    ranks: dict[str, str], alone: list[str], tmp_path: Path
) -> None:
    # An interpreter of its own: Lightning reads the rank when it is imported.
    command = [sys.executable, "-m", "moonlib", *alone]
    done = subprocess.run(command, env=environment(**ranks), stdout=-1, stderr=-1, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert f"run: {tmp_path / 'runs/x'}" in done.stdout
    assert (tmp_path / "runs/x/pretrain/csv/metrics.csv").read_text().count("\n") == 4  # three steps and a heading


def test_an_error_of_a_process_alone_is_told_whatever_its_rank(alone: list[str], tmp_path: Path) -> None:
    words = [*alone, "--stages.pretrain.module.init_args.learning_rate=1e25", "--stages.pretrain.trainer.max_steps=5"]
    command = [sys.executable, "-m", "moonlib", *words]
    done = subprocess.run(command, env=environment(RANK="1"), stdout=-1, stderr=-1, text=True, timeout=200)
    assert done.returncode == 2 and "the loss is" in done.stderr


def test_one_of_several_says_for_whom_it_waits(
    alone: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Waited(Exception):
        pass

    def tell(*values: object, **_: object) -> None:
        print(*values)
        raise Waited

    monkeypatch.setattr(processes, "PATIENCE", 0.0)
    monkeypatch.setattr(processes.log, "warning", tell)
    monkeypatch.setattr(processes, "end_with_parent", lambda: None)
    monkeypatch.setattr(processes, "_alone", False)
    monkeypatch.setenv("RANK", "1")
    pair = [f"--stages.pretrain.trainer.{key}" for key in ("devices=2", "accelerator=cpu", "strategy=ddp")]
    with pytest.raises(Waited):
        main([*alone, *pair, "--seed=5"])
    told = capsys.readouterr().out
    assert "this process (RANK=1) takes part in a run on several, and waits for the first to finish " in told
    assert "unset RANK and start again" in told
