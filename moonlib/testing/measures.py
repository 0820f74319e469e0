"""Checks of what measures: metrics of predictions, probes of representations."""

from __future__ import annotations

import pickle
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import moonlib.compat  # noqa: F401  (before torchmetrics)
import torch
from torch import Tensor
from torchmetrics import Metric

from moonlib.metrics.key import MetricKey
from moonlib.metrics.metric import READS, Additive, arguments_of, meaning_of, name_of, tasks_of
from moonlib.probes.probe import Probe, Represented
from moonlib.testing.examples import example_dataset, example_representations
from moonlib.testing.promises import check_metrics, directory_state, require


def check_metric(make: Callable[[], Metric], *rows: Tensor, **constants: object) -> None:
    """Check a metric: one value, whatever the order, batches and parts the rows come in; and what it says of itself.

    Its name is one that a key of results may hold, its direction is told, and a stage has what it reads, see
    `moonlib.metrics.metric`. Where it can be resampled, its sums give its value.

    Args:
        make: returns a fresh metric.
        rows: what ``update`` takes, each [n], n at least 4.
        constants: arguments of ``update`` that are not rows.
    """
    check_what_it_says(make())

    def after(*parts: Tensor | slice) -> Metric:
        metric = make()
        for part in parts:
            metric.update(*(column[part] for column in rows), **constants)
        return metric

    n = len(rows[0])
    everything, first, second = slice(None), slice(n // 3), slice(n // 3, None)
    whole = after(everything).compute()
    require(whole.ndim == 0 and bool(whole.isfinite()), f"compute: {whole} is not one finite value")
    same = partial(torch.allclose, whole, rtol=1e-9, atol=0.0)
    if isinstance(metric := make(), Additive):
        sums = metric.sums(*rows, **constants)
        require(sums.shape[:1] == (n,) and sums.dtype == torch.float64, "sums: expected float64 [n, C]")
        require(same(metric.of_sums(sums.sum(dim=0))), "of_sums: the sums of all rows give another value than compute")
        twice = metric.of_sums(torch.stack([sums.sum(dim=0), sums[: n // 2].sum(dim=0)], dim=1))
        require(twice.shape == (2,) and same(twice[0]), "of_sums: [C, S] of sums must give [S] values")
    require(same(after(torch.arange(n).flip(0)).compute()), "update: the order of rows matters")
    require(same(after(first, second).compute()), "update: two batches differ from one")
    merged, other = after(first), after(second)
    merged.merge_state(other)
    require(same(merged.compute()), "merge_state: two parts differ from the whole")
    merged.merge_state(make())
    require(same(merged.compute()), "merge_state: a part without rows changes the value")
    require(same(merged.compute()), "compute: a second call gives another value")
    used = after(first)
    used.reset()
    used.update(*rows, **constants)
    require(same(used.compute()), "reset: rows from before still count")
    logged = make()
    for part in (first, second):
        logged(*(column[part] for column in rows), **constants)
    require(same(logged.compute()), "forward: calling the metric, as Lightning's log does, differs from update")
    require(same(pickle.loads(pickle.dumps(after(everything))).compute()), "pickle: rows are lost")


def check_what_it_says(metric: Metric) -> None:
    """Check a metric's name, title, direction and what it reads."""
    name, meaning = name_of(metric), meaning_of(metric)
    require(MetricKey.parse(f"ctr/{name}") == MetricKey(task="ctr", name=name), f"name: {name!r} is no name in a key")
    require(bool(name) and not re.search(r"[\s/]", name), f"name: {name!r} should be one word, such as recall@10")
    require(meaning.title.strip() == meaning.title, f"title: {meaning.title!r} has spaces around it")
    told = meaning.higher_is_better
    require(told is None or isinstance(told, bool), f"higher_is_better: {told!r} is neither True, False nor None")
    task, reads = getattr(metric, "task", None), set(arguments_of(metric).values())
    if task is None:
        there = "; ".join(f"{each} has {', '.join(READS[each])}" for each in READS)
        require(bool(tasks_of(metric)), f"update: no task has all of {', '.join(sorted(reads))} ({there})")
    elif task in READS:
        lacking = reads - READS[task].keys()
        require(not lacking, f"update: task {task} has {', '.join(READS[task])}, and no {', '.join(sorted(lacking))}")


def check_probe(make: Callable[[], Probe]) -> None:
    """Check a probe: finite floats under the same keys, determinism, missing representations, nothing changed.

    Args:
        make: returns a fresh probe.
    """
    with tempfile.TemporaryDirectory() as folder:
        dataset = example_dataset(Path(folder) / "dataset")
        before = directory_state(dataset.directory)
        ids = dataset.products["item_id"], dataset.queries["query_id"]
        for name, (products, queries) in example_representations(*ids).items():
            for vectors in (products.vectors, queries.vectors):
                vectors.flags.writeable = False
            keys: list[set[str]] = []
            for split in ("valid", "test"):
                represented = Represented(dataset, products, queries, split)
                try:
                    values, again = make()(represented), make()(represented)
                except ValueError as error:
                    raise AssertionError(f"{name} representations, {split} days: {error}") from error
                check_metrics(values, f"{name} representations, {split} days")
                require(values == again, f"{name} representations: a second probe gives other values")
                keys.append(set(values))
            require(keys[0] == keys[1], f"keys differ between splits: {sorted(keys[0] ^ keys[1])}")
        require(directory_state(dataset.directory) == before, "the probe writes into the dataset's directory")
