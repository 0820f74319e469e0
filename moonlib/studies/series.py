"""One metric along a scaling study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from moonlib.studies.power_law import PowerLaw


@dataclass(frozen=True)
class Series:
    """One metric along a study.

    Attributes:
        metric: its key in results.json.
        goal: whether more or less of it is better.
        values: by point.
        law: of the error; None where there are too few points.
        problem: why there is none.
    """

    metric: str
    goal: Literal["max", "min"]
    values: dict[int, float]
    law: PowerLaw | None
    problem: str = ""

    @property
    def of(self) -> str:
        """Title of the series that the law describes."""
        return f"1 - {self.metric}" if self.goal == "max" else self.metric

    def error(self, value: Any) -> Any:
        """A metric as the error that is fitted, and the other way round."""
        return 1 - value if self.goal == "max" else value
