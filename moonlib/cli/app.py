"""The command line: what it accepts, and how an error is reported. Each file beside this one adds some verbs.

Exit codes: 0 done; 1 a check found something broken; 2 a mistake of the user's, on one line; 143 and 130 ended by
SIGTERM or Ctrl-C, at a place from which the same command resumes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import Signals

import moonlib
from moonlib.cli import center, data, export, fit, inference, plugins, recipe, runs, scale, serve, studies
from moonlib.cli.arguments import add_group
from moonlib.cli.errors import is_users, message
from moonlib.cli.printed import warnings_printed
from moonlib.system.interruption import Interrupted
from moonlib.system.memory import use_large_pages
from moonlib.system.remote import former_url, without_credentials
from moonlib.system.terminal import say, spell_out

EPILOG = """\
examples:
  moonlib fit --config iter2
  moonlib fit --config recipes/iter2.yaml --seed 1 --stages.posttrain.trainer.max_steps 10
  moonlib search runs/iter2 --text "red mug" --sheet found.png
  moonlib data make tiny
  moonlib plugins show adapters/simtier
  moonlib recipe diff iter1 iter2

A recipe is a file or the name of a shipped one (moonlib recipe list)."""


def main(words: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        words: the command line without the program's name; ``sys.argv`` by default.

    Returns:
        The exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        spell_out(stream)
    arguments, rest = parser().parse_known_args(words)
    verb: Callable[[argparse.Namespace], int] = arguments.verb
    if rest and "overrides" not in arguments:
        arguments.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.overrides = rest
    try:
        for name, value in vars(arguments).items():
            if isinstance(value, Path) and (url := former_url(value)):
                raise ValueError(f"{name} {without_credentials(url)}: expected a local path, not a URL")
        use_large_pages()
        with warnings_printed():
            return verb(arguments)
    except KeyboardInterrupt:
        say("moonlib: interrupted; the same command resumes", file=sys.stderr)
        return 130
    except Interrupted as ended:
        if _is_first():  # the others of a run on several processes end with it, and quietly
            say(f"moonlib: ended by {Signals(ended.signum).name}; the same command resumes", file=sys.stderr)
        return 128 + ended.signum if _is_first() else 0
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if arguments.traceback or os.environ.get("MOONLIB_TRACEBACK") or not is_users(error):
            raise
        if getattr(error, "collective", False) and not _is_first():
            return 0
        say(f"moonlib: {message(error)}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Every verb with its arguments."""
    parser = argparse.ArgumentParser(
        prog="moonlib",
        description="Learn product representations from images and text, and measure what they are worth.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"moonlib {moonlib.__version__}")
    parser.add_argument(
        "--traceback", action="store_true", help="show where a mistake was found (or set MOONLIB_TRACEBACK=1)"
    )
    verbs = add_group(parser)
    for part in (fit, runs, scale, inference, center, serve, studies, export, data, plugins, recipe):
        part.add(verbs)
    return parser


def _is_first() -> bool:
    """Whether this is the process that speaks for a run on several processes."""
    from moonlib.system.processes import is_first

    return is_first()
