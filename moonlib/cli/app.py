"""The command line: what it accepts, and how an error is told. What the verbs do stands in `moonlib.cli.commands`.

Exit codes: 0 done; 1 a check found something broken; 2 a mistake of the user's, told on one line; 143 and 130 ended by
SIGTERM or Ctrl-C, at a place from which the same command continues.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING

import moonlib
from moonlib.cli import commands
from moonlib.system.interruption import Interrupted
from moonlib.system.terminal import say, spell_out

DATASETS = Path("runs/.data")  # where `moonlib fit` looks for built datasets

EPILOG = """\
examples:
  moonlib fit --config iter2
  moonlib fit --config recipes/iter2.yaml --seed 1 --stages.posttrain.trainer.max_steps 10
  moonlib search runs/iter2 --text "red mug" --sheet found.png
  moonlib data make tiny
  moonlib plugins show adapters/simtier
  moonlib recipe diff iter1 iter2

A recipe is a file or the name of a shipped one (moonlib recipe list)."""


def main(words: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        words: the command line without the program's name; ``sys.argv`` by default.

    Returns:
        The exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        spell_out(stream)
    arguments, rest = parser().parse_known_args(words)
    verb: Callable[[argparse.Namespace], int] = arguments.verb
    if rest and "overrides" not in arguments:
        arguments.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.overrides = rest
    try:
        return verb(arguments)
    except KeyboardInterrupt:
        say("moonlib: interrupted; the same command continues", file=sys.stderr)
        return 130
    except Interrupted as ended:
        if _is_first():  # the others of a run on several processes end with it, and quietly
            say(f"moonlib: ended by {Signals(ended.signum).name}; the same command continues", file=sys.stderr)
        return 128 + ended.signum if _is_first() else 0
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if arguments.traceback or os.environ.get("MOONLIB_TRACEBACK") or not is_users(error):
            raise
        if getattr(error, "collective", False) and not _is_first():
            return 0
        say(f"moonlib: {message(error)}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Every verb with its arguments."""
    parser = argparse.ArgumentParser(
        prog="moonlib",
        description="Learn product representations from images and text, and measure what they are worth.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"moonlib {moonlib.__version__}")
    parser.add_argument(
        "--traceback", action="store_true", help="show where a mistake was found (or set MOONLIB_TRACEBACK=1)"
    )
    verbs = _group(parser)

    verb = _verb(verbs, "fit", commands.fit, "run a recipe's stages; continues a run that was interrupted")
    verb.set_defaults(overrides=[])
    verb.epilog = "Every key of the recipe is an option too: --seed 1 --stages.posttrain.trainer.max_steps 10"
    verb.add_argument("--config", required=True, metavar="RECIPE", help="a recipe's file, or the name of a shipped one")
    verb.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs are (default: runs)")
    verb.add_argument("--name", help="of the run (default: the recipe's)")
    verb.add_argument("--replace", action="store_true", help="take over the run directory of another recipe's run")
    verb.add_argument("--seeds", type=int, metavar="N", help="run N seeds from the recipe's on; print their spread")
    verb.add_argument(
        "--debug",
        choices=("overfit", "limit", "profile"),
        help="a short run instead: learn one batch by heart, ten steps of everything, or where the time goes",
    )
    verb.add_argument(
        "--checkpoint-seconds", type=float, default=30.0, metavar="S", help="time between checkpoints (default: 30)"
    )

    verb = _verb(verbs, "scale", commands.scale, "run a study's points, fit a power law, and say whether it is one")
    verb.set_defaults(overrides=[])
    verb.epilog = "Keys of the recipe and of the study are options too: --data.init_args.size tiny --scale.seeds '[0]'"
    verb.add_argument("--config", required=True, metavar="STUDY", help="a recipe with a section scale, or its name")
    verb.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs are (default: runs)")
    verb.add_argument("--name", help="of the study's folder in there (default: the recipe's)")
    only = verb.add_mutually_exclusive_group()
    only.add_argument(
        "--point", type=int, metavar="I", help="run one point, from 0 on, and fit nothing: a job of an array"
    )
    only.add_argument("--print-jobs", action="store_true", help="print the command of each point, and run nothing")
    only.add_argument("--gather", action="store_true", help="run nothing; fit the points that are there")
    verb.add_argument("--replace", action="store_true", help="take over the points' run directories of another recipe")
    verb.add_argument(
        "--checkpoint-seconds", type=float, default=30.0, metavar="S", help="time between checkpoints (default: 30)"
    )

    verb = _verb(
        verbs, "embed", commands.embed, "represent products and queries with a run's encoder; can be continued"
    )
    verb.add_argument("run", type=Path, metavar="RUN", help="a run directory, or an export of one")
    table = "a table (.parquet or .csv) or the directory of a dataset"
    verb.add_argument("--products", type=Path, required=True, metavar="PATH", help=table)
    verb.add_argument("--queries", type=Path, metavar="PATH", help=table)
    verb.add_argument("--images", type=Path, metavar="DIR", help="folder that the tables' image names start from")
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
    verb.add_argument("--batch-size", type=int, metavar="N", help="rows encoded at once (as many as the run did)")
    verb.add_argument("--workers", type=int, metavar="N", help="processes that decode and encode (one per CPU)")
    verb = _verb(
        verbs, "index", commands.index, "build a faiss index of products' vectors and compare it with the exact search"
    )
    verb.add_argument("place", type=Path, metavar="DIR_OR_RUN", help="what moonlib embed wrote, or a run directory")
    verb.add_argument(
        "--kind", choices=("flat", "hnsw", "ivf"), default="hnsw", help="exact, a graph, or lists (default: hnsw)"
    )
    verb.add_argument("--out", type=Path, metavar="FILE", help="default: products.KIND.faiss in the directory")
    verb = _verb(verbs, "search", commands.search, "find a run's products by photo, text or both")
    verb.add_argument("run", type=Path, metavar="RUN", help="a run directory; with --index also an export of one")
    verb.add_argument("--image", type=Path, metavar="FILE", help="the photo to search with")
    verb.add_argument("--text", help="the text to search with")
    verb.add_argument("-k", type=int, default=10, help="products to show (10)")
    verb.add_argument("--index", type=Path, metavar="FILE", help="of moonlib index (default: look at every product)")
    verb.add_argument("--sheet", type=Path, metavar="FILE.png", help="draw the query and what it found")
    verb.add_argument("--new-only", action="store_true", help="only products listed after the end of training")
    verb = _verb(
        verbs, "evaluate", commands.evaluate, "measure a run's encoder on another dataset, beside the same baselines"
    )
    verb.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    verb.add_argument(
        "--data",
        required=True,
        metavar="DIR_OR_SOURCE",
        help="a dataset's directory, or a source as a recipe writes it: "
        "'{class_path: marketplace, init_args: {size: tiny, seed: 7}}'",
    )
    verb.add_argument("--out", type=Path, metavar="FILE.json", help="default: evaluations/NAME-HASH.json in the run")
    verb.add_argument("--workers", type=int, default=2, metavar="N", help="processes that decode and encode (2)")
    verb = _verb(
        verbs, "exchange", commands.exchange, "what a gain in recall, or another intermediate metric, buys in clicks"
    )
    verb.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories; the first names the place")
    verb.add_argument(
        "--split", choices=("valid", "test"), default="valid", help="days of both metrics; test to report (valid)"
    )
    verb.add_argument("--out", type=Path, metavar="FILE.json", help="default: exchange.json beside the first run")

    verb = _verb(
        verbs, "abtest", commands.abtest, "let runs' click models rank fresh requests, and simulated shoppers click"
    )
    verb.epilog = (
        "example: moonlib abtest runs/iter3/application.baseline runs/iter1 runs/iter3   against the id-only baseline"
    )
    verb.add_argument("base", type=Path, metavar="BASE", help="a run directory, or a reference's directory in one")
    verb.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the same; of the same data")
    verb.add_argument("--requests", type=int, default=6000, metavar="N", help="fresh requests to simulate (6000)")
    verb.add_argument("--seed", type=int, default=0, help="of the requests; another seed draws others (0)")
    verb.add_argument(
        "--out", type=Path, metavar="DIR", help="write RUN/BASE.json there (default: abtest/BASE.json in each run)"
    )

    verb = _verb(
        verbs, "report", commands.report, "write what runs found, and what each adds, on one self-contained page"
    )
    verb.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories, in the order of iterations")
    verb.add_argument(
        "--out", type=Path, metavar="FILE.html", help="default: report.html in the run, or beside the first of several"
    )

    verb = _verb(
        verbs, "export", commands.export, "write a run's encoder to a folder that opens without the run and offline"
    )
    verb.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    verb.add_argument("out", type=Path, metavar="DIR", help="the folder; never overwritten")
    verb.add_argument(
        "--license",
        default="unknown",
        metavar="ID",
        help="of the weights, for the model card, as the Hugging Face hub names it: apache-2.0 (default: unknown)",
    )

    data = _group(verbs.add_parser("data", help="make, build and check datasets", allow_abbrev=False))
    verb = _verb(data, "make", commands.data_make, "simulate a marketplace")
    verb.add_argument("size", choices=("tiny", "small", "medium"), help="300, 8,000 or 50,000 products")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--out", type=Path, default=DATASETS, metavar="DIR", help=f"folder of datasets ({DATASETS})")
    verb = _verb(data, "build", commands.data_build, "turn tables (Parquet or CSV) and images into a dataset")
    verb.add_argument("tables", type=Path, metavar="TABLES", help="folder with products.parquet or .csv, queries, ...")
    verb.add_argument("--images", type=Path, metavar="DIR", help="folder that the tables' image names start from")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="the dataset's directory")
    verb.add_argument(
        "--splits",
        type=_moment,
        nargs=4,
        metavar=("BEHAVIOUR", "TRAIN", "VALID", "TEST"),
        help="when each part ends, ISO 8601, UTC unless it says otherwise (default: fractions of the time range)",
    )
    verb.add_argument("--max-side", type=int, default=512, metavar="PIXELS", help="scale larger images down (512)")
    verb.add_argument("--workers", type=int, help="processes that read images")
    verb = _verb(data, "check", commands.data_check, "counts, broken samples, leaks between splits; exit code 1 if any")
    verb.add_argument("directory", type=Path, metavar="DIR", help="the dataset's directory")
    verb.add_argument("--sheet", type=Path, metavar="FILE.png", help="draw products and query photos")
    verb.add_argument("--samples", type=int, metavar="N", help="decode N samples per table instead of all")

    plugins = _group(verbs.add_parser("plugins", help="list, show, check and write components", allow_abbrev=False))
    verb = _verb(plugins, "list", commands.plugins_list, "list components; imports none")
    verb.add_argument("kind", nargs="*", help="only these kinds, for instance losses")
    verb = _verb(
        plugins, "show", commands.plugins_show, "print a component's signature, docstring, file and distribution"
    )
    verb.add_argument("component", metavar="KIND/NAME", help="for instance losses/info_nce")
    _verb(plugins, "check", commands.plugins_check, "import every component; exit code 1 if one is broken")
    verb = _verb(
        plugins, "new", commands.plugins_new, "write a distribution with one working component, its test and a README"
    )
    verb.add_argument("kind", metavar="KIND", help="for instance losses; see moonlib plugins list")
    verb.add_argument("name", metavar="NAME", help="of the component, as recipes will write it")
    verb.add_argument("--to", type=Path, default=Path(), metavar="DIR", help="where its folder goes (default: here)")

    recipe = _group(verbs.add_parser("recipe", help="list, copy, show, compare and check recipes", allow_abbrev=False))
    _verb(recipe, "list", commands.recipe_list, "list the shipped recipes")
    verb = _verb(recipe, "cp", commands.recipe_cp, "copy a recipe to start your own from; never overwrites")
    verb.add_argument("recipe")
    verb.add_argument("to", type=Path, nargs="?", default=Path(), help="file or folder (default: here)")
    verb = _verb(recipe, "show", commands.recipe_show, "print a recipe merged with all that it extends, names expanded")
    verb.set_defaults(overrides=[])
    verb.epilog = "Keys of the recipe can be overridden as in fit: --seed 1"
    verb.add_argument("recipe")
    verb = _verb(recipe, "diff", commands.recipe_diff, "print the keys in which two recipes differ")
    verb.add_argument("old")
    verb.add_argument("new")
    verb = _verb(recipe, "check", commands.recipe_check, "check every key, type and name; exit code 1 if one is wrong")
    verb.add_argument("recipes", nargs="*", metavar="recipe", help="default: all shipped recipes")
    return parser


if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]


def _group(parser: argparse.ArgumentParser) -> Verbs:
    return parser.add_subparsers(required=True, metavar="VERB", title="verbs")


def _verb(
    group: Verbs, name: str, function: Callable[[argparse.Namespace], int], about: str
) -> argparse.ArgumentParser:
    parser = group.add_parser(name, help=about, description=about, allow_abbrev=False)
    parser.set_defaults(verb=function, parser=parser)
    return parser


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _is_first() -> bool:
    """Whether this is the process that speaks for a run on several processes."""
    from moonlib.system.processes import is_first

    return is_first()


def is_users(error: Exception) -> bool:
    """Whether an error tells of something that the user can mend, and not of a bug.

    That is a file system's error, an error class of moonlib's own, or a `ValueError` that moonlib (or a plugin named
    moonlib_*) raised itself; one from inside another library is a bug until somebody has looked at it.
    """
    if isinstance(error, OSError) or type(error).__module__.startswith("moonlib"):
        return True
    last = error.__traceback__
    while last and last.tb_next:
        last = last.tb_next
    raised_by = last.tb_frame.f_globals.get("__name__", "") if last else ""
    return isinstance(error, ValueError) and raised_by.startswith("moonlib")


def message(error: Exception) -> str:
    """An error of the user's on one line."""
    from moonlib.system.workers import shortage

    if isinstance(error, OSError) and (told := shortage(error)):
        return f"{error.filename or error}: {told}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = str(error)
    if "in DataLoader worker process" in text.partition("\n")[0]:
        # torch hands a worker's error on with the worker's whole traceback as its text, the error itself last.
        return text.rstrip().rpartition("\n")[2].partition(": ")[2]
    return text
