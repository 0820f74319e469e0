"""`moonlib serve`: a center behind HTTP."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from moonlib.cli.arguments import Verbs, add_verb

log = logging.getLogger(__name__)

LIMITS = {
    "batch": (int, "N", "queries encoded at once, at most (32)"),
    "wait_ms": (float, "MS", "how long a batch waits for queries on their way (5); a lone query never waits"),
    "queue": (int, "N", "queries in progress; one more is answered 429 (256)"),
    "timeout_ms": (float, "MS", "time that a query may take; then it is answered 504 (500)"),
    "max_bytes": (int, "N", "size of a query, picture included (5000000)"),
    "max_pixels": (int, "N", "width x height of a picture (25000000)"),
    "k": (int, "N", "products that a query may ask for (200)"),
}
"""Settings that are options too; see `moonlib.serving.settings.ServeSettings`."""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    verb = add_verb(verbs, "serve", serve, "serve a center: search by photo and words, look up vectors, and a page")
    verb.add_argument("center", type=Path, metavar="CENTER", help="a center that moonlib upsert wrote")
    verb.add_argument(
        "--alias", action="append", metavar="NAME", help="what to serve; several are compared on the page (live)"
    )
    verb.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all (127.0.0.1)")
    verb.add_argument("--port", type=int, default=8000, help="0 for a free one (8000)")
    verb.add_argument("--config", type=Path, metavar="FILE.yaml", help="limits, under the key serve")
    verb.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="holds the token that requests which write must bear (or set MOONLIB_TOKEN); without it none may write",
    )
    verb.add_argument(
        "--score",
        type=Path,
        metavar="RUN",
        help="a run whose application answers POST /v1/score; its vectors are those of the snapshot it was trained on",
    )
    verb.add_argument("--log-queries", action="store_true", default=None, help="also log texts and filters of queries")
    for name, (kind, shown, about) in LIMITS.items():
        verb.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=shown, help=about)


def serve(arguments: argparse.Namespace) -> int:
    """Serve a center until SIGTERM or Ctrl-C."""
    try:
        from moonlib.serving.address import bound  # torch is imported once all that can be told without it is told
    except ImportError as error:
        raise ValueError(str(error)) from None
    from moonlib.center.aliases import find_alias
    from moonlib.center.writing import require_center
    from moonlib.serving.process import prepare_process
    from moonlib.serving.settings import read_settings

    prepare_process()
    given = {name: vars(arguments)[name] for name in (*LIMITS, "log_queries")}
    settings = read_settings(arguments.config, **given)
    aliases = arguments.alias or ["live"]
    require_center(arguments.center)
    unpublished = [alias for alias in aliases if not find_alias(arguments.center, alias).now.snapshot]
    token = os.environ.get("MOONLIB_TOKEN")
    if arguments.token_file is not None:
        token = arguments.token_file.read_text(encoding="utf-8").strip()
        if not token:
            raise ValueError(f"{arguments.token_file} is empty; expected the token")
    with bound(arguments.host, arguments.port) as listener:
        from moonlib.serving.logs import log_json
        from moonlib.serving.server import serve
        from moonlib.serving.service import Service
        from moonlib.serving.writer import CenterWriter

        service = Service(arguments.center, aliases, settings)
        if token:
            service.writer = CenterWriter(arguments.center, aliases[0], service.encoders)
        scorer = None
        if arguments.score is not None:
            from moonlib.runs.runner import quiet
            from moonlib.serving.scoring import Scorer

            quiet()
            scorer = Scorer.open(arguments.score, center=arguments.center, encoders=service.encoders)
        log_json()
        for alias in unpublished:
            log.warning("alias %s has no snapshot yet: `moonlib publish` builds one, with an index", alias)
        serve(service, token or None, scorer=scorer, listener=listener)
    return 0
