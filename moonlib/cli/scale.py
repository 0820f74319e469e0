"""`moonlib scale`: a scaling study."""

from __future__ import annotations

import argparse

from moonlib.cli.arguments import Verbs, add_checkpoint_seconds, add_runs, add_verb
from moonlib.system.terminal import say


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
    verb.add_argument("--replace", action="store_true", help="take over the points' run directories of another recipe")
    add_checkpoint_seconds(verb)


def scale(arguments: argparse.Namespace) -> int:
    """Run a scaling study, one of its points, or list them."""
    from moonlib.config.recipe import check_spelling

    check_spelling(arguments.config, arguments.overrides)  # before torch is imported, which takes seconds
    from moonlib.studies.scale import scale as run_study
    from moonlib.studies.study import Study

    places = {key: vars(arguments)[key] for key in ("runs", "name")}
    options = {key: vars(arguments)[key] for key in ("replace", "checkpoint_seconds")}
    if arguments.print_jobs or arguments.point is not None:
        study = Study(arguments.config, arguments.overrides, **places)
        if arguments.print_jobs:
            say(*(study.command(point) for point in study.points), sep="\n")
        else:
            study.run(study.point(arguments.point), **options)
        return 0
    run_study(arguments.config, arguments.overrides, gather_only=arguments.gather, **places, **options)
    return 0
