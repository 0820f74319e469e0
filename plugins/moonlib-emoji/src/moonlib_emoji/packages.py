"""The npm packages the source reads: where things lie in them, and how to install them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RENDERS = Path("@lobehub/fluent-emoji-3d/assets")
DRAWINGS = Path("emoji-datasource-google/img/google/64")
ANNOTATIONS = Path("emojibase-data")

VERSIONS = {"@lobehub/fluent-emoji-3d": "1.1.0", "emoji-datasource-google": "16.0.0", "emojibase-data": "17.0.0"}


def install_command(packages: Path) -> str:
    """The command that installs the packages into ``packages``, a folder named ``node_modules``."""
    return f"npm install --prefix {packages.parent} " + " ".join(f"{name}@{v}" for name, v in VERSIONS.items())


def installed_versions(packages: Path) -> dict[str, str]:
    """Name and version of the three packages as installed.

    Args:
        packages: the ``node_modules`` folder.

    Raises:
        FileNotFoundError: a package is missing; the message is the command that installs it.
    """
    for name in VERSIONS:
        if not (packages / name / "package.json").is_file():
            raise FileNotFoundError(f"{packages / name} is missing; install it with: {install_command(packages)}")
    return {name: read_json(packages / name / "package.json")["version"] for name in VERSIONS}


def read_json(path: Path) -> Any:
    """Parse a JSON file of a package; an unreadable one is named."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error}); reinstall the packages") from error
