"""What each verb of the command line does. Each imports what it needs when it runs: ``--help`` costs nothing.

A function takes what `moonlib.cli` read of the command line, and returns the exit code: 0 done; 1 a check found
something broken.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from moonlib.system.terminal import say

if TYPE_CHECKING:
    from moonlib.registry import Component


def fit(arguments: argparse.Namespace) -> int:
    """Run a recipe's stages."""
    options = {key: vars(arguments)[key] for key in ("runs", "name", "replace", "checkpoint_seconds")}
    if arguments.debug:
        from moonlib.runs.debug import debug

        debug(arguments.debug, arguments.config, arguments.overrides, **options)
    elif arguments.seeds is not None:
        from moonlib.runs.iteration import fit_seeds

        fit_seeds(arguments.config, arguments.overrides, seeds=arguments.seeds, **options)
    else:
        from moonlib.runs.iteration import fit

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
            say(*(study.command(point) for point in study.points), sep="\n")
        else:
            study.run(study.point(arguments.point), **options)
        return 0
    run_study(arguments.config, arguments.overrides, gather_only=arguments.gather, **places, **options)
    return 0


def embed(arguments: argparse.Namespace) -> int:
    """Represent a catalogue with a run's encoder."""
    from moonlib.inference.verbs import embed

    names = ("run", "products", "out", "queries", "images", "dim", "format", "batch_size", "workers")
    out = embed(**{name: vars(arguments)[name] for name in names})
    say(f"{out}\nnext: moonlib index {out}" if arguments.format == "npy" else out)
    return 0


def index(arguments: argparse.Namespace) -> int:
    """Index the vectors of a run or of an embedding."""
    from moonlib.inference.verbs import index

    path, about = index(arguments.place, arguments.kind, arguments.out)
    for name, value in about.items():
        say(f"{name:<20} {value}")
    say(path)
    return 0


def search(arguments: argparse.Namespace) -> int:
    """Search products by photo, text or both."""
    from moonlib.exports.folder import opened
    from moonlib.inference.hits import hits_sheet, hits_table
    from moonlib.inference.verbs import search
    from moonlib.runs.run import RunError
    from moonlib.system.console import Terminal

    names = ("image", "text", "k", "index", "new_only")
    hits = search(arguments.run, **{name: vars(arguments)[name] for name in names})
    Terminal(160).print(hits_table(hits))
    if hits and not any(hit.row for hit in hits):
        try:
            opened(arguments.run).dataset()
        except RunError as error:
            say(f"note: titles and pictures are left out: {error}", file=sys.stderr)
    if arguments.sheet:
        image = arguments.image.read_bytes() if arguments.image else None
        say(hits_sheet(image, arguments.text, hits, arguments.sheet))
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """Measure a run's encoder on another dataset."""
    from moonlib.inference.verbs import evaluate
    from moonlib.metrics.undefined import is_of_validation, sentences
    from moonlib.runs.tables import metric_tables, own_keys
    from moonlib.system.console import Terminal

    found = evaluate(arguments.run, arguments.data, arguments.out, workers=arguments.workers)
    results, references = found["results"], found["references"]
    Terminal(120).print(*metric_tables(own_keys(results, references), Path(found["run"]).name, results, references))
    for sentence in sentences({key: why for key, why in found["undefined"].items() if not is_of_validation(key)}):
        say(sentence)
    say(found["file"])
    return 0


def exchange(arguments: argparse.Namespace) -> int:
    """Find what a gain in an intermediate metric buys downstream."""
    from moonlib.studies.exchange import exchange, exchange_tables
    from moonlib.system.console import Terminal

    found = exchange(arguments.runs, split=arguments.split, out=arguments.out)
    Terminal(140).print(exchange_tables(found))
    if found["constant"]:
        say(f"the same at all points of a data set, so without a rate: {', '.join(found['constant'])}")
    say(found["file"])
    return 0


def abtest(arguments: argparse.Namespace) -> int:
    """Test click models against another on simulated shoppers, or on a log with propensities."""
    from moonlib.studies.abtest import abtest
    from moonlib.studies.abtest.tables import tables
    from moonlib.system.console import Terminal

    found = abtest(arguments.base, arguments.runs, requests=arguments.requests, seed=arguments.seed, out=arguments.out)
    Terminal(160).print(tables(found))
    for each in found:
        say(each["file"])
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Write what runs found on one page."""
    from moonlib.studies.report import report

    path = report(arguments.runs, arguments.out)
    say(f"report: {path}, {path.stat().st_size / 1e6:.1f} MB")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write a run's encoder to a folder of its own."""
    from moonlib.exports.folder import export

    out = export(arguments.run, arguments.out, license=arguments.license)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    say(f"{out}, {size / 1e6:.1f} MB; its card: {out / 'README.md'}")
    say(f"next: moonlib embed {out} --products TABLE --out DIR, or moonlib.load({str(out)!r})")
    return 0


def data_make(arguments: argparse.Namespace) -> int:
    """Simulate a marketplace."""
    from moonlib.sources.marketplace.source import Marketplace

    say(Marketplace(arguments.size, arguments.seed).prepare(arguments.out))
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
    from moonlib.registry import registry

    listed = registry.components(*arguments.kind)
    claimed = registry.duplicates(listed)
    kind = ""
    for component in listed:
        if component.kind != kind:
            kind = component.kind
            say(kind)
        note = "   claimed twice: uninstall one" if (kind, component.name) in claimed else ""
        if component.mismatch:
            note += f"   {component.mismatch}"
        say(f"  {component.name:<16} {component.distribution:<20} {component.value}{note}")
    if renamed := registry.renamings(*arguments.kind):
        say("renamed")
        for renaming in renamed:
            say(f"  {renaming}   until {renaming.distribution.rpartition(' ')[0]} {renaming.gone_in}")
    return 0


def plugins_show(arguments: argparse.Namespace) -> int:
    """Print a component's signature, docstring, file and distribution."""
    from moonlib.registry import registry

    kind, _, name = arguments.component.partition("/")
    if not name:
        raise registry.RegistryError(f"expected KIND/NAME such as losses/info_nce, got '{arguments.component}'")
    found = registry.describe(kind, name)
    say(f"{found.component}   {found.component.distribution}\n{found.location}\n\n{found.signature}")
    if found.docstring:
        say(f"\n{found.docstring}")
    return 0


def plugins_check(arguments: argparse.Namespace) -> int:
    """Import every component, and read what distributions say of themselves."""
    from moonlib.registry import registry

    undeclared = {component.distribution for component in registry.components() if not component.api}
    for distribution in sorted(undeclared - {registry.THIS_PROCESS}):
        say(f"note: {distribution} declares no version of the plugin API (group moonlib.api); it is taken to fit")
    results = registry.check()
    broken: list[Component] = []
    for component, error in results:
        if error:
            broken.append(component)
            say(f"broken: {component} of {component.distribution}")
            if error.__cause__:
                traceback.print_exception(error.__cause__, file=sys.stdout)
            else:
                say(error)
            say()
    problems = registry.problems()
    for distribution, problem in problems:
        say(f"broken: {distribution}: {problem}\n")
    names = ", ".join(f"{component} ({component.distribution})" for component in broken)
    say(f"{len(results)} components, {len(broken)} broken{': ' + names if broken else ''}")
    if problems:
        say(f"metadata broken: {', '.join(sorted({distribution for distribution, _ in problems}))}")
    return 1 if broken or problems else 0


def plugins_new(arguments: argparse.Namespace) -> int:
    """Write a distribution with one working component."""
    from moonlib.templates.new_plugin import new_plugin

    directory = new_plugin(arguments.kind, arguments.name, arguments.to)
    say(f"{directory}\nnext: cd {directory} && pip install --editable '.[test]' && pytest")
    for recipe in directory.glob("*.yaml"):
        say(f"then: moonlib fit --config {recipe.name}")
    return 0


def recipe_list(arguments: argparse.Namespace) -> int:
    """List the shipped recipes."""
    from moonlib.config.merge import shipped

    for name, path in shipped().items():
        with path.open(encoding="utf-8") as file:
            first = file.readline()
        about = first.lstrip("# ").strip() if first.startswith("#") else ""
        if about.split(" ")[0].endswith(".yaml"):  # the file's own name, which stands before and behind
            about = about.partition(" ")[2].strip()
        say(f"{name:<16} {about}\n{'':<16} {path}")
    return 0


def recipe_cp(arguments: argparse.Namespace) -> int:
    """Copy a recipe to start one's own from."""
    from moonlib.config.merge import find

    source = find(arguments.recipe)
    target = arguments.to / source.name if arguments.to.is_dir() else arguments.to
    with target.open("x", encoding="utf-8") as file:  # refuses to overwrite
        file.write(source.read_text(encoding="utf-8"))
    say(target)
    return 0


def recipe_show(arguments: argparse.Namespace) -> int:
    """Print a recipe merged and expanded."""
    import yaml

    from moonlib.config.recipe import load

    config = load(arguments.recipe, arguments.overrides).config
    # What the output cannot hold, YAML spells in its own way, so that it is read back as it was.
    whole = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    say(yaml.safe_dump(config, sort_keys=False, allow_unicode=whole, width=120), end="")
    return 0


def recipe_diff(arguments: argparse.Namespace) -> int:
    """Print the keys in which two recipes differ, merged and expanded."""
    from moonlib.config.recipe import diff, load

    for key, old, new in diff(load(arguments.old).config, load(arguments.new).config):
        say(f"{key}: {old} -> {new}")
    return 0


def recipe_check(arguments: argparse.Namespace) -> int:
    """Type recipes in full and construct their components; of a study, every point too."""
    from moonlib.config.recipe import RecipeError, load, shipped
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
            say(f"broken: {error}")
        else:
            say(f"ok: {name}")
    return 1 if broken else 0
