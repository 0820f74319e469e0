"""Kinds and names of components: lists from metadata, imports on `get`.

A component is an entry point in the group ``moonlib.<kind>`` of any installed distribution, moonlib's own included::

    [project.entry-points."moonlib.losses"]
    my_loss = "my_package.my_loss:MyLoss"

`register` serves notebooks and tests, where nothing is installed. Names are unique within a kind; where the kind is
not clear from its place, a component is written ``KIND/NAME``. Metadata is read anew at every call, so a component
that was installed or repaired a moment ago is found, and no failure is remembered.
"""

from __future__ import annotations

import importlib
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)

KINDS: dict[str, str | None] = {
    "encoders": "moonlib.encoders.encoder:Encoder",
    "image_towers": "moonlib.encoders.tower:ImageTower",
    "text_towers": "moonlib.encoders.tower:TextTower",
    "fusions": "moonlib.fusion.fusion:Fusion",
    "negatives": "moonlib.negatives.negative_sampler:NegativeSampler",
    "losses": "moonlib.losses.loss:Loss",
    "adapters": "moonlib.adapters.adapter:Adapter",
    "predictors": "moonlib.predictors.predictor:Predictor",
    "filters": None,
    "sources": "moonlib.data.source:Source",
    "stages": "moonlib.stages.stage:Stage",
    "metrics": "torchmetrics.metric:Metric",
    "probes": None,
}
"""Every kind and its public base class (``None``: any class will do)."""


class RegistryError(LookupError):
    """A component that is unknown, claimed twice, or broken."""


@dataclass(frozen=True)
class Component:
    """A name, and where its class is to be found.

    Attributes:
        kind: one of `KINDS`.
        name: unique within the kind.
        value: ``module:Class``.
        distribution: who installed it, for instance ``"moonlib 0.1.0"``.
    """

    kind: str
    name: str
    value: str
    distribution: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"

    def load(self) -> type:
        """Import the class.

        Raises:
            RegistryError: if the import fails (its cause is chained) or finds something else than a class of the kind.
        """
        module, _, path = self.value.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for attribute in path.split("."):
                found = getattr(found, attribute)
        except Exception as error:
            raise RegistryError(
                f"{self} of {self.distribution} cannot be imported from {self.value}: {type(error).__name__}: {error}"
            ) from error
        _check_class(self.kind, found, f"{self} of {self.distribution}: {self.value}")
        cls: type = found
        return cls


@dataclass(frozen=True)
class Description:
    """What `moonlib plugins show` prints.

    Attributes:
        component: the component.
        signature: of its constructor, without ``self``.
        docstring: cleaned, empty if there is none.
        location: ``file:line`` of the class.
    """

    component: Component
    signature: str
    docstring: str
    location: str


_registered: dict[tuple[str, str], type] = {}


def register(kind: str, name: str) -> Callable[[Class], Class]:
    """Add a class under a name for the life of this process; running the same definition again replaces it.

    Args:
        kind: one of `KINDS`.
        name: the name a recipe uses.

    Returns:
        A decorator that returns the class unchanged.

    Raises:
        RegistryError: if the kind is unknown, the class does not derive from its base, or another has the name.

    Example:
        >>> from moonlib.losses.loss import Loss
        >>> @register("losses", "example")
        ... class Example(Loss): ...
        >>> get("losses", "example") is Example
        True
    """
    _check_kind(kind)

    def decorate(cls: Class) -> Class:
        _check_class(kind, cls, f"{kind}/{name}")
        for other in components(kind):
            if other.name == name and other.value != _value(cls):
                raise RegistryError(f"{other} is taken by {other.value} of {other.distribution}")
        _registered[kind, name] = cls
        return cls

    return decorate


def components(*kinds: str) -> list[Component]:
    """List components by kind and name, without importing any; a name claimed twice is listed twice.

    Args:
        kinds: the kinds to list, all by default.
    """
    for kind in kinds:
        _check_kind(kind)
    installed = entry_points()
    found = []
    for kind in kinds or KINDS:
        listed = [
            Component(kind, point.name, point.value, f"{point.dist.name} {point.dist.version}" if point.dist else "?")
            for point in installed.select(group=f"moonlib.{kind}")
        ]
        listed += [
            Component(kind, name, _value(cls), "this process")
            for (registered_kind, name), cls in _registered.items()
            if registered_kind == kind and (name, _value(cls)) not in {(known.name, known.value) for known in listed}
        ]
        found += sorted(listed, key=lambda component: (component.name, component.distribution))
    return found


def duplicates(listed: Iterable[Component]) -> dict[tuple[str, str], list[Component]]:
    """Those (kind, name) among ``listed`` that several distributions claim, with their claims."""
    claims = defaultdict(list)
    for component in listed:
        claims[component.kind, component.name].append(component)
    return {key: rivals for key, rivals in claims.items() if len(rivals) > 1}


def find(kind: str, name: str) -> Component:
    """Look a name up without importing its class.

    Raises:
        RegistryError: if the name is unknown (with close matches) or claimed by two distributions (naming both).
    """
    listed = components(kind)
    claims = [component for component in listed if component.name == name]
    if len(claims) == 1:
        return claims[0]
    if claims:
        rivals = " and ".join(f"{claim.distribution} ({claim.value})" for claim in claims)
        raise RegistryError(f"{kind}/{name} is claimed by {rivals}: uninstall one of them")
    near = get_close_matches(name, [component.name for component in listed], cutoff=0.5)
    shown = [component for component in listed if component.name in near] or listed
    names = ", ".join(f"'{component.name}' ({component.distribution})" for component in shown) or "none is installed"
    raise RegistryError(f"unknown {kind}/{name}; {'did you mean' if near else 'known:'} {names}{'?' if near else ''}")


def get(kind: str, name: str) -> type:
    """Import one component.

    Args:
        kind: one of `KINDS`.
        name: its name.

    Returns:
        The class.

    Raises:
        RegistryError: if the name is unknown, claimed twice, or its class is broken (the cause is chained).

    Example:
        >>> get("losses", "info_nce").__name__
        'InfoNCE'
    """
    component = find(kind, name)
    return _registered.get((kind, name)) or component.load()


def describe(kind: str, name: str) -> Description:
    """Import one component and tell what a user wants to know of it."""
    component = find(kind, name)
    cls = get(kind, name)
    try:
        location = f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        location = component.value
    signature = inspect.signature(cls, eval_str=True).replace(return_annotation=inspect.Signature.empty)
    return Description(component, f"{cls.__name__}{signature}", inspect.getdoc(cls) or "", location)


def check() -> list[tuple[Component, RegistryError | None]]:
    """Import every component.

    Returns:
        Each component with what is wrong with it: `None`, or the error that using it would raise.
    """
    results: list[tuple[Component, RegistryError | None]] = []
    for component in components():
        try:
            get(component.kind, component.name)
        except RegistryError as error:
            results.append((component, error))
        else:
            results.append((component, None))
    return results


def kind_of(cls: type) -> str | None:
    """The kind whose base class ``cls`` is or derives from, `None` if there is none; imports nothing."""
    bases = {base: kind for kind, base in KINDS.items()}
    return next((bases[value] for value in map(_value, cls.__mro__) if value in bases), None)


def _value(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _check_class(kind: str, found: Any, what: str) -> None:
    base = KINDS[kind]
    if not inspect.isclass(found):
        raise RegistryError(f"{what} is not a class")
    if base is not None and kind_of(found) != kind:
        raise RegistryError(f"{what} does not derive from {base.replace(':', '.')}")


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        near = get_close_matches(kind, KINDS, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(KINDS)}"
        raise RegistryError(f"unknown kind '{kind}'; {hint}")
