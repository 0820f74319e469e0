"""Misspelt keys, names and values of a recipe, told from source code and metadata, before anything is imported.

To type a recipe is to import every class that it names, and with them torch and lightning, which takes seconds. Most
mistakes are a wrong letter, and to find these the constructors' source is enough. This is a first look and no second
set of rules: where the source alone does not tell, it says nothing, and `moonlib.config.typing` decides.
"""

from __future__ import annotations

import ast
import importlib.util
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from moonlib.config.merge import Key, RecipeError, hint
from moonlib.config.typing import describe, fits, one_of
from moonlib.config.warm_start import parted
from moonlib.registry import registry
from moonlib.registry.moved import present_path

TRAINER = ("lightning.pytorch.trainer.trainer", "Trainer")

PARTS = ("module", "data", "trainer", "checkpoint_evaluation", "validate", "keep", "from", "representations")
"""The keys of a stage."""

PLAIN = {"int": int, "float": float, "str": str, "bool": bool}
"""Types whose names mean themselves."""

HARMLESS = ("dataclass", "final", "register")
"""Decorators of classes that leave a written constructor as it is."""


def check(merged: Mapping[str, Any]) -> None:
    """Refuse what is misspelt in a merged recipe.

    Args:
        merged: what `moonlib.config.merge.merge_layers` returned.

    Raises:
        RecipeError: the same that typing the recipe would raise.
    """
    if trainer := _class(*TRAINER):
        trainer.check(merged.get("trainer"), ("trainer",))
    stages = {name: section for name, section in (merged.get("stages") or {}).items() if isinstance(section, dict)}
    for name, section in stages.items():
        check_parts(section, ("stages", name))
    for name, section in stages.items():
        key = ("stages", name)
        module = _component("stages", section.get("module"), (*key, "module"))
        if module and (data := module.assigned("data_type")):
            data.check(section.get("data"), (*key, "data"))
        if trainer := _class(*TRAINER):
            trainer.check(section.get("trainer"), (*key, "trainer"))
    _component("sources", merged.get("data"), ("data",))
    _, encoder = parted(merged.get("encoder"))
    if encoder is not None:
        _component("encoders", encoder, ("encoder",))


def check_parts(section: Mapping[str, Any], key: Key) -> None:
    """Refuse unknown keys of a stage."""
    for part in section:
        if part not in PARTS:
            raise RecipeError(f"unknown key; {hint(str(part), PARTS)}", (*key, str(part)))


@dataclass(frozen=True)
class Scope:
    """A module's source: what its names stand for.

    Attributes:
        tree: its syntax tree.
    """

    tree: ast.Module

    @cached_property
    def names(self) -> dict[str, ast.AST]:
        """The statement that defines or imports each name at the top of the module, also under TYPE_CHECKING.

        A name that has several is left out: which of them counts, the source does not tell.
        """
        found: dict[str, list[ast.AST]] = {}
        for statement in _statements(self.tree.body):
            for name in _bound(statement):
                found.setdefault(name, []).append(statement)
        return {name: statements[0] for name, statements in found.items() if len(statements) == 1}

    def imported(self, name: str) -> tuple[str, str] | None:
        """The module and the name there of what ``from … import …`` has brought here."""
        statement = self.names.get(name)
        if not isinstance(statement, ast.ImportFrom) or statement.level or statement.module is None:
            return None
        return statement.module, next(alias.name for alias in statement.names if name in (alias.asname, alias.name))

    def find(self, expression: ast.expr) -> Class | None:
        """The class that an expression names."""
        if not isinstance(expression, ast.Name):
            return None
        statement = self.names.get(expression.id)
        if isinstance(statement, ast.ClassDef):
            return Class(statement, self)
        where = self.imported(expression.id)
        return _class(*where) if where else None

    def resolved(self, annotation: ast.expr) -> tuple[ast.expr, Scope]:
        """An annotation behind the names that are given to it, as in ``Kind = Literal["flat", "ivf"]``."""
        if isinstance(annotation, ast.Name):
            statement, where = self.names.get(annotation.id), self.imported(annotation.id)
            if isinstance(statement, ast.Assign):
                return self.resolved(statement.value)
            if where and (scope := _scope(where[0])) and isinstance(scope.names.get(where[1]), ast.Assign):
                return scope.resolved(ast.Name(where[1]))
        return annotation, self

    def kind(self, annotation: ast.expr) -> str | None:
        """The kind whose base class an annotation names."""
        where = self.imported(annotation.id) if isinstance(annotation, ast.Name) else None
        return next((kind for kind, base in registry.KINDS.items() if where and base == ":".join(where)), None)

    def members(self, annotation: ast.expr) -> Iterator[tuple[ast.expr, Scope]]:
        """The types that an annotation allows, each with the scope of its names."""
        annotation, scope = self.resolved(annotation)
        if isinstance(annotation, ast.BinOp):
            parts = [annotation.left, annotation.right]
        elif _origin(annotation) == "Optional":
            parts = [*_parameters(annotation), ast.Constant(None)]
        elif _origin(annotation) == "Union":
            parts = _parameters(annotation)
        else:
            yield annotation, scope
            return
        for part in parts:
            yield from scope.members(part)

    def plain(self, annotation: ast.expr) -> Any:
        """A type of Python's own that an annotation names, or its Literal; ``Any`` for others."""
        if isinstance(annotation, ast.Constant) and annotation.value is None:
            return None
        values = [each.value for each in _parameters(annotation) if isinstance(each, ast.Constant)]
        if _origin(annotation) == "Literal" and len(values) == len(_parameters(annotation)):
            return typing.Literal[tuple(values)]
        own = isinstance(annotation, ast.Name) and annotation.id not in self.names
        return PLAIN.get(_name(annotation), Any) if own else Any

    def check(self, annotation: ast.expr, value: Any, key: Key) -> None:
        """Refuse what is misspelt in a value; see `check`."""
        members = list(self.members(annotation))
        for member, scope in members:
            # The first that takes the value in decides, as in typing; so does one that the source does not explain.
            if scope.check_inside(member, value, key) or scope.plain(member) is Any:
                break
        types = [scope.plain(member) for member, scope in members]
        # A default of None makes a type optional, which the annotation does not say; "null" is taken for it.
        if value not in (None, "null") and types != [None] and not any(each is Any for each in types):
            expected: Any = typing.Union[tuple(types)]  # noqa: UP007
            if not fits(expected, value):
                raise RecipeError(f"expected {describe(expected)}, got {value!r}", key)

    def check_inside(self, member: ast.expr, value: Any, key: Key) -> bool:
        """Refuse what is misspelt in a component, the items of a collection, or the fields of a dataclass.

        Args:
            member: one of the types that an annotation allows.
            value: what the recipe says.
            key: for errors.

        Returns:
            Whether the value is one of these.
        """
        origin, parameters = _origin(member), _parameters(member)
        if kind := self.kind(member):
            if isinstance(value, str | dict):
                _component(kind, value, key)
                return True
        elif origin in ("list", "Sequence") and isinstance(value, list):
            for number, item in enumerate(value):
                self.check(parameters[0], item, (*key, str(number)))
            return True
        elif origin in ("dict", "Mapping") and isinstance(value, dict):
            for name, item in value.items():
                self.check(parameters[1], item, (*key, str(name)))
            return True
        elif isinstance(value, dict) and (found := self.find(member)) and found.is_dataclass:
            found.check(value, key)
            return True
        return False


@dataclass(frozen=True)
class Class:
    """A class's source.

    Attributes:
        node: its definition.
        scope: where it stands.
    """

    node: ast.ClassDef
    scope: Scope

    @property
    def is_dataclass(self) -> bool:
        """Whether its fields are its constructor's arguments."""
        return any(_name(decorator) == "dataclass" for decorator in self.node.decorator_list)

    @property
    def base(self) -> Class | None:
        """The class that it derives from; None where there is none or several, or its source is not at hand."""
        bases = [base for base in self.node.bases if _name(base) != "ABC"]
        return self.scope.find(bases[0]) if len(bases) == 1 else None

    def assigned(self, name: str) -> Class | None:
        """The class that a class attribute stands for, here or in a base class."""
        for node in self.node.body:
            target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
            if isinstance(node, ast.Assign | ast.AnnAssign) and _name(target) == name and node.value:
                return self.scope.find(node.value)
        return self.base.assigned(name) if self.base else None

    def parameters(self) -> dict[str, tuple[ast.expr | None, Scope]] | None:
        """Annotations of the constructor's parameters by name; None where the source does not tell them all.

        An old name of a parameter, see `moonlib.registry.deprecation.renamed_arguments`, has no annotation.
        """
        if any(_name(decorator) not in HARMLESS for decorator in self.node.decorator_list):
            return None
        nodes = ast.walk(self.node)
        named = (node for node in nodes if "__init__" in (getattr(node, "name", ""), getattr(node, "id", "")))
        init = next(named, None)
        if init is None:
            if not self.is_dataclass:
                return self.base.parameters() if self.base else None
            inherited = (self.base.parameters() if self.base else None) if self.node.bases else {}
            fields = [n for n in self.node.body if isinstance(n, ast.AnnAssign) and _origin(n.annotation) != "ClassVar"]
            own = {_name(each.target): (each.annotation, self.scope) for each in fields}
            return None if inherited is None else inherited | own
        if init not in self.node.body or not isinstance(init, ast.FunctionDef) or next(named, None):
            return None
        arguments = init.args
        found: dict[str, tuple[ast.expr | None, Scope]] = {
            each.arg: (each.annotation, self.scope) for each in _own_parameters(arguments)
        }
        for decorator in init.decorator_list:
            if isinstance(decorator, ast.Call) and _name(decorator.func) == "renamed_arguments":
                if any(keyword.arg is None for keyword in decorator.keywords):
                    return None
                found |= {str(keyword.arg): (None, self.scope) for keyword in decorator.keywords}
            elif _name(decorator) != "_defaults_from_env_vars":  # the Trainer's, which changes no parameter
                return None
        if arguments.vararg:
            return None
        if arguments.kwarg is None:
            return found
        passed_on = self._passed_on(init, set(found))
        return None if passed_on is None else found | passed_on

    def _passed_on(self, init: ast.FunctionDef, own: set[str]) -> dict[str, tuple[ast.expr | None, Scope]] | None:
        """Parameters of the base class that ``**options`` may give: those that the constructor does not give itself."""
        calls = [node for node in ast.walk(init) if isinstance(node, ast.Call)]
        call = next((each for each in calls if ast.unparse(each.func) == "super().__init__"), None)
        taken = self.base.parameters() if self.base else None
        if call is None or taken is None or any(isinstance(each, ast.Starred) for each in call.args):
            return None
        given = {*list(taken)[: len(call.args)], *(keyword.arg for keyword in call.keywords)}
        return {name: each for name, each in taken.items() if name not in given and name not in own}

    def check(self, arguments: Any, key: Key) -> None:
        """Refuse unknown keys among the constructor's arguments, and what is misspelt in their values; see `check`."""
        known = self.parameters()
        if known is None or not isinstance(arguments, dict):
            return
        for name in arguments:
            if name not in known:
                raise RecipeError(f"unknown key; {hint(str(name), known)}", (*key, str(name)))
        for name, value in arguments.items():
            annotation, scope = known[name]
            if annotation is not None:
                scope.check(annotation, value, (*key, str(name)))


@lru_cache(maxsize=1024)
def _scope(module: str) -> Scope | None:
    """A module's source, found without importing the packages above it; None where there is none."""
    package, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    place = Path(spec.origin).parent.joinpath(*rest) if rest else Path(spec.origin)
    files = (place / "__init__.py", place.with_name(f"{place.name}.py")) if rest else (place,)
    file = next((file for file in files if file.suffix == ".py" and file.is_file()), None)
    try:
        return None if file is None else Scope(ast.parse(file.read_bytes()))
    except (OSError, SyntaxError, ValueError):
        return None


def _class(module: str, name: str) -> Class | None:
    """A class by its module and name; None where its source is not at hand."""
    scope = _scope(module)
    return scope.find(ast.Name(name)) if scope else None


def _component(kind: str, value: Any, key: Key) -> Class | None:
    """Refuse what is misspelt in a component; return its class where its source is at hand."""
    if not isinstance(value, dict):
        value = {"class_path": value}
    for name in value:
        if name not in ("class_path", "init_args"):
            raise RecipeError("unknown key; a component has class_path and init_args", (*key, str(name)))
    path = value.get("class_path")
    if path is None:
        raise RecipeError(f"missing; expected {one_of(kind)}", (*key, "class_path"))
    if not isinstance(path, str):
        raise RecipeError(f"expected {one_of(kind)}, got {path!r}", (*key, "class_path"))
    try:
        component = None if "." in path else registry.find(kind, path)
    except registry.RegistryError as error:
        raise RecipeError(str(error), (*key, "class_path")) from error
    if component is None:
        module, _, name = present_path(path).rpartition(".")
    elif component.distribution == registry.THIS_PROCESS or component.mismatch:
        return None
    else:
        module, _, name = component.value.partition(":")
    found = _class(module.strip(), name.strip())
    if found:
        found.check(value.get("init_args"), (*key, "init_args"))
    return found


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The statements of a module that are in no function and no class."""
    for statement in body:
        if isinstance(statement, ast.If | ast.Try | ast.ExceptHandler):
            parts = ("body", "handlers", "orelse", "finalbody")
            yield from _statements(child for part in parts for child in getattr(statement, part, ()))
        else:
            yield statement


def _bound(statement: ast.AST) -> list[str]:
    """The names that a statement defines or imports."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in statement.names]
    targets = [statement.target] if isinstance(statement, ast.AnnAssign) else getattr(statement, "targets", [])
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _own_parameters(arguments: ast.arguments) -> list[ast.arg]:
    """A constructor's named parameters, without ``self``."""
    return [*[*arguments.posonlyargs, *arguments.args][1:], *arguments.kwonlyargs]


def _name(expression: Any) -> str:
    """The last part of a dotted name, empty for what is no name; of a call, that of what is called."""
    if isinstance(expression, ast.Call):
        return _name(expression.func)
    return getattr(expression, "attr", getattr(expression, "id", ""))


def _origin(annotation: ast.expr) -> str:
    """The part that is subscripted, as ``list`` in ``list[int]``."""
    return _name(annotation.value) if isinstance(annotation, ast.Subscript) else ""


def _parameters(annotation: ast.expr) -> list[ast.expr]:
    """The part in brackets."""
    inner = annotation.slice if isinstance(annotation, ast.Subscript) else None
    return list(inner.elts) if isinstance(inner, ast.Tuple) else [inner] if inner else []
