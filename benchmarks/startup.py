"""How long a user waits for ``moonlib --help`` and ``moonlib plugins list``, the median of several runs.

    python benchmarks/startup.py

Ends with ``ratio``: the limit of 0.4 s over the slower of the two.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

LIMIT = 0.4
COMMANDS = (["--help"], ["plugins", "list"])
RUNS = 7


def seconds(words: list[str]) -> float:
    """Median wall-clock seconds of one command."""
    took = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "moonlib", *words], check=True, capture_output=True)
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def main() -> None:
    """Time the commands and print the table."""
    table = Table("command", "seconds")
    medians = [seconds(words) for words in COMMANDS]
    for words, median in zip(COMMANDS, medians, strict=True):
        table.add_row(f"moonlib {' '.join(words)}", f"{median:.3f}")
    Console().print(table)
    print(f"ratio: {LIMIT / max(medians):.2f}")


if __name__ == "__main__":
    main()
