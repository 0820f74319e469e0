"""`moonlib fit`: a recipe becomes a run."""

from __future__ import annotations

import argparse
from typing import Any

from moonlib.cli.arguments import Verbs, add_checkpoint_seconds, add_runs, add_verb


def add(verbs: Verbs) -> None:
    """Add the verb."""
    verb = add_verb(verbs, "fit", fit, "run a recipe's stages; resumes a run that was interrupted")
    verb.set_defaults(overrides=[])
    verb.epilog = (
        "Every key of the recipe is an option too: --seed 1 --stages.posttrain.trainer.max_steps 10. "
        "--data DIR takes a dataset that `moonlib data build` wrote."
    )
    verb.add_argument("--config", required=True, metavar="RECIPE", help="a recipe's file, or the name of a shipped one")
    add_runs(verb)
    verb.add_argument("--name", help="of the run (default: the recipe's)")
    verb.add_argument("--replace", action="store_true", help="replace the run of another recipe in its directory")
    verb.add_argument("--seeds", type=int, metavar="N", help="run N seeds from the recipe's on; print their spread")
    verb.add_argument(
        "--debug",
        choices=("overfit", "limit", "profile"),
        help="a short run instead: overfit one batch, ten steps of everything, or where the time goes",
    )
    verb.add_argument(
        "--days",
        type=number_of_days,
        nargs="?",
        const=0,
        metavar="N",
        help="train the application day by day too, a pass over each and a test on the next: the last N training days "
        "(default: those that the model it starts from has not seen, or 7)",
    )
    add_checkpoint_seconds(verb)
    verb.add_argument(
        "--progress-seconds",
        type=float,
        metavar="S",
        help="time between two lines of progress where the output is no terminal (default: 10)",
    )


def number_of_days(word: str) -> int:
    """Read N of ``--days N``; argparse takes a word with a space in it for one, even where it begins with dashes."""
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"expected a number of days, at least 1, got {word!r}; write --days last")
    return int(word)


def fit(arguments: argparse.Namespace) -> int:
    """Run a recipe's stages."""
    from moonlib.config.recipe import check_spelling

    check_spelling(arguments.config, arguments.overrides)  # before torch is imported, which takes seconds
    options: dict[str, Any] = {key: vars(arguments)[key] for key in ("runs", "name", "replace", "checkpoint_seconds")}
    if arguments.progress_seconds is not None:
        options["progress_seconds"] = arguments.progress_seconds
    if arguments.days is not None:
        if arguments.debug:
            raise ValueError("--days trains on every day's data, and --debug on a part of it: leave one of them out")
        options["days"] = arguments.days
    if arguments.debug:
        from moonlib.runs.debug import debug

        debug(arguments.debug, arguments.config, arguments.overrides, **options)
    elif arguments.seeds is not None:
        from moonlib.runs.iteration import fit_seeds

        fit_seeds(arguments.config, arguments.overrides, seeds=arguments.seeds, **options)
    else:
        from moonlib.runs.iteration import fit

        fit(arguments.config, arguments.overrides, **options)
    return 0
