"""Text for people to read: as it is, whoever wrote it, on whatever terminal."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import TextIO

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def visible(text: str) -> str:
    r"""Write control characters, which a terminal or a browser obeys or drops, as what they are.

    Args:
        text: any; the ends of its lines and its tabs stay.

    Example:
        >>> print(visible("red \x1b[2J mug\0"))
        red \x1b[2J mug\x00
    """
    return text.translate(_CONTROLS)


def spell_out(stream: object) -> None:
    r"""Let a stream write what its encoding lacks as ``\xe9`` or ``\u4e2d``, where it would raise.

    Args:
        stream: such as ``sys.stdout``; one that is no file is left as it is.
    """
    if isinstance(stream, TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
        stream.reconfigure(errors="backslashreplace")


def say(*values: object, sep: str = " ", end: str = "\n", file: TextIO | None = None) -> None:
    """Print as `print` does, what is in the values visible.

    Args:
        values: what to print.
        sep: stands between them.
        end: stands after them.
        file: standard output by default.
    """
    file = file or sys.stdout
    spell_out(file)
    print(*(visible(str(value)) for value in values), sep=sep, end=end, file=file)
