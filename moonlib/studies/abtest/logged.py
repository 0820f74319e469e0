"""Estimates of arms from a log with a share of searches in random order, by `moonlib.studies.off_policy`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moonlib.data.dataset import Dataset
from moonlib.metrics.bootstrap import resampled_sums
from moonlib.runs.run import RunError
from moonlib.studies.abtest.arm import Arm
from moonlib.studies.abtest.outcome import Floats, defined
from moonlib.studies.abtest.result import Logged, LoggedPositions, Policy
from moonlib.studies.off_policy import effective_sample_size, importance_weights, policy_value, randomised, reordered


def from_log(dataset: Dataset, arms: Sequence[Arm]) -> list[Logged]:
    """Estimate the click rate if an arm had ordered what test days showed in an order made by chance.

    Args:
        dataset: the data of the runs.
        arms: the base, then the others.

    Returns:
        The estimates of each arm but the base. Empty where the log has no propensities.
    """
    test = dataset.splits.select(dataset.impressions, "test").with_row_index("row")
    log = randomised(test)
    if log.is_empty():
        return []
    scores = []
    for arm in arms:
        predicted = arm.predictions()
        keys = ["search_id", "item_id"]
        if not predicted.select(keys).equals(dataset.ids.decoded(test.select(keys), *keys)):
            raise RunError(f"{arm.run.directory / arm.link}: its predictions are not of the test days of {dataset}")
        scores.append(predicted["probability"].to_numpy()[log["row"].to_numpy()])
    chances = [reordered(log, score) for score in scores]
    clicked, propensity = log["clicked"].to_numpy().astype(np.float64), log["chance"].to_numpy()
    users = log["user_id"].to_numpy()

    def estimates(run: Floats, rows: NDArray[np.bool_]) -> LoggedPositions:
        policies, weighted = [], list[Floats]()
        for of in (chances[0], run):
            value = policy_value(clicked[rows], of[rows], propensity[rows], users[rows])
            weights = importance_weights(of[rows], propensity[rows])
            weighted += [weights * clicked[rows], weights]
            intervals = defined({"ips": value.ips, "snips": value.snips})
            size = effective_sample_size(weights)
            policies.append(Policy(intervals.get("ips"), intervals.get("snips"), size, value.decisions))
        sums = resampled_sums(weighted, users[rows])
        lift = sums.interval(lambda s: (s[2] / s[3]) / (s[0] / s[1]) - 1)
        return LoggedPositions(policies[0], policies[1], defined({"lift": lift}).get("lift"))

    first, every = (log["place"] == 0).to_numpy(), np.ones(len(log), dtype=bool)
    searches, people = log["search_id"].n_unique(), log["user_id"].n_unique()
    return [Logged(searches, people, estimates(chance, first), estimates(chance, every)) for chance in chances[1:]]
