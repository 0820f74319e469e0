"""Names of runs and stages. Both name directories, so a name must not lead anywhere else."""

from __future__ import annotations

import re

from moonlib.artifacts.layout import ABTEST, CENTER_LINKS, CHECKPOINT_LINKS, DAY_LINKS, EVALUATIONS, PREPROCESSING

RULE = "letters, digits, '_', '-', '+' and '.', first a letter, a digit or '_', at most 100 bytes"
"""Of a name, in words."""

RESERVED = (PREPROCESSING, CHECKPOINT_LINKS, DAY_LINKS, CENTER_LINKS, EVALUATIONS, ABTEST)
"""Names that a run directory has beside its stages, and so no stage may have, in upper or lower case."""

_NAME = re.compile(r"\w[\w+.-]*")
_LONGEST = 100
"""File systems take 255 bytes, of which a temporary name and a reference (``application.baseline``) need some."""


class BadNameError(ValueError):
    """A name that no run can have; the message says what is allowed."""


def run_name(name: object) -> str:
    """Check the name of a run: one name, or several separated by ``/``, as of the points of a study.

    Args:
        name: as the user gives it.

    Returns:
        The name.

    Raises:
        BadNameError: it is no such name, as ``../x``, ``.``, ``/x`` and ``x/`` are none.

    Example:
        >>> run_name("iter3-small-11"), run_name("training_samples/1600-seed11")
        ('iter3-small-11', 'training_samples/1600-seed11')
    """
    if not isinstance(name, str) or not all(map(_is_name, name.split("/"))):
        raise BadNameError(f"{name!r} cannot be the name of a run: expected {RULE}; give another with --name")
    return name


def stage_problem(name: object) -> str | None:
    """Say what is wrong with the name of a stage; None for a good one.

    A stage's name has no dot: it separates the parts of a key on the command line, and a stage from its references.
    """
    if not isinstance(name, str):
        return f"the name of a stage is text, got {name!r}; another name, or quotes, make it so"
    if "." in name or not _is_name(name):
        return f"{name!r} cannot be the name of a stage: expected {RULE}, but no '.'"
    if name.casefold() in RESERVED:
        return f"{name!r} cannot be the name of a stage: a run keeps its {name.casefold()} there"
    return None


def _is_name(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and len(name.encode()) <= _LONGEST
