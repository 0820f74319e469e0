"""An iteration whose data, run and export lie in a bucket gives what it gives on local disk, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import moonlib
from moonlib.artifacts.checksums import SUMS, verify_all
from moonlib.artifacts.layout import EXPORT
from moonlib.cli.app import main
from moonlib.config.recipe import RecipeError, load
from moonlib.data.content import Content
from moonlib.data.dataset import Dataset
from moonlib.exports.folder import Export
from moonlib.representations.store import Representations
from moonlib.runs.iteration import fit
from moonlib.runs.run import Run
from moonlib.studies.abtest import abtest
from moonlib.studies.exchange import exchange


def upload(place: Path, url: str) -> str:
    """Copy a folder to a bucket as the clouds' own tools do: what links lead to in place of links."""
    from s3fs import S3FileSystem

    files = [path for path in place.rglob("*") if path.is_file()]
    files += [file for link in place.iterdir() if link.is_symlink() for file in link.rglob("*") if file.is_file()]
    S3FileSystem().pipe({f"{url}/{path.relative_to(place)}": path.read_bytes() for path in set(files)})
    return url


def bits(encoder: torch.nn.Module) -> bytes:
    with torch.inference_mode():
        batch = encoder.preprocessor([Content(None, "red lamp"), Content(None, "bowl")], "query")
        return encoder(batch).numpy().tobytes()


def test_fit_on_a_dataset_in_a_bucket(
    bucket: str, tiny: Dataset, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = upload(tiny.directory, f"{bucket}/tiny")
    recipe = yaml.safe_load((finished_run / "recipe.yaml").read_text())
    recipe["data"] = {"class_path": "shards", "init_args": {"path": url}}
    (tmp_path / "iter1.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    run = fit(tmp_path / "iter1.yaml", runs=tmp_path / "runs")
    for stage in ("pretrain", "represent"):
        assert (run / stage).readlink().name == (finished_run / stage).readlink().name, "the same fingerprint"
    for name in ("pretrain/weights.safetensors", "represent/products.npy", "represent/queries.npy", "results.json"):
        assert (run / name).read_bytes() == (finished_run / name).read_bytes()
    assert yaml.safe_load((run / "recipe.yaml").read_text())["data"]["init_args"]["path"] == url
    assert Run(run).dataset().hash == tiny.hash


def test_a_run_in_a_bucket_at_work(bucket: str, tiny: Dataset, finished_run: Path, tmp_path: Path) -> None:
    url, data = upload(finished_run, f"{bucket}/runs/iter1"), upload(tiny.directory, f"{bucket}/tiny")
    there, here = Run(url), Run(finished_run)
    assert (there.name, there.fingerprint, there.results) == ("iter1", here.fingerprint, here.results)
    assert bits(moonlib.load(url)) == bits(moonlib.load(finished_run))
    moonlib.embed(url, data, tmp_path / "there", queries=data, workers=0)
    moonlib.embed(finished_run, tiny.directory, tmp_path / "here", queries=tiny.directory, workers=0)
    for table in ("products", "queries"):
        one, other = (Representations.open(tmp_path / place, table) for place in ("here", "there"))
        assert np.array_equal(one.ids, other.ids) and one.vectors.tobytes() == other.vectors.tobytes()
    found = moonlib.search(url, text="red lamp", k=5)
    assert [(hit.item_id, hit.score) for hit in found] == [
        (hit.item_id, hit.score) for hit in moonlib.search(finished_run, text="red lamp", k=5)
    ]
    index = moonlib.index(url, "flat", tmp_path / "index" / "flat.faiss")
    upload(tmp_path / "index", f"{bucket}/index")
    by_index = moonlib.search(url, text="red lamp", k=5, index=f"{bucket}/index/flat.faiss")
    assert index.path == tmp_path / "index" / "flat.faiss"
    assert [hit.item_id for hit in by_index] == [hit.item_id for hit in found]
    measured = moonlib.evaluate(url, data, tmp_path / "evaluation.json", workers=0)
    assert measured.results == moonlib.evaluate(finished_run, data, tmp_path / "local.json", workers=0).results
    assert moonlib.report([url], tmp_path / "report.html").stat().st_size > 10_000


def test_an_export_in_a_bucket(bucket: str, finished_run: Path) -> None:
    url = upload(finished_run, f"{bucket}/runs/iter1")
    assert moonlib.export(url, f"{bucket}/export") == f"{bucket}/export"
    there = Export(f"{bucket}/export")
    assert {EXPORT, SUMS, "model.safetensors", "README.md"} <= {path.name for path in there.directory.iterdir()}
    assert verify_all(there.directory) == [] and there.fingerprint == Run(finished_run).fingerprint
    assert bits(moonlib.load(f"{bucket}/export")) == bits(moonlib.load(finished_run))
    with pytest.raises(FileExistsError, match=f"{bucket}/export exists"):
        moonlib.export(finished_run, f"{bucket}/export")


def test_what_is_written_beside_a_run_needs_a_local_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = "s3://bucket/runs/iter1"
    with pytest.raises(ValueError, match=f"{url}: an index is not written there; say where, with --out"):
        moonlib.index(url)
    with pytest.raises(ValueError, match=f"{url}: results are not written there; say where, with --out"):
        moonlib.evaluate(url, "data")
    with pytest.raises(ValueError, match=f"{url}: a report is not written there; say where, with --out"):
        moonlib.report([url])
    with pytest.raises(ValueError, match="s3://bucket/runs: a run can't be written to a URL"):
        fit("iter1", runs="s3://bucket/runs")
    for study in (lambda: exchange([url]), lambda: abtest(url, [url])):
        with pytest.raises(ValueError, match=f"{url}: .* can't be written to a URL"):
            study()
    assert not list(tmp_path.iterdir())


def test_recipes_hold_no_secrets(tmp_path: Path) -> None:
    for url in ("https://me:hush@host/data", "https://host/data?X-Amz-Signature=hush"):
        data = f"--data={{class_path: shards, init_args: {{path: '{url}'}}}}"
        with pytest.raises(RecipeError, match=r"data.init_args.path: a recipe is kept beside its results") as raised:
            fit("iter1", [data], runs=tmp_path / "runs")
        assert "hush" not in str(raised.value) and not (tmp_path / "runs").exists()


def test_a_recipe_may_extend_one_at_a_url(bucket: str, tmp_path: Path) -> None:
    from s3fs import S3FileSystem

    S3FileSystem().pipe(f"{bucket}/team.yaml", b"extends: iter1\nseed: 7\n")
    (tmp_path / "mine.yaml").write_text(f"extends: {bucket}/team.yaml\nchanges: {{mine: the same}}\n")
    assert load(tmp_path / "mine.yaml").seed == load(f"{bucket}/team.yaml").seed == 7
    S3FileSystem().pipe(f"{bucket}/team.yaml", b"extends: iter1\nsed: 7\n")
    with pytest.raises(RecipeError, match="sed: unknown key; did you mean 'seed'"):
        load(tmp_path / "mine.yaml")


def test_files_of_components_are_local() -> None:
    tower = "{class_path: timm, init_args: {model: resnet18, checkpoint: 's3://b/weights.safetensors'}}"
    problem = r"encoder.init_args.image.init_args.checkpoint: expected a local path, got the URL s3://b/weights"
    with pytest.raises(RecipeError, match=problem):
        load("iter1", [f"--encoder.init_args.image={tower}"])


def test_the_command_line_keeps_urls_whole(
    download_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", "memory://nowhere/shop"]) == 2
    assert capsys.readouterr().err.startswith("moonlib: memory://nowhere/shop: there is no such object")
    assert main(["data", "make", "tiny", "--out", "s3://bucket/data"]) == 2
    assert capsys.readouterr().err == "moonlib: out s3://bucket/data: expected a local path, not a URL\n"
    assert main(["fit", "--config", "iter1", "--runs", "s3://bucket/runs"]) == 2
    assert "s3://bucket/runs: a run can't be written to a URL" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_error_names_the_url_and_not_the_copy(
    download_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/broken/tables/products.csv", b'item_id,title\n1,"lamp\n')
    assert main(["data", "build", "memory://broken/tables", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("moonlib: memory://broken/tables/products.csv: row 1, column 'title'")
