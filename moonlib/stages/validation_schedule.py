"""A stage's keys ``validate`` and ``keep``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Keep = Literal["last", "best"]
"""The weights that a training leaves: its last, or those that were best on validation."""


@dataclass(frozen=True)
class ValidationSchedule:
    """A stage's key ``validate``: when and on how much a training is measured, see `moonlib.stages.validation`.

    Args:
        every: steps of the optimizer between two validations; there is one before the first and one after the last.
        rows: at most so many queries of each task, or impressions, are measured; the same ones every time.
        gallery: at most so many products are searched, those that are looked for among them.
        ks: the K of recall@K.
        metric: what decides which weights are best; null for the stage's own choice: recall at the largest K, or AUC.

    Raises:
        ValueError: a number is below 1, or there is no K.
    """

    every: int
    rows: int = 1000
    gallery: int = 10_000
    ks: list[int] = field(default_factory=lambda: [1, 10])
    metric: str | None = None

    def __post_init__(self) -> None:
        for name in ("every", "rows", "gallery"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks: expected numbers of at least 1, got {self.ks}")
