"""`moonlib export`, `push` and `pull`: a run's encoder as a folder of its own, and on the Hugging Face hub."""

from __future__ import annotations

import argparse
from pathlib import Path

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
    verb.add_argument(
        "--to",
        choices=("onnx", "torch"),
        help="a program that runs without moonlib, compared with the encoder first: an ONNX model, or torch.export's "
        "(default: a folder that moonlib opens)",
    )

    repo = "OWNER/NAME on the Hugging Face hub; or a folder, as a path that begins with / or ./"
    branch = "branch on the hub (default: main)"
    verb = add_verb(verbs, "push", push, "put an export on the Hugging Face hub, in one commit")
    verb.add_argument("export", type=Path, metavar="EXPORT", help="what moonlib export wrote")
    verb.add_argument("repo", metavar="REPO", help=f"{repo}; made if there is none")
    verb.add_argument("--private", action="store_true", help="make the repository a private one")
    verb.add_argument("--revision", metavar="BRANCH", help=f"{branch}; made if there is none")

    verb = add_verb(verbs, "pull", pull, "fetch an export from the Hugging Face hub, and compare its checksums")
    verb.add_argument("repo", metavar="REPO", help=repo)
    verb.add_argument("out", type=Path, metavar="DIR", help="the folder; never overwritten")
    verb.add_argument("--revision", metavar="REVISION", help="branch, tag or commit on the hub (default: main)")


def export(arguments: argparse.Namespace) -> int:
    """Write a run's encoder to a folder of its own."""
    from moonlib.exports.folder import export

    out = export(arguments.run, arguments.out, license=arguments.license, to=arguments.to)
    if isinstance(out, str):
        say(out if arguments.to else f"{out}\nnext: moonlib embed {out} --products TABLE --out DIR")
        return 0
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    say(f"{out}, {size / 1e6:.1f} MB; its card: {out / 'README.md'}")
    if arguments.to:
        say(f"next: run it without moonlib, as {out / 'README.md'} shows")
        return 0
    say(f"next: moonlib embed {out} --products TABLE --out DIR, or moonlib.load({str(out)!r})")
    return 0


def push(arguments: argparse.Namespace) -> int:
    """Put an export on the Hugging Face hub."""
    from moonlib.exports.hub import push

    say(push(arguments.export, arguments.repo, private=arguments.private, revision=arguments.revision))
    revision = f" --revision {arguments.revision}" if arguments.revision else ""
    say(f"next: moonlib pull {arguments.repo} DIR{revision}")
    return 0


def pull(arguments: argparse.Namespace) -> int:
    """Fetch an export from the Hugging Face hub."""
    from moonlib.exports.hub import pull

    out = pull(arguments.repo, arguments.out, revision=arguments.revision)
    say(f"{out}, as it was exported; its card: {out / 'README.md'}")
    say(f"next: moonlib embed {out} --products TABLE --out DIR, or moonlib.load({str(out)!r})")
    return 0
