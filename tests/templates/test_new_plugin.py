"""What `moonlib plugins new` writes installs, passes its own test and runs in a recipe, for every kind."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from moonlib.cli import main
from moonlib.data.dataset import Dataset
from moonlib.registry import KINDS, RegistryError, registry
from moonlib.templates import new_plugin as generator
from moonlib.templates.new_plugin import PLACES, new_plugin
from moonlib.testing.processes import run_program

NAMES = {
    "encoders": "hashed",
    "image_towers": "patches",
    "text_towers": "bag",
    "fusions": "weighted",
    "pairs": "trail",
    "negatives": "popularity",
    "losses": "hinge",
    "optimizers": "falling",
    "adapters": "recency",
    "predictors": "pairs",
    "filters": "silent",
    "sources": "shapes",
    "stages": "similar",
    "metrics": "lift_at",
    "probes": "purity",
}

# The shipped stages have no place for filters and probes in iter1; a stage of one's own has, and for a metric too.
MEASURE = '''
from dataclasses import dataclass

import torch
from torchmetrics import Metric

from moonlib.filters.filter import Filter
from moonlib.data.tables import SCHEMAS, Tables
from moonlib.probes.probe import Probe, Represented
from moonlib.representations.store import Representations
from moonlib.stages.stage import Stage


@dataclass
class NoData:
    """Nothing to say."""


class Measure(Stage):
    data_type = NoData

    def __init__(self, metric: Metric, filters: list[Filter], probes: list[Probe]) -> None:
        super().__init__()
        self.metric, self.filters, self.probes = metric, filters, probes

    @property
    def needs(self):
        return frozenset({"representations"})

    def run(self, context):
        dataset = context.dataset
        products, queries = (Representations.open(context.representations, name) for name in ("products", "queries"))
        found = {}
        for probe in self.probes:
            found |= probe(Represented(dataset, products, queries, "valid"))
        tables = Tables(**{table: dataset.table(table) for table in SCHEMAS})
        for filter in self.filters:
            tables = filter(tables).tables
        found["left"] = float(tables.products.height)
        clicked = dataset.impressions["clicked"].to_torch()
        self.metric.update(torch.arange(len(clicked)), clicked)
        return found | {"lift": float(self.metric.compute())}
'''


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one distribution per kind, all installed in ``site`` as pip leaves them."""
    folder = tmp_path_factory.mktemp("plugins")
    made = [new_plugin(kind, name, folder) for kind, name in NAMES.items()]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    options = ["--disable-pip-version-check", "--target", str(folder / "site")]
    done = subprocess.run([*pip, *options, *map(str, made)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def run(plugins: Path, *words: str, cwd: Path) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(plugins / "site"), str(cwd)]), "COLUMNS": "160"}
    done = run_program(["-m", *words], cwd=cwd, env=env, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_kind_is_sound_and_lists_itself_without_import(plugins: Path, tmp_path: Path) -> None:
    assert set(NAMES) == set(KINDS)
    listed = run(plugins, "moonlib", "plugins", "list", cwd=tmp_path)
    for name in NAMES.values():
        distribution = f"moonlib-{name.replace('_', '-')} 0.1.0"
        assert any(line.split()[:3] == [name, *distribution.split()] for line in listed.splitlines())
    checked = run(plugins, "moonlib", "plugins", "check", cwd=tmp_path)
    assert "0 broken" in checked.splitlines()[-1]
    assert not any(name in checked for name in NAMES.values())  # each declares its API version


def test_their_own_tests_pass(plugins: Path, tmp_path: Path) -> None:
    tests = [str(path) for path in sorted(plugins.glob("moonlib-*/tests/test_*.py"))]
    assert len(tests) == len(KINDS)
    passed = run(plugins, "pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=tmp_path)
    assert int(passed.splitlines()[-1].split()[0]) >= 2 * len(KINDS)


def test_they_run_in_recipes(plugins: Path, tiny: Dataset, tmp_path: Path) -> None:
    (tmp_path / "own_stage.py").write_text(MEASURE)
    often = {"class_path": "popularity", "init_args": {"k": 2}}
    own = {"metric": "lift_at", "filters": ["silent"], "probes": ["purity"]}
    recipe = {
        "extends": "iter1",
        "data": {"class_path": "shapes", "init_args": {"copies": 3, "searches": 160}},
        "encoder": {"init_args": {"image": "patches", "text": "bag", "fusion": "weighted", "dim": 32}},
        "stages": {
            "pretrain": {
                "module": {
                    "class_path": "contrastive",
                    "init_args": {
                        "loss": "hinge",
                        "negatives": ["in_batch", often],
                        "pairs": "trail",
                        "optimizer": "falling",
                    },
                },
                "data": {"batch_size": 16, "workers": 0},
                "trainer": {"max_steps": 6},
            },
            "represent": {"data": {"workers": 0}},
            "application": {
                "module": {"init_args": {"adapter": "recency", "predictor": "pairs", "metrics": ["lift_at"]}}
            },
            "similar": {"after": "represent", "module": "similar"},
            "measure": {"after": "similar", "module": {"class_path": "own_stage.Measure", "init_args": own}},
        },
    }
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    run(plugins, "moonlib", "fit", "--config", "all.yaml", cwd=tmp_path)
    results = json.loads((tmp_path / "runs/all/results.json").read_text())
    assert results["similar/products"] > 0 and results["lift"] > 0 and results["left"] == 72
    assert 0 <= results["same_category@10"] <= 1 and 0 < results["ctr/auc"] < 1
    assert results["ctr/lift_at"] >= 0 and "valid/ctr/lift_at" in results and "baseline/ctr/lift_at" in results
    assert (tmp_path / "runs/all/similar/similar.parquet").exists()

    # The encoder's recipe is the one that came with it; two of its steps, on the dataset that is there.
    shards = json.dumps({"class_path": "shards", "init_args": {"path": str(tiny.directory)}})
    few = ["--stages.pretrain.trainer.max_steps", "2", "--stages.application", "null", "--data", shards]
    hashed = str(plugins / "moonlib-hashed/hashed.yaml")
    run(plugins, "moonlib", "fit", "--config", hashed, *few, cwd=tmp_path)
    assert "image_search/recall@10" in json.loads((tmp_path / "runs/hashed/results.json").read_text())

    used = "".join((tmp_path / "runs" / name / "recipe.yaml").read_text() for name in ("all", "hashed"))
    missing = [name for name in NAMES.values() if f"class_path: moonlib_{name}.{name}." not in used]
    assert not missing


def test_the_recipes_that_come_with_them_are_sound(plugins: Path, tmp_path: Path) -> None:
    recipes = [str(path) for path in sorted(plugins.glob("moonlib-*/*.yaml"))]
    assert len(recipes) == len(PLACES)
    assert run(plugins, "moonlib", "recipe", "check", *recipes, cwd=tmp_path).count("ok: ") == len(PLACES)


def test_the_commands_in_their_readmes_work(plugins: Path, tmp_path: Path) -> None:
    lines = ["from moonlib.cli import main"]
    for kind in PLACES:
        readme = (plugins / f"moonlib-{NAMES[kind].replace('_', '-')}/README.md").read_text()
        (command,) = [line for line in readme.splitlines() if "moonlib fit --config iter1" in line]
        lines.append(f"assert main({['recipe', 'show', *shlex.split(command)[3:]]}) == 0")
    (tmp_path / "readmes.py").write_text("\n".join(lines))
    shown = run(plugins, "readmes", cwd=tmp_path)
    assert not [kind for kind in PLACES if f"class_path: moonlib_{NAMES[kind]}.{NAMES[kind]}." not in shown]


def test_the_command_prints_what_to_do_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plugins", "new", "losses", "wide_margin", "--to", "deep/folder"]) == 0
    place = Path("deep/folder/moonlib-wide-margin")
    assert capsys.readouterr().out.splitlines() == [
        str(place),
        f"next: cd {place} && pip install --editable '.[test]' && pytest",
        "then: moonlib fit --config wide_margin.yaml",
    ]
    files = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())
    package = "src/moonlib_wide_margin"
    assert files == sorted(
        ["README.md", "pyproject.toml", "wide_margin.yaml", "tests/test_wide_margin.py"]
        + [f"{package}/{file}" for file in ("__init__.py", "py.typed", "wide_margin.py")]
    )
    text = "".join((place / file).read_text() for file in files)
    assert "class WideMargin(Loss):" in text
    assert "Template" not in text and "moonlib.templates" not in text and "$" not in text
    assert [path.name for path in Path("deep/folder").iterdir()] == ["moonlib-wide-margin"]


@pytest.mark.parametrize(
    ("kind", "name", "problem"),
    [
        ("losses", "Hinge", "cannot be a name: expected small letters"),
        ("losses", "my-loss", "cannot be a name"),
        ("losses", "lambda", "cannot be a name"),
        ("losses", "损失", "cannot be a name"),
        ("losses", "../hinge", "cannot be a name"),
        ("losses", "info_nce", r"losses/info_nce is taken by moonlib-embedding "),
        ("losses", "loss", "makes a class Loss, a word that its code uses"),
        ("losses", "emoji", r"moonlib-emoji .* is installed"),
        ("los", "hinge", "unknown kind 'los'; did you mean 'losses'"),
    ],
)
def test_a_name_that_cannot_work_is_refused_and_nothing_is_written(
    kind: str, name: str, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(RegistryError, match=problem):
        new_plugin(kind, name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "moonlib-hinge").mkdir()
    (tmp_path / "moonlib-hinge/mine.txt").write_text("mine")
    assert main(["plugins", "new", "losses", "hinge", "--to", str(tmp_path)]) == 2
    assert "moonlib-hinge exists: choose another name" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["moonlib-hinge", "mine.txt"]


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def full(path: Path, text: str, **options: Any) -> int:
        if path.name == "pyproject.toml":
            raise OSError(28, "No space left on device", str(path))
        return write(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        new_plugin("losses", "hinge", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_kind_has_a_template_with_a_test() -> None:
    for kind in KINDS:
        assert (generator.TEMPLATES / f"{kind}.py").exists() and (generator.TEMPLATES / f"test_{kind}.py").exists()
    assert set(PLACES) == set(KINDS) - {"filters", "probes"}
    assert registry.API >= registry.OLDEST_API
