"""What goes wrong during a run: nothing that was written is lost, and the message says what to do."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import moonlib.compat  # noqa: F401
import numpy as np
import pytest
import torch

from moonlib.artifacts.checksums import SUMS, Damaged
from moonlib.artifacts.reading import Unreadable
from moonlib.data.dataset import Dataset
from moonlib.runs.iteration import fit
from moonlib.runs.ownership import RunExistsError
from moonlib.runs.runner import StageError
from moonlib.stages.contrastive import Contrastive
from moonlib.stages.training import NotFinite, not_finite
from moonlib.system import lock
from moonlib.testing.processes import Program, run_program

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def copied(unbroken: Path, tmp_path: Path) -> Path:
    """A runs directory with the finished iter2, to spoil."""
    shutil.copytree(unbroken.parent, tmp_path / "copied", symlinks=True)
    return tmp_path / "copied"


def test_a_loss_that_turns_nan_stops_the_run_and_keeps_what_is_finished(runs: Path, short_iter2: list[str]) -> None:
    overrides = [*short_iter2, "--stages.posttrain.module.init_args.learning_rate=1e25"]
    with pytest.raises(NotFinite, match=r"Posttraining: the loss is (nan|inf).*lower learning_rate") as caught:
        fit("iter2", overrides, runs=runs)
    assert "a changed recipe starts this stage over" in str(caught.value)
    assert (runs / "iter2/pretrain/weights.safetensors").exists()
    fit("iter2", short_iter2, runs=runs, replace=True)


def test_nan_in_a_batch_is_named(copied: Path, short_iter2: list[str]) -> None:
    file = copied / "iter2/represent/products.npy"
    vectors = np.load(file)
    vectors[:, 0] = np.nan
    np.save(file, vectors)
    (file.parent / SUMS).unlink()
    with pytest.raises(NotFinite, match=r"Application: the loss is nan.*'target_vector' of the batch is not finite"):
        fit("iter2", [*short_iter2, "--stages.application.module.init_args.adapter=vector"], runs=copied, name="other")


def test_not_finite_looks_into_dataclasses_mappings_and_lists() -> None:
    @dataclass
    class Batch:
        query: dict[str, torch.Tensor]
        items: list[torch.Tensor]

    good, ids = torch.ones(3), torch.arange(3)
    assert not_finite(Batch({"image": good, "ids": ids}, [good])) is None
    assert not_finite(Batch({"image": good / 0}, [good])) == "query.image"
    assert not_finite(Batch({"image": good}, [good, good * torch.nan])) == "items.1"


def test_a_run_directory_half_written_by_a_kill_is_taken_up(runs: Path, short_iter2: list[str], unbroken: Path) -> None:
    run = runs / "iter2"
    run.mkdir()
    (run / ".lock").write_text("process 1 on elsewhere\n")
    (run / ".recipe.yaml.partial").write_text("seed: ")
    (run / ".results.json.partial").write_text('{"ctr/a')
    assert (fit("iter2", short_iter2, runs=runs) / "results.json").read_bytes() == (
        unbroken / "results.json"
    ).read_bytes()


def test_a_broken_recipe_of_a_run_is_replaced_only_when_asked(copied: Path, short_iter2: list[str]) -> None:
    (copied / "iter2/recipe.yaml").write_bytes(b"\xff\x00")
    with pytest.raises(RunExistsError, match=r"recipe\.yaml cannot be read[\s\S]*--replace"):
        fit("iter2", short_iter2, runs=copied)
    fit("iter2", short_iter2, runs=copied, replace=True)


def test_a_finished_stage_without_its_metrics_is_named(copied: Path, short_iter2: list[str]) -> None:
    stage = (copied / "iter2/posttrain").resolve()
    (stage / "metrics.json").write_text("{")
    with pytest.raises(Damaged, match=rf"{stage}/metrics\.json is damaged.*remove {stage}"):
        fit("iter2", short_iter2, runs=copied)
    shutil.rmtree(stage)
    fit("iter2", short_iter2, runs=copied)


def test_results_that_are_no_numbers_are_told_and_made_again(copied: Path, short_iter2: list[str]) -> None:
    file = copied / "iter2/results.json"
    before = file.read_bytes()
    file.write_text('{"ctr/auc": {"test": 0.7}}')
    with pytest.raises(Unreadable, match=r"results\.json: 'ctr/auc' is .*, and should be a number; remove it, and"):
        fit("iter2", short_iter2, runs=copied)
    file.unlink()
    fit("iter2", short_iter2, runs=copied)
    assert file.read_bytes() == before


def test_a_pass_that_is_cut_off_keeps_the_results_of_the_one_before(
    copied: Path, short_iter2: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (copied / "iter2/results.json").read_bytes()
    monkeypatch.setattr("moonlib.runs.runner.Runner.report_quarantine", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit("iter2", short_iter2, runs=copied)
    assert (copied / "iter2/results.json").read_bytes() == before


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_of_two_fits_on_one_directory_the_second_is_refused(copied: Path, short_iter2: list[str], cli: Cli) -> None:
    with lock.held(copied / "iter2/.lock"):
        refused = cli("fit", "--config", "iter2", "--runs", copied, *short_iter2)
    assert refused.returncode == 2
    assert f"iter2 is in use by process {os.getpid()} on " in refused.stderr and "--name" in refused.stderr
    assert cli("fit", "--config", "iter2", "--runs", copied, *short_iter2).returncode == 0


def test_of_two_runs_that_share_a_stage_one_makes_it_and_the_other_waits(
    runs: Path, short_iter2: list[str], unbroken: Path
) -> None:
    words = ["-m", "moonlib", "fit", "--config", "iter2", "--runs", str(runs), *short_iter2]
    both = [Program([*words, "--name", name]) for name in ("a", "b")]
    printed = ["".join(process.communicate(timeout=250)) for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    for name in ("a", "b"):
        assert (runs / name / "results.json").read_bytes() == (unbroken / "results.json").read_bytes()
    made = [line.split()[0] for text in printed for line in text.splitlines() if " s  " in line and ".stages" in line]
    assert len(made) == len(set(made))  # each stage once


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = f"from moonlib import lock; from pathlib import Path; lock.held(Path({str(tmp_path / 'l')!r})).__enter__()"
    subprocess.run([sys.executable, "-c", code + "; import os; os.kill(os.getpid(), 9)"], check=False)
    with lock.held(tmp_path / "l"):
        held = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert held.returncode and f"process {os.getpid()}" in held.stderr


@pytest.mark.parametrize("limit", [300, 20_000, 60_000, 400_000])
def test_a_disk_that_is_full_at_any_write_of_a_run(
    limit: int, runs: Path, short_iter2: list[str], unbroken: Path
) -> None:
    """Files may not grow beyond a limit, for which the system's error is that of a full disk: too large a file."""
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY));"
        "from moonlib.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["fit", "--config", "iter2", "--runs", str(runs), "--checkpoint-seconds=0", *short_iter2]
    full = run_program(["-c", code, *words])
    assert full.returncode == 2, full.stderr
    message = full.stderr.strip().splitlines()[-1]
    assert message.startswith("moonlib: ") and "File too large; make room" in message and str(runs) in message
    for stage in runs.glob(".stages/[!.]*"):
        assert stage.suffix == ".partial" or (stage / "identity.json").exists()
    run = fit("iter2", short_iter2, runs=runs)
    assert (run / "results.json").read_bytes() == (unbroken / "results.json").read_bytes()


def test_a_loader_process_that_is_killed_is_told_and_the_run_continues(runs: Path, short_iter2: list[str]) -> None:
    words = ["-m", "moonlib", "fit", "--config", "iter2", "--runs", str(runs), "--checkpoint-seconds=0"]
    slow = ["--stages.pretrain.trainer.max_steps=100000", "--stages.pretrain.data.workers=1"]
    process = Program([*words, *short_iter2, *slow])
    while not list(runs.glob(".stages/*.partial/checkpoint.ckpt")):
        assert process.poll() is None
        time.sleep(0.05)
    (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert "pretrain: a loader process was killed" in errors and "stages.pretrain.data.workers" in errors
    assert list(runs.glob(".stages/*.partial/checkpoint.ckpt"))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid 7829) is killed by signal: Killed. "),
        RuntimeError("DataLoader worker (pid(s) 7829) exited unexpectedly"),
        ConnectionResetError(104, "Connection reset by peer"),
        EOFError(),
    ],
)
def test_a_killed_loader_process_is_told_in_whatever_way_torch_notices(
    error: Exception, runs: Path, short_iter2: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Contrastive, context: object) -> dict[str, float]:
        raise error

    monkeypatch.setattr(Contrastive, "run", run)
    with pytest.raises(StageError, match=r"pretrain: a loader process was killed.*stages\.pretrain\.data\.workers"):
        fit("iter2", short_iter2, runs=runs)


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (
            RuntimeError(
                "Caught RuntimeError in DataLoader worker process 0.\nRuntimeError: unable to allocate shared "
                "memory(shm) for file </torch_28986_447771513_1>: No space left on device (28)\n"
            ),
            "/dev/shm is full.*--shm-size",
        ),
        (RuntimeError("unable to write to file </torch_7_8_1>: No space left on device (28)"), "/dev/shm is full"),
        (RuntimeError("unable to mmap 8192 bytes from file </torch_7_8_1>: Cannot allocate memory (12)"), "/dev/shm"),
        (
            RuntimeError(
                "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers "
                "are out of shared memory. Please try to raise your shared memory limit."
            ),
            "/dev/shm is full",
        ),
        (RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 28. Details are"), "/dev/shm"),
        (RuntimeError("received 0 items of ancdata"), "files: raise the limit"),
        (OSError(24, "Too many open files"), "ulimit -n"),
        (
            RuntimeError(
                "unable to open shared memory object </torch_7_8> in read-write mode: Too many open files (24)"
            ),
            "ulimit -n",
        ),
        (RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 24. Details are"), "ulimit -n"),
    ],
)
def test_what_the_system_is_short_of_is_named(
    error: Exception, short: str, runs: Path, short_iter2: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Contrastive, context: object) -> dict[str, float]:
        raise error

    monkeypatch.setattr(Contrastive, "run", run)
    with pytest.raises(StageError, match=rf"pretrain: .*{short}.*--stages\.pretrain\.data\.workers 0"):
        fit("iter2", short_iter2, runs=runs)


def test_too_few_open_files_are_told_and_the_run_neither_waits_nor_is_lost(runs: Path, short_iter2: list[str]) -> None:
    """Few more than the program has open when it begins."""
    code = (
        "import os, resource, sys; from moonlib.cli import main; import moonlib.runs.iteration;"
        "limit = len(os.listdir('/proc/self/fd')) + int(sys.argv[1]);"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)); sys.exit(main(sys.argv[2:]))"
    )
    words = ["fit", "--config", "iter2", "--runs", str(runs), *short_iter2, "--stages.pretrain.data.workers=2"]
    done = run_program(["-c", code, "24", *words], timeout=300)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("moonlib: ")]
    assert "ulimit -n" in line
    for stage in runs.glob(".stages/[!.]*"):
        assert stage.suffix == ".partial" or (stage / "identity.json").exists()


def test_shards_that_cannot_be_opened_for_want_of_files_are_not_broken(tiny: Dataset) -> None:
    code = (
        "import resource, sys; from moonlib.cli import main; import moonlib.data.check;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); sys.exit(main(sys.argv[1:]))"
    )
    done = run_program(["-c", code, "data", "check", str(tiny.directory)], timeout=300)
    assert done.returncode == 2, done.stderr
    assert "files: raise the limit (ulimit -n" in done.stderr and "broken" not in done.stderr


def test_other_errors_of_a_stage_are_no_killed_loader(
    runs: Path, short_iter2: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Contrastive, context: object) -> dict[str, float]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Contrastive, "run", run)
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        fit("iter2", short_iter2, runs=runs)
    assert not isinstance(caught.value, StageError)


class Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/moonlib-was-here",)


def plant(copied: Path, stage: str, content: Callable[[Path], object]) -> Path:
    """Make a finished stage an unfinished one, with a checkpoint of our making."""
    finished = (copied / "iter2" / stage).resolve()
    partial = finished.with_name(f"{finished.name}.partial")
    finished.rename(partial)
    content(partial / "checkpoint.ckpt")
    return partial / "checkpoint.ckpt"


def test_a_checkpoint_with_a_malicious_pickle_is_not_opened(copied: Path, short_iter2: list[str]) -> None:
    mark = Path("/tmp/moonlib-was-here")
    mark.unlink(missing_ok=True)
    for content in (
        lambda file: torch.save({"moonlib": Malice(), "state_dict": {}}, file),
        lambda file: file.write_bytes(pickle.dumps(Malice())),
    ):
        file = plant(copied, "pretrain", content)
        with pytest.raises(ValueError, match=rf"{file} .*delete {file} to start this stage over"):
            fit("iter2", short_iter2, runs=copied)
        assert not mark.exists()
        file.unlink()
        fit("iter2", short_iter2, runs=copied)


@pytest.mark.parametrize("broken", [b"", b"PK\x03\x04", b"\x00" * 1000])
def test_a_checkpoint_that_is_no_checkpoint_is_named(broken: bytes, copied: Path, short_iter2: list[str]) -> None:
    file = plant(copied, "pretrain", lambda file: file.write_bytes(broken))
    with pytest.raises(ValueError, match=rf"{file} .*delete {file} to start this stage over"):
        fit("iter2", short_iter2, runs=copied)


def test_a_checkpoint_from_another_encoder_is_refused(copied: Path, short_iter2: list[str]) -> None:
    state = {"moonlib": {"position": {}, "random": []}, "state_dict": {"encoder.image.stem.weight": torch.ones(2, 2)}}
    file = plant(copied, "pretrain", lambda file: torch.save(state, file))
    with pytest.raises(ValueError, match=rf"{file} belongs to another architecture: .*delete {file}"):
        fit("iter2", short_iter2, runs=copied)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody who may not write")
def test_a_read_only_directory_is_named(runs: Path, short_iter2: list[str], unbroken: Path) -> None:
    # Everything is imported first: the interpreter itself may lie where the other user cannot look.
    code = (
        "import os, sys, moonlib.runs.iteration, moonlib.stages.application, moonlib.stages.represent\n"
        "import moonlib.stages.pretraining, moonlib.stages.posttraining, moonlib.sources.marketplace.source\n"
        "from moonlib.cli import main\n"
        "os.setuid(65534)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["-c", code, "fit", "--config", "iter2", "--runs", str(runs), *short_iter2]
    for parent in runs.parents:
        if parent != Path("/") and parent.owner() == "root" and parent.is_relative_to("/tmp/pytest-of-root"):
            parent.chmod(0o755)
    env = {**os.environ, "HOME": "/nonexistent"}
    refused = run_program(words, env=env)
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.strip().splitlines()[-1] == f"moonlib: {runs / 'iter2'}: Permission denied"


@pytest.mark.first
def test_three_seeds_give_one_table_with_their_spread(runs: Path, short_iter2: list[str], cli: Cli) -> None:
    done = cli("fit", "--config", "iter2", "--seeds", "2", "--runs", runs, *short_iter2)
    assert done.returncode == 0, done.stderr
    assert "mean and spread of 2 runs: iter2-seed0, iter2-seed1" in done.stdout
    header = next(line.split() for line in done.stdout.splitlines() if line.startswith("test days"))
    assert header == ["test", "days", "mean", "spread", "iter2-seed0", "iter2-seed1"]
    row = next(line.split() for line in reversed(done.stdout.splitlines()) if line.split()[:1] == ["ctr/auc"])
    mean, spread, first, second = map(float, row[1:])
    assert first != second
    assert mean == pytest.approx((first + second) / 2, abs=1e-4)
    assert spread == pytest.approx(abs(first - second) / 2**0.5, abs=2e-4)
    refused = cli("fit", "--config", "iter2", "--seeds", "1", "--runs", runs, *short_iter2)
    assert refused.returncode == 2 and "at least 2 seeds" in refused.stderr
