"""An application that reads the vectors of a representation center."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from moonlib.artifacts.layout import IDENTITY
from moonlib.center.aliases import Alias, Target, read_aliases, write_aliases
from moonlib.center.space import Space
from moonlib.config.recipe import RecipeError, load
from moonlib.data.dataset import Dataset
from moonlib.data.ids import IdMap, ShopIds
from moonlib.representations.store import Representations
from moonlib.runs.center import CenterSnapshot, CenterVectors, find_snapshots, read_snapshot
from moonlib.runs.iteration import fit
from moonlib.runs.listing import list_runs, runs_table
from moonlib.runs.run import Run
from moonlib.stages.application import Application
from moonlib.system.console import Terminal
from moonlib.system.progress import StageProgress
from tests.centers import APPLICATION, publish


@pytest.fixture
def flipped(center_application: Path, finished_run: Path, tmp_path: Path) -> Path:
    """A folder of runs that holds a copy of `center_application` and of its center, whose alias leads elsewhere now."""
    folder = tmp_path / "copy"
    shutil.copytree(center_application.parent, folder, symlinks=True)
    publish(folder / "center", finished_run, products=300)
    return folder


def identity(run: Path, link: str = "application") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / link / IDENTITY).read_text())
    return found


def reused(run: Path) -> dict[str, bool]:
    costs = json.loads((run / "costs.json").read_text())
    return {stage: cost["reused"] for stage, cost in costs.items() if "reused" in cost}


def test_an_application_is_of_a_snapshot_and_of_what_it_holds(center_application: Path, finished_run: Path) -> None:
    target = read_aliases(center_application.parent / "center")["live"].now
    noted = identity(center_application)["center"]
    assert noted["snapshot"] == str(target) and set(noted) == {"snapshot", "content"}
    assert str(center_application.parent) not in (center_application / "application" / IDENTITY).read_text()
    assert "center" not in identity(center_application, "application.baseline")  # which reads ids alone
    record = json.loads((center_application / "run.json").read_text())
    assert record["centers"] == {"application": str(target)}
    assert record["parents"] == {"center of application": "../center"}


def test_it_reads_the_vectors_of_the_snapshot_and_queries_of_the_same_encoder(
    center_application: Path, finished_run: Path
) -> None:
    directory = center_application / "centers" / "application"
    for name, made in zip(("products", "queries"), Run(finished_run).representations(), strict=True):
        found = Representations.open(directory, name)
        assert np.array_equal(found.ids, made.ids)
        assert np.array_equal(found.vectors, made.as_type("int8").vectors)


def test_it_is_what_it_was_without_the_center(center_application: Path, tiny: Dataset) -> None:
    run = Run(center_application)
    stage, context = run.reopen("application", tiny)
    assert isinstance(stage, Application) and context.representations == run.finished("centers/application")
    test = tiny.splits.select(tiny.impressions, "test")
    expected = pl.read_parquet(center_application / "application/predictions.parquet").filter(split="test")
    np.testing.assert_allclose(stage.score(context, test), expected["probability"].to_numpy(), rtol=1e-5)


def test_a_center_may_be_moved(center_application: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(center_application.parent, folder, symlinks=True)
    (folder / "center").rename(folder / "moved")
    run = fit(
        "iter1",
        [*APPLICATION, f"--stages.application.representations.center={folder / 'moved'}"],
        runs=folder,
        name="again",
    )
    assert all(reused(run).values())


def test_a_flipped_alias_makes_the_application_anew_and_nothing_else(
    flipped: Path, tiny: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(
        "iter1",
        [*APPLICATION, f"--stages.application.representations.center={flipped / 'center'}"],
        runs=flipped,
        name="new",
    )
    anew = {stage for stage, was in reused(run).items() if not was}
    assert anew == {"centers/application", "application", "application.baseline.shuffled"}
    lost = tiny.counts["products"] - 300
    assert f"{tiny.counts['products']:,} products, {lost:,} without a vector there" in capsys.readouterr().out
    found = CenterVectors.read(run / "centers" / "application")
    assert (found.products, found.without_vector) == (tiny.counts["products"], lost)
    assert identity(run)["center"]["snapshot"].endswith("@000002")


def test_runs_says_which_snapshot_a_run_came_from(
    center_application: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    summaries = list_runs(center_application.parent)
    snapshot = identity(center_application)["center"]["snapshot"]
    assert [dict(each.centers) for each in summaries] == [{"application": snapshot}]
    Terminal().print(runs_table(center_application.parent, summaries))
    assert snapshot in capsys.readouterr().out


def test_what_an_adapter_does_not_read_is_not_made(
    center_application: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Application, "references", lambda self, dataset: [])
    folder = tmp_path / "copy"
    shutil.copytree(center_application.parent, folder, symlinks=True)
    center = f"--stages.application.representations.center={folder / 'center'}"
    adapter = "--stages.application.module.init_args.adapter="
    run = fit("iter1", [*APPLICATION, center, f"{adapter}sa_ta"], runs=folder, name="items")
    assert CenterVectors.read(run / "centers" / "application").queries == 0
    run = fit("iter1", [*APPLICATION, center, f"{adapter}id_only"], runs=folder, name="ids")
    assert not (run / "centers").exists() and "center" not in identity(run)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ["--stages.application.representations.center=nowhere"],
            "stages.application.representations: nowhere: there is no such center, seen from ",
        ),
        (
            ["--stages.application.representations.alias=liv"],
            "stages.application.representations: {center} has no alias 'liv'; it has live",
        ),
        (
            ["--stages.application.representations={alias: live}"],
            "stages.application.representations.center: missing",
        ),
        (["--stages.application.representations.centre=x"], "stages.application.representations.centre: unknown key"),
        (
            ["--stages.application.representations.center=s3://bucket/center"],
            "s3://bucket/center is a URL: copy the center here",
        ),
        (["--representations.center=x"], "representations: a stage reads them: write it as stages.application.repr"),
    ],
)
def test_a_center_that_cannot_be_read_is_told_before_anything_is_made(
    center_application: Path, runs: Path, words: list[str], problem: str
) -> None:
    center = center_application.parent / "center"
    base = [] if "={" in words[0] else [f"--stages.application.representations.center={center}"]
    with pytest.raises(RecipeError) as told:
        find_snapshots(load("iter1", [*APPLICATION, *base, *words]))
    assert problem.format(center=center) in str(told.value)


def test_an_embedding_is_no_center_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "embedding.json").write_text("{}")
    words = [*APPLICATION, f"--stages.application.representations.center={tmp_path}"]
    with pytest.raises(RecipeError, match=r"what `moonlib embed` wrote.* no center; make one with `moonlib upsert"):
        find_snapshots(load("iter1", words))


def test_a_stage_that_reads_no_vectors_takes_no_center(center_application: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"stages\.represent\.representations: Represent reads no vectors of a center"
    ):
        load("iter1", ["--stages.represent.representations.center=x"])


def test_a_space_of_which_nothing_was_published_is_told(center_application: Path, tmp_path: Path) -> None:
    center = tmp_path / "center"
    shutil.copytree(center_application.parent / "center", center)
    now = read_aliases(center)["live"].now
    write_aliases(center, {"live": Alias(Target(now.space, 0))})
    words = [*APPLICATION, f"--stages.application.representations.center={center}"]
    with pytest.raises(RecipeError, match="of which nothing was published yet: `moonlib publish"):
        find_snapshots(load("iter1", words))
    write_aliases(center, {"live": Alias(Target(now.space, 7))})
    with pytest.raises(RecipeError, match="000007 is missing; publish again"):
        find_snapshots(load("iter1", words))


def test_a_center_of_another_shop_is_told(center_application: Path, finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(center_application.parent, folder, symlinks=True)
    publish(folder / "center", finished_run, products=3, shift=1)
    words = [*APPLICATION, f"--stages.application.representations.center={folder / 'center'}"]
    with pytest.raises(ValueError, match=r"none of the [\d,]+ products of .* has a vector there"):
        fit("iter1", words, runs=folder, name="other")


def test_text_ids_are_those_of_the_shop(tmp_path: Path) -> None:
    """A dataset numbers its text ids by itself; the snapshot's rows are found by what the shop writes."""
    store = Representations(np.arange(3), np.eye(3, dtype=np.float32), pl.Series(["a", "b", "c"]))
    snapshot, out = tmp_path / "snapshot", tmp_path / "out"
    for folder in (snapshot, out):
        folder.mkdir()
    store.save(snapshot, "products")

    class Shop:
        directory = tmp_path
        ids = ShopIds({"item": IdMap.of([pl.Series(["c"])]).extended([pl.Series(["a", "x"])])})

        def table(self, name: str, columns: object) -> pl.DataFrame:
            return pl.DataFrame({"item_id": [2, 0, 1]})

    space = Space(tmp_path / "a-3-float32", "a" * 16, 3, "float32", ids="text")
    source = CenterSnapshot("shop", space, snapshot, "a-3-float32@000001", "")
    read: Any = {"queries": False, "device": torch.device("cpu"), "progress": StageProgress()}
    found = read_snapshot(source, Shop(), out, **read)  # type: ignore[arg-type]
    assert (found.products, found.without_vector, found.queries) == (3, 1, 0)
    products, queries = (Representations.open(out, name) for name in ("products", "queries"))
    assert products.ids.tolist() == [0, 1]  # c and a
    assert products.vectors.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert products.names is not None and products.names.to_list() == ["c", "a"]
    assert queries.vectors.shape == (0, 3)
