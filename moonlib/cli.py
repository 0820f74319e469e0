"""The verbs of the command line. Each imports what it needs when it runs, so that ``--help`` costs nothing.

Exit codes: 0 done; 1 a check found something broken; 2 a mistake of the user's, told on one line; 143 and 130 ended by
SIGTERM or Ctrl-C, at a place from which the same command continues.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING

import moonlib
from moonlib.interruption import Interrupted

if TYPE_CHECKING:
    from moonlib.registry import Component

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
    arguments, rest = _parser().parse_known_args(words)
    verb: Callable[[argparse.Namespace], int] = arguments.verb
    if rest and "overrides" not in arguments:
        arguments.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.overrides = rest
    try:
        return verb(arguments)
    except KeyboardInterrupt:
        print("moonlib: interrupted; the same command continues", file=sys.stderr)
        return 130
    except Interrupted as ended:
        if _is_first():  # the others of a run on several processes end with it, and quietly
            print(f"moonlib: ended by {Signals(ended.signum).name}; the same command continues", file=sys.stderr)
        return 128 + ended.signum if _is_first() else 0
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if arguments.traceback or os.environ.get("MOONLIB_TRACEBACK") or not _is_users(error):
            raise
        if getattr(error, "collective", False) and not _is_first():
            return 0
        print(f"moonlib: {_message(error)}", file=sys.stderr)
        return 2


def fit(arguments: argparse.Namespace) -> int:
    """Run a recipe's stages."""
    options = {key: vars(arguments)[key] for key in ("runs", "name", "replace", "checkpoint_seconds")}
    if arguments.debug:
        from moonlib.debug import debug

        debug(arguments.debug, arguments.config, arguments.overrides, **options)
    elif arguments.seeds is not None:
        from moonlib.iteration import fit_seeds

        fit_seeds(arguments.config, arguments.overrides, seeds=arguments.seeds, **options)
    else:
        from moonlib.iteration import fit

        fit(arguments.config, arguments.overrides, **options)
    return 0


def scale(arguments: argparse.Namespace) -> int:
    """Run a scaling study, one of its points, or list them."""
    from moonlib.studies.scale import scale as run_study
    from moonlib.studies.study import Study

    places = {key: vars(arguments)[key] for key in ("runs", "name")}
    options = {key: vars(arguments)[key] for key in ("replace", "checkpoint_seconds")}
    if arguments.print_jobs or arguments.point is not None:
        study = Study(arguments.config, arguments.overrides, **places)
        if arguments.print_jobs:
            print(*(study.command(point) for point in study.points), sep="\n")
        else:
            study.run(study.point(arguments.point), **options)
        return 0
    run_study(arguments.config, arguments.overrides, gather_only=arguments.gather, **places, **options)
    return 0


def embed(arguments: argparse.Namespace) -> int:
    """Represent a catalogue with a run's encoder."""
    from moonlib.verbs import embed

    names = ("run", "products", "out", "queries", "images", "dim", "format", "batch_size", "workers")
    out = embed(**{name: vars(arguments)[name] for name in names})
    print(f"{out}\nnext: moonlib index {out}" if arguments.format == "npy" else out)
    return 0


def index(arguments: argparse.Namespace) -> int:
    """Index the vectors of a run or of an embedding."""
    from moonlib.verbs import index

    path, about = index(arguments.place, arguments.kind, arguments.out)
    for name, value in about.items():
        print(f"{name:<20} {value}")
    print(path)
    return 0


def search(arguments: argparse.Namespace) -> int:
    """Search products by photo, text or both."""
    from rich.console import Console

    from moonlib.representations.search import hits_sheet, hits_table
    from moonlib.verbs import search

    names = ("image", "text", "k", "index", "new_only")
    hits = search(arguments.run, **{name: vars(arguments)[name] for name in names})
    console = Console() if Console().is_terminal else Console(width=160)
    console.print(hits_table(hits))
    if arguments.sheet:
        image = arguments.image.read_bytes() if arguments.image else None
        print(hits_sheet(image, arguments.text, hits, arguments.sheet))
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """Measure a run's encoder on another dataset."""
    from rich.console import Console

    from moonlib.closing_table import metric_tables
    from moonlib.verbs import evaluate

    found = evaluate(arguments.run, arguments.data, arguments.out, workers=arguments.workers)
    results, references = found["results"], found["references"]
    prefixes = (*(f"{prefix}/" for prefix in references), "valid/")
    keys = [key for key in results if not key.startswith(prefixes) and key.rpartition("@")[0] not in results]
    console = Console() if Console().is_terminal else Console(width=120)
    console.print(*metric_tables(keys, Path(found["run"]).name, results, references))
    print(found["file"])
    return 0


def exchange(arguments: argparse.Namespace) -> int:
    """Find what a gain in an intermediate metric buys downstream."""
    from rich.console import Console

    from moonlib.studies.exchange import exchange, exchange_tables

    found = exchange(arguments.runs, split=arguments.split, out=arguments.out)
    console = Console() if Console().is_terminal else Console(width=140)
    console.print(exchange_tables(found))
    if found["constant"]:
        print(f"the same at all points of a data set, so without a rate: {', '.join(found['constant'])}")
    print(found["file"])
    return 0


def abtest(arguments: argparse.Namespace) -> int:
    """Test click models against another on simulated shoppers, or on a log with propensities."""
    from rich.console import Console

    from moonlib.studies.abtest import abtest
    from moonlib.studies.abtest.tables import tables

    found = abtest(arguments.base, arguments.runs, requests=arguments.requests, seed=arguments.seed, out=arguments.out)
    console = Console() if Console().is_terminal else Console(width=160)
    console.print(tables(found))
    for each in found:
        print(each["file"])
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Write what runs found on one page."""
    from moonlib.studies.report import report

    path = report(arguments.runs, arguments.out)
    print(f"report: {path}, {path.stat().st_size / 1e6:.1f} MB")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write a run's encoder to a folder of its own."""
    from moonlib.export import export

    out = export(arguments.run, arguments.out, license=arguments.license)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}, {size / 1e6:.1f} MB; its card: {out / 'README.md'}")
    print(f"next: moonlib embed {out} --products TABLE --out DIR, or moonlib.load({str(out)!r})")
    return 0


def data_make(arguments: argparse.Namespace) -> int:
    """Simulate a marketplace."""
    from moonlib.data.marketplace.source import Marketplace

    print(Marketplace(arguments.size, arguments.seed).prepare(arguments.out))
    return 0


def data_build(arguments: argparse.Namespace) -> int:
    """Build a dataset from tables and images."""
    from moonlib.data.build import build
    from moonlib.data.splits import Splits

    build(
        arguments.tables,
        arguments.images,
        arguments.out,
        splits=Splits(*arguments.splits) if arguments.splits else None,
        max_side=arguments.max_side,
        workers=arguments.workers,
    )
    return 0


def data_check(arguments: argparse.Namespace) -> int:
    """Look for what would spoil a run."""
    from moonlib.data.check import check, print_report

    report = check(arguments.directory, arguments.sheet, samples=arguments.samples)
    print_report(report)
    return 0 if report.ok else 1


def plugins_list(arguments: argparse.Namespace) -> int:
    """List components without importing them."""
    from moonlib import registry

    listed = registry.components(*arguments.kind)
    claimed = registry.duplicates(listed)
    kind = ""
    for component in listed:
        if component.kind != kind:
            kind = component.kind
            print(kind)
        note = "   claimed twice: uninstall one" if (kind, component.name) in claimed else ""
        if component.mismatch:
            note += f"   {component.mismatch}"
        print(f"  {component.name:<16} {component.distribution:<20} {component.value}{note}")
    if renamed := registry.renamings(*arguments.kind):
        print("renamed")
        for renaming in renamed:
            print(f"  {renaming}   until {renaming.distribution.rpartition(' ')[0]} {renaming.gone_in}")
    return 0


def plugins_show(arguments: argparse.Namespace) -> int:
    """Print a component's signature, docstring, file and distribution."""
    from moonlib import registry

    kind, _, name = arguments.component.partition("/")
    if not name:
        raise registry.RegistryError(f"expected KIND/NAME such as losses/info_nce, got '{arguments.component}'")
    found = registry.describe(kind, name)
    print(f"{found.component}   {found.component.distribution}\n{found.location}\n\n{found.signature}")
    if found.docstring:
        print(f"\n{found.docstring}")
    return 0


def plugins_check(arguments: argparse.Namespace) -> int:
    """Import every component, and read what distributions say of themselves."""
    from moonlib import registry

    undeclared = {component.distribution for component in registry.components() if not component.api}
    for distribution in sorted(undeclared - {registry.THIS_PROCESS}):
        print(f"note: {distribution} declares no version of the plugin API (group moonlib.api); it is taken to fit")
    results = registry.check()
    broken: list[Component] = []
    for component, error in results:
        if error:
            broken.append(component)
            print(f"broken: {component} of {component.distribution}")
            if error.__cause__:
                traceback.print_exception(error.__cause__, file=sys.stdout)
            else:
                print(error)
            print()
    problems = registry.problems()
    for distribution, problem in problems:
        print(f"broken: {distribution}: {problem}\n")
    names = ", ".join(f"{component} ({component.distribution})" for component in broken)
    print(f"{len(results)} components, {len(broken)} broken{': ' + names if broken else ''}")
    if problems:
        print(f"metadata broken: {', '.join(sorted({distribution for distribution, _ in problems}))}")
    return 1 if broken or problems else 0


def plugins_new(arguments: argparse.Namespace) -> int:
    """Write a distribution with one working component."""
    from moonlib.new_plugin import new_plugin

    directory = new_plugin(arguments.kind, arguments.name, arguments.to)
    print(f"{directory}\nnext: cd {directory} && pip install --editable '.[test]' && pytest")
    for recipe in directory.glob("*.yaml"):
        print(f"then: moonlib fit --config {recipe.name}")
    return 0


def recipe_list(arguments: argparse.Namespace) -> int:
    """List the shipped recipes."""
    from moonlib.recipe_merge import shipped

    for name, path in shipped().items():
        with path.open(encoding="utf-8") as file:
            first = file.readline()
        about = first.lstrip("# ").strip() if first.startswith("#") else ""
        if about.split(" ")[0].endswith(".yaml"):  # the file's own name, which stands before and behind
            about = about.partition(" ")[2].strip()
        print(f"{name:<16} {about}\n{'':<16} {path}")
    return 0


def recipe_cp(arguments: argparse.Namespace) -> int:
    """Copy a recipe to start one's own from."""
    from moonlib.recipe_merge import find

    source = find(arguments.recipe)
    target = arguments.to / source.name if arguments.to.is_dir() else arguments.to
    with target.open("x", encoding="utf-8") as file:  # refuses to overwrite
        file.write(source.read_text(encoding="utf-8"))
    print(target)
    return 0


def recipe_show(arguments: argparse.Namespace) -> int:
    """Print a recipe merged and expanded."""
    import yaml

    from moonlib.recipe import load

    config = load(arguments.recipe, arguments.overrides).config
    print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120), end="")
    return 0


def recipe_diff(arguments: argparse.Namespace) -> int:
    """Print the keys in which two recipes differ, merged and expanded."""
    from moonlib.recipe import diff, load

    for key, old, new in diff(load(arguments.old).config, load(arguments.new).config):
        print(f"{key}: {old} -> {new}")
    return 0


def recipe_check(arguments: argparse.Namespace) -> int:
    """Type recipes in full and construct their components; of a study, every point too."""
    from moonlib.recipe import RecipeError, load, shipped
    from moonlib.studies.study import Study

    broken = 0
    for name in arguments.recipes or shipped():
        try:
            recipe = load(name)
            recipe.source()
            recipe.encoder()
            for stage in recipe.stages.values():
                stage.module()
                stage.data()
            if recipe.scale is not None:
                Study(name).check()
        except RecipeError as error:
            broken += 1
            print(f"broken: {error}")
        else:
            print(f"ok: {name}")
    return 1 if broken else 0


def _parser() -> argparse.ArgumentParser:
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

    verb = _verb(verbs, "fit", fit, "run a recipe's stages; continues a run that was interrupted")
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

    verb = _verb(verbs, "scale", scale, "run a study's points, fit a power law, and say whether it is one")
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

    verb = _verb(verbs, "embed", embed, "represent products and queries with a run's encoder; can be continued")
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
    verb = _verb(verbs, "index", index, "build a faiss index of products' vectors and compare it with the exact search")
    verb.add_argument("place", type=Path, metavar="DIR_OR_RUN", help="what moonlib embed wrote, or a run directory")
    verb.add_argument(
        "--kind", choices=("flat", "hnsw", "ivf"), default="hnsw", help="exact, a graph, or lists (default: hnsw)"
    )
    verb.add_argument("--out", type=Path, metavar="FILE", help="default: products.KIND.faiss in the directory")
    verb = _verb(verbs, "search", search, "find a run's products by photo, text or both")
    verb.add_argument("run", type=Path, metavar="RUN", help="a run directory; with --index also an export of one")
    verb.add_argument("--image", type=Path, metavar="FILE", help="the photo to search with")
    verb.add_argument("--text", help="the text to search with")
    verb.add_argument("-k", type=int, default=10, help="products to show (10)")
    verb.add_argument("--index", type=Path, metavar="FILE", help="of moonlib index (default: look at every product)")
    verb.add_argument("--sheet", type=Path, metavar="FILE.png", help="draw the query and what it found")
    verb.add_argument("--new-only", action="store_true", help="only products listed after the end of training")
    verb = _verb(verbs, "evaluate", evaluate, "measure a run's encoder on another dataset, beside the same baselines")
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
    verb = _verb(verbs, "exchange", exchange, "what a gain in recall, or another intermediate metric, buys in clicks")
    verb.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories; the first names the place")
    verb.add_argument(
        "--split", choices=("valid", "test"), default="valid", help="days of both metrics; test to report (valid)"
    )
    verb.add_argument("--out", type=Path, metavar="FILE.json", help="default: exchange.json beside the first run")

    verb = _verb(verbs, "abtest", abtest, "let runs' click models rank fresh requests, and simulated shoppers click")
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

    verb = _verb(verbs, "report", report, "write what runs found, and what each adds, on one self-contained page")
    verb.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories, in the order of iterations")
    verb.add_argument(
        "--out", type=Path, metavar="FILE.html", help="default: report.html in the run, or beside the first of several"
    )

    verb = _verb(verbs, "export", export, "write a run's encoder to a folder that opens without the run and offline")
    verb.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    verb.add_argument("out", type=Path, metavar="DIR", help="the folder; never overwritten")
    verb.add_argument(
        "--license",
        default="unknown",
        metavar="ID",
        help="of the weights, for the model card, as the Hugging Face hub names it: apache-2.0 (default: unknown)",
    )

    data = _group(verbs.add_parser("data", help="make, build and check datasets", allow_abbrev=False))
    verb = _verb(data, "make", data_make, "simulate a marketplace")
    verb.add_argument("size", choices=("tiny", "small", "medium"), help="300, 8,000 or 50,000 products")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--out", type=Path, default=DATASETS, metavar="DIR", help=f"folder of datasets ({DATASETS})")
    verb = _verb(data, "build", data_build, "turn tables (Parquet or CSV) and images into a dataset")
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
    verb = _verb(data, "check", data_check, "counts, broken samples, leaks between splits; exit code 1 if any")
    verb.add_argument("directory", type=Path, metavar="DIR", help="the dataset's directory")
    verb.add_argument("--sheet", type=Path, metavar="FILE.png", help="draw products and query photos")
    verb.add_argument("--samples", type=int, metavar="N", help="decode N samples per table instead of all")

    plugins = _group(verbs.add_parser("plugins", help="list, show, check and write components", allow_abbrev=False))
    verb = _verb(plugins, "list", plugins_list, "list components; imports none")
    verb.add_argument("kind", nargs="*", help="only these kinds, for instance losses")
    verb = _verb(plugins, "show", plugins_show, "print a component's signature, docstring, file and distribution")
    verb.add_argument("component", metavar="KIND/NAME", help="for instance losses/info_nce")
    _verb(plugins, "check", plugins_check, "import every component; exit code 1 if one is broken")
    verb = _verb(plugins, "new", plugins_new, "write a distribution with one working component, its test and a README")
    verb.add_argument("kind", metavar="KIND", help="for instance losses; see moonlib plugins list")
    verb.add_argument("name", metavar="NAME", help="of the component, as recipes will write it")
    verb.add_argument("--to", type=Path, default=Path(), metavar="DIR", help="where its folder goes (default: here)")

    recipe = _group(verbs.add_parser("recipe", help="list, copy, show, compare and check recipes", allow_abbrev=False))
    _verb(recipe, "list", recipe_list, "list the shipped recipes")
    verb = _verb(recipe, "cp", recipe_cp, "copy a recipe to start your own from; never overwrites")
    verb.add_argument("recipe")
    verb.add_argument("to", type=Path, nargs="?", default=Path(), help="file or folder (default: here)")
    verb = _verb(recipe, "show", recipe_show, "print a recipe merged with all that it extends, names expanded")
    verb.set_defaults(overrides=[])
    verb.epilog = "Keys of the recipe can be overridden as in fit: --seed 1"
    verb.add_argument("recipe")
    verb = _verb(recipe, "diff", recipe_diff, "print the keys in which two recipes differ")
    verb.add_argument("old")
    verb.add_argument("new")
    verb = _verb(recipe, "check", recipe_check, "check every key, type and name; exit code 1 if one is wrong")
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
    from moonlib.processes import is_first

    return is_first()


def _is_users(error: Exception) -> bool:
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


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = str(error)
    if "in DataLoader worker process" in text.partition("\n")[0]:
        # torch hands a worker's error on with the worker's whole traceback as its text, the error itself last.
        return text.rstrip().rpartition("\n")[2].partition(": ")[2]
    return text
