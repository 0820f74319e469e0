"""Results of A/B tests of one click model over another."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from moonlib.data.dataset import Dataset
from moonlib.metrics.bootstrap import Interval
from moonlib.studies.abtest.outcome import Lifts


@dataclass(frozen=True)
class Simulation:
    """Behaviour of the simulation's shoppers. Lifts are relative, 0.2 for 20 %; intervals are over users.

    Attributes:
        users: shoppers.
        requests: fresh requests.
        impressions: items that an arm showed.
        seed: of the requests.
        ctr: click rate of the ``base``, the ``run`` and the ``oracle``.
        revenue_per_mille: of the same, per 1,000 impressions.
        clicks: lifts of the expected clicks, by segment.
        click_rates: lifts of the click rate of what is shown, by segment.
        sampled: lifts of clicks that were drawn, by segment.
        leaves: lifts of the expected clicks, by category.
    """

    users: int
    requests: int
    impressions: int
    seed: int
    ctr: dict[str, Interval]
    revenue_per_mille: dict[str, Interval]
    clicks: Lifts
    click_rates: Lifts
    sampled: dict[str, Interval]
    leaves: Lifts

    def to_json(self) -> dict[str, Any]:
        """Its part of the file, on the file's first level."""
        return {
            "users": self.users,
            "requests": self.requests,
            "impressions": self.impressions,
            "seed": self.seed,
            "estimator": "expected clicks",
            "ctr": _intervals(self.ctr),
            "revenue_per_mille": _intervals(self.revenue_per_mille),
            **asdict(self.clicks),
            "click_rates": asdict(self.click_rates),
            "sampled": _intervals(self.sampled),
            "leaves": asdict(self.leaves),
        }


@dataclass(frozen=True)
class Policy:
    """The click rate had a model ordered what was shown.

    Attributes:
        ips: estimated by inverse propensity scores; None where it is not defined.
        snips: the same, self-normalised.
        effective_samples: how many decisions the weighted ones are worth.
        decisions: how many there were.
    """

    ips: Interval | None
    snips: Interval | None
    effective_samples: float
    decisions: int


@dataclass(frozen=True)
class LoggedPositions:
    """Estimates from some positions of a log.

    Attributes:
        base: of the base.
        run: of the run.
        lift: of the run's SNIPS over the base's; None where it is not defined.
    """

    base: Policy
    run: Policy
    lift: Interval | None


@dataclass(frozen=True)
class Logged:
    """Off-policy estimates from a log in which a share of the searches is in random order.

    Attributes:
        searches: of test days that were shown in random order.
        users: whose they are.
        first_position: estimates from the first position.
        all_positions: estimates from all.
    """

    searches: int
    users: int
    first_position: LoggedPositions
    all_positions: LoggedPositions

    def to_json(self) -> dict[str, Any]:
        """Its part of the file, without what is not defined."""
        found: dict[str, Any] = {"searches": self.searches, "users": self.users}
        for name, values in (("first position", self.first_position), ("all positions", self.all_positions)):
            found[name] = {role: _defined(asdict(part)) for role, part in _defined(vars(values)).items()}
        return found


@dataclass(frozen=True)
class ABTest:
    """A click model against a base.

    Attributes:
        base: name of the base.
        run: name of the other.
        dataset: the data of both.
        seconds: that the test took.
        simulation: what the marketplace's shoppers did; None for data that cannot be simulated.
        logged: what the log tells; None where it has no propensities.
        file: the JSON file that holds all this.
    """

    base: str
    run: str
    dataset: Dataset
    seconds: float
    simulation: Simulation | None
    logged: Logged | None
    file: Path

    @property
    def method(self) -> Literal["simulation", "snips"]:
        """Where the lifts are from."""
        return "simulation" if self.simulation else "snips"

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        found = self.simulation.to_json() if self.simulation else {}
        if self.logged:
            found["logged"] = self.logged.to_json()
            if not self.simulation:
                lift = self.logged.all_positions.lift
                found |= {"lifts": {"all": asdict(lift)} if lift else {}, "users": self.logged.users}
        return found | {
            "base": self.base,
            "run": self.run,
            "method": self.method,
            "dataset": {"name": self.dataset.name, "version": self.dataset.version, "hash": self.dataset.hash},
            "seconds": self.seconds,
        }


def _intervals(found: dict[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: asdict(interval) for name, interval in found.items()}


def _defined(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if value is not None}
