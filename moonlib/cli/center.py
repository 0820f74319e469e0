"""`moonlib upsert` and `moonlib publish`: a representation center."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from moonlib.cli.arguments import Verbs, add_verb, place
from moonlib.system.terminal import say

if TYPE_CHECKING:
    from moonlib.center.rows import ColumnType
    from moonlib.inference.center import Center

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
        default="int8",
        help="of the vectors at rest in a new space; int8 keeps their direction (int8)",
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
    say(f"next: moonlib publish {arguments.center}" + (f" --space {space}" if space else ""))
    return 0


def _space_of(arguments: argparse.Namespace) -> tuple[Center, str]:
    """The space of a run's encoder, which is made if need be."""
    from moonlib.inference.center import Center
    from moonlib.inference.incoming import kept_columns

    columns: dict[str, ColumnType] | None = None
    if arguments.products is not None:
        names = None if arguments.columns is None else [name.strip() for name in arguments.columns.split(",")]
        columns = kept_columns(arguments.products, names)
    center = Center.create(arguments.center, arguments.run, arguments.dtype, arguments.dim, columns, arguments.pictures)
    return center, center.space_of(arguments.run, arguments.dtype, arguments.dim).name


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
