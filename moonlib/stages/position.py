"""Position in the data of a training, from which it resumes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Position:
    """The next batch of a training: number ``batch`` of epoch ``epoch``, both counted from 0."""

    epoch: int = 0
    batch: int = 0
