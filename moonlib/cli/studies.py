"""`moonlib curves`, `exchange`, `abtest`, `drift` and `report`: what runs found, compared."""

from __future__ import annotations

import argparse
from pathlib import Path

from moonlib.cli.arguments import Verbs, add_verb, place
from moonlib.system.terminal import say


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    verb = add_verb(verbs, "curves", curves, "draw what trainings have logged, of runs that are still going too")
    verb.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories; a colour for each")
    verb.add_argument(
        "--out", type=Path, metavar="FILE.png", help="default: curves.png in the run, or beside the first of several"
    )

    verb = add_verb(
        verbs, "exchange", exchange, "what a gain in recall, or another intermediate metric, buys in clicks"
    )
    verb.add_argument("runs", type=place, nargs="+", metavar="RUN", help="run directories; the first names the place")
    verb.add_argument(
        "--split", choices=("valid", "test"), default="valid", help="days of both metrics; test to report (valid)"
    )
    verb.add_argument("--out", type=Path, metavar="FILE.json", help="default: exchange.json beside the first run")

    verb = add_verb(verbs, "abtest", abtest, "let runs' click models rank fresh requests, and simulated shoppers click")
    verb.epilog = (
        "example: moonlib abtest runs/iter3/application.baseline runs/iter1 runs/iter3   against the id-only baseline"
    )
    verb.add_argument("base", type=place, metavar="BASE", help="a run directory, or a reference's directory in one")
    verb.add_argument("runs", type=place, nargs="+", metavar="RUN", help="the same; of the same data")
    verb.add_argument("--requests", type=int, default=6000, metavar="N", help="fresh requests to simulate (6000)")
    verb.add_argument("--seed", type=int, default=0, help="of the requests; another seed draws others (0)")
    verb.add_argument(
        "--out", type=Path, metavar="DIR", help="write RUN/BASE.json there (default: abtest/BASE.json in each run)"
    )

    verb = add_verb(
        verbs, "drift", drift, "how far vectors of the same products moved, and whether queries of one find the other's"
    )
    verb.epilog = "example: moonlib drift runs/week1 runs/week2"
    verb.add_argument(
        "old", type=place, metavar="OLD", help="a run directory or what `moonlib embed` wrote, or its URL"
    )
    verb.add_argument("new", type=place, metavar="NEW", help="the same")
    verb.add_argument(
        "--data", type=place, metavar="DIR", help="dataset of the searches and categories (default: the runs' own)"
    )
    verb.add_argument("--k", type=int, default=10, metavar="K", help="neighbours, and the K of recall@K (10)")
    verb.add_argument(
        "--sample", type=int, default=5000, metavar="N", help="products whose neighbours are compared, at most (5000)"
    )
    verb.add_argument("--json", action="store_true", help="print JSON in place of tables")
    verb.add_argument(
        "--out", type=Path, metavar="FILE.json", help="default: drift/OLD.json in NEW, where that is a local run"
    )

    verb = add_verb(verbs, "report", report, "write what runs found, and what each adds, on one self-contained page")
    verb.add_argument(
        "runs", type=place, nargs="+", metavar="RUN", help="run directories or their URLs, in the order of iterations"
    )
    verb.add_argument(
        "--out", type=Path, metavar="FILE.html", help="default: report.html in the run, or beside the first of several"
    )


def curves(arguments: argparse.Namespace) -> int:
    """Draw the curves of trainings."""
    from moonlib.studies.curves import curves

    say(curves(arguments.runs, arguments.out))
    return 0


def exchange(arguments: argparse.Namespace) -> int:
    """Find what a gain in an intermediate metric buys downstream."""
    from moonlib.studies.exchange import exchange, exchange_tables
    from moonlib.system.console import Terminal

    found = exchange(arguments.runs, split=arguments.split, out=arguments.out)
    Terminal().print(exchange_tables(found))
    if found.constant:
        say(f"the same at all points of a data set, so without a rate: {', '.join(found.constant)}")
    say(found.file)
    return 0


def abtest(arguments: argparse.Namespace) -> int:
    """Test click models against another on simulated shoppers, or on a log with propensities."""
    from moonlib.studies.abtest import abtest
    from moonlib.studies.abtest.tables import tables
    from moonlib.system.console import Terminal

    found = abtest(arguments.base, arguments.runs, requests=arguments.requests, seed=arguments.seed, out=arguments.out)
    Terminal().print(tables(found))
    for each in found:
        say(each.file)
    return 0


def drift(arguments: argparse.Namespace) -> int:
    """Compare the vectors of two runs, or of two embeddings."""
    import json

    from moonlib.studies.drift import default_file, drift, drift_tables
    from moonlib.system.console import Terminal

    old, new = arguments.old, arguments.new
    file = default_file(old, new)
    out = arguments.out or file
    found = drift(old, new, data=arguments.data, k=arguments.k, sample=arguments.sample, out=out)
    if arguments.json:
        say(json.dumps(found.to_json(), indent=2, allow_nan=False))
        return 0
    for table in drift_tables(found):
        Terminal().print(table)
    if out is not None:
        say(out)
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Write what runs found on one page."""
    from moonlib.studies.report import report

    path = report(arguments.runs, arguments.out)
    say(f"report: {path}, {path.stat().st_size / 1e6:.1f} MB")
    return 0
