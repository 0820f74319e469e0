"""What `moonlib export` writes is opened without the run, its data and a network, to the same bits."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import moonlib.compat
import numpy as np
import polars as pl
import pytest
import torch
import yaml

import moonlib
from moonlib.artifacts.checksums import SUMS
from moonlib.cli import main
from moonlib.cli.errors import is_users
from moonlib.data.content import Modalities
from moonlib.data.dataset import Dataset
from moonlib.encoders.encoder import Encoder
from moonlib.exports import folder as exporting
from moonlib.exports.folder import Export, export, represented
from moonlib.exports.model_card import plain
from moonlib.inference.evaluation import evaluate
from moonlib.inference.searching import index as build_index
from moonlib.inference.searching import search
from moonlib.runs.iteration import fit
from moonlib.runs.run import Run, RunError
from moonlib.testing import example_products
from moonlib.testing.mllm import example_mllm_config


@pytest.fixture(scope="module")
def exported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the finished run, tried by a process of its own; read it, and copy to change."""
    return export(finished_run, tmp_path_factory.mktemp("exports") / "shipped", license="apache-2.0")


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copied"))


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the seconds that the other process takes; what it does, such a test does itself."""
    monkeypatch.setattr(exporting, "_try", lambda *_: None)


def same(one: Encoder, other: Encoder) -> bool:
    state, others = one.state_dict(), other.state_dict()
    assert state.keys() == others.keys()
    alike = all(torch.equal(value, others[name]) for name, value in state.items())
    return alike and represented(one).tobytes() == represented(other).tobytes()


def test_the_export_is_the_runs_encoder_and_represents_as_the_run_did(
    finished_run: Path, exported: Path, tiny: Dataset, tmp_path: Path
) -> None:
    state = torch.random.get_rng_state()
    encoder = moonlib.load(exported)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not encoder.training and same(encoder, Run(finished_run).encoder())
    out = moonlib.embed(exported, tiny.directory, tmp_path / "out", queries=tiny.directory, workers=0)
    for name in ("products.npy", "products.ids.npy", "queries.npy", "queries.ids.npy"):
        assert (out / name).read_bytes() == (finished_run / "represent" / name).read_bytes()
    assert Export(exported).fingerprint == Run(finished_run).fingerprint
    assert Export(exported).modalities("query") == Modalities(True, "title")


@pytest.mark.usefixtures("untried")
def test_a_language_model_from_scratch_is_exported_as_it_represented(runs: Path, tiny: Dataset, tmp_path: Path) -> None:
    encoder = {
        "class_path": "mllm",
        "init_args": {"config": example_mllm_config(), "vocab_size": 300, "dim": 8, "max_length": 8},
    }
    overrides = [
        "--data.init_args.size=tiny",
        f"--encoder={json.dumps(encoder)}",
        "--stages.pretrain.trainer.max_steps=2",
        "--stages.pretrain.data.batch_size=8",
        "--stages.pretrain.data.workers=0",
        "--stages.represent.data.workers=0",
        "--stages.represent.data.queries=measured",
        "--stages.represent.data.batch_size=5",
        "--stages.application=null",
    ]
    run = fit("iter1", overrides, runs=runs, name="mllm")
    out = export(run, tmp_path / "shipped")
    assert Run(run).batch_size == Export(out).batch_size == 5
    stored = {name: (run / "represent" / name).read_bytes() for name in ("products.npy", "products.ids.npy")}
    expected = Run(run).encoder()
    shutil.rmtree(runs)
    assert same(moonlib.load(out), expected)
    vectors = moonlib.embed(out, tiny.directory, tmp_path / "vectors", workers=0)
    assert {name: (vectors / name).read_bytes() for name in stored} == stored


def dual(**towers: dict[str, Any] | None) -> dict[str, Any]:
    fusion = {"class_path": "moonlib.fusion.sum.Sum"}
    return {
        "class_path": "moonlib.encoders.dual.DualEncoder",
        "init_args": {"fusion": fusion, "dim": 8, **{name: tower for name, tower in towers.items() if tower}},
    }


@pytest.mark.usefixtures("untried")
def test_towers_that_started_from_elsewhere_need_it_no_more(
    finished: Callable[[dict[str, Any]], Path], elsewhere: Path, tmp_path: Path
) -> None:
    image = {"model": f"local-dir:{elsewhere / 'convnext'}", "pretrained": True, "image_size": 32}
    run = finished(
        dual(
            image={"class_path": "moonlib.encoders.timm_tower.TimmTower", "init_args": image},
            text={"class_path": "moonlib.encoders.hf_text.HFText", "init_args": {"model": str(elsewhere / "bert")}},
        )
    )
    expected = Run(run).encoder()
    out = export(run, tmp_path / "shipped")
    shutil.rmtree(elsewhere)
    shutil.rmtree(run.parent)
    moved = out.rename(tmp_path / "moved")
    assert same(moonlib.load(moved), expected)
    assert str(tmp_path) not in (moved / "config.json").read_text()
    card = (moved / "README.md").read_text()
    assert "The licences of the weights that training started from apply too." in card
    assert "HFText" in card and "TimmTower" in card
    assert not [path for path in moved.rglob("*.safetensors") if path.name != "model.safetensors"]


@pytest.mark.usefixtures("untried")
def test_counts_of_ngrams_travel(finished: Callable[[dict[str, Any]], Path], tmp_path: Path) -> None:
    text = {"class_path": "ngrams", "init_args": {"buckets": 500, "width": 16}}
    run = finished({"class_path": "dual", "init_args": {"fusion": "sum", "text": text, "dim": 8}})
    out = export(run, tmp_path / "shipped")
    name = "ngrams.safetensors"
    assert (Path(out) / name).read_bytes() == (run / "preprocessing" / name).read_bytes()
    texts = ["red mug", "红色 mug"]
    assert torch.equal(moonlib.load(out).encode(texts=texts), moonlib.load(run).encode(texts=texts))
    (Path(out) / name).unlink()
    with pytest.raises(RunError, match=r"lacks the encoder's fitted|is missing"):
        moonlib.load(out)
    assert not (Path(out) / name).exists()


@pytest.mark.parametrize("preset", ["qwen2_vl_small", "smolvlm_small"])
def test_a_language_model_that_started_from_elsewhere_needs_it_no_more(
    finished: Callable[[dict[str, Any]], Path], tmp_path: Path, preset: str
) -> None:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from moonlib.encoders.mllm.encoder import MLLM
    from moonlib.encoders.tokenizer import load_or_fit_tokenizer

    # A model of the family with a tokenizer that holds its marks, as it would come from the hub.
    marks = ["<end_of_utterance>", "<fake_token_around_image>", "<global-img>"]
    scratch = MLLM(config=example_mllm_config(preset), vocab_size=300)
    load_or_fit_tokenizer(example_products(), tmp_path / "fitted", 300)
    tokenizer = Tokenizer.from_file(str(tmp_path / "fitted/tokenizer.json"))
    tokenizer.add_special_tokens(marks)
    tokenizer.save(str(tmp_path / "fitted/tokenizer.json"))
    scratch.setup(pl.DataFrame(), tmp_path / "fitted")
    folder = tmp_path / "elsewhere"
    scratch.body.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=scratch.questions.tokenizer).save_pretrained(folder)

    arguments = {"model": str(folder), "dim": 8, "max_length": 8}
    run = finished({"class_path": "moonlib.encoders.mllm.encoder.MLLM", "init_args": arguments})
    expected = Run(run).encoder()
    out = export(run, tmp_path / "shipped")
    shutil.rmtree(folder)
    assert same(moonlib.load(out), expected)


@pytest.mark.usefixtures("untried")
def test_a_pretrained_model_that_timm_knows_is_not_asked_for_again(
    finished: Callable[[dict[str, Any]], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    original, asked = timm.create_model, []

    def create_model(name: str, pretrained: bool = False, **more: Any) -> Any:
        asked.append(pretrained)
        return original(name, **more)

    monkeypatch.setattr(timm, "create_model", create_model)
    arguments = {"model": "test_vit", "pretrained": True, "image_size": 32}
    run = finished(dual(image={"class_path": "moonlib.encoders.timm_tower.TimmTower", "init_args": arguments}))
    expected = Run(run).encoder()
    out = export(run, tmp_path / "shipped")
    assert asked == [True, True, True]
    assert same(moonlib.load(out), expected)
    assert asked[3:] == [False]


READER = """
from pathlib import Path
from moonlib.encoders.thumbnail import Thumbnail

class Reader(Thumbnail):
    def __init__(self, file: str, size: int = 2) -> None:
        super().__init__(size)
        self.file = file

    def setup(self, products, directory) -> None:
        if not Path(self.file).is_file():
            raise ValueError(f"no file {Path(self.file).name}")
        super().setup(products, directory)
"""


def test_what_an_export_would_still_need_is_found_before_it_is_written(
    finished: Callable[[dict[str, Any]], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/reader_of_files.py").write_text(READER)
    (tmp_path / "words.txt").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.chdir(tmp_path)
    run = finished({"class_path": "reader_of_files.Reader", "init_args": {"file": "words.txt"}})
    with pytest.raises(RunError, match=r"cannot be opened from an export alone, .*no file words\.txt.*save_architec"):
        export(run, "shipped")
    absolute = (run / "recipe.yaml").read_text().replace("words.txt", str(tmp_path / "words.txt"))
    (run / "recipe.yaml").write_text(absolute)
    with pytest.raises(RunError, match=r"the encoder's init_args\.file is .*words\.txt, a place of this machine"):
        export(run, "shipped")
    assert {path.name for path in tmp_path.iterdir()} == {"modules", "words.txt", "runs"}


@pytest.mark.usefixtures("untried")
def test_the_same_run_gives_the_same_bytes_and_nothing_is_overwritten(
    finished_run: Path, exported: Path, copied: Path, tmp_path: Path
) -> None:
    again = export(finished_run, tmp_path / "new/again", license="apache-2.0")
    files = sorted(path.relative_to(exported) for path in exported.rglob("*"))
    assert files == sorted(path.relative_to(again) for path in again.rglob("*"))
    assert all((again / file).read_bytes() == (exported / file).read_bytes() for file in files)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["again"]
    before = (again / "model.safetensors").stat().st_ino
    assert export(finished_run, again, license="apache-2.0") == again
    assert (again / "model.safetensors").stat().st_ino == before

    (copied / "README.md").write_text("my own words")
    with pytest.raises(FileExistsError, match=r"differs in README\.md; it is left as it is"):
        export(finished_run, copied, license="apache-2.0")
    assert (copied / "README.md").read_text() == "my own words"
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"fingerprint": "0" * 16}))
    with pytest.raises(FileExistsError, match=r"is there already, and can't be opened .*config\.json is damaged"):
        export(finished_run, copied)
    (copied / SUMS).unlink()
    with pytest.raises(FileExistsError, match="holds the export of another encoder, 0000"):
        export(finished_run, copied)
    with pytest.raises(FileExistsError, match="is there already, and can't be opened as an export"):
        export(finished_run, finished_run.parent)
    (tmp_path / "empty").mkdir()
    assert Export(export(finished_run, tmp_path / "empty")).fingerprint == Run(finished_run).fingerprint


def test_what_is_neither_a_run_nor_an_export_is_told(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no such run directory"):
        moonlib.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"neither a run directory, it has no recipe\.yaml, nor an export"):
        moonlib.load(tmp_path / "empty")
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json is damaged.*remove it and export the run again"):
        moonlib.load(copied)
    (copied / SUMS).unlink()  # whoever writes an export by hand notes no checksums
    for text, told in (
        ("{", "is no JSON file"),
        ('{"model_type": "bert"}', "was not written by `moonlib export`"),
        (json.dumps(config | {"moonlib_export": 99, "moonlib_version": "9.1"}), r"moonlib 9\.1; .*pip install"),
        (json.dumps({key: config[key] for key in config if key != "encoder"}), "it has no encoder"),
    ):
        (copied / "config.json").write_text(text)
        with pytest.raises(RunError, match=told):
            moonlib.load(copied)
    gone = config | {"encoder": {"class_path": "moonlib_gone.Tall"}, "versions": {"moonlib-gone": "0.7.1"}}
    (copied / "config.json").write_text(json.dumps(gone))
    with pytest.raises(RunError, match=r"moonlib_gone\.Tall.*it was made with .*pip install moonlib-gone==0\.7\.1"):
        moonlib.load(copied)
    narrower = json.loads(json.dumps(config))
    narrower["encoder"]["init_args"]["dim"] = 16
    narrower["versions"]["torch"] = "1.0"
    (copied / "config.json").write_text(json.dumps(narrower))
    with pytest.raises(RunError, match=r"belongs to another encoder.*made with torch 1\.0 \(installed: "):
        moonlib.load(copied)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_file_that_is_missing_is_told_and_not_made(copied: Path, file: str) -> None:
    (copied / file).unlink()
    with pytest.raises(RunError, match=r"lacks the encoder's fitted|is missing"):
        moonlib.load(copied)
    assert not (copied / file).exists()


def test_verbs_take_an_export_or_say_that_they_need_the_run(
    exported: Path, finished_run: Path, tiny: Dataset, tmp_path: Path
) -> None:
    out = moonlib.embed(exported, tiny.directory, tmp_path / "out", workers=0)
    index = build_index(out, "flat").path
    found = search(exported, text="red mug", index=index, k=3)
    expected = search(finished_run, text="red mug", k=3)
    assert [hit.item_id for hit in found] == [hit.item_id for hit in expected]
    with pytest.raises(RunError, match=r"holds no representations; .*--index"):
        search(exported, text="red mug")
    with pytest.raises(RunError, match=r"is an export .*needs a run directory"):
        evaluate(exported, tiny.directory)


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    _, front, card = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), card


def test_the_card_tells_results_beside_their_baselines_and_nothing_else(exported: Path, finished_run: Path) -> None:
    front, card = card_of(exported)
    assert front["license"] == "apache-2.0" and front["library_name"] == "moonlib"
    assert {"image", "text"} <= set(front["tags"])
    results, rows = Run(finished_run).results, 0
    heads = {"this encoder": "", "oracle": "oracle/", "initial weights": "baseline/initial/"} | {
        name: f"baseline/{name}/" for name in ("chance", "thumbnail")
    }
    for table in re.findall(r"\| metric \|.*\n(?:\|.*\n)+", card):
        head, _, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
        for key, *cells in lines:
            rows += 1
            for title, cell in zip(head[1:], cells, strict=True):
                value = results.get(heads[title] + key)
                assert cell == ("" if value is None else f"{value:.4f}"), (key, title)
    own = [key for key in results if not key.startswith(("baseline/", "oracle/", "valid/"))]
    assert rows == len(own) > 0
    assert "2511.11305" in card and "a simulation" in card and Run(finished_run).dataset().hash in card
    recipe = re.search(r"```yaml\n(.*?)```", card, re.DOTALL)
    assert recipe and yaml.safe_load(recipe[1]) == Run(finished_run).config
    assert (exported / "recipe.yaml").read_text() == recipe[1]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("costs.json", "[1]", "costs.json holds no JSON object"),
        (
            "costs.json",
            '{"pretrain": {"seconds": "long"}}',
            "'seconds' of 'pretrain' is 'long', and should be a number",
        ),
        ("results.json", '{"ctr/auc": {"test": 1}}', "results.json: 'ctr/auc' is"),
    ],
)
def test_a_card_is_made_of_numbers_or_not_at_all(
    finished_run: Path, tmp_path: Path, name: str, content: str, told: str
) -> None:
    copied = shutil.copytree(finished_run.parent, tmp_path / "runs", symlinks=True) / finished_run.name
    (copied / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        export(copied, tmp_path / "shipped")
    assert is_users(caught.value) and not (tmp_path / "shipped").exists()


def test_the_cards_snippet_runs(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", card_of(exported)[1], re.DOTALL)
    names: dict[str, Any] = {}
    monkeypatch.chdir(exported)
    assert code
    exec(code[1], names)
    assert names["vectors"].shape == (2, 32) and torch.allclose(names["cosines"].diag(), torch.ones(2))


@pytest.mark.usefixtures("untried")
def test_what_users_wrote_is_shown_as_it_is(finished: Callable[[dict[str, Any]], Path], tmp_path: Path) -> None:
    from markdown_it import MarkdownIt

    run = finished({"class_path": "moonlib.encoders.thumbnail.Thumbnail", "init_args": {"size": 2}})
    wicked = "<script>x</script> [a](http://b) | `c` *d* ```"
    recipe = yaml.safe_load((run / "recipe.yaml").read_text()) | {"changes": {"_a_": wicked}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    front, card = card_of(export(run.rename(run.with_name("run *1*")), tmp_path / "shipped", license="a: [b"))
    assert front["license"] == "a: [b" and front["tags"][-1] == "image"
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(card)
    assert "<h1>run *1*</h1>" in page and "<script" not in page and 'href="http://b"' not in page
    assert "[a](http://b) | `c` *d* ```" in page and "_a_: " in page
    blocks = [token for token in MarkdownIt().parse(card) if token.type == "fence" and token.info == "yaml"]
    assert [yaml.safe_load(block.content) for block in blocks] == [recipe]
    assert np.isfinite(represented(moonlib.load(tmp_path / "shipped"))).all()
    assert plain("snake_case_key@32d") == "snake_case_key@32d"


@pytest.mark.usefixtures("untried")
def test_the_command(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(finished_run), "shipped"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("shipped, ") and said[1].startswith("next: moonlib embed shipped --products")
    assert "license: unknown" in (tmp_path / "shipped/README.md").read_text()
    assert main(["export", "shipped", "twice"]) == 2
    assert main(["export", str(finished_run), str(finished_run)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and "needs a run directory" in told[0] and "is not an export" in told[1]
