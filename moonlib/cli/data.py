"""`moonlib data`: datasets are made, built and checked."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from moonlib.artifacts.remedies import DATASETS
from moonlib.cli.arguments import Verbs, add_group, add_verb, place
from moonlib.cli.printed import printed
from moonlib.system.terminal import say

if TYPE_CHECKING:
    from moonlib.data.check import DatasetReport


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    datasets = Path("runs", DATASETS)  # where `moonlib fit` looks for them
    data = add_group(verbs.add_parser("data", help="make, build and check datasets", allow_abbrev=False))
    verb = add_verb(data, "make", make, "simulate a marketplace")
    verb.add_argument(
        "size", choices=("tiny", "small", "medium", "large"), help="300, 8,000, 50,000 or 200,000 products"
    )
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--ids", choices=("int64", "text"), default="int64", help="what the shop's ids are (int64)")
    verb.add_argument("--workers", type=int, help="processes that draw and write")
    verb.add_argument("--out", type=Path, default=datasets, metavar="DIR", help=f"folder of datasets ({datasets})")
    verb = add_verb(data, "build", build, "turn tables (Parquet or CSV) and images into a dataset")
    verb.add_argument(
        "tables", type=place, metavar="TABLES", help="folder or URL with products.parquet or .csv, queries, ..."
    )
    verb.add_argument(
        "--images",
        type=place,
        metavar="DIR",
        help="folder or URL of the tables' images, or local folder of tars with them; https: the tables name URLs",
    )
    verb.add_argument("--out", type=place, required=True, metavar="DIR", help="the dataset's directory, or its URL")
    verb.add_argument(
        "--append",
        type=place,
        metavar="DATASET",
        help="a dataset to which these tables are new days, new and changed products; its shards are linked into DIR",
    )
    verb.add_argument(
        "--splits",
        type=moment,
        nargs=4,
        metavar=("BEHAVIOUR", "TRAIN", "VALID", "TEST"),
        help="when each part ends, ISO 8601, UTC unless it says otherwise (default: fractions of the time range; with "
        "--append, those of DATASET moved on)",
    )
    verb.add_argument("--map", type=place, metavar="FILE.yaml", help="which files and columns are which of ours")
    verb.add_argument("--max-side", type=int, default=512, metavar="PIXELS", help="scale larger images down (512)")
    verb.add_argument("--workers", type=int, help="processes that read images")
    verb = add_verb(data, "map", map_columns, "say which columns of a feed or a log would be which, as YAML to edit")
    verb.add_argument("files", type=place, nargs="+", metavar="FILE", help=".csv, .tsv, .txt, .parquet or .jsonl")
    verb.add_argument("--table", metavar="TABLE", help="which of ours it is: products, queries, users, searches, ...")
    verb = add_verb(data, "check", check, "counts, broken samples, leaks between splits; exit code 1 if any")
    verb.add_argument("directory", type=place, metavar="DIR", help="the dataset's directory, or its URL")
    verb.add_argument("--sheet", type=Path, metavar="FILE.png", help="draw products and query photos")
    verb.add_argument("--samples", type=int, metavar="N", help="decode N samples per table instead of all")


def moment(text: str) -> datetime:
    """A time, UTC unless it says otherwise."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def make(arguments: argparse.Namespace) -> int:
    """Simulate a marketplace."""
    from moonlib.sources.marketplace.source import Marketplace

    source = Marketplace(arguments.size, arguments.seed, arguments.ids)
    say(source.prepare(arguments.out, arguments.workers))
    return 0


def build(arguments: argparse.Namespace) -> int:
    """Build a dataset from tables and images."""
    from moonlib.data.build import build
    from moonlib.data.splits import Splits

    with printed(build.__module__):
        out = build(
            arguments.tables,
            arguments.images,
            arguments.out,
            splits=Splits(*arguments.splits) if arguments.splits else None,
            max_side=arguments.max_side,
            workers=arguments.workers,
            map=arguments.map,
            append=arguments.append,
        )
    say(f"{out} is ready: moonlib data check {out}")
    return 0


def map_columns(arguments: argparse.Namespace) -> int:
    """Print a map of files' columns."""
    from moonlib.data.feeds import suggest
    from moonlib.system.remote import local_copy

    for file in arguments.files:
        say(suggest(local_copy(file), arguments.table), end="")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Look for what would spoil a run."""
    from moonlib.data.check import check

    report = check(arguments.directory, arguments.sheet, samples=arguments.samples)
    print_report(report)
    return 0 if report.ok else 1


def print_report(report: DatasetReport) -> None:
    """Print a report to the terminal."""
    from typing import get_args

    from rich.table import Table
    from rich.text import Text

    from moonlib.data.splits import Split
    from moonlib.system.console import Terminal

    console = Terminal()
    console.print(report.dataset, soft_wrap=True)
    table = Table("table", "rows", "images", *get_args(Split))
    for name, rows in report.counts.items():
        images = f"{report.images[name]:,}" if name in report.images else ""
        split = [f"{report.splits[name][split]:,}" if name in report.splits else "" for split in get_args(Split)]
        table.add_row(name, f"{rows:,}", images, *split)
    console.print(table)
    for name, words in report.contents.items():
        console.print(f"{name}: {words}", highlight=False, markup=False, soft_wrap=True)
    for line in report.problems:
        console.print(Text("problem", "red"), line, soft_wrap=True)
    for line in report.warnings:
        console.print(Text("warning", "yellow"), line, soft_wrap=True)
    if report.ok:
        console.print("ok", style="green")
    else:
        console.print(f"problems: {len(report.problems)}", style="red")
