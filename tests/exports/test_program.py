"""What `moonlib export --to` writes runs without moonlib, and gives the encoder's vectors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from PIL import Image

import moonlib
from moonlib.artifacts.checksums import sums, verify_all
from moonlib.cli import main
from moonlib.exports import program as programs
from moonlib.exports.folder import Export, export
from moonlib.runs.run import Run, RunError
from moonlib.testing.checkpoints import example_checkpoint

Finished = Callable[[dict[str, Any]], Path]

needs_onnx = pytest.mark.skipif(
    any(programs.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")), reason="extra onnx"
)

CONVNET = {
    "class_path": "convnet",
    "init_args": {"image_size": 32, "width": 8, "depths": [0, 1], "grid": 2, "colours": 2},
}
TRANSFORMER = {"class_path": "transformer", "init_args": {"vocab_size": 300, "width": 16, "max_length": 12}}
NGRAMS = {"class_path": "ngrams", "init_args": {"n": [3, 4], "buckets": 500, "width": 16, "max_features": 12}}
TIMM = {"class_path": "timm", "init_args": {"model": "test_vit", "image_size": 32}}


def dual(fusion: str = "gated", **arguments: Any) -> dict[str, Any]:
    given = {name: value for name, value in arguments.items() if value}
    return {"class_path": "dual", "init_args": {"fusion": fusion, "dim": 8, **given}}


def vectors_of(folder: Path, rows: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Run a program on noise, with nothing but what its config.json says."""
    config = json.loads((folder / "config.json").read_text())
    generator = np.random.default_rng(0)
    inputs = {}
    for name, about in config["inputs"].items():
        shape = [{"batch": rows, "length": 7}.get(size, size) for size in about["shape"]]
        low, high = {"bool": (0, 2), "uint8": (0, 256), "int64": (0, 10)}[about["dtype"]]
        inputs[name] = generator.integers(low, high, shape).astype(about["dtype"])
    inputs.setdefault("text_mask", np.ones((rows, 7), dtype=bool))[:, 0] = True
    given = {name: inputs[name] for name in config["inputs"]}
    if config["program"] == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / config["file"]))
        assert [each.name for each in session.get_inputs()] == list(config["inputs"])
        return session.run(["representation"], given)[0], given
    program = torch.export.load(folder / config["file"]).module()
    with torch.no_grad():
        return program(*map(torch.from_numpy, given.values())).numpy(), given


def expected_of(run: Path, given: dict[str, np.ndarray]) -> np.ndarray:
    """What the run's encoder makes of a program's inputs, by way of its own batch."""
    batch = {name: torch.from_numpy(value) for name, value in given.items()}
    if "text" in batch:
        batch["text_mask"] = batch["text_mask"] & batch.pop("has_text").unsqueeze(1)
    with torch.no_grad():
        return Run(run).encoder()(batch).numpy()


@pytest.mark.parametrize(("text", "tokenizer"), [(TRANSFORMER, "tokenizer.json"), (NGRAMS, "tokenizer.py")])
@pytest.mark.parametrize("to", [pytest.param("onnx", marks=needs_onnx), "torch"])
def test_a_program_gives_the_encoders_vectors_and_its_card_says_how(
    finished: Finished, tmp_path: Path, to: Any, text: dict[str, Any], tokenizer: str
) -> None:
    run = finished(dual("gated", image=CONVNET, text=text, crop=["full", "box"]))
    out = export(run, tmp_path / "shipped", to=to, license="apache-2.0")
    for rows in (1, 2, 5):
        found, given = vectors_of(out, rows)
        np.testing.assert_allclose(found, expected_of(run, given), atol=1e-4)
    assert not verify_all(out)
    written = {"config.json", {"onnx": "model.onnx", "torch": "model.pt2"}[to], "recipe.yaml", tokenizer}
    assert {path.name for path in out.iterdir()} == {"README.md", "moonlib.sha256"} | written
    assert set(sums(out)) == written
    # Neither paths of this machine nor its code travel with it.
    content = b"".join(path.read_bytes() for path in out.iterdir() if path.name != "recipe.yaml")
    assert str(Path(programs.__file__).parent).encode() not in content

    card = (out / "README.md").read_text(encoding="utf-8")
    code = next(each.content for each in MarkdownIt().parse(card) if each.type == "fence" and each.info == "python")
    told = json.loads((out / "config.json").read_text())["text"]
    assert told == {"tokenizer": tokenizer, "max_length": 12, "padded": False}
    code = "import sys\nsys.modules['moonlib'] = None\n" + code + "\nnp.save('found.npy', vectors)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    photo = Image.new("RGB", (600, 400), "red")
    expected = Run(run).encoder().encode([photo, None], ["red mug", "红色马克杯"])
    np.testing.assert_allclose(np.load(out / "found.npy"), expected.numpy(), atol=1e-4)
    assert "license: apache-2.0" in card and f"library_name: {'onnx' if to == 'onnx' else 'pytorch'}" in card
    for name in ("image", "has_image", "subject", "has_subject", "text", "text_mask", "has_text"):
        assert re.search(rf"\| `{name}` \| \w+ \| batch", card), name


@needs_onnx
@pytest.mark.parametrize(
    ("encoder", "inputs"),
    [
        (dual("sum", text=TRANSFORMER), ["text", "text_mask", "has_text"]),
        (dual("concat", image=CONVNET, crop=["box"]), ["image", "has_image"]),
    ],
    ids=["texts", "pictures"],
)
def test_an_onnx_model_of_one_modality(
    finished: Finished, tmp_path: Path, encoder: dict[str, Any], inputs: list[str]
) -> None:
    run = finished(encoder)
    out = export(run, tmp_path / "shipped", to="onnx")
    found, given = vectors_of(out, 3)
    assert list(given) == inputs and (out / "tokenizer.json").exists() == ("text" in inputs)
    np.testing.assert_allclose(found, expected_of(run, given), atol=1e-4)


@needs_onnx
def test_towers_of_timm_and_transformers_in_onnx(finished: Finished, elsewhere: Path, tmp_path: Path) -> None:
    text = {"class_path": "hf_text", "init_args": {"model": str(elsewhere / "bert"), "max_length": 9}}
    run = finished(dual("concat", image=TIMM, text=text))
    out = export(run, tmp_path / "shipped", to="onnx")
    found, given = vectors_of(out, 3)
    np.testing.assert_allclose(found, expected_of(run, given), atol=1e-4)
    assert "The licences of the weights that training started from apply too." in (out / "README.md").read_text()
    assert json.loads((out / "config.json").read_text())["text"]["max_length"] == 9


@needs_onnx
def test_both_halves_of_one_checkpoint_in_onnx(finished: Finished, tmp_path: Path) -> None:
    # Without projections: a sum of unit vectors, of halves that are as wide as the representation.
    model = example_checkpoint("clip", tmp_path / "clip")
    run = finished({"class_path": "clip", "init_args": {"model": model}})
    out = export(run, tmp_path / "shipped", to="onnx")
    found, given = vectors_of(Path(out), 3)
    np.testing.assert_allclose(found, expected_of(run, given), atol=1e-4)
    assert (Path(out) / "preprocessor_config.json").is_file()


FALSE_TOWER = """
import torch
from moonlib.encoders.convnet import ConvNet

class Elsewhere(ConvNet):
    def forward(self, image):
        # Another computation while torch follows it.
        return super().forward(image) + (0.5 if torch.compiler.is_compiling() else 0)

class Sorting(ConvNet):
    def forward(self, image):
        states = super().forward(image)
        return states if states.sum() > 0 else -states
"""


@pytest.fixture
def odd_towers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/odd_towers.py").write_text(FALSE_TOWER)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))


@pytest.mark.usefixtures("odd_towers")
@pytest.mark.parametrize(
    ("tower", "told"),
    [
        ("odd_towers.Elsewhere", r"vectors \(torch\) differ from the encoder's by 0\.\d+, and at most 0\.0001 is"),
        ("odd_towers.Sorting", r"torch\.export cannot follow its towers \(Sorting, Transformer\): "),
    ],
)
def test_a_program_that_is_not_the_encoder_is_not_written(
    finished: Finished, tmp_path: Path, tower: str, told: str
) -> None:
    image = {"class_path": tower, "init_args": CONVNET["init_args"]}
    run = finished(dual("sum", image=image, text=TRANSFORMER))
    with pytest.raises(RunError, match=told):
        export(run, tmp_path / "shipped", to="torch")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["modules", "runs"]


def test_what_is_no_dual_encoder_says_so(finished: Finished, tmp_path: Path) -> None:
    run = finished({"class_path": "moonlib.encoders.thumbnail.Thumbnail"})
    with pytest.raises(RunError, match="its encoder is a Thumbnail, and only dual encoders can be exported --to torch"):
        export(run, tmp_path / "shipped", to="torch")
    assert not (tmp_path / "shipped").exists()


class WordTokenizer:
    def __call__(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(len(texts), 4, dtype=torch.int64), torch.ones(len(texts), 4, dtype=torch.bool)


def test_a_tokenizer_that_cannot_travel_is_told(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(dual("sum", text=TRANSFORMER))
    encoder = Run(run).encoder()
    encoder.text.tokenize = WordTokenizer()  # type: ignore[union-attr]
    with pytest.raises(RunError, match="tokenizer, a WordTokenizer, can't be written for the library tokenizers"):
        programs.write_program(encoder, "torch", tmp_path, "run")
    encoder = Run(run).encoder()
    own = encoder.text.tokenize  # type: ignore[union-attr]
    lowered = type(
        "Doubled", (), {"tokenizer": own.tokenizer, "__call__": lambda _, texts: own([t * 2 for t in texts])}
    )
    encoder.text.tokenize = lowered()  # type: ignore[union-attr]
    with pytest.raises(RunError, match=r"makes other tokens of 'red cotton mug, 350 ml' than the text tower does"):
        programs.write_program(encoder, "torch", tmp_path, "run")


def test_what_is_missing_or_there_already_is_told_first(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(dual("sum", text=TRANSFORMER))
    monkeypatch.setattr(programs, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(RunError, match=r"--to onnx needs onnxruntime: pip install 'moonlib-embedding\[onnx\]'"):
        export(run, tmp_path / "shipped", to="onnx")
    with pytest.raises(RunError, match="can be exported to onnx, torch, or without --to"):
        export(run, tmp_path / "shipped", to="tflite")  # type: ignore[arg-type]
    assert not (tmp_path / "shipped").exists()
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped/mine.txt").write_text("")
    with pytest.raises(FileExistsError, match="is there already; choose another place"):
        export(run, tmp_path / "shipped", to="torch")
    assert main(["export", str(run), str(tmp_path / "other"), "--to", "torch"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("next: run it without moonlib, as ")
    with pytest.raises(RunError, match=r"is an export --to torch: its README\.md says how to run it"):
        moonlib.load(tmp_path / "other")
    with pytest.raises(RunError, match="is an export --to torch"):
        Export(tmp_path / "other")
