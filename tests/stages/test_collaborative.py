from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.representations.store import Representations
from moonlib.stages import implicit_als
from moonlib.stages.collaborative import ActionData, Collaborative, actions_of
from moonlib.stages.implicit_als import Actions, factorise, ranks_of
from moonlib.testing import check_stage
from moonlib.testing.stages import Bench, small_encoder


def random_actions(seed: int, users: int, items: int, pairs: int) -> Actions:
    """Actions of distinct pairs, in no order; some users and items may have none."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(users * items, min(pairs, users * items), replace=False)
    count = torch.from_numpy(rng.integers(1, 5, len(chosen)).astype(np.float32))
    return Actions(torch.from_numpy(chosen // items), torch.from_numpy(chosen % items), count, users, items)


def one_at_a_time(actions: Actions, dim: int, turns: int, weight: float, alpha: float, seed: int) -> list[np.ndarray]:
    """The definition: for each row, the normal equations with a confidence for every pair."""
    generator = torch.Generator().manual_seed(seed)
    y = (torch.randn(actions.items, dim, generator=generator) / dim**0.5).double().numpy()
    x = np.zeros((actions.users, dim))
    counts = np.zeros((actions.users, actions.items))
    for u, i, c in zip(actions.user.tolist(), actions.item.tolist(), actions.count.tolist(), strict=True):
        counts[u, i] = c
    for _ in range(turns):
        for rows, other, by in ((x, y, counts), (y, x, counts.T)):
            for row in range(len(rows)):
                confidence, wanted = np.diag(1 + alpha * by[row]), (by[row] > 0).astype(float)
                left = other.T @ confidence @ other + weight * np.eye(dim)
                rows[row] = np.linalg.solve(left, other.T @ confidence @ wanted)
    return [x, y]


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 7),
    st.integers(1, 9),
    st.integers(1, 40),
    st.sampled_from([(1, 0.5, 1.0), (3, 5.0, 10.0)]),
    st.sampled_from([1, 40, 10**6]),
)
def test_vectors_solve_the_definition_row_by_row(
    seed: int, users: int, items: int, pairs: int, arguments: tuple[int, float, float], block: int
) -> None:
    actions, (dim, weight, alpha) = random_actions(seed, users, items, pairs), arguments
    kept, implicit_als.BLOCK = implicit_als.BLOCK, block
    try:
        found = factorise(actions, dim, 2, weight, alpha, torch.Generator().manual_seed(7))
    finally:
        implicit_als.BLOCK = kept
    for ours, theirs in zip(found, one_at_a_time(actions, dim, 2, weight, alpha, 7), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("block", [1, 30, 10**6])
def test_ranks_count_what_is_better_and_not_known(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implicit_als, "BLOCK", block)
    known = random_actions(3, users=6, items=10, pairs=25)
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 4, generator=rng), torch.randn(10, 4, generator=rng)
    y[8] = y[9]  # a tie
    user, item = torch.tensor([4, 0, 2, 5, 1]), torch.tensor([9, 1, 9, 3, 0])
    seen = {(u, i) for u, i in zip(known.user.tolist(), known.item.tolist(), strict=True)}
    expected = [
        sum(
            (u, other) not in seen and other != i and float(x[u] @ y[other]) >= float(x[u] @ y[i])
            for other in range(10)
        )
        for u, i in zip(user.tolist(), item.tolist(), strict=True)
    ]
    assert ranks_of(x, y, user, item, known).tolist() == expected


def test_events_are_summed_up_by_shopper_and_product() -> None:
    events = pl.DataFrame({"user_id": [7, 3, 7, 7], "item_id": [20, 10, 20, 30], "weight": [1.0, 4.0, 2.0, 1.0]})
    found = actions_of(events, pl.Series([10, 20, 30]))
    assert found.user.tolist() == [0, 1, 1] and found.item.tolist() == [0, 1, 2]
    assert found.count.tolist() == [4.0, 3.0, 1.0] and (found.users, found.items) == (2, 3)


DATA = ActionData(min_actions=2)


def collaborative(**arguments: Any) -> Collaborative:
    return Collaborative(**{"dim": 6, "iterations": 3, **arguments})


def test_it_keeps_the_promises_of_a_stage() -> None:
    check_stage(collaborative, DATA)


def run(folder: Path, data: ActionData = DATA, **arguments: Any) -> tuple[Bench, dict[str, float], Representations]:
    bench = Bench(folder, data, {}, small_encoder)
    metrics = bench.run(collaborative(**arguments), "run")
    return bench, metrics, Representations.open(folder / "run", "products")


@pytest.mark.parametrize("data", [DATA, ActionData(min_actions=4), ActionData({"order": 1.0}, "train", 1)])
def test_products_with_enough_actions_have_a_vector_and_no_others(tmp_path: Path, data: ActionData) -> None:
    bench, metrics, found = run(tmp_path, data)
    dataset = bench.dataset
    until = dataset.splits.behaviour_until if data.until == "behaviour" else dataset.splits.train_until
    counts: dict[int, int] = {}
    for row in dataset.searches.iter_rows(named=True):
        if row["ts"] < until and row["action"] in data.actions:
            counts[row["item_id"]] = counts.get(row["item_id"], 0) + 1
    enough = sorted(item for item, count in counts.items() if count >= data.min_actions)
    assert found.ids.tolist() == enough and found.dim == 6
    assert np.linalg.norm(found.vectors, axis=1).min() > 0
    listed = dataset.splits.known(dataset.products)["item_id"].to_list()
    assert metrics["collaborative/coverage"] == pytest.approx(len(set(enough) & set(listed)) / len(listed))


def test_recall_is_of_the_last_product_without_what_is_known_of_it(tmp_path: Path) -> None:
    """Two groups of shoppers who act on products of their own: only from the others' actions is the last one found."""
    stage = collaborative(dim=4, iterations=10)
    rng, rows = np.random.default_rng(0), []
    start = datetime(2025, 1, 1)
    for user in range(40):
        mine = rng.permutation(20)[:14] + 20 * (user % 2)
        rows += [{"user_id": user, "item_id": int(i), "ts": start + timedelta(hours=n)} for n, i in enumerate(mine)]
    events = pl.DataFrame(rows).with_columns(weight=1.0).sort("ts", "user_id", "item_id")
    items = events["item_id"].unique().sort()
    found = stage.recall(events, items, seed=0)
    assert found["collaborative/recall@10"] > 0.9
    assert found["collaborative/popularity_recall@10"] < 0.5
    # One action each: nothing is left to learn from.
    assert stage.recall(events.group_by("user_id", maintain_order=True).head(1), items, seed=0) == {}


def test_vectors_put_products_of_the_same_shoppers_together(tmp_path: Path) -> None:
    actions = [(user, item) for user in range(30) for item in range(10) if item % 2 == user % 2]
    user, item = torch.tensor(actions).T
    _, items = factorise(
        Actions(user, item, torch.ones(len(user)), 30, 10), 3, 5, 1.0, 10.0, torch.Generator().manual_seed(0)
    )
    cosines = torch.nn.functional.cosine_similarity(items[:1], items)
    assert cosines[2::2].min() > 0.95 and cosines[1::2].max() < 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Collaborative(dim=0), "dim must be at least 1"),
        (lambda: Collaborative(iterations=0), "iterations must be at least 1"),
        (lambda: Collaborative(regularization=0), "regularization must be above 0"),
        (lambda: Collaborative(alpha=-1), "alpha must be above 0"),
        (lambda: ActionData({"view": 1.0}), "actions: 'view' is none of click, cart, order"),
        (lambda: ActionData({"click": 0.0}), "weights above 0"),
        (lambda: ActionData({}), "expected at least one action"),
        (lambda: ActionData(min_actions=0), "min_actions: expected at least 1"),
    ],
)
def test_arguments_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_too_few_actions_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data\.min_actions: none of the products has 10000 actions \(click, cart, order\)"
    ):
        run(tmp_path, ActionData(min_actions=10_000))
