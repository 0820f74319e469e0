"""Verbs and groups of verbs, as every part of the command line adds them, and the arguments that several verbs take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from moonlib.system.interruption import CHECKPOINT_SECONDS
from moonlib.system.remote import is_url

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""To which verbs are added."""


def add_group(parser: argparse.ArgumentParser) -> Verbs:
    """Let a parser take one of several verbs."""
    return parser.add_subparsers(required=True, metavar="VERB", title="verbs")


def add_verb(
    group: Verbs, name: str, action: Callable[[argparse.Namespace], int], about: str
) -> argparse.ArgumentParser:
    """Add a verb without arguments.

    Args:
        group: that it belongs to.
        name: of the verb.
        action: takes the parsed arguments and returns the exit code.
        about: one line for the help.

    Returns:
        The verb's parser, to add arguments to.
    """
    parser = group.add_parser(name, help=about, description=about, allow_abbrev=False)
    parser.set_defaults(verb=action, parser=parser)
    return parser


def place(text: str) -> str | Path:
    """A local path, or a URL, which stays text: a `Path` would make one slash of its two."""
    return text if is_url(text) else Path(text)


def add_runs(verb: argparse.ArgumentParser) -> None:
    """Add ``--runs``."""
    verb.add_argument("--runs", type=place, default=Path("runs"), metavar="DIR", help="where runs are (default: runs)")


def add_checkpoint_seconds(verb: argparse.ArgumentParser) -> None:
    """Add ``--checkpoint-seconds``."""
    verb.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=CHECKPOINT_SECONDS,
        metavar="S",
        help=f"time between checkpoints (default: {CHECKPOINT_SECONDS:g})",
    )
