"""Kill `moonlib fit` at random moments of every stage, and compare what it ends with bit by bit.

    python benchmarks/kill.py                      50 kills of one process, then 20 of a run on two processes
    python benchmarks/kill.py --kills 5 --pairs 0

A run of iter2 on the tiny marketplace is killed (SIGKILL, no warning) again and again until it is through. Each kill
waits for a chosen stage to be at work, and then for a random part of the time that the stage takes. Then weights,
representations, predictions and results are compared with those of a run that nobody killed. A kill counts as survived
if the run that it hit ended with the same bits.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

OVERRIDES = [
    "--data.init_args.size=tiny",
    "--stages.pretrain.trainer.max_steps=40",
    "--stages.posttrain.trainer.max_steps=30",
    "--stages.application.trainer.max_epochs=3",
]
PAIR = [
    f"--stages.{stage}.trainer.{key}"
    for stage in ("pretrain", "posttrain", "application")
    for key in ("devices=2", "accelerator=cpu", "strategy=ddp")
]
# Where a kill is aimed: a stage's link in the run directory; the data and the preprocessing come before any of them.
STAGES = ("data", "preprocessing", "pretrain", "posttrain", "represent", "application")
COMPARED = ("*.safetensors", "*.npy", "tokenizer.json", "metrics.json", "*.parquet")


def command(runs: Path, extra: list[str]) -> list[str]:
    fit = [sys.executable, "-m", "moonlib", "fit", "--config", "iter2", "--runs", str(runs)]
    return [*fit, "--checkpoint-seconds", "0.2", *OVERRIDES, *extra]


def start(runs: Path, extra: list[str]) -> subprocess.Popen[bytes]:
    log = (runs.parent / f"{runs.name}.log").open("ab")
    return subprocess.Popen(command(runs, extra), stdout=log, stderr=log, start_new_session=True)


def contents(run: Path) -> dict[str, bytes]:
    """Every compared file of a run, by its path below the links to its stages."""
    found = {"results.json": (run / "results.json").read_bytes()}
    for link in sorted(entry for entry in run.iterdir() if entry.is_symlink()):
        for pattern in COMPARED:
            found |= {f"{link.name}/{file.name}": file.read_bytes() for file in link.glob(pattern)}
    return found


def at_work(runs: Path, stage: str, links: dict[str, str]) -> bool:
    """Whether a run is working on a stage: its unfinished directory is there."""
    if stage == "data":
        return any((runs / ".data").glob("*.partial"))
    return (runs / ".stages" / f"{links[stage]}.partial").exists()


def finished(runs: Path, stage: str, links: dict[str, str]) -> bool:
    """Whether a stage is over."""
    if stage == "data":
        return any(not entry.name.endswith(".partial") for entry in (runs / ".data").glob("*"))
    return (runs / ".stages" / links[stage]).exists()


def kill(process: subprocess.Popen[bytes], rng: random.Random, pair: bool) -> None:
    """Kill the first process, or, of a pair, one or both of them."""
    victims = [process.pid]
    if pair:
        found = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "moonlib"], capture_output=True, text=True)
        others = [int(pid) for pid in found.stdout.split()]
        victims = rng.choice([victims, others or victims, victims + others])
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    process.wait()


def unbroken(runs: Path, extra: list[str]) -> tuple[dict[str, bytes], dict[str, str], dict[str, float]]:
    """The files of a run that nobody kills, the directory of each of its stages, and how long each took."""
    process = start(runs, extra)
    seconds: dict[str, float] = {}
    began: dict[str, float] = {}
    while process.poll() is None:
        working = {path.name.removesuffix(".partial") for path in (runs / ".stages").glob("*.partial")}
        working |= {"data"} if any((runs / ".data").glob("*.partial")) else set()
        for name in working - set(began):
            began[name] = time.monotonic()
        for name in working:
            seconds[name] = time.monotonic() - began[name]
        time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"the unbroken run failed, see {runs}.log")
    run = runs / "iter2"
    links = {entry.name: entry.resolve().name for entry in run.iterdir() if entry.is_symlink()}
    named = {"data": seconds.get("data", 0.5)}
    return contents(run), links, named | {link: seconds.get(name, 0.05) for link, name in links.items()}


def study(folder: Path, kills: int, extra: list[str], rng: random.Random, console: Console) -> tuple[int, Counter[str]]:
    """Kill until enough; return how many kills were survived, and where they hit."""
    pair = bool(extra)
    expected, links, seconds = unbroken(folder / "unbroken", extra)
    total, survived, hits, number = 0, 0, Counter[str](), 0
    while total < kills:
        number += 1
        runs = folder / f"killed{number}"
        # One kill per stage, in the order in which they run; a stage that was over too soon is left alone.
        struck: list[str] = []
        process = start(runs, extra)
        for stage in STAGES:
            if total + len(struck) >= kills:
                break
            while process.poll() is None and not at_work(runs, stage, links) and not finished(runs, stage, links):
                time.sleep(0.002)
            if finished(runs, stage, links):
                continue
            time.sleep(rng.random() * seconds[stage])
            if process.poll() is None:
                kill(process, rng, pair)
                struck.append(stage)
                process = start(runs, extra)
        process.wait()
        same = process.returncode == 0 and contents(runs / "iter2") == expected
        total += len(struck)
        survived += len(struck) if same else 0
        hits.update(struck)
        console.print(f"run {number}: killed in {', '.join(struck)}: {'the same bits' if same else 'DIFFERS'}")
        if same:
            shutil.rmtree(runs)
        else:
            console.print(f"  kept in {runs}, log in {runs}.log")
    return survived, hits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of one process (50)")
    parser.add_argument("--pairs", type=int, default=20, help="of a run on two processes (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    rng, console = random.Random(arguments.seed), Console(width=120)
    table = Table("processes", *STAGES, "survived/tried")
    survived = tried = 0
    folder = Path(tempfile.mkdtemp(prefix="moonlib-kill-"))
    for processes, kills, extra in ((1, arguments.kills, []), (2, arguments.pairs, PAIR)):
        if kills:
            below = folder / str(processes)
            below.mkdir()
            ok, hits = study(below, kills, extra, rng, console)
            table.add_row(str(processes), *(str(hits[stage]) for stage in STAGES), f"{ok}/{kills}")
            survived, tried = survived + ok, tried + kills
    console.print(table)
    console.print(f"survived/tried: {survived}/{tried}")
    if survived == tried:
        shutil.rmtree(folder)
    raise SystemExit(survived != tried)


if __name__ == "__main__":
    main()
