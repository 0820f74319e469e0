"""Components of plugins: each is one file and its entry point, and shows up wherever moonlib's own do."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import moonlib
from moonlib.exports.folder import export
from moonlib.registry import API
from moonlib.runs.iteration import fit
from moonlib.runs.results import read_legend
from moonlib.runs.run import Run
from moonlib.studies.exchange import exchange
from moonlib.studies.report import report

METRIC = '''
"""Probability given to what happened, on average."""

import torch
from torchmetrics import Metric


class Likelihood(Metric):
    title = "mean likelihood"
    higher_is_better = True
    full_state_update = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probabilities, labels):
        self.total += self.sums(probabilities, labels).sum(dim=0)

    def compute(self):
        return self.of_sums(self.total)

    def sums(self, probabilities, labels):
        given = torch.where(labels, probabilities, 1 - probabilities).double()
        return torch.stack([given, torch.ones_like(given)], dim=1)

    def of_sums(self, sums):
        return sums[0] / sums[1]
'''

STAGE = '''
"""How long representations are, beside a guess."""

from dataclasses import dataclass

from moonlib.metrics.metric import Meaning
from moonlib.representations.store import Representations
from moonlib.stages.stage import Reference, Stage


@dataclass
class NoData:
    """Nothing to say."""


class Lengths(Stage):
    data_type = NoData

    def __init__(self, guess: bool = False) -> None:
        super().__init__()
        self.guess = guess

    @property
    def needs(self):
        return frozenset() if self.guess else frozenset({"representations"})

    def references(self, dataset):
        return [Reference("naive", "a naive guess", {"guess": True})]

    def meanings(self):
        return {"lengths/mean": Meaning("mean length", True)}

    def run(self, context):
        mean = 1.0
        if not self.guess:
            products = Representations.open(context.representations, "products")
            mean = float((products.vectors[:] ** 2).sum(axis=1).mean())
        return {"lengths/mean": mean, "valid/lengths/mean": mean}
'''

SOURCE = '''
from moonlib.sources import Marketplace


class CornerShop(Marketplace):
    """The tiny marketplace, by another name."""

    def __init__(self) -> None:
        super().__init__("tiny")
'''

TEMPLATES = Path(moonlib.__file__).with_name("templates")

# One distribution each: its module, and the one line that names its component.
PLUGINS = {
    "metrics": (METRIC, "likelihood", "Likelihood"),
    "stages": (STAGE, "lengths", "Lengths"),
    "sources": (SOURCE, "corner_shop", "CornerShop"),
    "encoders": ((TEMPLATES / "encoders.py").read_text(), "linear_words", "Template"),
    "optimizers": ((TEMPLATES / "optimizers.py").read_text(), "momentum", "Template"),
}

RECIPE: dict[str, Any] = {
    "extends": "iter1",
    "data": {"class_path": "corner_shop"},
    "encoder": {"class_path": "linear_words", "init_args": {"dim": 32}},
    "stages": {
        "pretrain": {
            "module": {"init_args": {"optimizer": "momentum"}},
            "trainer": {"max_steps": 3},
            "data": {"batch_size": 32, "workers": 0},
            "checkpoint_evaluation": {"every": 1},
        },
        "represent": {"data": {"workers": 0}},
        "lengths": {"after": "represent", "module": "lengths"},
        "application": {
            "module": {"init_args": {"metrics": ["likelihood"], "optimizer": "momentum"}},
            "trainer": {"max_epochs": 1},
            "data": {"batch_size": 2500},
        },
    },
}


@pytest.fixture(scope="module")
def printed(data_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A run that uses all of them, and what `moonlib fit` printed."""
    folder = tmp_path_factory.mktemp("extension")
    site, runs = folder / "site", folder / "runs"
    for kind, (code, name, cls) in PLUGINS.items():
        info = site / f"moonlib_extension_{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"moonlib_extension_{name}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: moonlib-extension-{name}\nVersion: 1.0\n")
        points = f"[moonlib.{kind}]\n{name} = moonlib_extension_{name}:{cls}\n[moonlib.api]\n{API} = x\n"
        (info / "entry_points.txt").write_text(points)
    runs.mkdir()
    (runs / ".data").symlink_to(data_cache)
    recipe = folder / "extended.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        with redirect_stdout(out):
            run = fit(recipe, runs=runs)
        yield run, out.getvalue()


@cache
def card_of(run: Path) -> str:
    """The model card of an export of the run."""
    return (export(run, run.parent / "exported") / "README.md").read_text()


@cache
def page_of(run: Path) -> str:
    """The report of the run."""
    return report([run], run.parent / "page.html").read_text()


def the_closing_table_shows_both_beside_their_references(printed: tuple[Path, str]) -> None:
    text = printed[1]
    lines = [line.split() for line in text.splitlines()]
    assert "lengths on test days" in text and "ctr on test days" in text
    (mean,) = [line for line in lines if line[:1] == ["mean"]]
    assert mean[-1] == "1.0000" and len(mean) == 3
    clicks = next(line for line in lines if line[:1] == ["auc"])
    (likelihood,) = [line for line in lines if line[:1] == ["likelihood"]]
    assert len(likelihood) == len(clicks) and "–" not in likelihood
    assert any("a naive guess" in " ".join(line) for line in lines)


def a_component_is_one_file_and_one_entry_point_and_each_is_what_the_run_was_made_with(
    printed: tuple[Path, str],
) -> None:
    run, _ = printed
    config = Run(run).config
    application, pretrain = (config["stages"][name]["module"]["init_args"] for name in ("application", "pretrain"))
    used = {
        "sources": config["data"],
        "encoders": config["encoder"],
        "stages": config["stages"]["lengths"]["module"],
        "metrics": application["metrics"][0],
        "optimizers": pretrain["optimizer"],
    }
    assert application["optimizer"] == pretrain["optimizer"]
    for kind, (_, name, cls) in PLUGINS.items():
        assert used[kind]["class_path"] == f"moonlib_extension_{name}.{cls}"
        files = [path.name for path in (run.parents[1] / "site").glob(f"*{name}*") if path.is_file()]
        assert files == [f"moonlib_extension_{name}.py"]
    card, page = card_of(run), page_of(run)
    for name in ("linear_words", "corner_shop", "momentum"):
        assert name in card and name in page


def what_they_mean_is_stored_with_the_results_and_in_the_stages(printed: tuple[Path, str]) -> None:
    run, _ = printed
    legend = read_legend(run)
    assert legend is not None
    assert legend.references["naive"] == "a naive guess" and legend.references["baseline"] == "id only"
    assert legend.meaning("ctr/likelihood").title == "mean likelihood"
    assert legend.meaning("naive/valid/lengths/mean").higher_is_better is True
    assert legend.meaning("ctr/logloss").higher_is_better is False
    of_stage = read_legend(run / "application")
    assert of_stage is not None and of_stage.meaning("ctr/likelihood").title == "mean likelihood"
    assert "naive" not in of_stage.references
    values = json.loads((run / "results.json").read_text()).values()
    assert all(isinstance(value, float) for value in values)


def the_report_shows_both_by_their_titles_with_an_interval_of_the_metric(printed: tuple[Path, str]) -> None:
    run, _ = printed
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr.*?</tr>", page_of(run), re.DOTALL)]
    results = json.loads((run / "results.json").read_text())
    value = f"{results['ctr/likelihood']:.4f}"
    (whole, *segments) = [row for row in rows if row[:2] == ["mean", "likelihood"]]
    assert whole[2] == value and whole[3].startswith("[")
    assert len(segments) == 4  # new and tail products, impressions with and without a query
    assert any(row[:2] == ["mean", "length"] and "1.0000" in row for row in rows)
    assert any(" ".join(row).endswith("a naive guess") for row in rows)


def the_model_card_shows_both_beside_their_references(printed: tuple[Path, str]) -> None:
    run, _ = printed
    card = card_of(run).splitlines()
    lengths = card.index(next(line for line in card if line.startswith("| lengths/mean |")))
    assert card[lengths - 2] == "| metric | this encoder | a naive guess |"
    results = json.loads((run / "results.json").read_text())
    assert card[lengths] == f"| lengths/mean | {results['lengths/mean']:.4f} | 1.0000 |"
    clicks = next(line for line in card if line.startswith("| ctr/likelihood |"))
    assert f"{results['ctr/likelihood']:.4f}" in clicks and f"{results['oracle/ctr/likelihood']:.4f}" in clicks


def the_exchange_rate_knows_what_the_stage_measures_and_what_the_metric_is_worth(
    printed: tuple[Path, str],
) -> None:
    run, _ = printed
    found = exchange([run], samples=20)
    pairs = {(rate.intermediate, rate.downstream) for rate in found.rates}
    assert ("lengths/mean", "ctr/likelihood") in pairs and ("lengths/mean", "ctr/auc") in pairs
    assert "ctr/likelihood" in found.steer_by and "ctr/logloss" not in found.steer_by


def test_components_of_plugins_show_up_wherever_moonlibs_own_do(printed: tuple[Path, str]) -> None:
    """One test, so that one run, one export and one report are made for all of it."""
    the_closing_table_shows_both_beside_their_references(printed)
    a_component_is_one_file_and_one_entry_point_and_each_is_what_the_run_was_made_with(printed)
    what_they_mean_is_stored_with_the_results_and_in_the_stages(printed)
    the_report_shows_both_by_their_titles_with_an_interval_of_the_metric(printed)
    the_model_card_shows_both_beside_their_references(printed)
    the_exchange_rate_knows_what_the_stage_measures_and_what_the_metric_is_worth(printed)
