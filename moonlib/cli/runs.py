"""`moonlib runs`: the runs in a folder are listed, and what none of them needs is deleted."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from moonlib.cli.arguments import Verbs, add_verb
from moonlib.system.terminal import say

PRUNE = "prune"


def add(verbs: Verbs) -> None:
    """Add the verb."""
    verb = add_verb(verbs, "runs", runs, "list runs with what they read, came from and found; prune what none needs")
    verb.usage = "moonlib runs [prune] [DIR] [--json] [--yes]"
    verb.epilog = (
        "examples: moonlib runs   lists the runs in the folder runs; moonlib runs prune   lists stages, datasets, "
        "attempts and checkpoints that no run needs, and deletes nothing; moonlib runs prune --yes   deletes them. "
        "A folder of the name prune is ./prune."
    )
    verb.add_argument(
        "words",
        nargs="*",
        metavar="[prune] [DIR]",
        help="prune: list what no run needs, instead of the runs; DIR: the folder of all runs (default: runs)",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.add_argument("--yes", action="store_true", help="of prune: delete what it lists")


def runs(arguments: argparse.Namespace) -> int:
    """List runs, or prune what they don't need."""
    pruning = arguments.words[:1] == [PRUNE]
    folders = arguments.words[1:] if pruning else arguments.words
    if len(folders) > 1:
        arguments.parser.error(f"one folder of runs at a time, got {' '.join(folders)}")
    if arguments.yes and not pruning:
        arguments.parser.error("--yes is of `moonlib runs prune`")
    folder = Path(folders[0] if folders else "runs")
    return _prune(folder, arguments.yes, arguments.json) if pruning else _list(folder, arguments.json)


def _list(folder: Path, as_json: bool) -> int:
    from moonlib.runs.listing import list_runs, runs_table
    from moonlib.system.console import Terminal

    found = list_runs(folder)
    if as_json:
        say(json.dumps([run.to_json() for run in found], indent=1))
    elif found:
        Terminal().print(runs_table(folder, found))
    else:
        say(f"{folder} holds no runs; `moonlib fit --config iter1 --runs {folder}` makes one")
    return 0


def _prune(folder: Path, delete: bool, as_json: bool) -> int:
    from moonlib.runs.pruning import prune, prune_table
    from moonlib.system.console import Terminal

    found = prune(folder, delete=delete)
    if as_json:
        say(json.dumps(found.to_json(), indent=1))
        return 0
    if found.found or found.kept:
        Terminal().print(prune_table(found))
    else:
        say(f"every stage and every dataset in {folder} is needed by a run")
    if found.found and not found.deleted:
        say(f"nothing was deleted; `moonlib runs prune {folder} --yes` deletes it")
    return 0
