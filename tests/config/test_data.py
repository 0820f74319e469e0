"""`data` of a recipe, and `--data` of a command, take the directory of a dataset."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from moonlib.cli import main
from moonlib.config import recipe
from moonlib.config.recipe import RecipeError
from moonlib.data.dataset import Dataset

RECIPE = """
data: {class_path: marketplace, init_args: {size: tiny, seed: 5}}
encoder: {class_path: dual, init_args: {image: convnet, text: transformer, fusion: sum}}
stages: {represent: {module: represent}}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(RECIPE)
    return tmp_path / "own.yaml"


def test_a_directory_stands_for_the_source_that_reads_it(file: Path, tiny: Dataset) -> None:
    Path("data").mkdir()
    Path("data/mine").symlink_to(tiny.directory)
    Path("mine").symlink_to(tiny.directory)
    long = recipe.load(file, ["--data", "{class_path: shards, init_args: {path: data/mine}}"])
    for word in ("data/mine", "./data/mine"):
        short = recipe.load(file, ["--data", word])
        assert short.config["data"]["class_path"] == "moonlib.sources.shards.Shards"
        assert short.source().prepare(Path()).resolve() == tiny.directory.resolve()
    assert recipe.load(file, ["--data=data/mine"]).config == long.config
    assert recipe.load(file, ["--data", "mine"]).config["data"]["init_args"] == {"path": "mine"}

    Path("child.yaml").write_text("extends: own.yaml\ndata: data/mine\n")
    assert recipe.load("child.yaml").config == long.config
    Path("grandchild.yaml").write_text("extends: child.yaml\ndata: {class_path: marketplace, init_args: {size: tiny}}")
    assert recipe.load("grandchild.yaml").config["data"]["init_args"] == {"size": "tiny"}


def test_the_name_of_a_source_goes_before_a_directory(file: Path, tiny: Dataset) -> None:
    Path("marketplace").symlink_to(tiny.directory)
    assert recipe.load(file, ["--data", "marketplace"]).config == recipe.load(file).config
    assert recipe.load(file, ["--data", "./marketplace"]).config["data"]["init_args"] == {"path": "marketplace"}


def test_data_that_another_layer_replaces_need_not_be_there(file: Path, tiny: Dataset) -> None:
    Path("child.yaml").write_text("extends: own.yaml\ndata: data/of_another_machine\n")
    with pytest.raises(RecipeError, match=r"child\.yaml: data: there is no directory data/of_another_machine; `moonl"):
        recipe.load("child.yaml")
    assert recipe.load("child.yaml", ["--data", str(tiny.directory)]).config["data"]["init_args"]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("data/nowhere", r"no directory data/nowhere; `moonlib data build TABLES --images PHOTOS --out data/nowhere`"),
        ("tables", r"tables is no dataset, it holds tables; give the DIR that `moonlib data build tables --images PHO"),
        ("empty", r"empty is no dataset, it has no dataset\.json; give the DIR that `moonlib data build TABLES"),
        ("own.yaml", r"own\.yaml is a file; expected the directory of a dataset, or a source"),
        ("marketplac", r"did you mean 'marketplace'"),
        ("shads", r"did you mean 'shards'"),
        ("no.such.Source", r"no\.such\.Source"),
        ("3", r"got 3"),
        ("[data/mine]", r"data/mine"),
    ],
)
def test_what_is_no_dataset_is_told_before_anything_runs(
    file: Path, capsys: pytest.CaptureFixture[str], word: str, told: str
) -> None:
    Path("empty").mkdir()
    Path("tables").mkdir()
    Path("tables/products.csv").write_text("item_id\n")
    with pytest.raises(RecipeError, match=rf"command line: data: .*{told}"):
        recipe.load(file, ["--data", word])
    assert main(["fit", "--config", str(file), "--data", word]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not Path("runs").exists()


def test_fit_takes_a_directory(file: Path, tiny: Dataset, runs: Path) -> None:
    shutil.copytree(tiny.directory, "mine")
    small = ["--encoder.init_args.image", "{class_path: convnet, init_args: {image_size: 32, width: 8}}"]
    words = ["--data", "mine", *small, "--stages.represent.data.workers", "0"]
    assert main(["fit", "--config", str(file), "--runs", str(runs), "--name", "mine", *words]) == 0
    written = yaml.safe_load((runs / "mine/recipe.yaml").read_text())
    assert written["data"] == {"class_path": "moonlib.sources.shards.Shards", "init_args": {"path": "mine"}}
