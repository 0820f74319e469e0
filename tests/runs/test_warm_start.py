"""A run that starts from another run, or from an export: the same vectors at first, new words, the same bits."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from lightning import LightningModule, Trainer
from safetensors.torch import load_file
from tokenizers import Tokenizer

from moonlib.artifacts.checksums import SUMS
from moonlib.artifacts.layout import RunLayout
from moonlib.config.recipe import RecipeError
from moonlib.data.build import build
from moonlib.data.dataset import Dataset
from moonlib.exports.folder import export, load
from moonlib.runs.iteration import fit
from moonlib.runs.ownership import RunExistsError
from moonlib.runs.run import Run
from moonlib.runs.warm_start import encoder_origin
from moonlib.stages.training import Checkpoints

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

WEEKLY = [
    "--data.init_args.size=tiny",
    "--stages.posttrain.trainer.max_steps=4",
    "--stages.posttrain.data.batch_size=16",
    "--stages.posttrain.data.workers=1",
    "--stages.refine=null",
    "--stages.represent.data.workers=0",
    "--stages.represent.module.init_args.dims=[]",
    "--stages.application=null",
]
NO_TRAINING = [*WEEKLY[:1], "--stages.posttrain=null", *WEEKLY[4:]]
STILL = [*WEEKLY, "--stages.posttrain.module.init_args.learning_rate=0.0", "--stages.represent=null"]
"""Trains at a rate of 0: the weights that it leaves are those that it started from."""


def start(source: Path | str) -> list[str]:
    return ["--encoder.from", str(source)]


def preprocessing(run: Path) -> str:
    return RunLayout.of(run).fingerprint("preprocessing")


@pytest.fixture(scope="module")
def shipped(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(export(finished_run, tmp_path_factory.mktemp("exports") / "shipped"))


@pytest.fixture
def copied(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the run without links, in another place."""
    return Path(shutil.copytree(finished_run, tmp_path / "elsewhere/week1"))


@pytest.fixture(scope="module")
def renamed(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The tables of the tiny marketplace, without pictures, with a new word in every other title."""
    tables = tmp_path_factory.mktemp("tables")
    for name in ("products", "queries", "searches"):
        table = tiny.table(name).drop("image", "images", strict=False)
        if name == "products":
            new = pl.int_range(pl.len()) % 2 == 0
            table = table.with_columns(title=pl.when(new).then(pl.format("{} zq", "title")).otherwise("title"))
        table.write_parquet(tables / f"{name}.parquet")
    out = build(tables, None, tables / "built", splits=tiny.splits, workers=1)
    return [f"--data={{class_path: shards, init_args: {{path: {out}}}}}"]


def test_without_a_step_the_vectors_are_those_of_the_run_to_the_bit(
    finished_run: Path, shipped: Path, copied: Path, runs: Path
) -> None:
    for name, source in (("run", finished_run), ("export", shipped), ("copy", copied)):
        run = fit("weekly", [*NO_TRAINING, *start(source)], runs=runs, name=name)
        for file in ("represent/products.npy", "represent/queries.npy"):
            assert (run / file).read_bytes() == (finished_run / file).read_bytes(), file
    # Where it lies, and as what, changes nothing.
    assert preprocessing(runs / "run") == preprocessing(runs / "export") == preprocessing(runs / "copy")
    assert (runs / "run/represent").resolve() == (runs / "copy/represent").resolve()


def test_another_content_is_another_start(finished_run: Path, copied: Path) -> None:
    digest = encoder_origin(str(finished_run)).digest
    assert encoder_origin(str(copied)).digest == digest
    for sums in copied.rglob(SUMS):
        sums.unlink()  # of a copy that has lost its checksums, the files are hashed
    assert encoder_origin(str(copied)).digest == digest
    weights = copied / "pretrain/weights.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert encoder_origin(str(copied)).digest != digest


def test_new_words_are_added_and_all_others_mean_what_they_meant(
    finished_run: Path, renamed: list[str], runs: Path, tmp_path: Path
) -> None:
    run = fit("weekly", [*renamed, *NO_TRAINING[1:], *start(finished_run)], runs=runs, name="week2")
    before, after = (Tokenizer.from_file(str(each / "preprocessing/tokenizer.json")) for each in (finished_run, run))
    size = before.get_vocab_size()
    assert after.token_to_id("zq") >= size and before.token_to_id("zq") is None
    titles = Run(finished_run).dataset().table("products")["title"].drop_nulls().to_list()
    same = [text for text in titles if all(each < size for each in after.encode(text).ids)]
    assert len(same) > 0.9 * len(titles)
    assert [after.encode(text).ids for text in same] == [before.encode(text).ids for text in same]
    old, new = load(finished_run), load(run)
    np.testing.assert_array_equal(old.encode(texts=same).numpy(), new.encode(texts=same).numpy())
    rows = (each.state_dict()["text.tokens.weight"] for each in (old, new))
    embedding, grown = next(rows), next(rows)
    assert torch.equal(grown[:size], embedding)
    pieces = embedding[before.encode("zq").ids].mean(dim=0)
    assert torch.equal(grown[after.token_to_id("zq")], pieces)
    # The run is one like any other: it is exported, trained on, and started from.
    folder = export(run, tmp_path / "shipped")
    assert "initial.safetensors" not in [path.name for path in Path(folder).iterdir()]
    np.testing.assert_array_equal(load(folder).encode(texts=["zq mug"]), new.encode(texts=["zq mug"]))
    week3 = fit("weekly", [*renamed, *NO_TRAINING[1:], *start(run)], runs=runs, name="week3")
    for file in ("represent/products.npy", "preprocessing/tokenizer.json", "preprocessing/initial.safetensors"):
        assert (week3 / file).read_bytes() == (run / file).read_bytes(), file


def test_training_begins_with_the_weights_of_the_run_or_of_the_stage(
    finished_run: Path, copied: Path, runs: Path
) -> None:
    expected = load_file(finished_run / "pretrain/weights.safetensors")
    encoder = fit("weekly", [*STILL, *start(finished_run)], runs=runs, name="encoder")
    # Of the weights of this run's encoder, none are used: those of the stage are.
    declared = ["--encoder", str(Run(finished_run).config["encoder"])]
    stage = f"--stages.posttrain.from={finished_run}/pretrain"
    of_stage = fit("weekly", [*STILL, *declared, stage], runs=runs, name="stage")
    for run in (encoder, of_stage):
        found = load_file(run / "posttrain/weights.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    moved = f"--stages.posttrain.from={copied}/pretrain"
    again = fit("weekly", [*STILL, *declared, moved], runs=runs, name="moved")
    assert (again / "posttrain").resolve() == (of_stage / "posttrain").resolve()
    assert Run(again).recipe.stages["posttrain"].source == f"{copied}/pretrain"


class CutOff(Exception):
    """Stands for the end of a process."""


def test_a_warm_start_that_is_cut_off_resumes_to_the_same_bits(
    finished_run: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*WEEKLY, *start(finished_run), "--stages.represent=null"]
    unbroken = fit("weekly", overrides, runs=runs, name="unbroken")
    weights = (unbroken / "posttrain/weights.safetensors").read_bytes()
    for stage in ("preprocessing", "posttrain"):
        shutil.rmtree((unbroken / stage).resolve())
    hook, attempts = Checkpoints.on_train_batch_end, 0

    def cut_off(
        self: Checkpoints, trainer: Trainer, module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self.position.batch:  # saved in this attempt: the batch after that was trained in vain
            raise CutOff
        hook(self, trainer, module, outputs, batch, batch_idx)

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", cut_off)
    while True:
        try:
            fit("weekly", overrides, runs=runs, name="unbroken", checkpoint_seconds=0)
        except CutOff:
            attempts += 1
            assert attempts < 10
        else:
            break
    assert attempts > 2
    assert (unbroken / "posttrain/weights.safetensors").read_bytes() == weights


def test_an_attempt_that_ended_while_words_were_added_begins_anew(
    finished_run: Path, renamed: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*renamed, *NO_TRAINING[1:], *start(finished_run)]
    with monkeypatch.context() as patch:
        patch.setattr("moonlib.runs.runner.grow_weights", lambda *_: (_ for _ in ()).throw(CutOff))
        with pytest.raises(CutOff):
            fit("weekly", overrides, runs=runs, name="cut")
    (partial,) = (runs / ".stages").glob("*.partial")
    size = Tokenizer.from_file(str(finished_run / "preprocessing/tokenizer.json")).get_vocab_size()
    assert Tokenizer.from_file(str(partial / "tokenizer.json")).get_vocab_size() > size
    run = fit("weekly", overrides, runs=runs, name="cut")
    shutil.rmtree((run / "preprocessing").resolve())
    cut = (run / "represent/products.npy").read_bytes()
    shutil.rmtree((run / "represent").resolve())
    assert (fit("weekly", overrides, runs=runs, name="cut") / "represent/products.npy").read_bytes() == cut


def test_two_processes_start_from_the_same_weights(finished_run: Path, runs: Path, cli: Cli) -> None:
    pair = [f"--stages.posttrain.trainer.{key}" for key in ("devices=2", "accelerator=cpu", "strategy=ddp")]
    done = cli("fit", "--config", "weekly", "--runs", runs, "--name", "pair", *STILL, *start(finished_run), *pair)
    assert done.returncode == 0, done.stderr
    expected, found = (
        load_file(place / "weights.safetensors") for place in (finished_run / "pretrain", runs / "pair/posttrain")
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_run_is_read_when_what_it_started_from_is_gone(copied: Path, runs: Path) -> None:
    run = fit("weekly", [*NO_TRAINING, *start(copied)], runs=runs, name="week2")
    shutil.rmtree(copied)
    assert load(run).dim == 32
    assert Run(run).recipe.encoder_source == str(copied)


def test_a_finished_run_is_reused_when_what_it_started_from_is_gone(
    copied: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*STILL[:-1], *start(copied), "--stages.posttrain.from", f"{copied}/pretrain"]
    run = fit("weekly", words, runs=runs, name="week2")
    made = {link: (run / link).resolve() for link in ("preprocessing", "posttrain", "represent")}
    vectors = (run / "represent/products.npy").read_bytes()
    shutil.rmtree(copied)
    capsys.readouterr()
    shutil.rmtree(made["represent"])  # which needs nothing of week1
    assert fit("weekly", words, runs=runs, name="week2") == run
    told = " ".join(capsys.readouterr().out.split())
    assert f"no longer there: {copied}, {copied}/pretrain; what this run has finished is reused without" in told
    assert {link: (run / link).resolve() for link in made} == made
    assert (run / "represent/products.npy").read_bytes() == vectors

    missing = r"from: .*week1\S*: there is no such run directory"
    for refused in (
        lambda: fit("weekly", words, runs=runs, name="another"),
        lambda: fit("weekly", [*words, "--seed=3"], runs=runs, name="another"),
        lambda: fit("weekly", words, runs=runs, name="week2", replace=True),
    ):
        with pytest.raises(RecipeError, match=missing):
            refused()
    with pytest.raises(RunExistsError, match="differs:\n  seed: 0 -> 3"):
        fit("weekly", [*words, "--seed=3"], runs=runs, name="week2")
    for link in ("posttrain", "preprocessing"):  # work that needs week1
        shutil.rmtree(made[link])
        with pytest.raises(RecipeError, match=missing):
            fit("weekly", words, runs=runs, name="week2")
        assert not made[link].exists()


def test_a_recipe_without_an_encoder_says_how_to_give_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"stages\.posttrain needs an encoder: declare one, or start from that of a"):
        fit("weekly", WEEKLY, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (
            lambda run: shutil.rmtree(run / "pretrain"),
            r"is not finished: pretrain is missing; .* or start from another",
        ),
        (lambda run: shutil.rmtree(run / "preprocessing"), r"is not finished: preprocessing is missing"),
        (lambda run: (run / "pretrain/weights.safetensors").unlink(), r"pretrain/weights\.safetensors is missing"),
        (lambda run: damage(run / "pretrain/weights.safetensors"), r"weights\.safetensors is damaged: its SHA-256 is"),
        (lambda run: damage(run / "preprocessing/tokenizer.json"), r"tokenizer\.json is damaged: its SHA-256 is"),
    ],
)
@pytest.mark.parametrize("key", ["encoder.from", "stages.posttrain.from"])
def test_a_run_that_lacks_something_is_refused_before_anything_is_built(
    copied: Path, tmp_path: Path, spoil: Callable[[Path], None], problem: str, key: str
) -> None:
    encoder = ["--encoder", str(Run(copied).config["encoder"])]
    spoil(copied)
    source = [f"--{key}={copied}"] if key == "encoder.from" else [*encoder, f"--{key}={copied}/pretrain"]
    with pytest.raises(RecipeError, match=rf"^{key}: .*{problem}"):
        fit("weekly", [*WEEKLY, *source], runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_an_export_that_lacks_something_is_refused(shipped: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shipped, tmp_path / "shipped"))
    damage(folder / "model.safetensors")
    with pytest.raises(RecipeError, match=r"encoder\.from: .*model\.safetensors is damaged"):
        fit("weekly", [*WEEKLY, *start(folder)], runs=tmp_path / "runs")
    (folder / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match=r"encoder\.from: .*model\.safetensors is missing; export the run again"):
        fit("weekly", [*WEEKLY, *start(folder)], runs=tmp_path / "runs")
    with pytest.raises(RecipeError, match=r"stages\.posttrain\.from: .*shipped is an export, which holds no stages"):
        fit("weekly", [*WEEKLY, *start(shipped), f"--stages.posttrain.from={folder}"], runs=tmp_path / "runs")


def test_weights_of_another_tokenizer_are_refused_before_a_stage_is_trained(
    finished_run: Path, renamed: list[str], runs: Path
) -> None:
    declared = ["--encoder", str(Run(finished_run).config["encoder"])]
    stage = f"--stages.posttrain.from={finished_run}/pretrain"
    with pytest.raises(RecipeError, match=r"^stages\.posttrain\.from: the tokenizer\.json of .* is not this run's"):
        fit("weekly", [*renamed, *STILL[1:], *declared, stage], runs=runs, name="other")
    assert [path.name for path in (runs / "other").iterdir() if path.is_symlink()] == ["preprocessing"]


def test_a_stage_of_another_kind_is_refused(finished_run: Path, tmp_path: Path) -> None:
    stage = f"--stages.posttrain.from={finished_run}/represent"
    with pytest.raises(RecipeError, match=r"iter1/represent is of class Represent, which trains no encoder: give RUN"):
        fit("weekly", [*WEEKLY, *start(finished_run), stage], runs=tmp_path / "runs")
    clicks = f"--stages.application.from={finished_run}/pretrain"
    with_clicks = [word for word in WEEKLY if word != "--stages.application=null"]
    with pytest.raises(RecipeError, match="iter1/pretrain is of class Pretraining, and this stage of Application"):
        fit("weekly", [*with_clicks, *start(finished_run), clicks], runs=tmp_path / "runs")


def test_a_run_that_trained_nothing_is_no_start(finished_run: Path, data_cache: Path, tmp_path: Path) -> None:
    overrides = ["--encoder", str(Run(finished_run).config["encoder"]), "--stages.application=null"]
    (tmp_path / ".data").symlink_to(data_cache)
    untrained = fit("iter1", [WEEKLY[0], *overrides, "--stages.pretrain=null"], runs=tmp_path, name="untrained")
    with pytest.raises(RecipeError, match=r"encoder\.from: no stage of .*untrained trains the encoder: give a"):
        fit("weekly", [*WEEKLY, *start(untrained)], runs=tmp_path)
