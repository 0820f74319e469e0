"""The test: on simulated shoppers where the data is a marketplace, on a log with propensities elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from moonlib.artifacts.directories import write_json
from moonlib.runs.run import RunError
from moonlib.runs.runner import quiet
from moonlib.sources.marketplace.fresh_requests import marketplace_of
from moonlib.stages.application import Application
from moonlib.studies.abtest.arm import Arm
from moonlib.studies.abtest.logged import from_log
from moonlib.studies.abtest.result import ABTest
from moonlib.studies.abtest.simulated import simulated

REQUESTS = 6_000
"""Fresh requests of a test; on `small` they are of about 2,600 shoppers."""


def abtest(
    base: str | Path,
    runs: Sequence[str | Path],
    *,
    requests: int = REQUESTS,
    seed: int = 0,
    out: str | Path | None = None,
) -> list[ABTest]:
    """Test the click models of runs against a base's.

    On a dataset of the marketplace shoppers are simulated. On other data whose log has propensities, the estimates are
    those of `moonlib.studies.off_policy`.

    Args:
        base: a run directory, or a reference in one, see `Arm.at`.
        runs: the same, one or more; of the same data.
        requests: fresh requests to simulate.
        seed: of the requests; another seed draws others.
        out: directory to write ``RUN/BASE.json`` in, in place of ``abtest/BASE.json`` in each run directory.

    Returns:
        One for each run. Lifts are relative, 0.2 for 20 %; intervals are of 95 %, over users.

    Raises:
        RunError: a run has no finished application, or another one's data.
        ValueError: the data is no marketplace and its log has no propensities.

    Example: ``abtest("runs/iter3/application.baseline", ["runs/iter1", "runs/iter3"])``
    """
    quiet()
    started = time.perf_counter()
    arms = [Arm.at(path) for path in (base, *runs)]
    dataset = arms[0].run.dataset()
    for arm in arms:  # before anything that takes its time
        module, _ = arm.run.reopen(arm.link, dataset)
        if not isinstance(module, Application):
            raise RunError(f"{arm.run.directory / arm.link} is no application, and has no click model to test")
        if module.representation == "truth":
            raise RunError(
                f"{arm.run.directory / arm.link} is the true click probability and no model; that ranking is the "
                "oracle, which stands beside every test"
            )
    world = marketplace_of(dataset)
    nothing = [None for _ in arms[1:]]
    simulations = simulated(world, dataset, arms, requests, seed) if world else nothing
    logged = from_log(dataset, arms) or nothing
    if not world and logged is nothing:
        raise ValueError(
            f"{dataset.directory}: an A/B test needs what shoppers would have done, and this data cannot tell: it is "
            f"no dataset of this version's marketplace, and no test-day impression has a propensity. Show a share of "
            "the searches in random order and log the propensity"
        )
    seconds = round(time.perf_counter() - started, 1)
    found = []
    for arm, simulation, told in zip(arms[1:], simulations, logged, strict=True):
        file = _file(arm, arms[0], None if out is None else Path(out))
        file.parent.mkdir(parents=True, exist_ok=True)
        test = ABTest(arms[0].name, arm.name, dataset, seconds, simulation, told, file)
        write_json(file, test.to_json())
        found.append(test)
    return found


def _file(arm: Arm, base: Arm, out: Path | None) -> Path:
    if out is not None:
        return out / arm.name / f"{base.name}.json"
    return arm.run.layout.abtest(arm.link, base.name)
