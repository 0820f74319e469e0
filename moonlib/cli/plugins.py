"""`moonlib plugins`: components are listed, shown, checked and started."""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from moonlib.cli.arguments import Verbs, add_group, add_verb
from moonlib.system.terminal import say

if TYPE_CHECKING:
    from moonlib.registry.registry import Component


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    plugins = add_group(verbs.add_parser("plugins", help="list, show, check and write components", allow_abbrev=False))
    verb = add_verb(plugins, "list", list_all, "list components; imports none")
    verb.add_argument("kind", nargs="*", help="only these kinds, for instance losses")
    verb = add_verb(plugins, "show", show, "print a component's signature, docstring, file and distribution")
    verb.add_argument("component", metavar="KIND/NAME", help="for instance losses/info_nce")
    add_verb(plugins, "check", check, "import every component; exit code 1 if one is broken")
    verb = add_verb(plugins, "new", new, "write a distribution with one working component, its test and a README")
    verb.add_argument("kind", metavar="KIND", help="for instance losses; see moonlib plugins list")
    verb.add_argument("name", metavar="NAME", help="of the component, as recipes will write it")
    verb.add_argument("--to", type=Path, default=Path(), metavar="DIR", help="where its folder goes (default: here)")


def list_all(arguments: argparse.Namespace) -> int:
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


def show(arguments: argparse.Namespace) -> int:
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


def check(arguments: argparse.Namespace) -> int:
    """Import every component, and read what distributions say of themselves."""
    from moonlib.registry import registry

    undeclared = {component.distribution for component in registry.components() if not component.api}
    for distribution in sorted(undeclared - {registry.THIS_PROCESS}):
        say(f"note: {distribution} declares no version of the plugin API (group moonlib.api); it is taken to fit")
    for distribution, remedy in registry.superseded():
        say(f"note: {distribution}: {remedy}")
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


def new(arguments: argparse.Namespace) -> int:
    """Write a distribution with one working component."""
    from moonlib.templates.new_plugin import new_plugin

    directory = new_plugin(arguments.kind, arguments.name, arguments.to)
    say(f"{directory}\nnext: cd {directory} && pip install --editable '.[test]' && pytest")
    for recipe in directory.glob("*.yaml"):
        say(f"then: moonlib fit --config {recipe.name}")
    return 0
