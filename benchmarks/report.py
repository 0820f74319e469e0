"""How long `moonlib report` takes, and how large its page is.

    python benchmarks/report.py runs/iter1 runs/iter2 runs/iter3 runs/iter4 runs/iter5

Copies stand for runs that there are not yet: what they hold is copied too, so that all of them are read and resampled
like runs of their own. The time is that of the command, the imports included. Ends with ``ratio``: 20 s over the time,
or 5 MB over the size, whichever is less.
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
        given = (arguments.runs * arguments.number)[: arguments.number]
        copies = [place / f"{i + 1}-{run.name}" for i, run in enumerate(given)]
        for run, copy in zip(given, copies, strict=True):
            # Links are followed: a copy of a stage is another directory, and nothing is shared.
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns("*.safetensors", ".lock"))
            for weights in run.glob("*/*.safetensors"):
                (copy / weights.relative_to(run)).symlink_to(weights.resolve())
        page = place / "report.html"
        before, start = os.times(), time.perf_counter()
        subprocess.run([sys.executable, "-m", "moonlib", "report", *map(str, copies), "--out", str(page)], check=True)
        seconds, after = time.perf_counter() - start, os.times()
        busy = after.children_user + after.children_system - before.children_user - before.children_system
        size = page.stat().st_size
    print(f"{arguments.number} runs: {seconds:.1f} s ({busy:.1f} s of one core), {size / 1e6:.2f} MB")
    print(f"ratio: {min(SECONDS / seconds, BYTES / size):.2f}")


if __name__ == "__main__":
    main()
