"""`moonlib recipe`: recipes are listed, copied, shown, compared and checked."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from moonlib.cli.arguments import Verbs, add_group, add_verb
from moonlib.system.terminal import say


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    recipe = add_group(
        verbs.add_parser("recipe", help="list, copy, show, compare and check recipes", allow_abbrev=False)
    )
    add_verb(recipe, "list", list_all, "list the shipped recipes")
    verb = add_verb(recipe, "cp", cp, "copy a recipe to start your own from; never overwrites")
    verb.add_argument("recipe")
    verb.add_argument("to", type=Path, nargs="?", default=Path(), help="file or folder (default: here)")
    verb = add_verb(recipe, "show", show, "print a recipe merged with all that it extends, names expanded")
    verb.set_defaults(overrides=[])
    verb.epilog = "Keys of the recipe can be overridden as in fit: --seed 1"
    verb.add_argument("recipe")
    verb = add_verb(recipe, "diff", diff, "print the keys in which two recipes differ")
    verb.add_argument("old")
    verb.add_argument("new")
    verb = add_verb(recipe, "check", check, "check every key, type and name; exit code 1 if one is wrong")
    verb.add_argument("recipes", nargs="*", metavar="recipe", help="default: all shipped recipes")


def list_all(arguments: argparse.Namespace) -> int:
    """List the shipped recipes."""
    from moonlib.config.merge import shipped

    for name, path in shipped().items():
        with path.open(encoding="utf-8") as file:
            first = file.readline()
        about = first.lstrip("# ").strip() if first.startswith("#") else ""
        if about.split(" ")[0].endswith(".yaml"):  # the file's own name, which stands before and behind
            about = about.partition(" ")[2].strip()
        say(f"{name:<16} {about}\n{'':<16} {path}")
        if (needed := _lacking(path)) is not None:
            say(f"{'':<16} {needed}")
    return 0


def _lacking(path: Path) -> str | None:
    """Say which plugin a shipped recipe lacks for its source; None if it is there, or is none of a plugin's."""
    from moonlib.config.merge import read_layers
    from moonlib.registry import registry

    sources = [layer.content["data"] for layer in read_layers(path) if layer.content.get("data")]
    name = sources[-1] if sources else None
    name = name.get("class_path") if isinstance(name, dict) else name
    try:
        if ("sources", name) in registry.PLUGINS:
            registry.find("sources", str(name))
    except registry.NotInstalled as error:
        return str(error)
    return None


def cp(arguments: argparse.Namespace) -> int:
    """Copy a recipe to start one's own from."""
    from moonlib.config.merge import find

    source = find(arguments.recipe)
    target = arguments.to / source.name if arguments.to.is_dir() else arguments.to
    with target.open("x", encoding="utf-8") as file:  # refuses to overwrite
        file.write(source.read_text(encoding="utf-8"))
    say(target)
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Print a recipe merged and expanded."""
    import yaml

    from moonlib.config.recipe import load

    config = load(arguments.recipe, arguments.overrides).config
    # What the output cannot hold, YAML spells in its own way, so that it is read back as it was.
    whole = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    say(yaml.safe_dump(config, sort_keys=False, allow_unicode=whole, width=120), end="")
    return 0


def diff(arguments: argparse.Namespace) -> int:
    """Print the keys in which two recipes differ, merged and expanded."""
    from moonlib.config.recipe import diff, load

    for key, old, new in diff(load(arguments.old).config, load(arguments.new).config):
        say(f"{key}: {old} -> {new}")
    return 0


def check(arguments: argparse.Namespace) -> int:
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
            if not arguments.recipes and _not_installed(error):
                say(f"skipped: {error}")  # nothing is wrong with it
                continue
            broken += 1
            say(f"broken: {error}")
        else:
            say(f"ok: {name}")
    return 1 if broken else 0


def _not_installed(error: BaseException | None) -> bool:
    """Whether an error comes of a plugin that is not installed."""
    from moonlib.registry import registry

    while error is not None and not isinstance(error, registry.NotInstalled):
        error = error.__cause__
    return error is not None
