"""`moonlib scale`: a scaling study."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from moonlib.cli.arguments import Verbs, add_checkpoint_seconds, add_runs, add_verb
from moonlib.system.terminal import say

if TYPE_CHECKING:
    from moonlib.studies.scale import Scaling


def add(verbs: Verbs) -> None:
    """Add the verb."""
    verb = add_verb(verbs, "scale", scale, "run a study's points, fit a power law, and say whether it is one")
    verb.set_defaults(overrides=[])
    verb.epilog = "Keys of the recipe and of the study are options too: --data.init_args.size tiny --scale.seeds '[0]'"
    verb.add_argument("--config", required=True, metavar="STUDY", help="a recipe with a section scale, or its name")
    add_runs(verb)
    verb.add_argument("--name", help="of the study's folder in there (default: the recipe's)")
    only = verb.add_mutually_exclusive_group()
    only.add_argument(
        "--point", type=int, metavar="I", help="run one point, from 0 on, and fit nothing: a job of an array"
    )
    only.add_argument("--print-jobs", action="store_true", help="print the command of each point, and run nothing")
    only.add_argument("--gather", action="store_true", help="run nothing; fit the points that are there")
    verb.add_argument(
        "--replace", action="store_true", help="replace the runs of another recipe in the points' directories"
    )
    add_checkpoint_seconds(verb)


def scale(arguments: argparse.Namespace) -> int:
    """Run a scaling study, one of its points, or list them."""
    from moonlib.config.recipe import check_spelling

    check_spelling(arguments.config, arguments.overrides)  # before torch is imported, which takes seconds
    from moonlib.cli.printed import printed
    from moonlib.studies.scale import begin, gather, refuse_failures, run_points
    from moonlib.studies.study import Study
    from moonlib.system import processes

    study = Study(arguments.config, arguments.overrides, arguments.runs, arguments.name)
    options = {key: vars(arguments)[key] for key in ("replace", "checkpoint_seconds")}
    if arguments.print_jobs:
        say(*(study.command(point) for point in study.points), sep="\n")
        return 0
    if arguments.point is not None:
        study.run(study.point(arguments.point), **options)
        return 0
    begin(study)
    with printed(gather.__module__):
        failed = {} if arguments.gather else run_points(study, **options)
    if processes.is_first() and len(failed) < len(study.points):
        print_scaling(gather(study))
    refuse_failures(study, failed)  # after what the others say
    return 0


def print_scaling(found: Scaling) -> None:
    """Print the points of a study, the laws that they follow, and what is missing."""
    from moonlib.studies.scale import law_lines, points_table
    from moonlib.system.console import Terminal

    console, axes = Terminal(), found.study.scale.axes
    for one in found.series:
        console.print(points_table(one, found.points, axes))
        console.print(*law_lines(one, list(axes)), sep="\n", soft_wrap=True)
    for index, why in found.missing.items():
        console.print(f"missing: {found.study.points[index].name}: {why}", soft_wrap=True)
    console.print(f"{found.file}\n{found.figure}", soft_wrap=True)
    if found.missing:
        console.print(f"next: {found.study.command(found.study.points[next(iter(found.missing))])}", soft_wrap=True)
