"""`moonlib plugins new`: a complete distribution with one component, to be changed into one's own."""

from __future__ import annotations

import json
import keyword
import os
import re
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from string import Template
from typing import Any

import moonlib
from moonlib.registry import registry
from moonlib.system.versions import DISTRIBUTION

TEMPLATES = Path(__file__).parent

PLACES: dict[str, dict[str, object]] = {
    "encoders": {"encoder": "$name"},
    "image_towers": {"encoder.init_args.image": "$name"},
    "text_towers": {"encoder.init_args.text": "$name"},
    "fusions": {"encoder.init_args.fusion": "$name"},
    "pairs": {
        "stages.pretrain.module.class_path": "contrastive",
        "stages.pretrain.module.init_args.loss": "info_nce",
        "stages.pretrain.module.init_args.negatives": ["in_batch"],
        "stages.pretrain.module.init_args.pairs": "$name",
    },
    "negatives": {"stages.pretrain.module.init_args.negatives": ["in_batch", "$name"]},
    "losses": {"stages.pretrain.module.init_args.loss": "$name"},
    "optimizers": {"stages.pretrain.module.init_args.optimizer": "$name"},
    "adapters": {"stages.application.module.init_args.adapter": "$name"},
    "predictors": {"stages.application.module.init_args.predictor": "$name"},
    "metrics": {"stages.application.module.init_args.metrics": ["$name"]},
    "sources": {"data": "$name"},
    "stages": {"stages.$name.after": "represent", "stages.$name.module": "$name"},
}
"""Where a recipe that extends iter1 names a component; the shipped stages have no place for the other kinds."""

PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "$distribution"
version = "0.1.0"
description = "$about"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["$moonlib>=$version"]

[project.optional-dependencies]
test = ["pytest>=8"]

# What recipes and `moonlib plugins list` know of this distribution.
[project.entry-points."moonlib.$kind"]
$name = "$package.$name:$cls"

# The version of moonlib's plugin interface that this is made for, moonlib.registry.API.
[project.entry-points."moonlib.api"]
$api = "$package"

[tool.hatch.build.targets.wheel]
packages = ["src/$package"]
"""

README = """\
# $distribution

$about: the component `$kind/$name` of moonlib, class `$cls`.

    pip install --editable '.[test]'
    pytest
    moonlib plugins show $kind/$name

$use

What is here:

- `pyproject.toml` names the class in the entry-point group `moonlib.$kind`; recipes then know it as `$name`.
- `src/$package/$name.py` is the component. Its constructor's arguments, types and defaults are a recipe's keys.
- `tests/test_$name.py` runs `moonlib.testing.$check`, which says which promise of `$base` is broken.

It was written by `moonlib plugins new $kind $name`; change it into your own.
"""

USE_IN_A_RECIPE = """\
`$name.yaml` is a short run that uses it; in any other recipe it takes the same place:

    moonlib fit --config $name.yaml
    moonlib fit --config iter1 $options"""

USE_IN_PYTHON = """\
No stage that moonlib ships takes $kind from a recipe. In Python:

    from moonlib import registry
    $cls = registry.get("$kind", "$name")

A stage of your own may take one as an argument of its constructor, typed `$base`; a recipe then names it `$name`."""


def new_plugin(kind: str, name: str, to: Path = Path()) -> Path:
    """Write a distribution with one working component, whole or not at all.

    Args:
        kind: one of `moonlib.registry.KINDS`.
        name: of the component: small letters, digits and single underscores.
        to: the folder to write it in, made if missing.

    Returns:
        The distribution's folder, ``to / "moonlib-<name>"``.

    Raises:
        RegistryError: the kind is unknown, or the name cannot be used or is taken.
        FileExistsError: the folder is there already.
    """
    taken = [component for component in registry.components(kind) if component.name == name]
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise registry.RegistryError(
            f"'{name}' cannot be a name: expected small letters, digits and single underscores, a letter first"
        )
    if taken:
        raise registry.RegistryError(f"{kind}/{name} is taken by {taken[0].distribution}: choose another name")
    distribution, package = f"moonlib-{name.replace('_', '-')}", f"moonlib_{name}"
    try:
        raise registry.RegistryError(f"{distribution} {version(distribution)} is installed: choose another name")
    except PackageNotFoundError:
        pass
    cls = "".join(word.capitalize() for word in name.split("_"))
    code, test = ((TEMPLATES / file).read_text(encoding="utf-8") for file in (f"{kind}.py", f"test_{kind}.py"))
    if re.search(rf"\b{cls}\b", code + test):
        raise registry.RegistryError(f"'{name}' makes a class {cls}, a word that its code uses: choose another name")

    checks = re.search(r"\bcheck_\w+", test)
    assert checks
    facts = {
        "kind": kind,
        "name": name,
        "cls": cls,
        "distribution": distribution,
        "package": package,
        "about": code.split('"""')[1].strip().rstrip("."),
        "base": registry.base_class(kind),
        "check": checks[0],
        "moonlib": DISTRIBUTION,
        "version": moonlib.__version__,
        "api": str(registry.API),
    }
    words = {f"moonlib.templates.{kind}": f"{package}.{name}", "Template": cls, "template": name}
    files = {
        f"src/{package}/__init__.py": f'"""{facts["about"]}."""\n',
        f"src/{package}/{name}.py": _renamed(code, words),
        f"src/{package}/py.typed": "",
        f"tests/test_{name}.py": _renamed(test, words),
        "pyproject.toml": Template(PYPROJECT).substitute(facts),
    }
    if kind in PLACES:
        places = json.loads(Template(json.dumps(PLACES[kind])).substitute(facts))
        facts["options"] = " ".join(f"--{key} {_word(value)}" for key, value in places.items())
        files[f"{name}.yaml"] = _recipe(kind, name, places)
    use = Template(USE_IN_A_RECIPE if kind in PLACES else USE_IN_PYTHON).substitute(facts)
    files["README.md"] = Template(README).substitute(facts, use=use)
    return _write(to / distribution, files)


def _recipe(kind: str, name: str, places: dict[str, object]) -> str:
    """A recipe that extends iter1 with the component in its place, few products and few steps."""
    import yaml

    short: dict[str, object] = {"stages.pretrain.trainer.max_steps": 20}
    if kind != "sources":
        short["data.init_args.size"] = "tiny"
    recipe: dict[str, Any] = {"extends": "iter1", "changes": {"plugin": f"{kind}/{name}"}}
    for key, value in (short | places).items():
        *outer, last = key.split(".")
        section = recipe
        for part in outer:
            section = section.setdefault(part, {})
        section[last] = value
    comment = f"# {name}.yaml    A short run that uses {kind}/{name}.\n#   moonlib fit --config {name}.yaml\n"
    return comment + yaml.safe_dump(recipe, sort_keys=False)


def _word(value: object) -> str:
    """A value as one word of a command line."""
    return value if isinstance(value, str) else f"'[{', '.join(map(str, value))}]'"  # type: ignore[call-overload]


def _renamed(code: str, words: dict[str, str]) -> str:
    """Put other words into a template, and its imports into order again."""
    for word, other in words.items():
        code = re.sub(rf"\b{re.escape(word)}\b", other, code)
    return re.sub(
        r"(?m)(^from moonlib\S* import .*\n)+", lambda block: "".join(sorted(block[0].splitlines(True))), code
    )


def _write(directory: Path, files: dict[str, str]) -> Path:
    if directory.exists():
        raise FileExistsError(f"{directory} exists: choose another name, or another folder with --to DIR")
    draft = directory.with_name(f".{directory.name}.{os.getpid()}")
    try:
        for name, text in files.items():
            file = draft / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        draft.rename(directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return directory
