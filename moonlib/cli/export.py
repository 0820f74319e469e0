"""`moonlib export`: a run's encoder as a folder of its own."""

from __future__ import annotations

import argparse

from moonlib.cli.arguments import Verbs, add_verb, place
from moonlib.system.terminal import say


def add(verbs: Verbs) -> None:
    """Add the verb."""
    verb = add_verb(verbs, "export", export, "write a run's encoder to a folder that opens without the run and offline")
    verb.add_argument("run", type=place, metavar="RUN", help="a run directory, or its URL")
    verb.add_argument("out", type=place, metavar="DIR", help="the folder, or a URL; never overwritten")
    verb.add_argument(
        "--license",
        default="unknown",
        metavar="ID",
        help="of the weights, for the model card, as the Hugging Face hub names it: apache-2.0 (default: unknown)",
    )


def export(arguments: argparse.Namespace) -> int:
    """Write a run's encoder to a folder of its own."""
    from moonlib.exports.folder import export

    out = export(arguments.run, arguments.out, license=arguments.license)
    if isinstance(out, str):
        say(f"{out}\nnext: moonlib embed {out} --products TABLE --out DIR, or moonlib.load({out!r})")
        return 0
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    say(f"{out}, {size / 1e6:.1f} MB; its card: {out / 'README.md'}")
    say(f"next: moonlib embed {out} --products TABLE --out DIR, or moonlib.load({str(out)!r})")
    return 0
