"""Kinds and names of components: lists from metadata, imports on `get`.

A component is an entry point in the group ``moonlib.<kind>`` of any installed distribution, moonlib's own included::

    [project.entry-points."moonlib.losses"]
    my_loss = "my_package.my_loss:MyLoss"

`register` serves notebooks and tests, where nothing is installed. Names are unique within a kind; where the kind is
not clear from its place, a component is written ``KIND/NAME``. Metadata is read again whenever a file of it has
changed, so a component that was installed or repaired a moment ago is found, and no failure is remembered.

A distribution says which plugin `API` it was made for, and which of its names changed, in two more groups. Nothing is
imported to read them::

    [project.entry-points."moonlib.api"]
    1 = "my_package"

    [project.entry-points."moonlib.renamed.0.4"]     # the release of this distribution in which the old names are gone
    "losses.old_loss" = "losses.my_loss"
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from typing import Any, TypeVar

import moonlib
from moonlib.registry.deprecation import warn_once
from moonlib.registry.signature import parameters
from moonlib.system.versions import DISTRIBUTION

Class = TypeVar("Class", bound=type)

API = 3
"""The version of all that a plugin builds on: base classes, what they are given, and `moonlib.testing`.

It is raised when a plugin that keeps to the documentation might break; what is only added does not raise it.
"""

OLDEST_API = 2
"""The oldest version whose plugins still work."""

KINDS: dict[str, str] = {
    "encoders": "moonlib.encoders.encoder:Encoder",
    "image_towers": "moonlib.encoders.tower:ImageTower",
    "text_towers": "moonlib.encoders.tower:TextTower",
    "fusions": "moonlib.fusion.fusion:Fusion",
    "pairs": "moonlib.pairs.pair_source:PairSource",
    "negatives": "moonlib.negatives.negative_sampler:NegativeSampler",
    "losses": "moonlib.losses.loss:Loss",
    "optimizers": "moonlib.optimizers.optimizer_factory:OptimizerFactory",
    "adapters": "moonlib.adapters.adapter:Adapter",
    "predictors": "moonlib.predictors.predictor:Predictor",
    "filters": "moonlib.filters.filter:Filter",
    "sources": "moonlib.sources.source:Source",
    "stages": "moonlib.stages.stage:Stage",
    "metrics": "torchmetrics.metric:Metric",
    "probes": "moonlib.probes.probe:Probe",
}
"""Every kind and its public base class."""

ADOPTED: dict[str, tuple[str, str, str]] = {
    "optimizers": ("torch.optim.optimizer:Optimizer", "moonlib.optimizers.torch_optimizer:TorchFactory", "optimizer"),
}
"""By kind, classes of another library that a recipe may name by their paths where a component is expected: their base
class, and the component that takes one, under the name of its argument."""


PLUGINS: dict[tuple[str, str], str] = {("sources", "emoji"): "moonlib-emoji"}
"""Components of the plugins in moonlib's repository, and the distribution that brings each."""

SUPERSEDED = {"moonlib-openclip": "openclip"}
"""Plugins whose components moonlib has by itself now, and the extra that installs what they need."""


class RegistryError(LookupError):
    """A component that is unknown, claimed twice, or broken."""


class NotInstalled(RegistryError):
    """A component of a known plugin that is not installed; the message says how to install it."""


@dataclass(frozen=True)
class Component:
    """A name, and where its class is to be found.

    Attributes:
        kind: one of `KINDS`.
        name: unique within the kind.
        value: ``module:Class``.
        distribution: who installed it, for instance ``"moonlib-embedding 0.4.0"``.
        api: the versions of `API` that its distribution declares; empty if it declares none.
    """

    kind: str
    name: str
    value: str
    distribution: str
    api: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def mismatch(self) -> str | None:
        """Why this moonlib cannot use the component, by its declared version; `None` if it can."""
        if not self.api or any(version.isdecimal() and OLDEST_API <= int(version) <= API for version in self.api):
            return None
        made_for, ours = (
            f"is made for plugin API {' or '.join(self.api)}",
            f"moonlib {moonlib.__version__} has API {API}",
        )
        if not all(version.isdecimal() for version in self.api):
            return f"{made_for}, which is no whole number; {ours}: mend the plugin's entry point in group moonlib.api"
        if int(max(self.api, key=int)) > API:
            return f"{made_for}, {ours}: upgrade moonlib, or install an older release of the plugin"
        return f"{made_for}, {ours}: upgrade the plugin, or install an older moonlib"

    def load(self) -> type:
        """Import the class.

        Raises:
            RegistryError: if it is made for another API, the import fails (its cause is chained), or it finds something
                else than a class of the kind.
        """
        whose = f"{self} of {self.distribution}"
        if self.mismatch:
            raise RegistryError(f"{whose} {self.mismatch}")
        place = _REFERENCE.fullmatch(self.value)
        if not place:
            raise RegistryError(f"{whose}: expected module:Class, its entry point says '{self.value}'")
        try:
            found = import_from(place["module"], place["path"])
        except ImportError as error:
            raise RegistryError(f"{whose} cannot be imported from {self.value}: {error}") from error.__cause__
        _check_class(self.kind, found, f"{whose}: {self.value}")
        cls: type = found
        return cls


@dataclass(frozen=True)
class Renaming:
    """A name that recipes may still use for a component that has another one now.

    Attributes:
        kind: one of `KINDS`.
        old: the name that was.
        new: the name that is.
        gone_in: the release of the distribution in which the old name is gone.
        distribution: who renamed it, for instance ``"moonlib-embedding 0.4.0"``.
    """

    kind: str
    old: str
    new: str
    gone_in: str
    distribution: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.old} -> {self.kind}/{self.new}"


@dataclass(frozen=True)
class Description:
    """Description of a component, as `moonlib plugins show` prints it.

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


THIS_PROCESS = "this process"
"""The distribution of what `register` added."""

_registered: dict[tuple[str, str], type] = {}

_REFERENCE = re.compile(r"(?P<module>\w+(\.\w+)*)\s*:\s*(?P<path>\w+(\.\w+)*)\s*(\[.*\])?")


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
    installed = _installed().components
    found = []
    for kind in kinds or KINDS:
        listed = [component for component in installed if component.kind == kind]
        listed += [
            Component(kind, name, _value(cls), THIS_PROCESS)
            for (registered_kind, name), cls in _registered.items()
            if registered_kind == kind and (name, _value(cls)) not in {(known.name, known.value) for known in listed}
        ]
        found += sorted(listed, key=lambda component: (component.name, component.distribution))
    return found


def renamings(*kinds: str) -> list[Renaming]:
    """List the old names that still work, by kind and name, without importing any component.

    Args:
        kinds: the kinds to list, all by default.
    """
    for kind in kinds:
        _check_kind(kind)
    listed = [renaming for renaming in _installed().renamings if renaming.kind in (kinds or KINDS)]
    return sorted(listed, key=lambda renaming: (list(KINDS).index(renaming.kind), renaming.old))


def problems() -> list[tuple[str, str]]:
    """Problems of metadata itself: (distribution, problem); its other components still work."""
    return list(_installed().problems)


def superseded() -> list[tuple[str, str]]:
    """Distributions whose components are left out, because moonlib has them by itself: (distribution, what to do)."""
    return list(_installed().superseded)


def duplicates(listed: Iterable[Component]) -> dict[tuple[str, str], list[Component]]:
    """Those (kind, name) among ``listed`` that several distributions claim, with their claims."""
    claims = defaultdict(list)
    for component in listed:
        claims[component.kind, component.name].append(component)
    return {key: rivals for key, rivals in claims.items() if len(rivals) > 1}


def find(kind: str, name: str) -> Component:
    """Look a name up without importing its class; an old name leads to the present one, with a warning.

    Raises:
        RegistryError: if the name is unknown (with close matches) or claimed by two distributions (naming both).
    """
    listed = components(kind)
    renamed = {renaming.old: renaming for renaming in renamings(kind)}
    while name in renamed and not any(component.name == name for component in listed):
        renaming = renamed.pop(name)
        warn_once(
            f"{kind}/{name} is called {kind}/{renaming.new} now; "
            f"{renaming.distribution} knows the old name until its release {renaming.gone_in}"
        )
        name = renaming.new
    claims = [component for component in listed if component.name == name]
    if len(claims) == 1:
        return claims[0]
    if claims:
        rivals = " and ".join(f"{claim.distribution} ({claim.value})" for claim in claims)
        raise RegistryError(f"{kind}/{name} is claimed by {rivals}: uninstall one of them")
    if plugin := PLUGINS.get((kind, name)):
        raise NotInstalled(
            f"{kind}/{name} comes with the plugin {plugin}, which is not installed; in a checkout of moonlib: "
            f"pip install ./plugins/{plugin}"
        )
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
    return _registered.get((kind, component.name)) or component.load()


def describe(kind: str, name: str) -> Description:
    """Import one component and tell what a user wants to know of it."""
    component = find(kind, name)
    cls = get(kind, name)
    try:
        location = f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        location = component.value
    try:
        given = sorted(parameters(cls).values(), key=lambda each: (each.kind, each.default is not each.empty))
        signature = inspect.Signature(given)
    except Exception:  # annotations that only a type checker can resolve
        signature = inspect.signature(cls)
    signature = signature.replace(return_annotation=inspect.Signature.empty)
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


def import_from(module: str, path: str) -> Any:
    """Import a module and return what it holds under a dotted path.

    What a module prints meanwhile goes to stderr, so that it stays out of what a command prints for other programs.

    Raises:
        ImportError: whatever went wrong, an exit of the interpreter included; its cause is chained. Only Ctrl-C passes.
    """
    try:
        with redirect_stdout(sys.stderr):
            found: Any = importlib.import_module(module)
            for attribute in path.split("."):
                found = getattr(found, attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ImportError(f"{type(error).__name__}: {error}") from error
    return found


def base_class(kind: str) -> str:
    """The base class of a kind, by the path that plugins import it from: its room, and not its file.

    Example:
        >>> base_class("losses"), base_class("metrics")
        ('moonlib.losses.Loss', 'torchmetrics.Metric')
    """
    module, _, name = KINDS[kind].partition(":")
    return f"{module.rpartition('.')[0]}.{name}"


def kind_of(cls: type) -> str | None:
    """The kind whose base class ``cls`` is or derives from, `None` if there is none; imports nothing."""
    bases = {base: kind for kind, base in KINDS.items()}
    return next((bases[value] for value in map(_value, cls.__mro__) if value in bases), None)


def adopted(kind: str, cls: type, value: Any) -> tuple[type, dict[str, Any]] | None:
    """The component that takes a class of another library in, and its arguments; None where there is none.

    Args:
        kind: one of `KINDS`.
        cls: the class that a recipe names.
        value: how the recipe names it, with its arguments.
    """
    base, component, argument = ADOPTED.get(kind, ("", "", ""))
    if base not in map(_value, cls.__mro__):
        return None
    return import_from(*component.split(":")), {argument: value}


def _value(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _check_class(kind: str, found: Any, what: str) -> None:
    if not inspect.isclass(found):
        raise RegistryError(f"{what} is not a class")
    if kind_of(found) != kind:
        raise RegistryError(f"{what} does not derive from {base_class(kind)}")


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        near = get_close_matches(kind, KINDS, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(KINDS)}"
        raise RegistryError(f"unknown kind '{kind}'; {hint}")


@dataclass
class _Metadata:
    """Metadata of all installed distributions about moonlib."""

    components: list[Component] = field(default_factory=list)
    renamings: list[Renaming] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    superseded: list[tuple[str, str]] = field(default_factory=list)


_read_before: tuple[list[object], _Metadata] = ([], _Metadata())
"""What `_installed` found last, and the stamps of the files that it was read from."""


def _installed() -> _Metadata:
    """Metadata of every distribution; hundreds of files are read again only if one of them has changed."""
    global _read_before
    listed = list(distributions())
    stamps = [_stamp(distribution) for distribution in listed]
    if stamps != _read_before[0]:
        _read_before = stamps, _read_all(listed)
    return _read_before[1]


def _stamp(distribution: Distribution) -> object:
    """Equal while a distribution says the same; never equal where it lies in no folder, as in a zip file."""
    folder = getattr(distribution, "_path", None)
    if not isinstance(folder, Path):
        return object()
    stamp: list[object] = [str(folder)]
    try:
        for name in ("entry_points.txt", "METADATA"):
            file = os.stat(f"{folder}/{name}")  # noqa: PTH116  (hundreds of them, many times a second)
            stamp += [file.st_ino, file.st_ctime_ns, file.st_size]
    except OSError:  # most have no entry points
        pass
    return stamp


def _read_all(listed: Iterable[Distribution]) -> _Metadata:
    """Read the metadata of distributions; one that cannot be read is a problem of its own and of no other."""
    found = _Metadata()
    seen = set()
    for distribution in listed:
        label = str(getattr(distribution, "_path", "?"))
        try:
            # Thousands of lines of other packages' metadata need not be parsed.
            if "[moonlib." not in (distribution.read_text("entry_points.txt") or ""):
                continue
            name = re.sub(r"[-_.]+", "-", distribution.name).lower()
            if name not in seen:  # of two copies on the path the first counts, as it does for imports
                seen.add(name)
                label = f"{distribution.name} {distribution.version}"
                if extra := SUPERSEDED.get(name):
                    found.superseded.append(
                        (
                            label,
                            f"its components are moonlib's own now, and its own are left out: pip uninstall {name}; "
                            f"what they need: pip install '{DISTRIBUTION}[{extra}]'",
                        )
                    )
                    continue
                _read(distribution, name, label, found)
        except Exception as error:  # files that are missing, not text, or not of the format
            found.problems.append((label, f"its metadata cannot be read ({type(error).__name__}: {error})"))
    return found


def _read(distribution: Distribution, name: str, label: str, found: _Metadata) -> None:
    groups: dict[str, list[EntryPoint]] = defaultdict(list)
    for point in distribution.entry_points:
        groups[point.group].append(point)
    # What moonlib brings itself is of its own API.
    api = (str(API),) if name == DISTRIBUTION else tuple(point.name for point in groups.pop("moonlib.api", []))
    for group, points in groups.items():
        kind = group.removeprefix("moonlib.")
        if kind in KINDS:
            found.components += [Component(kind, point.name, point.value, label, api) for point in points]
        elif group.startswith("moonlib.renamed."):
            found.renamings += _renamings(points, group.removeprefix("moonlib.renamed."), label, found)
        elif group.startswith("moonlib."):
            near = get_close_matches(kind, KINDS, n=1, cutoff=0.5)
            hint = f"did you mean moonlib.{near[0]}?" if near else f"kinds are {', '.join(KINDS)}"
            found.problems.append((label, f"entry-point group {group} is no kind; {hint}"))


def _renamings(points: list[EntryPoint], gone_in: str, label: str, found: _Metadata) -> Iterator[Renaming]:
    for point in points:
        kind, _, old = point.name.partition(".")
        new_kind, _, new = point.value.partition(".")
        if kind in KINDS and kind == new_kind and old and new:
            yield Renaming(kind, old, new, gone_in, label)
        else:
            expected = 'expected "losses.old_name" = "losses.new_name"'
            found.problems.append((label, f"renaming {point.name} = {point.value}: {expected}, one kind on both sides"))
