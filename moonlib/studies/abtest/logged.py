"""What a log tells of arms, where chance has ordered a share of its searches; see `moonlib.studies.off_policy`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moonlib.data.dataset import Dataset
from moonlib.metrics.bootstrap import resampled_sums
from moonlib.runs.run import RunError
from moonlib.studies.abtest.arm import Arm
from moonlib.studies.abtest.outcome import Floats, plain
from moonlib.studies.off_policy import effective_sample_size, importance_weights, policy_value, randomised, reordered


def from_log(dataset: Dataset, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Estimate the click rate if an arm had ordered what test days showed in an order made by chance.

    Args:
        dataset: the data of the runs.
        arms: the base, then the others.

    Returns:
        Of each arm but the base: for the ``first position`` and for ``all positions`` the IPS and SNIPS estimates and
        the effective sample size of the base and of the run, and the lift of SNIPS. Empty where the log has no
        propensities.
    """
    test = dataset.splits.select(dataset.impressions, "test").with_row_index("row")
    log = randomised(test)
    if log.is_empty():
        return []
    scores = []
    for arm in arms:
        predicted = arm.predictions()
        keys = ["search_id", "item_id"]
        if not predicted.select(keys).equals(test.select(keys)):
            raise RunError(f"{arm.run.directory / arm.link}: its predictions are not of the test days of {dataset}")
        scores.append(predicted["probability"].to_numpy()[log["row"].to_numpy()])
    chances = [reordered(log, score) for score in scores]
    clicked, propensity = log["clicked"].to_numpy().astype(np.float64), log["chance"].to_numpy()
    users = log["user_id"].to_numpy()
    places = {"first position": (log["place"] == 0).to_numpy(), "all positions": np.ones(len(log), dtype=bool)}
    results: list[dict[str, Any]] = []
    for chance in chances[1:]:
        found: dict[str, Any] = {"searches": log["search_id"].n_unique(), "users": log["user_id"].n_unique()}
        for name, rows in places.items():
            values, weighted = dict[str, Any](), list[Floats]()
            for role, of in (("base", chances[0]), ("run", chance)):
                value = policy_value(clicked[rows], of[rows], propensity[rows], users[rows])
                weights = importance_weights(of[rows], propensity[rows])
                weighted += [weights * clicked[rows], weights]
                values[role] = plain({"ips": value.ips, "snips": value.snips}) | {
                    "effective_samples": effective_sample_size(weights),
                    "decisions": value.decisions,
                }
            sums = resampled_sums(weighted, users[rows])
            values |= plain({"lift": sums.interval(lambda s: (s[2] / s[3]) / (s[0] / s[1]) - 1)})
            found[name] = values
        results.append(found)
    return results
