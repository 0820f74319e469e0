"""How long `moonlib report` takes, and how large its page is.

    python benchmarks/report.py runs/iter1 runs/iter2 runs/iter3 runs/iter4 runs/iter5

Copies stand for runs that there are not yet: the stages that they link to are copied too, so that all of them are read
and resampled like runs that share nothing. The time is that of the command, the imports included. Ends with
``ratio``: 20 s over the time, or 5 MB over the size, whichever is less.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS, BYTES = 20.0, 5e6


def main() -> None:
    """Write the report, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="finished runs of one runs directory")
    parser.add_argument("--number", type=int, default=5, help="of runs in the report")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / ".data").symlink_to((arguments.runs[0].parent / ".data").resolve())
        runs = list(arguments.runs[: arguments.number])
        for i in range(arguments.number - len(runs)):
            run = arguments.runs[i % len(arguments.runs)]
            copy = place / f"{run.name}-copy{i + 1}"
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns("*.safetensors", ".lock"))
            for weights in run.glob("*/*.safetensors"):
                (copy / weights.relative_to(run)).symlink_to(weights.resolve())
            runs.append(copy)
        page = place / "report.html"
        before, start = os.times(), time.perf_counter()
        subprocess.run([sys.executable, "-m", "moonlib", "report", *map(str, runs), "--out", str(page)], check=True)
        seconds, after = time.perf_counter() - start, os.times()
        busy = after.children_user + after.children_system - before.children_user - before.children_system
        size = page.stat().st_size
    print(f"{arguments.number} runs: {seconds:.1f} s ({busy:.1f} s of one core), {size / 1e6:.2f} MB")
    print(f"ratio: {min(SECONDS / seconds, BYTES / size):.2f}")


if __name__ == "__main__":
    main()
