"""Names of the files and folders of a center. `moonlib.center.view` describes how they belong together."""

from __future__ import annotations

from pathlib import Path

CENTER = "center.json"
"""Its format; made first."""
FORMAT = 2
"""Of a center; this version reads no other. 1 was that of logs before the first release."""
LOCK = ".lock"
"""The writer's; readers take none."""
ALIASES = "aliases.json"
SPACES = "spaces"
SPACE = "space.json"
ENCODER = "encoder"
"""What `moonlib export` writes: products and queries of a space are encoded with it."""
RECORD = "record"
CURRENT = "current.json"
"""Which base and which logs are the record."""
SNAPSHOTS = "snapshots"
SNAPSHOT = "snapshot.json"
"""Written last of a snapshot."""
EMBEDDING = "embedding.json"
"""In a folder that `moonlib embed` wrote, which opens as a center that can only be read."""

PRODUCTS = "products"
"""Name of the vectors in a base; see `moonlib.representations.store`."""
SEQUENCE = "sequence.npy"
RECEIVED_AT = "received_at.npy"
COLUMNS = "columns.arrow"
PICTURES = "pictures.arrow"


def base_of(record: Path, number: int) -> Path:
    """Folder of a base."""
    return record / f"base-{number:06d}"


def log_of(record: Path, number: int) -> Path:
    """File of a log."""
    return record / f"log-{number:06d}"


def snapshot_of(space: Path, number: int) -> Path:
    """Folder of a snapshot."""
    return space / SNAPSHOTS / f"{number:06d}"


def snapshot_numbers(space: Path) -> list[int]:
    """Numbers of the finished snapshots of a space, ascending."""
    return sorted(int(file.parent.name) for file in (space / SNAPSHOTS).glob(f"[0-9]*/{SNAPSHOT}") if is_number(file))


def is_number(file: Path) -> bool:
    """Whether the folder of a file has a snapshot's name, and not that of one in the making."""
    return file.parent.name.isdecimal()
