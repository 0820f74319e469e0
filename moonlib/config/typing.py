"""Recipes typed from the signatures of the classes they name.

`construct` walks a class's constructor beside the arguments a recipe gives: unknown and missing keys are refused with
their path, bare names become dotted paths (the parameter's base class tells the kind), and jsonargparse checks and
converts the values and adds the defaults.
"""

from __future__ import annotations

import copy
import inspect
import re
import types
import typing
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from moonlib.config.merge import Key, RecipeError, hint
from moonlib.registry import registry
from moonlib.registry.deprecation import present_arguments, warn_once
from moonlib.registry.moved import GONE_IN, present_path
from moonlib.registry.signature import parameters
from moonlib.system.remote import without_credentials


@dataclass(frozen=True)
class Construction:
    """A class and the checked arguments to construct it with.

    Attributes:
        cls: the class.
        arguments: as the recipe gives them, bare names expanded; plain mappings, lists and scalars.
        key: where the recipe gives them.
        parsed: the same, typed and with defaults.
    """

    cls: type
    arguments: dict[str, Any]
    key: Key
    parsed: Namespace

    @property
    def resolved(self) -> dict[str, Any]:
        """The arguments with all defaults, as JSON knows them."""
        plain: dict[str, Any] = _plain(_given(self.parsed))
        return plain

    def build(self, **more: Any) -> Any:
        """Construct a new instance.

        Args:
            more: arguments that no recipe can give; a list is appended to the recipe's list.

        Raises:
            RecipeError: if the constructor refuses an argument's value (its error is chained).
        """
        try:
            arguments = dict(vars(_given(_parser(self.cls).instantiate(self.parsed))))
            for name, value in vars(_given(self.parsed)).items():
                if type(value) is int:  # see `construct`: to instantiate is to convert once more
                    arguments[name] = value
            for name, value in more.items():
                given = arguments.get(name)
                arguments[name] = [*given, *value] if isinstance(given, list) and isinstance(value, list) else value
            return self.cls(**arguments)
        except ValueError as error:
            raise RecipeError(str(error), self.key) from error


def construct(cls: type, arguments: Any, key: Key) -> Construction:
    """Check a recipe's arguments for a class, constructing nothing.

    Args:
        cls: any class whose constructor is typed.
        arguments: what the recipe says under ``key``; ``None`` means no arguments.
        key: for errors.

    Raises:
        RecipeError: naming the first key that is unknown, missing, or has a value of another type.
    """
    leaves: list[tuple[Key, Any, Any]] = []
    expanded = _expand_arguments(cls, arguments, key, leaves)
    for leaf, annotation, value in leaves:
        if (
            isinstance(value, str)
            and Path in (members := _members(annotation))
            and str not in members
            and "://" in value
        ):
            shown = without_credentials(value)
            raise RecipeError(f"expected a local path, got the URL {shown}; copy it to this machine first", leaf)
    try:
        parsed = _parser(cls).parse_object({"value": copy.deepcopy(expanded)})  # it writes into what it is given
    except ArgumentError as error:
        for leaf, annotation, value in leaves:
            if not fits(annotation, value):
                raise RecipeError(f"expected {describe(annotation)}, got {value!r}", leaf) from error
        raise RecipeError(" ".join(str(error).split()), key) from error
    for name, value in expanded.items():
        # Python holds Union[int, float] and Union[float, int] for equal and hands out the one that was made first, in
        # whatever library; an int would then become a float, and 1 batch (Trainer's limit_train_batches) all of them.
        if type(value) is int and int in _members(parameters(cls)[name].annotation):
            parsed.value[name] = value
    return Construction(cls, expanded, key, parsed)


def construct_component(kind: str, value: Any, key: Key) -> Construction:
    """Check a component that a recipe gives as a bare name or as ``{class_path, init_args}``.

    Args:
        kind: one of `moonlib.registry.KINDS`.
        value: what the recipe says under ``key``.
        key: for errors.

    Raises:
        RecipeError: as `construct`, and for an unknown or broken component.
    """
    cls, arguments = _locate(kind, value, key)
    return construct(cls, arguments, (*key, "init_args"))


def written(cls: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """A component as a recipe writes it in full."""
    path = class_path(cls)
    return {"class_path": path, "init_args": arguments} if arguments else {"class_path": path}


def class_path(cls: type) -> str:
    """The dotted path of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


@lru_cache(maxsize=1024)
def _parser(cls: type) -> ArgumentParser:
    """Jsonargparse's view of a class's constructor, which takes a while: a quarter of a short run without the cache."""
    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_class_arguments(cls, "value", instantiate=False, fail_untyped=False)
    return parser


def _given(parsed: Namespace) -> Namespace:
    """The parsed arguments; a constructor that takes none leaves nothing in the parser's result."""
    return parsed.get("value") or Namespace()


def _expand_arguments(cls: type, arguments: Any, key: Key, leaves: list[tuple[Key, Any, Any]]) -> dict[str, Any]:
    """Check the names of a constructor's arguments and expand their values; note the plain ones in ``leaves``."""
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise RecipeError(f"expected a mapping of the arguments of {cls.__name__}, got {arguments!r}", key)
    try:
        arguments = present_arguments(cls.__init__, arguments)  # type: ignore[misc]
    except TypeError as error:
        raise RecipeError(str(error), key) from error
    known = parameters(cls)
    for name in arguments:
        if name not in known:
            raise RecipeError(f"unknown key; {hint(str(name), known)}", (*key, str(name)))
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise RecipeError(f"missing; {cls.__name__} needs {describe(parameter.annotation)}", (*key, name))
    # Null removes what a parent says; where no parent says it, the default stays, too.
    arguments = {name: value for name, value in arguments.items() if value is not None or _takes_null(known[name])}
    return {name: _expand(known[name].annotation, value, (*key, name), leaves) for name, value in arguments.items()}


def _takes_null(parameter: inspect.Parameter) -> bool:
    """Whether null is a value of a parameter; true of a required one, which null does not make optional."""
    return parameter.default in (None, parameter.empty) or not {Any, type(None)}.isdisjoint(
        _members(parameter.annotation)
    )


def _expand(annotation: Any, value: Any, key: Key, leaves: list[tuple[Key, Any, Any]]) -> Any:
    """Expand bare names wherever the annotation has the base class of a kind; note plain values in ``leaves``."""
    for member in _members(annotation):
        origin, inner = typing.get_origin(member), typing.get_args(member)
        kind = registry.kind_of(member) if inspect.isclass(member) and origin is None else None
        if kind and isinstance(value, (str, dict)):
            cls, arguments = _locate(kind, value, key)
            if not issubclass(cls, member):
                raise RecipeError(f"expected a {member.__name__}, got {class_path(cls)}", key)
            return written(cls, _expand_arguments(cls, arguments, (*key, "init_args"), leaves))
        if origin in (list, Sequence) and isinstance(value, list):
            return [_expand(inner[0], item, (*key, str(i)), leaves) for i, item in enumerate(value)]
        if origin in (dict, Mapping) and isinstance(value, dict):
            return {name: _expand(inner[1], item, (*key, str(name)), leaves) for name, item in value.items()}
        if is_dataclass(member) and isinstance(member, type) and isinstance(value, dict):
            return _expand_arguments(member, value, key, leaves)
    leaves.append((key, annotation, value))
    return value


def _locate(kind: str, value: Any, key: Key) -> tuple[type, Any]:
    """The class that a component names and the arguments given with it."""
    if isinstance(value, str):
        value = {"class_path": value}
    for name in value if isinstance(value, dict) else ():
        if name not in ("class_path", "init_args"):
            raise RecipeError("unknown key; a component has class_path and init_args", (*key, str(name)))
    key = (*key, "class_path")
    path = value.get("class_path") if isinstance(value, dict) else value
    if path is None:
        raise RecipeError(f"missing; expected {one_of(kind)}", key)
    if not isinstance(path, str):
        raise RecipeError(f"expected {one_of(kind)}, got {path!r}", key)
    if (now := present_path(path)) != path:
        warn_once(f"{path} is {now} now; the old path works until release {GONE_IN}")
        path = now
    try:
        cls = _import(path) if "." in path else registry.get(kind, path)
    except registry.RegistryError as error:
        raise RecipeError(str(error), key) from error
    if taken_in := registry.adopted(kind, cls, value):
        _check_adopted(cls, value.get("init_args"), (*key[:-1], "init_args"))
        return taken_in
    if registry.kind_of(cls) != kind:
        raise RecipeError(f"expected {one_of(kind)}, got {path}", key)
    if "<locals>" in cls.__qualname__:
        raise RecipeError(f"{path} is defined inside a function: a recipe needs a class at the top of a module", key)
    return cls, value.get("init_args")


def _check_adopted(cls: type, arguments: Any, key: Key) -> None:
    """Check arguments of a class of another library, whose first one is given when it is constructed.

    Here each is named by its key; the component that takes the class in would refuse it as a whole.
    """
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise RecipeError(f"expected a mapping of the arguments of {cls.__name__}, got {arguments!r}", key)
    known = parameters(cls)
    for name, value in arguments.items():
        if name not in known:
            raise RecipeError(f"unknown key; {hint(str(name), known)}", (*key, str(name)))
        if not fits(known[name].annotation, value):
            raise RecipeError(f"expected {describe(known[name].annotation)}, got {value!r}", (*key, str(name)))
    for name, parameter in list(known.items())[1:]:
        if parameter.default is parameter.empty and name not in arguments:
            raise RecipeError(f"missing; {cls.__name__} needs {describe(parameter.annotation)}", (*key, name))


def _import(path: str) -> type:
    """Import a class by its dotted path."""
    module, _, name = path.rpartition(".")
    try:
        cls: Any = registry.import_from(module, name)
    except ImportError as error:
        raise registry.RegistryError(f"{path} cannot be imported: {error}") from error.__cause__
    if not inspect.isclass(cls):
        raise registry.RegistryError(f"{path} is not a class")
    return cls


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types an annotation allows."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(member for part in typing.get_args(annotation) for member in _members(part))
    return (annotation,)


def fits(annotation: Any, value: Any) -> bool:
    """Whether jsonargparse takes a value for an annotation."""
    parser = ArgumentParser(exit_on_error=False, default_env=False)
    try:
        parser.add_argument("--value", type=annotation)
        parser.parse_object({"value": value})
    except ArgumentError:
        return False
    except ValueError:  # an annotation that only makes sense in its signature
        return True
    return True


def describe(annotation: Any) -> str:
    """An annotation as a recipe's author would say it."""
    if typing.get_origin(annotation) is typing.Literal:
        return f"one of {', '.join(map(repr, typing.get_args(annotation)))}"
    members = _members(annotation)
    if len(members) > 1:
        return " or ".join("null" if member is type(None) else describe(member) for member in members)
    member = members[0]
    kind = registry.kind_of(member) if inspect.isclass(member) and typing.get_origin(member) is None else None
    if kind:
        return one_of(kind)
    if inspect.isclass(member) and typing.get_origin(member) is None:
        return member.__name__
    return re.sub(r"\b\w+\.", "", str(member))


def one_of(kind: str) -> str:
    """The components of a kind, as an error names them."""
    return f"one of {kind} ({', '.join(component.name for component in registry.components(kind))})"


def _plain(value: Any) -> Any:
    """Parsed values as JSON knows them."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in (sorted(value) if isinstance(value, set) else value)]
    if isinstance(value, Enum):
        return _plain(value.value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
