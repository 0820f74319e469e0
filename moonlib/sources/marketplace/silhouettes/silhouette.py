"""Silhouettes: the parts of one category's product as shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from moonlib.sources.marketplace.sdf import Field, Plane


class Parts(NamedTuple):
    """The parts of a product, each a signed distance field over the plane it was drawn on.

    The product is the union of `body` and `trim`; `ink` shows only on it.
    """

    body: Field
    """Painted in the colour and the pattern."""
    trim: Field | None = None
    """Handles, soles, straps, collars: painted plain in the accent."""
    ink: Field | None = None
    """Laces, buttons, lenses, seams: painted dark."""


Silhouette = Callable[[Plane, float, float, float, float], Parts]
"""Draws a product around the origin, about 2 high or wide; the four numbers in [-1, 1] are its proportions."""
