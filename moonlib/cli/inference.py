"""`moonlib embed`, `index`, `search` and `evaluate`: a trained encoder at work."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moonlib.cli.arguments import Verbs, add_verb, place
from moonlib.system.terminal import say

if TYPE_CHECKING:
    from moonlib.inference.hits import Hit


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    verb = add_verb(verbs, "embed", embed, "represent products and queries with a run's encoder; can be resumed")
    verb.add_argument("run", type=place, metavar="RUN", help="a run directory, or an export of one; or a URL")
    table = "a table (.parquet or .csv) or the directory of a dataset, or the URL of one"
    verb.add_argument("--products", type=place, required=True, metavar="PATH", help=table)
    verb.add_argument("--queries", type=place, metavar="PATH", help=table)
    verb.add_argument(
        "--images",
        type=place,
        metavar="DIR",
        help="folder or URL of the tables' images, or local folder of tars with them; https: the tables name URLs",
    )
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="where ids and vectors go")
    verb.add_argument(
        "--dim",
        type=int,
        metavar="D",
        help="keep the vectors' first D dimensions: for encoders trained with Matryoshka dimensions, such as "
        "iter3's; with others, quality falls by more than it must",
    )
    verb.add_argument(
        "--format", choices=("npy", "parquet"), default="npy", help="of the vectors, which are not normalised (npy)"
    )
    verb.add_argument(
        "--reuse",
        type=place,
        metavar="DIR",
        help="take unchanged rows' vectors from this embedding (default: from --out)",
    )
    verb.add_argument("--batch-size", type=int, metavar="N", help="rows encoded at once (as many as the run did)")
    verb.add_argument("--workers", type=int, metavar="N", help="processes that decode and encode (one per CPU)")

    verb = add_verb(
        verbs, "index", index, "build a faiss index of products' vectors and compare it with the exact search"
    )
    verb.add_argument("place", type=place, metavar="DIR_OR_RUN", help="what moonlib embed wrote, or a run directory")
    verb.add_argument(
        "--kind", choices=("flat", "hnsw", "ivf"), default="hnsw", help="exact, a graph, or lists (default: hnsw)"
    )
    verb.add_argument("--out", type=Path, metavar="FILE", help="default: products.KIND.faiss in the directory")

    verb = add_verb(verbs, "search", search, "find products of a run or a center by photo, text or both")
    verb.add_argument(
        "run",
        type=place,
        metavar="RUN_OR_CENTER",
        help="a run directory, a center, or what moonlib embed wrote; with --index also an export of a run",
    )
    verb.add_argument("--image", type=place, metavar="FILE", help="the photo to search with")
    verb.add_argument("--text", help="the text to search with")
    verb.add_argument("-k", type=int, default=10, help="products to show (10)")
    verb.add_argument("--index", type=place, metavar="FILE", help="of moonlib index (default: look at every product)")
    verb.add_argument("--where", metavar="JSON", help='of a center: a filter, such as \'{"price": {"lt": 50}}\'')
    verb.add_argument("--alias", metavar="NAME", help="of a center: the alias to search (live)")
    verb.add_argument("--sheet", type=Path, metavar="FILE.png", help="draw the query and what it found")
    verb.add_argument("--new-only", action="store_true", help="only products listed after the end of training")

    verb = add_verb(
        verbs, "evaluate", evaluate, "measure a run's encoder on another dataset, beside the same baselines"
    )
    verb.add_argument("run", type=place, metavar="RUN", help="a run directory, or its URL")
    verb.add_argument(
        "--data",
        required=True,
        metavar="DIR_OR_SOURCE",
        help="a dataset's directory, or a source as a recipe writes it: "
        "'{class_path: marketplace, init_args: {size: tiny, seed: 7}}'",
    )
    verb.add_argument("--out", type=Path, metavar="FILE.json", help="default: evaluations/NAME-HASH.json in the run")
    verb.add_argument("--workers", type=int, default=2, metavar="N", help="processes that decode and encode (2)")


def embed(arguments: argparse.Namespace) -> int:
    """Represent a catalogue with a run's encoder."""
    from moonlib.cli.printed import printed
    from moonlib.inference.catalogue import embed
    from moonlib.system.console import progress

    names = ("run", "products", "out", "queries", "images", "dim", "format", "reuse", "batch_size", "workers")
    bars = progress()

    def show(table: str, rows: int, total: int) -> None:
        if rows == 0:
            bars.add_task(table, total=total)
            bars.start()
        bars.update(bars.task_ids[-1], completed=rows, visible=rows < total)
        if rows == total:  # what is printed next is not to be caught by the bars
            bars.stop()

    try:
        with printed(embed.__module__):
            out = embed(**{name: vars(arguments)[name] for name in names}, progress=show)
    finally:
        bars.stop()
    say(f"{out}\nnext: moonlib index {out}" if arguments.format == "npy" else out)
    return 0


def index(arguments: argparse.Namespace) -> int:
    """Index the vectors of a run or of an embedding."""
    from moonlib.inference.searching import index

    built = index(arguments.place, arguments.kind, arguments.out)
    for name, value in built.about.to_json().items():
        say(f"{name:<20} {value}")
    say(built.path)
    return 0


def search(arguments: argparse.Namespace) -> int:
    """Search products by photo, text or both."""
    from moonlib.exports.folder import opened
    from moonlib.inference.center import is_center
    from moonlib.inference.hits import hits_sheet, hits_table
    from moonlib.inference.searching import search
    from moonlib.runs.run import RunError
    from moonlib.system.console import Terminal
    from moonlib.system.remote import local_copy

    in_center = is_center(arguments.run)
    if in_center:
        hits = _search_center(arguments)
    elif arguments.where is not None or arguments.alias is not None:
        raise ValueError(f"--where and --alias are of a center, and {arguments.run} is none")
    else:
        names = ("image", "text", "k", "index", "new_only")
        hits = search(arguments.run, **{name: vars(arguments)[name] for name in names})
    if hits:
        Terminal().print(hits_table(hits))
    else:
        say("nothing was found: " + ("no product passes the filter" if arguments.where else "there are no products"))
    if hits and not in_center and not any(hit.row for hit in hits):
        try:
            opened(arguments.run).dataset()
        except RunError as error:
            say(f"note: titles and pictures are left out: {error}", file=sys.stderr)
    if arguments.sheet:
        image = local_copy(arguments.image).read_bytes() if arguments.image else None
        say(hits_sheet(image, arguments.text, hits, arguments.sheet))
    return 0


def _search_center(arguments: argparse.Namespace) -> list[Hit]:
    """Search what an alias of a center leads to."""
    from moonlib.center.where import Where
    from moonlib.inference.center import Center
    from moonlib.system.remote import local_copy

    if arguments.index is not None or arguments.new_only:
        raise ValueError(f"{arguments.run} is a center: --index and --new-only are of a run")
    center = Center(arguments.run, arguments.alias or "live")
    image = None if arguments.image is None else local_copy(arguments.image)
    where = None if arguments.where is None else Where.from_json(arguments.where)
    return center.search(image, arguments.text, k=arguments.k, where=where)


def evaluate(arguments: argparse.Namespace) -> int:
    """Measure a run's encoder on another dataset."""
    from moonlib.inference.evaluation import evaluate
    from moonlib.metrics.undefined import is_of_validation, sentences
    from moonlib.runs.tables import metric_tables
    from moonlib.system.console import Terminal

    found = evaluate(arguments.run, arguments.data, arguments.out, workers=arguments.workers)
    Terminal().print(*metric_tables(found.run.name, found.results, found.legend))
    for sentence in sentences({key: why for key, why in found.undefined.items() if not is_of_validation(key)}):
        say(sentence)
    say(found.file)
    return 0
