"""The keys of a recipe that are no components."""

# A module of its own, without imports for type checkers: to type these two keys, jsonargparse imports all that their
# module imports, and a mistake in a recipe is to be told before torch is imported.

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Header:
    """The keys of a recipe that are no components.

    Args:
        seed: everything random in the run follows from it.
        changes: what this recipe changes against the one it extends, by dimension; shown in the report.
    """

    seed: int = 0
    changes: dict[str, str] = field(default_factory=dict)
