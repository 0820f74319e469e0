"""A space: the vectors of one encoder, width and type. Vectors of two spaces share no folder, index or answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import moonlib
from moonlib.artifacts.directories import write_json
from moonlib.artifacts.reading import Unreadable, read_mapping
from moonlib.center.layout import ENCODER, RECORD, SPACE, SPACES
from moonlib.center.rows import COLUMN_TYPES, ColumnType, Dtype, IdType


@dataclass(frozen=True)
class Space:
    """Description of a space.

    Attributes:
        directory: its folder.
        fingerprint: of the encoder.
        dim: width of the vectors.
        dtype: of the vectors at rest.
        columns: the columns that are kept beside the vectors, and their types.
        reads: what the encoder reads of ``product`` and ``query``.
        ids: int64 or text; None until the first product.
        given: columns that are read or kept, and that the products' tables have had so far.
        pictures: whether small pictures are kept for pages that show products.
        moonlib: the version that made it.
    """

    directory: Path
    fingerprint: str
    dim: int
    dtype: Dtype
    columns: dict[str, ColumnType] = field(default_factory=dict)
    reads: dict[str, str] = field(default_factory=dict)
    ids: IdType | None = None
    given: tuple[str, ...] = ()
    pictures: bool = True
    moonlib: str = moonlib.__version__

    @property
    def name(self) -> str:
        """Its folder's name, such as ``3f2ab1c09d77-128-int8``."""
        return self.directory.name

    @property
    def encoder(self) -> Path:
        """Folder of the encoder, as `moonlib export` writes it."""
        return self.directory / ENCODER

    @property
    def record(self) -> Path:
        """Folder of the record."""
        return self.directory / RECORD

    def save(self, directory: Path | None = None) -> None:
        """Write ``space.json``.

        Args:
            directory: the space's folder while it is being made.
        """
        described = asdict(self)
        del described["directory"]
        write_json((directory or self.directory) / SPACE, described)

    def with_ids(self, ids: IdType) -> Space:
        """The same space, after its first product has said what ids are."""
        return replace(self, ids=ids)

    @classmethod
    def open(cls, directory: Path) -> Space:
        """Read ``space.json``.

        Raises:
            FileNotFoundError: there is none.
            Unreadable: it is broken.
        """
        found = read_mapping(directory / SPACE)
        try:
            given = tuple(found.pop("given", ()))
            return cls(directory=directory, given=given, **found)
        except TypeError as error:
            raise Unreadable(
                f"{directory / SPACE} is broken ({error}), or a later version of moonlib wrote it"
            ) from None


def space_name(fingerprint: str, dim: int, dtype: Dtype) -> str:
    """Name of a space's folder.

    Example:
        >>> space_name("3f2ab1c09d7788aa", 128, "int8")
        '3f2ab1c09d77-128-int8'
    """
    return f"{fingerprint[:12]}-{dim}-{dtype}"


def spaces(center: Path) -> dict[str, Space]:
    """The spaces of a center, by name."""
    return {file.parent.name: Space.open(file.parent) for file in sorted((center / SPACES).glob(f"[!.]*/{SPACE}"))}


def find_space(center: Path, name: str) -> Space:
    """Find a space by its name, or by a beginning of it.

    Raises:
        ValueError: none or several begin so.
    """
    known = spaces(center)
    found = [each for each in known if each == name] or [each for each in known if each.startswith(name)]
    if len(found) != 1:
        problem = "has no space" if not found else f"has {len(found)} spaces that begin with"
        raise ValueError(f"{center} {problem} {name!r}; it has {', '.join(known) or 'none yet'}")
    return known[found[0]]


def check_columns(columns: Mapping[str, Any]) -> dict[str, ColumnType]:
    """Refuse kept columns of unknown types.

    Raises:
        ValueError: naming the column.
    """
    for name, kind in columns.items():
        if kind not in COLUMN_TYPES:
            raise ValueError(f"column {name!r}: type {kind!r}; expected one of {', '.join(COLUMN_TYPES)}")
        if name in ("item_id", ""):
            raise ValueError(f"column {name!r}: the id is always kept; name other columns")
    return dict(columns)
