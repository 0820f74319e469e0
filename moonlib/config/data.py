"""The short form of a recipe's `data`: the directory of a dataset, in place of a source."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moonlib.registry import registry

TABLES = (".parquet", ".csv")


def source(value: Any) -> Any:
    """Write a dataset's directory as the source that reads it; whatever else `data` says stays as it is.

    The name of a source goes before a directory of the same name, which ``./name`` means.

    Args:
        value: what a recipe's key ``data`` says.

    Example:
        >>> source("marketplace")
        'marketplace'
        >>> source("s3://shop/data")
        {'class_path': 'shards', 'init_args': {'path': 's3://shop/data'}}
    """
    if not isinstance(value, str) or _is_source(value):
        return value
    if "://" in value:
        return _shards(value)
    path = Path(value).expanduser()
    return _shards(str(path)) if (path / "dataset.json").is_file() else value


def problem(value: Any) -> str | None:
    """Say why there is no dataset where `data` names a directory; None for what is no path.

    Args:
        value: what a merged recipe's key ``data`` says, as a text or as the class path of a component.
    """
    if isinstance(value, Mapping):
        value = value.get("class_path")
    if not isinstance(value, str) or _is_source(value):
        return None
    path, given = Path(value).expanduser(), shlex.quote(value)
    if path.is_dir():
        tables = any((path / f"products{suffix}").is_file() for suffix in TABLES)
        return (
            f"{value} is no dataset, it {'holds tables' if tables else 'has no dataset.json'}; give the DIR that "
            f"`moonlib data build {given if tables else 'TABLES'} --images PHOTOS --out DIR` writes"
        )
    if path.is_file():
        return f"{value} is a file; expected the directory of a dataset, or a source"
    if "/" in value:
        return (
            f"there is no directory {value}; "
            f"`moonlib data build TABLES --images PHOTOS --out {given}` makes a dataset of a shop's tables"
        )
    return None


def _shards(path: str) -> dict[str, Any]:
    return {"class_path": "shards", "init_args": {"path": path}}


def _is_source(name: str) -> bool:
    """Whether this is the name of a source, or was."""
    known = {component.name for component in registry.components("sources")}
    return name in known | {renaming.old for renaming in registry.renamings("sources")}
