from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml

import moonlib
from moonlib.artifacts.checksums import SUMS, Damaged
from moonlib.data.content import Content, Modalities
from moonlib.data.dataset import Dataset
from moonlib.exports.model_card import SIMULATED
from moonlib.representations.store import Representations
from moonlib.runs.run import Run, RunError
from moonlib.stages.application import Application
from moonlib.studies.exchange import refuse_other_kinds


@pytest.fixture
def copied(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the run with its stages, without its data."""
    shutil.copytree(finished_run.parent, tmp_path / "runs", symlinks=True, ignore=shutil.ignore_patterns(".data"))
    return tmp_path / "runs/iter1"


def change(run: Path, **sections: object) -> None:
    config = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump(config | sections))


def test_the_encoder_represents_as_the_run_did_without_its_data(copied: Path, tiny: Dataset) -> None:
    state = torch.random.get_rng_state()
    encoder = moonlib.load(copied)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not encoder.training
    products, queries = Run(copied).representations()
    text = tiny.queries.filter(tiny.queries["image"].is_null()).row(0, named=True)
    found = encoder(encoder.preprocessor([Content(None, text["text"])], "query"))
    expected = torch.from_numpy(queries.gather(np.array([text["query_id"]])))
    torch.testing.assert_close(found.detach(), expected, atol=1e-5, rtol=0)
    assert len(products.ids) == len(tiny.products)


def test_what_a_run_tells(finished_run: Path, tiny: Dataset) -> None:
    run = Run(finished_run)
    assert run.name == "iter1"
    assert run.recipe.encoder() is not None
    assert run.modalities("product") == run.modalities("query") == Modalities(True, "title")
    assert run.dataset().hash == tiny.hash
    assert "image_search/recall@10" in run.results
    assert run.weights is not None and run.weights.parent == (finished_run / "pretrain").resolve()
    assert run.fingerprint == Run(finished_run).fingerprint


def test_untrained_is_what_training_started_from(finished_run: Path) -> None:
    run = Run(finished_run)
    first, again, trained = run.encoder(trained=False), run.encoder(trained=False), run.encoder()
    for (name, value), other, learned in zip(
        first.named_parameters(), again.parameters(), trained.parameters(), strict=True
    ):
        assert torch.equal(value, other), name
        assert not torch.equal(value, learned) or "gate" in name, name


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no such run directory"):
        Run(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"has no recipe\.yaml"):
        Run(tmp_path)
    for text in ("stages: [", "1", "seed: 0", "stages: null"):
        (tmp_path / "recipe.yaml").write_text(text)
        with pytest.raises(RunError, match=r"recipe\.yaml"):
            Run(tmp_path)


@pytest.mark.parametrize("missing", ["pretrain", "preprocessing", "represent"])
def test_a_run_that_is_not_finished_names_the_command_that_continues_it(copied: Path, missing: str) -> None:
    (copied / missing).unlink()
    with pytest.raises(RunError, match=rf"not finished: {missing} is missing; `moonlib fit --config .* --name iter1`"):
        Run(copied).representations() if missing == "represent" else Run(copied).encoder()


def test_a_dangling_link_is_a_stage_that_is_missing(copied: Path) -> None:
    shutil.rmtree((copied / "pretrain").resolve())
    with pytest.raises(RunError, match="pretrain is missing"):
        Run(copied).encoder()


def test_missing_preprocessing_is_not_fitted_on_nothing(copied: Path) -> None:
    (copied / "preprocessing/tokenizer.json").unlink()
    with pytest.raises(Damaged, match=r"tokenizer\.json is missing; remove .*`moonlib fit .* makes it again"):
        Run(copied).encoder()
    (copied / "preprocessing" / SUMS).unlink()  # as of a version without checksums
    with pytest.raises(RunError, match="lacks the encoder's fitted preprocessing"):
        Run(copied).encoder()
    assert not (copied / "preprocessing/tokenizer.json").exists()


def test_weights_of_another_encoder_are_refused(copied: Path) -> None:
    encoder = Run(copied).config["encoder"]
    encoder["init_args"]["dim"] = 16
    change(copied, encoder=encoder)
    with pytest.raises(ValueError, match=r"weights\.safetensors belongs to another encoder"):
        Run(copied).encoder()


def test_a_plugin_that_is_gone_is_named_with_its_distribution(copied: Path) -> None:
    encoder = {"class_path": "moonlib_gone.towers.Tall"}
    identity = json.loads((copied / "preprocessing/identity.json").read_text())
    identity["versions"]["moonlib-gone"] = "0.7.1"
    (copied / "preprocessing/identity.json").write_text(json.dumps(identity))
    (copied / "preprocessing" / SUMS).unlink()
    change(copied, encoder=encoder)
    with pytest.raises(RunError, match=r"moonlib_gone\.towers\.Tall.*pip install moonlib-gone==0\.7\.1"):
        Run(copied).encoder()
    with pytest.raises(RunError, match="pip install moonlib-gone"):
        _ = Run(copied).recipe


def test_a_loss_that_is_gone_does_not_keep_the_encoder_from_being_used(copied: Path) -> None:
    stages = Run(copied).config["stages"]
    stages["pretrain"]["module"]["init_args"]["loss"] = {"class_path": "moonlib_gone.Loss"}
    change(copied, stages=stages)
    assert Run(copied).encoder().dim == 32
    with pytest.raises(RunError, match=r"moonlib_gone\.Loss"):
        _ = Run(copied).recipe


def test_a_run_of_a_version_that_noted_nothing_is_read(copied: Path) -> None:
    for name in ("preprocessing", "pretrain", "represent"):
        (copied / name / "identity.json").unlink()
        (copied / name / SUMS).unlink()
    run = Run(copied)
    assert run.encoder().dim == 32 and len(run.representations()[0].ids)


def test_a_run_without_representations_says_so(copied: Path, tmp_path: Path) -> None:
    stages = Run(copied).config["stages"]
    change(copied, stages={"pretrain": stages["pretrain"]})
    run = Run(copied)
    assert run.represent is None and run.encoder().dim == 32
    with pytest.raises(RunError, match="no represent stage"):
        run.representations()


def test_data_that_is_gone_is_told(copied: Path) -> None:
    with pytest.raises(RunError, match=r"its data is not in .*\.data any more"):
        Run(copied).dataset()


def test_results_that_are_not_there_or_broken_are_told(copied: Path) -> None:
    for text, told in (("{", "is no JSON file"), ("[1]", "holds no JSON object")):
        (copied / "results.json").write_text(text)
        with pytest.raises(
            RunError, match=rf"results\.json {told}.*remove it, and `moonlib fit --config .* writes it again"
        ):
            _ = Run(copied).results
    (copied / "results.json").unlink()
    with pytest.raises(RunError, match="no results yet"):
        _ = Run(copied).results


def test_representations_are_mapped(finished_run: Path) -> None:
    products, _ = Run(finished_run).representations()
    assert isinstance(products, Representations) and type(products.vectors).__name__ == "memmap"


@pytest.mark.parametrize(
    "link", ["application", "application.baseline", "application.baseline.shuffled", "application.oracle"]
)
def test_a_finished_application_scores_impressions_as_it_did(unbroken: Path, tiny: Dataset, link: str) -> None:
    state = torch.random.get_rng_state()
    stage, context = Run(unbroken).reopen(link, tiny)
    assert isinstance(stage, Application)
    test = tiny.splits.select(tiny.impressions, "test").sample(fraction=1, shuffle=True, seed=0)
    predicted = pl.read_parquet(unbroken / link / "predictions.parquet").filter(split="test")
    expected = test.join(predicted, on=["search_id", "item_id"], how="left", maintain_order="left")["probability"]
    np.testing.assert_allclose(stage.score(context, test), expected.to_numpy(), rtol=1e-5)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_truth_is_no_model(unbroken: Path, tiny: Dataset) -> None:
    stage, context = Run(unbroken).reopen("application.ceiling", tiny)
    assert isinstance(stage, Application)
    with pytest.raises(ValueError, match="no model that could score"):
        stage.score(context, tiny.impressions)


def test_a_query_that_is_asked_anew_is_scored_as_the_one_it_repeats(unbroken: Path, tiny: Dataset) -> None:
    """With the content and the representation of a known query, a new one leads to the same probabilities."""
    run = Run(unbroken)
    test = tiny.splits.select(tiny.impressions, "test")
    known = tiny.queries.filter(tiny.queries["image"].is_not_null()).join(test, on="query_id", how="semi").head(5)
    renamed = dict(zip(known["query_id"], range(5), strict=True))
    more = known.with_columns(pl.col("query_id").replace_strict(renamed, return_dtype=pl.Int64))
    rows = test.filter(test["query_id"].is_in(known["query_id"].implode()))
    anew = rows.with_columns(pl.col("query_id").replace_strict(renamed, return_dtype=pl.Int64), pl.col("search_id") + 1)
    stored = run.representations()[1].gather(known["query_id"].to_numpy())
    stage, context = run.reopen("application", tiny)
    view, asked = tiny.with_queries(more), Representations(np.arange(5), stored)
    again, its_context = run.reopen("application", view)
    assert isinstance(stage, Application) and isinstance(again, Application)
    expected = stage.score(context, rows)
    np.testing.assert_allclose(again.score(its_context, anew, asked), expected, rtol=1e-6)
    other = Representations(np.arange(5), -stored)
    assert not np.allclose(again.score(its_context, anew, other), expected, rtol=1e-6)


def test_a_stage_that_is_not_there_or_of_other_data_is_told(copied: Path, tiny: Dataset) -> None:
    with pytest.raises(RunError, match="no stage 'rank'; its stages are pretrain, represent"):
        Run(copied).reopen("rank", tiny)
    file = (copied / "represent").resolve() / "identity.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dataset": "another", "reads": {}}))
    (file.parent / SUMS).unlink()
    with pytest.raises(RunError, match=r"was not made from .* but from other data"):
        Run(copied).reopen("represent", tiny)
    file.unlink()
    with pytest.raises(RunError, match=r"identity\.json is missing"):
        Run(copied).reopen("represent", tiny)


def test_a_run_of_an_earlier_version_is_of_the_same_data_as_one_of_this(tmp_path: Path) -> None:
    for name, module in (("old", "moonlib.data.marketplace.source"), ("new", "moonlib.sources.marketplace.source")):
        (tmp_path / name).mkdir()
        data = {"class_path": f"{module}.Marketplace", "init_args": {"size": "tiny", "seed": 0}}
        (tmp_path / name / "recipe.yaml").write_text(yaml.safe_dump({"data": data, "stages": {}}))
    old, new = Run(tmp_path / "old"), Run(tmp_path / "new")
    assert old.config == new.config
    assert old.config["data"]["class_path"] == SIMULATED  # its model card says so
    refuse_other_kinds([old, new])


def test_a_recipe_that_contains_itself_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("stages: &all {pretrain: *all}\n")
    with pytest.raises(RunError, match=r"recipe\.yaml cannot be read"):
        Run(tmp_path)
