"""Recipe files: reading YAML, following `extends`, merging, command-line overrides.

Merge rules: mappings merge deeply; a bare name is ``{class_path: name}``; another class drops the arguments of the one
it replaces; lists replace; ``null`` removes what the parent says; a new stage says ``after: NAME``. ``extends`` and
``changes`` speak of their own file and are not inherited. Entries of ``losses`` merge one by one, in whichever of their
forms (`moonlib.config.losses`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten
from typing import Any

import yaml

from moonlib.config import losses
from moonlib.config.earlier import present_stages
from moonlib.config.names import stage_problem
from moonlib.registry import registry
from moonlib.registry.moved import present_path
from moonlib.system.remote import is_url, local_copy

Key = tuple[str, ...]


class RecipeError(ValueError):
    """A mistake in a recipe, on one line.

    Args:
        problem: what is wrong and what was expected.
        key: path of the key, outermost first.
        source: the file that says it, or ``"command line"``.
    """

    def __init__(self, problem: str, key: Key = (), source: str = "") -> None:
        told = ": ".join(part for part in (source, ".".join(map(str, key)), problem) if part)
        super().__init__(" ".join(told.splitlines()))
        self.problem = problem
        self.key = key


@dataclass(frozen=True)
class Layer:
    """The content of one file, or of the command line.

    Attributes:
        source: how errors call it.
        content: the mapping it holds, without ``extends``.
    """

    source: str
    content: dict[str, Any]


def shipped() -> dict[str, Path]:
    """Names and files of the recipes that come with moonlib, sub-folders included (``data/emoji``)."""
    folder = Path(__file__).parents[1] / "_recipes"  # in a wheel
    if not folder.is_dir():
        folder = Path(__file__).parents[2] / "recipes"  # in a checkout
    return {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.yaml"))}


def find(name: str | Path, folder: Path = Path()) -> Path:
    """The file of a recipe.

    Args:
        name: a path, a URL, or the name of a shipped recipe with or without ``.yaml``.
        folder: what a relative path is relative to.

    Raises:
        RemoteError: the URL can't be read.
        RecipeError: if there is neither such a file nor such a shipped recipe.
    """
    if is_url(name):
        return local_copy(name)
    path = folder / name
    if path.is_file():
        return path
    recipes = shipped()
    known = recipes.get(str(name).removesuffix(".yaml"))
    if known is None:
        # `moonlib recipe list` knows the studies too; here they would drown the others.
        likely = [recipe for recipe in recipes if not recipe.startswith("studies/")]
        raise RecipeError(f"no such recipe; {hint(Path(name).stem, likely)}", source=str(name))
    return known


KEYS = {"extends", "changes", "seed", "data", "encoder", "stages", "scale", "trainer", "loggers"}
"""The top level of a recipe."""

_EXPECTED = "expected a mapping with keys such as data, encoder, stages"


def read_layers(path: Path, heirs: tuple[Path, ...] = ()) -> list[Layer]:
    """Read a recipe and all that it extends.

    Args:
        path: the recipe's file.
        heirs: the files that led here.

    Returns:
        One layer per file, the first ancestor first.

    Raises:
        RecipeError: if a file is no recipe, which its content is not printed to show, an ancestor is missing, or the
            files extend each other in a circle.
    """
    if path.resolve() in [heir.resolve() for heir in heirs]:
        circle = " → ".join(heir.name for heir in (*heirs, path))
        raise RecipeError(f"recipes extend each other in a circle: {circle}", ("extends",), str(heirs[-1]))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RecipeError(f"is no recipe: it is not UTF-8 text; {_EXPECTED}", (), str(path)) from None
    content = _parse(text, str(path))
    # What else a file may be, an error does not print: it may be somebody's secret that a recipe extends.
    if not isinstance(content, dict):
        raise RecipeError(f"is no recipe: {_EXPECTED}, got {type(content).__name__}", (), str(path))
    if content and not content.keys() & KEYS:
        raise RecipeError(f"is no recipe: {_EXPECTED}, and it has none of them", (), str(path))
    parent = content.pop("extends", None)
    layer = Layer(str(path), present_stages(content))
    if parent is None:
        return [layer]
    if not isinstance(parent, str):
        raise RecipeError(f"expected a file or the name of a shipped recipe, got {parent!r}", ("extends",), str(path))
    try:
        ancestor = find(parent, path.parent)
    except RecipeError as error:
        raise RecipeError(f"'{parent}': {error.problem}", ("extends",), str(path)) from None
    return [*read_layers(ancestor, (*heirs, path)), layer]


def parse_overrides(words: Sequence[str]) -> Layer:
    """Turn command-line words into a layer.

    Args:
        words: ``["--seed", "1", "--stages.pretrain.trainer.max_steps=10"]``; values are YAML.

    Raises:
        RecipeError: for a word that is no key, or a key without a value.
    """
    layer = Layer("command line", {})
    remaining = list(words)
    while remaining:
        word, given, value = remaining.pop(0).partition("=")
        if not word.startswith("--") or len(word) == 2:
            raise RecipeError(f"expected --key value, got '{word}'", (), layer.source)
        key = tuple(word[2:].split("."))
        if not given:
            if not remaining:
                raise RecipeError("expected a value", key, layer.source)
            value = remaining.pop(0)
        place = layer.content
        for part in key[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise RecipeError(f"'{part}' is given a value of its own as well", key, layer.source)
        place[key[-1]] = _parse(value, f"{layer.source}: {'.'.join(key)}")
    return Layer(layer.source, present_stages(layer.content))


def merge_layers(layers: Sequence[Layer]) -> dict[str, Any]:
    """Merge the layers of a recipe, each over those before it; the order of the stages is the order of running."""
    merged: dict[str, Any] = {}
    for index, layer in enumerate(layers):
        content = losses.flat(dict(layer.content))
        stages = content.pop("stages", {})
        if not isinstance(stages, dict):
            raise RecipeError(f"expected a mapping from names to stages, got {stages!r}", ("stages",))
        if index and layer.source != "command line":
            merged.pop("changes", None)
        order = merged.get("stages", {})
        merged = merge(merged, content)
        merged["stages"] = _merge_stages(order, stages, first=not index)
    return losses.nested(merged)


def merge(parent: Any, child: Any) -> Any:
    """Merge one value over another by the rules above.

    Example:
        >>> merge({"loss": {"class_path": "info_nce", "init_args": {"temperature": 0.1}}}, {"loss": "sigmoid"})
        {'loss': {'class_path': 'sigmoid'}}
    """
    parent, child = _component(parent, child), _component(child, parent)
    if not isinstance(parent, dict) or not isinstance(child, dict):
        return child
    merged = dict(parent)
    if {"class_path"} <= parent.keys() & child.keys() and not _same_class(parent["class_path"], child["class_path"]):
        merged.pop("init_args", None)
    for key, value in child.items():
        if key not in merged:
            merged[key] = value
        elif value is None:
            del merged[key]
        else:
            merged[key] = merge(merged[key], value)
    return merged


def source_of(layers: Sequence[Layer], key: Key) -> str:
    """The layer that says a key, or most of the way to it; the latest one if several do."""

    def depth(layer: Layer) -> int:
        place: Any = layer.content
        for index, part in enumerate(key):
            if part == "class_path" and not isinstance(place, dict):  # a bare name stands for its class path
                return index + 1
            if not isinstance(place, dict) or part not in place:
                return index
            place = place[part]
        return len(key)

    return max(reversed(layers), key=depth).source


def hint(word: str, known: Iterable[str]) -> str:
    """Name what ``word`` may have meant: ``did you mean 'loss'?``, or all that is known."""
    known = list(known)
    near = get_close_matches(word, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known: {shorten(', '.join(known), 200) or 'none'}"


def _merge_stages(parent: dict[str, Any], child: dict[str, Any], first: bool) -> dict[str, Any]:
    """Merge stages and place the new ones (and those that say ``after`` again)."""
    stages = dict(parent)
    for name, stage in child.items():
        key = ("stages", name)
        if problem := stage_problem(name):
            raise RecipeError(problem, key)
        if stage is None and name in stages:
            del stages[name]
            continue
        if not isinstance(stage, dict):
            raise RecipeError(f"expected a mapping with module, data, trainer; got {stage!r}", key)
        new = name not in stages
        stages[name] = merge(stages.get(name, {}), {part: value for part, value in stage.items() if part != "after"})
        if "after" in stage:
            after = stage["after"]
            others = [other for other in stages if other != name]
            if after not in others:
                raise RecipeError(f"no stage '{after}'; {hint(str(after), others)}", (*key, "after"))
            others.insert(others.index(after) + 1, name)
            stages = {other: stages[other] for other in others}
        elif new and not first:
            raise RecipeError(f"a new stage says `after: NAME`; to change one, {hint(name, parent)}", key)
    return stages


def _component(value: Any, other: Any) -> Any:
    """Write a bare name as a mapping where the other side is one."""
    if isinstance(value, str) and isinstance(other, dict) and other.keys() & {"class_path", "init_args", "from"}:
        return {"class_path": value}
    return value


def _same_class(one: Any, other: Any) -> bool:
    """Whether two class paths, each a bare name or dotted, mean one class."""
    if one == other or not (isinstance(one, str) and isinstance(other, str)):
        return bool(one == other)
    listed = registry.components()
    present = {renaming.old: renaming.new for renaming in registry.renamings()}
    names = [{path, present.get(path, path), present_path(path)} for path in (one, other)]
    meanings = [known | {c.value.replace(":", ".") for c in listed if c.name in known} for known in names]
    return bool(meanings[0] & meanings[1])


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: 1e-3 is a number, a date stays text, and a key given twice is an error."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - typed by the base class
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"'{key.value}' is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"not valid YAML: {error.problem or error.context}", (), source + line) from error
    except yaml.YAMLError as error:
        raise RecipeError(f"not valid YAML: {' '.join(str(error).split())}", (), source) from error
