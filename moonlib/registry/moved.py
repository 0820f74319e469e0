"""Modules that have moved: an import of the old path still works, and says once where the module is now."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from moonlib.registry.deprecation import renamed_attributes, warn_once

GONE_IN = "0.6"
"""The release in which the old paths are gone."""

MOVED = {
    "moonlib.checksums": "moonlib.artifacts.checksums",
    "moonlib.claim": "moonlib.runs.ownership",
    "moonlib.closing_table": "moonlib.runs.tables",
    "moonlib.code_digest": "moonlib.system.code_digest",
    "moonlib.console": "moonlib.system.console",
    "moonlib.costs": "moonlib.artifacts.costs",
    "moonlib.data.augment": "moonlib.batches.augment",
    "moonlib.data.batches": "moonlib.batches.planner",
    "moonlib.data.catalogue": "moonlib.pairs.catalogue",
    "moonlib.data.completejourney": "moonlib.sources.completejourney",
    "moonlib.data.existing": "moonlib.sources.shards",
    "moonlib.data.features": "moonlib.clicks.features",
    "moonlib.data.filters": "moonlib.filters",
    "moonlib.data.histories": "moonlib.clicks.histories",
    "moonlib.data.impressions": "moonlib.clicks.impressions",
    "moonlib.data.loading": "moonlib.batches.loading",
    "moonlib.data.marketplace": "moonlib.sources.marketplace",
    "moonlib.data.pairs": "moonlib.pairs.pairs",
    "moonlib.data.questions": "moonlib.pairs.questions",
    "moonlib.data.snapshots": "moonlib.clicks.snapshots",
    "moonlib.data.source": "moonlib.sources.source",
    "moonlib.data.taobao_mm": "moonlib.sources.taobao_mm",
    "moonlib.data.vocabulary": "moonlib.clicks.vocabulary",
    "moonlib.data.workers": "moonlib.system.workers",
    "moonlib.debug": "moonlib.runs.debug",
    "moonlib.deprecation": "moonlib.registry.deprecation",
    "moonlib.directories": "moonlib.artifacts.directories",
    "moonlib.disk": "moonlib.system.disk",
    "moonlib.export": "moonlib.exports.folder",
    "moonlib.fingerprint": "moonlib.config.fingerprint",
    "moonlib.interruption": "moonlib.system.interruption",
    "moonlib.iteration": "moonlib.runs.iteration",
    "moonlib.lock": "moonlib.system.lock",
    "moonlib.model_card": "moonlib.exports.model_card",
    "moonlib.names": "moonlib.config.names",
    "moonlib.new_plugin": "moonlib.templates.new_plugin",
    "moonlib.plugin_templates": "moonlib.templates",
    "moonlib.points": "moonlib.runs.checkpoint_evaluation",
    "moonlib.processes": "moonlib.system.processes",
    "moonlib.recipe": "moonlib.config.recipe",
    "moonlib.recipe_merge": "moonlib.config.merge",
    "moonlib.recipe_typing": "moonlib.config.typing",
    "moonlib.remedies": "moonlib.artifacts.remedies",
    "moonlib.representations.embed": "moonlib.embedding.embed",
    "moonlib.representations.probe": "moonlib.probes.probe",
    "moonlib.representations.probes": "moonlib.probes",
    "moonlib.representations.search": "moonlib.inference.hits",
    "moonlib.representations.tables": "moonlib.embedding.tables",
    "moonlib.run": "moonlib.runs.run",
    "moonlib.stages.lazy_adam": "moonlib.optimizers.lazy_adam",
    "moonlib.stages.optimizer": "moonlib.optimizers.adamw",
    "moonlib.terminal": "moonlib.system.terminal",
    "moonlib.verbs": "moonlib.inference",
    "moonlib.versions": "moonlib.system.versions",
    "moonlib_openclip": "moonlib.encoders.openclip",
}
"""Where modules, and packages with all that is in them, were before 0.5, and where they are.

``moonlib_openclip`` was a plugin's. Where the content of one is now in several modules, that is the room that offers
it.
"""

RENAMED = {
    "moonlib.data.batches": {"PLANNED_AHEAD": "moonlib.negatives.negative_sampler:PLANNED_AHEAD"},
    "moonlib.data.features": {
        "Kind": "moonlib.clicks.features:FeatureKind",
        "Scale": "moonlib.clicks.features:Standardization",
    },
    "moonlib.data.marketplace.catalogue": {"Catalogue": "moonlib.sources.marketplace.catalogue:SimulatedCatalogue"},
    "moonlib.data.questions": {"Kind": "moonlib.pairs.questions:QuestionKind"},
    "moonlib.data.snapshots": {"Snapshots": "moonlib.clicks.snapshots:HistorySnapshots"},
    "moonlib.representations.probes.contrastive": {"Contrastive": "moonlib.probes.contrastive:HeldOutLoss"},
}
"""Names in modules that have moved which are others now, or in another module than the rest, by the old path."""


def moved_to(name: str) -> str | None:
    """Where a module is now, None for one that has not moved.

    Example:
        >>> moved_to("moonlib.data.marketplace.source"), moved_to("moonlib.losses.loss")
        ('moonlib.sources.marketplace.source', None)
    """
    package, rest = name, ""
    while package not in MOVED:
        package, _, last = package.rpartition(".")
        if not package:
            return None
        rest = f".{last}{rest}"
    return MOVED[package] + rest


def present_path(path: str) -> str:
    """The dotted path of what was under one before 0.5, in a module that has moved; any other as it is.

    Example:
        >>> present_path("moonlib.data.source.Source"), present_path("moonlib.data.snapshots.Snapshots")
        ('moonlib.sources.source.Source', 'moonlib.clicks.snapshots.HistorySnapshots')
    """
    module, _, name = path.rpartition(".")
    if name in (renamed := RENAMED.get(module, {})):
        return renamed[name].replace(":", ".")
    return f"{moved_to(module) or module}.{name}" if module else path


class _OldPaths(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under its old path: it is the module itself, and not a copy of it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        new = moved_to(name) if name.startswith(("moonlib.", "moonlib_openclip")) else None
        if new is None or importlib.util.find_spec(new) is None:
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = moved_to(spec.name)
        assert new is not None
        warn_once(f"{spec.name} is {new} now; the old path works until release {GONE_IN}", stacklevel=2)
        return _Alias(spec.name, importlib.import_module(new))

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to run."""


class _Alias(ModuleType):
    """An old path of a module, whose attributes are the module's own."""

    def __init__(self, name: str, module: ModuleType) -> None:
        super().__init__(name, module.__doc__)
        # An empty path: what is in a package is found here too.
        self.__dict__.update(_module=module, __path__=[])

    def __getattr__(self, name: str) -> object:
        renamed = RENAMED.get(self.__name__, {})
        if name in renamed:
            return renamed_attributes(self.__name__, GONE_IN, **renamed)(name)
        return getattr(self.__dict__["_module"], name)

    def __dir__(self) -> list[str]:
        return dir(self.__dict__["_module"])

    def __call__(self, *args: object, **options: object) -> object:
        """Call the function of the same name: to import ``moonlib.export`` puts the module in the function's place."""
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **options)


def install() -> None:
    """Let old paths be found, after all that is really there."""
    if not any(isinstance(finder, _OldPaths) for finder in sys.meta_path):
        sys.meta_path.append(_OldPaths())
