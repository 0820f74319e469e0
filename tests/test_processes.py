"""Processes that are left over find their own end."""

from __future__ import annotations

import os
import subprocess
import sys
import time

WAITING = """
import sys, time
from moonlib.processes import end_with_parent
print("waiting", flush=True)
end_with_parent()
time.sleep(60)
"""

STARTING = f"""
import subprocess, sys
from moonlib.processes import meeting_point
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
    deadline = time.monotonic() + 60
    while alive(follower) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(follower)


def test_a_process_whose_parent_was_gone_before_it_looked_ends_too() -> None:
    """Killed while the process it had started was still importing, the first one is never seen alive by it."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    env = environment(MOONLIB_FIRST_PROCESS=str(gone.pid))
    late = subprocess.run([sys.executable, "-c", WAITING], env=env, stdout=-1, text=True, timeout=50)
    assert late.returncode == 1 and late.stdout == "waiting\n"


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is waited for by nobody does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
