"""`moonlib upsert`, `moonlib publish` and `moonlib center`: a representation center."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from moonlib.cli.arguments import Verbs, add_group, add_verb, place
from moonlib.system.terminal import say

if TYPE_CHECKING:
    from moonlib.center.rows import ColumnType, Dtype
    from moonlib.center.status import Status
    from moonlib.inference.center import Center
    from moonlib.system.fitted_table import FittedTable

_LISTED = 10
"""Images that can't be read which are printed."""


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    verb = add_verb(verbs, "upsert", upsert, "add, change and delete products of a center; encodes only what changed")
    verb.add_argument("center", type=Path, metavar="CENTER", help="the center's folder; made on first use, with --run")
    verb.add_argument(
        "--run",
        type=place,
        metavar="RUN",
        help="upsert into the space of this run's encoder alone, and make it if need be: a run directory, or an export "
        "of one (default: all spaces that take upserts)",
    )
    verb.add_argument(
        "--products", type=Path, metavar="PATH", help="a table (.parquet or .csv) or the directory of a dataset"
    )
    verb.add_argument(
        "--images",
        type=place,
        metavar="DIR",
        help="folder or URL of the table's images, or local folder of tars with them; https: the table names URLs",
    )
    verb.add_argument("--delete", type=Path, metavar="PATH", help="a table of the item_id of products to delete")
    verb.add_argument("--space", metavar="S", help="upsert into this space alone, by its name or a beginning of it")
    verb.add_argument(
        "--dtype",
        choices=("int8", "float16", "float32"),
        help="of the vectors at rest in a new space; int8 keeps their direction (as the run's space has it, or int8)",
    )
    verb.add_argument("--dim", type=int, metavar="D", help="of a new space: keep the vectors' first D dimensions")
    verb.add_argument(
        "--columns",
        metavar="A,B",
        help="of a new space: columns to keep, to filter by and to show (default: title, category, price, merchant_id "
        "and in_stock)",
    )
    verb.add_argument(
        "--no-pictures", dest="pictures", action="store_false", help="of a new space: keep no small pictures to show"
    )
    verb.add_argument("--workers", type=int, metavar="N", help="processes that decode and encode (one per CPU)")

    verb = add_verb(verbs, "publish", publish, "build and check a snapshot of a space, and let an alias lead to it")
    verb.add_argument("center", type=Path, metavar="CENTER", help="the center's folder")
    verb.add_argument("--space", metavar="S", help="by its name or a beginning of it (default: where the alias leads)")
    verb.add_argument("--alias", default="live", metavar="NAME", help="the alias to switch (live)")
    verb.add_argument(
        "--kind", choices=("flat", "hnsw", "ivf"), default="hnsw", help="of the index: exact, a graph, or lists (hnsw)"
    )
    verb.add_argument(
        "--keep", type=int, default=3, metavar="N", help="snapshots to keep, beside those that aliases lead to (3)"
    )
    verb.add_argument(
        "--embedding",
        type=Path,
        metavar="DIR",
        help="what moonlib embed wrote with the same encoder: the space's vectors must find what those find",
    )
    verb.add_argument("--rollback", action="store_true", help="let the alias lead where it did before instead")

    group = add_group(verbs.add_parser("center", help="look at a center", allow_abbrev=False))
    verb = add_verb(
        group, "status", status, "spaces, snapshots and aliases, with sizes, and what nobody needs any more"
    )
    verb.add_argument("center", type=Path, metavar="CENTER", help="the center's folder")
    verb.add_argument("--json", action="store_true", help="print JSON")


def upsert(arguments: argparse.Namespace) -> int:
    """Add, change and delete products."""
    from moonlib.inference.center import Center
    from moonlib.system.workers import cpus

    if arguments.run is None:
        center = Center(arguments.center)
        space = arguments.space
    elif arguments.space is not None:
        raise ValueError("--run and --space both name a space: give one of them")
    else:
        center, space = _space_of(arguments)
    if arguments.products is None and arguments.delete is None:
        raise ValueError("nothing to upsert: give --products, --delete, or both")
    done = center.upsert(
        arguments.products,
        arguments.images,
        arguments.delete,
        space=space,
        workers=cpus() if arguments.workers is None else arguments.workers,
    )
    say(str(done))
    for id, reason in list(done.quarantined.items())[:_LISTED]:
        say(f"can't be read: {id}: {reason}")
    if (more := len(done.quarantined) - _LISTED) > 0:
        say(f"and {more:,} more; `moonlib.Center.upsert` returns them all")
    say(f"next: moonlib publish {arguments.center}" + (f" --space {space}" if space else ""))
    return 0


def _space_of(arguments: argparse.Namespace) -> tuple[Center, str]:
    """The space of a run's encoder, which is made if need be."""
    from moonlib.center.space import spaces
    from moonlib.exports.folder import opened
    from moonlib.inference.center import Center
    from moonlib.inference.incoming import kept_columns

    fingerprint = opened(arguments.run).fingerprint
    known = [each for each in spaces(arguments.center).values() if each.fingerprint == fingerprint]
    dtype: Dtype | None = arguments.dtype
    if dtype is None:  # the same command again goes to the space that it made, whatever that keeps
        there = {each.dtype for each in known}
        dtype = there.pop() if len(there) == 1 else "int8"
    names = None if arguments.columns is None else [name.strip() for name in arguments.columns.split(",")]
    columns: list[str] | dict[str, ColumnType] | None = names
    if any(each.dtype == dtype and arguments.dim in (None, each.dim) for each in known):
        columns = None
    elif arguments.products is not None:
        columns = kept_columns(arguments.products, names)
    center = Center.create(arguments.center, arguments.run, dtype, arguments.dim, columns, arguments.pictures)
    space = center.space_of(arguments.run, dtype, arguments.dim)
    if names is not None and {*names} != {*space.columns}:
        raise ValueError(
            f"--columns {arguments.columns}: space {space.name} keeps {', '.join(space.columns) or 'none'}, and that "
            "can't be changed; leave --columns out, or make another center"
        )
    return center, space.name


def publish(arguments: argparse.Namespace) -> int:
    """Publish a space, or take a publish back."""
    from moonlib.inference.center import Center

    center = Center(arguments.center, arguments.alias)
    if arguments.rollback:
        say(f"{arguments.alias}: {center.rollback()}")
        return 0
    done = center.publish(
        space=arguments.space, kind=arguments.kind, keep=arguments.keep, embedding=arguments.embedding
    )
    for name, value in (
        ("products", f"{done.about.products:,}"),
        ("coverage", f"{done.about.coverage:.4f}"),
        ("index", done.about.kind),
        ("recall@10", "-" if done.about.recall_at_10 is None else f"{done.about.recall_at_10:.4f}"),
    ):
        say(f"{name:<20} {value}")
    if done.about.recall_of_vectors is not None:
        say(f"{'against embedding':<20} {done.about.recall_of_vectors:.4f}")
    say(f"{done.alias}: {done.name}")
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Print the status of a center."""
    from moonlib.center.status import read_status
    from moonlib.system.console import Terminal

    found = read_status(arguments.center)
    if arguments.json:
        say(json.dumps(found.to_json(), indent=1))
        return 0
    terminal = Terminal()
    for table in status_tables(found, datetime.now(UTC)):
        terminal.print(table)
    return 0


def status_tables(status: Status, now: datetime) -> list[FittedTable]:
    """A table of the spaces, one of their snapshots, and below them what can go.

    Args:
        status: of the center.
        now: what ages are counted to.
    """
    from moonlib.runs.listing import in_bytes
    from moonlib.system.fitted_table import FittedTable

    spaces = [
        (
            space.name,
            [
                f"{space.products:,}",
                f"{space.delta:,}",
                f"{space.tombstones:,}",
                in_bytes(space.bytes),
                f"{space.written:%Y-%m-%d %H:%M}",
            ],
        )
        for space in status.spaces
    ]
    rows: list[tuple[str, list[str]]] = []
    for space in status.spaces:
        for each in reversed(space.snapshots):
            led = [*each.aliases, *(f"({name})" for name in each.previous)]
            recall = "" if each.recall_at_10 is None else f"{each.recall_at_10:.3f}"
            cells = [", ".join(led), f"{each.products:,}", each.kind, recall, _age((now - each.made).total_seconds())]
            rows.append((f"{space.name}@{each.number:06d}", cells))
    notes = [
        f"{name} leads to {alias.now}, of which nothing was published yet"
        for name, alias in status.aliases.items()
        if not alias.now.snapshot
    ]
    notes += [
        f"{each.place.relative_to(status.center)} ({in_bytes(each.bytes)}): {each.why}" for each in status.unreachable
    ]
    count = f"{len(status.spaces)} {'space' if len(status.spaces) == 1 else 'spaces'}"
    headings = ["products", "delta", "tombstones", "on disk", "last write"]
    tables = [FittedTable(f"{count} in {status.center}", "space", headings, spaces, notes=[] if rows else notes)]
    if rows:
        headings = ["alias", "products", "index", "recall@10", "age"]
        tables.append(FittedTable("snapshots; (led to before)", "snapshot", headings, rows, notes=notes))
    return tables


def _age(seconds: float) -> str:
    """A length of time for people to read.

    Example:
        >>> _age(59), _age(7_200), _age(200_000)
        ('59 s', '2 h', '2 d')
    """
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
