"""Inputs of a stage's fingerprint: all that can change its results, and nothing that only changes speed or output."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from moonlib.system.code_digest import code_digest
from moonlib.system.versions import versions

# Keys of a stage's sections that change how fast or how loud it runs, and nothing of what it computes.
QUIET = {
    "data": {"workers"},
    "trainer": {
        "logger",
        "default_root_dir",
        "enable_progress_bar",
        "enable_model_summary",
        "enable_checkpointing",
        "log_every_n_steps",
        "profiler",
    },
}

QUIET_CALLBACKS = {
    "DeviceStatsMonitor",
    "LearningRateMonitor",
    "ModelSummary",
    "ProgressBar",
    "RichModelSummary",
    "RichProgressBar",
    "ThroughputMonitor",
    "TQDMProgressBar",
}
"""Lightning's callbacks that only watch; any other may stop, change or average what is trained."""


def material(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the keys of a stage's section that can change its results.

    Args:
        section: ``module``, ``data``, ``trainer`` or ``checkpoint_evaluation``.
        values: of the section, as a recipe says them or with all defaults.

    Example:
        >>> material("trainer", {"max_steps": 10, "callbacks": ["RichProgressBar"], "log_every_n_steps": 1})
        {'max_steps': 10}
    """
    kept = {key: value for key, value in values.items() if key not in QUIET.get(section, ())}
    if section == "trainer" and (given := kept.pop("callbacks", None)):
        callbacks = [one for one in (given if isinstance(given, list) else [given]) if not _is_quiet(one)]
        kept |= {"callbacks": callbacks} if callbacks else {}
    return kept


def material_stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's sections without what has no say; see `material`."""
    return {name: material(name, part) if isinstance(part, Mapping) else part for name, part in stage.items()}


def material_recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's `moonlib.config.recipe.Recipe.config` without what does not change any stage; see `material`."""
    stages = {name: material_stage(stage or {}) for name, stage in config.get("stages", {}).items()}
    return {**{key: value for key, value in config.items() if key != "loggers"}, "stages": stages}


def made_with(config: Any) -> dict[str, Any]:
    """Collect what a configuration refers to: versions, code that is edited in place, and files that it names.

    Args:
        config: of a stage or an encoder, with classes as dotted paths.

    Returns:
        ``versions``; where there are any, ``code``, see `moonlib.system.code_digest`, and ``files``, the SHA-256 of
        what each key names.
    """
    classes = sorted({value for key, value in _strings(config) if key.endswith("class_path")})
    parts = {"code": code_digest(classes), "files": named_files(config)}
    return {"versions": versions(classes)} | {name: part for name, part in parts.items() if part}


def named_files(config: Any) -> dict[str, str]:
    """Hash the content of every file, and every folder of a model, that a configuration names.

    A folder is a model's if it has a ``config.json``; its files are hashed with their names.

    Args:
        config: JSON values.

    Returns:
        SHA-256, 16 hexadecimal digits, by the dotted path of the key.
    """
    found = {}
    for key, value in _strings(config):
        try:
            path = Path(value)
            if value and path.is_file():
                found[key] = _hash(path)
            elif value and (path / "config.json").is_file():
                files = sorted(file for file in path.rglob("*") if file.is_file())
                lines = "\n".join(f"{file.relative_to(path)}={_hash(file)}" for file in files)
                found[key] = hashlib.sha256(lines.encode()).hexdigest()[:16]
        except (OSError, ValueError):  # too long for a name, or with a zero byte: no file
            continue
    return found


def _hash(file: Path) -> str:
    state = file.stat()
    return _hash_of(file.resolve(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)
def _hash_of(file: Path, size: int, time: int) -> str:
    """Hash a file, unless it was hashed since it was last written."""
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()[:16]


def _is_quiet(callback: Any) -> bool:
    path = callback.get("class_path", "") if isinstance(callback, Mapping) else str(callback)
    module, _, name = path.rpartition(".")
    return name in QUIET_CALLBACKS and module.partition(".")[0] in ("", "lightning", "pytorch_lightning")


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The strings of JSON values, by the dotted path of their key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _strings(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _strings(item, f"{key}.{number}")
