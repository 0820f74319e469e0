"""`moonlib export`: a run's encoder as a folder of its own."""

from __future__ import annotations

import argparse
from pathlib import Path

from moonlib.cli.arguments import Verbs, add_verb
from moonlib.system.terminal import say


def add(verbs: Verbs) -> None:
    """Add the verb."""
    verb = add_verb(verbs, "export", export, "write a run's encoder to a folder that opens without the run and offline")
    verb.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    verb.add_argument("out", type=Path, metavar="DIR", help="the folder; never overwritten")
    verb.add_argument(
        "--license",
        default="unknown",
        metavar="ID",
        help="of the weights, for the model card, as the Hugging Face hub names it: apache-2.0 (default: unknown)",
    )
    verb.add_argument(
        "--to",
        choices=("onnx", "torch"),
        help="a program that runs without moonlib, compared with the encoder first: an ONNX model, or torch.export's "
        "(default: a folder that moonlib opens)",
    )


def export(arguments: argparse.Namespace) -> int:
    """Write a run's encoder to a folder of its own."""
    from moonlib.exports.folder import export

    out = export(arguments.run, arguments.out, license=arguments.license, to=arguments.to)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    say(f"{out}, {size / 1e6:.1f} MB; its card: {out / 'README.md'}")
    if arguments.to:
        say(f"next: run it without moonlib, as {out / 'README.md'} shows")
        return 0
    say(f"next: moonlib embed {out} --products TABLE --out DIR, or moonlib.load({str(out)!r})")
    return 0
