"""What a disk, a copy or an editor changed in a finished run is told by the file's name, and can be made again."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from moonlib.artifacts.checksums import SUMS, Damaged
from moonlib.artifacts.reading import read_json
from moonlib.cli import main
from moonlib.runs.run import Run
from moonlib.studies.paired import searches


@pytest.fixture
def runs(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs with the finished iter1, to damage; the current directory is the one above."""
    shutil.copytree(finished_run.parent, tmp_path / "runs", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return Path("runs")


def flip(file: Path, seed: int = 0) -> None:
    """Turn one bit of a file."""
    data = bytearray(file.read_bytes())
    bit = int(np.random.default_rng(seed).integers(8 * len(data)))
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def everything(run: Path) -> dict[str, Any]:
    """What can be read of a run."""
    found = Run(run)
    products, queries = found.representations()
    return {
        "weights": {name: value.numpy().tobytes() for name, value in found.encoder().state_dict().items()},
        "vectors": [(store.ids.tobytes(), store.read(slice(None)).tobytes()) for store in (products, queries)],
        "searches": searches(run / "represent").to_dicts(),
        "metrics": [read_json(run / stage / "metrics.json") for stage in ("pretrain", "represent")],
    }


def test_a_bit_that_flipped_in_a_finished_stage_is_never_read(runs: Path) -> None:
    run = runs / "iter1"
    before = everything(run)
    files = [
        path
        for stage in ("preprocessing", "pretrain", "represent")
        for path in sorted((run / stage).resolve().rglob("*"))
        if path.is_file() and path.stat().st_size
    ]
    noticed = set()
    for seed, file in enumerate(files):
        whole = file.read_bytes()
        flip(file, seed)
        try:
            assert everything(run) == before
        except Damaged as error:
            assert file.name in str(error)
            noticed.add(file.name)
        file.write_bytes(whole)
        assert everything(run) == before
    # What it has also read must have been noticed; logs are for people.
    assert noticed >= {
        "metrics.json",
        "products.ids.npy",
        "products.npy",
        "queries.ids.npy",
        "queries.npy",
        "searches.parquet",
        "tokenizer.json",
        "weights.safetensors",
    }


@pytest.mark.parametrize(
    "damaged", ["preprocessing/tokenizer.json", "pretrain/weights.safetensors", "pretrain/metrics.json"]
)
def test_fit_names_the_damaged_file_and_the_command_that_makes_it_again(
    runs: Path, damaged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs / "iter1"
    before = {file: file.read_bytes() for file in (run / "results.json", run / "pretrain/weights.safetensors")}
    config = yaml.safe_load((run / "recipe.yaml").read_text())
    config["stages"]["represent"]["module"] = {"class_path": "represent", "init_args": {"ks": [1]}}
    Path("other.yaml").write_text(yaml.safe_dump(config))
    flip(run / damaged)
    assert main(["fit", "--config", "other.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    stage = (run / damaged).resolve().parent
    assert f"{stage.name}/{stage.joinpath(damaged).name} is damaged" in line
    told = re.search(r"remove (\S+), and `moonlib (fit [^`]+)` makes it again", line)
    assert told and Path(told[1]).resolve() == stage

    shutil.rmtree(told[1])
    assert main(shlex.split(told[2])) == 0
    assert main(["fit", "--config", "other.yaml"]) == 0
    assert {file: file.read_bytes() for file in before} == before


def test_a_reused_stage_that_lost_its_numbers_is_told(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "iter1/represent/metrics.json").unlink()
    assert main(["fit", "--config", "runs/iter1/recipe.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "metrics.json is missing; remove runs/.stages/" in line


def test_an_export_and_an_embedding_are_compared_too(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = Run(runs / "iter1").dataset().directory
    embed = ["embed", "runs/iter1", "--products", str(dataset), "--out", "vectors", "--workers", "0"]
    assert main(embed) == 0
    assert main(embed) == 0  # the same call again finds all of it done
    assert main(["index", "vectors", "--kind", "flat"]) == 0
    Path("vectors/notes.txt").write_text("mine")
    Path("vectors/moonlib.sha256").unlink()  # as an embedding that is older than checksums, and gets them now
    assert main(embed) == 0
    Path("vectors/products.flat.faiss").unlink()
    Path("vectors/notes.txt").write_text("other words")
    assert main(embed) == 0
    flip(Path("vectors/products.npy"))
    for command in (embed, ["index", "vectors", "--kind", "flat"]):
        assert main(command) == 2
        assert "vectors/products.npy is damaged" in capsys.readouterr().err
    assert main(["export", "runs/iter1", "shipped"]) == 0
    Path("shipped/README.md").write_text("A model card of my own.")
    assert Run(runs / "iter1").fingerprint == json.loads(Path("shipped/config.json").read_text())["fingerprint"]
    flip(Path("shipped/model.safetensors"))
    assert main(["embed", "shipped", *embed[2:-4], "--out", "others"]) == 2
    assert "shipped/model.safetensors is damaged" in capsys.readouterr().err


def test_a_run_of_a_version_without_checksums_is_read(runs: Path) -> None:
    before = everything(runs / "iter1")
    for sums in (runs / ".stages").rglob(SUMS):
        sums.unlink()
    assert everything(runs / "iter1") == before
