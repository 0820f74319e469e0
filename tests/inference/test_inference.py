"""embed, index, search and evaluate, as a user runs them."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image
from pyarrow import parquet

import moonlib
from moonlib.cli import main
from moonlib.data.dataset import Dataset
from moonlib.data.reader import SampleReader
from moonlib.inference.evaluation import evaluate
from moonlib.inference.hits import Hit
from moonlib.inference.searching import search
from moonlib.representations.store import Representations
from moonlib.runs.run import Run
from moonlib.testing.examples import example_dataset
from moonlib.testing.processes import Program, run_program

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line in this process, which spares the seconds that an import of torch takes."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        code = main(list(map(str, words)))
        said = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, said.out, said.err)

    return run


@pytest.fixture(scope="module")
def catalogue(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny marketplace's products as a table and a folder of photos."""
    folder = tmp_path_factory.mktemp("catalogue")
    (folder / "photos").mkdir()
    for sample in SampleReader(tiny.directory, "products").read(tiny.products["item_id"].to_numpy()):
        if sample.image is not None:
            (folder / "photos" / f"{sample.id}.jpg").write_bytes(sample.image)
    named = pl.when(pl.col("image").is_not_null()).then(pl.format("{}.jpg", "item_id"))
    tiny.products.select("item_id", "title", image=named, box="box").write_parquet(folder / "products.parquet")
    return folder


def test_embedding_the_runs_own_data_gives_the_runs_own_vectors(
    cli: Cli, finished_run: Path, tiny: Dataset, tmp_path: Path
) -> None:
    done = cli("embed", finished_run, "--products", tiny.directory, "--queries", tiny.directory, "--out", "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["out", "next: moonlib index out"]
    for name in ("products.npy", "products.ids.npy", "queries.npy", "queries.ids.npy"):
        assert (tmp_path / "out" / name).read_bytes() == (finished_run / "represent" / name).read_bytes()
    assert not list((tmp_path / "out").glob(".*partial"))


def test_a_table_and_photos_give_the_same_vectors(finished_run: Path, catalogue: Path, tmp_path: Path) -> None:
    expected, _ = Run(finished_run).representations()
    out = moonlib.embed(
        finished_run, catalogue / "products.parquet", tmp_path / "out", images=catalogue / "photos", workers=0
    )
    found = Representations.open(out, "products")
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    assert not list(out.glob(".*.arrow"))


def test_from_python_embedding_logs_what_it_left_out_and_prints_nothing(
    finished_run: Path,
    catalogue: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = pl.read_parquet(catalogue / "products.parquet").filter(pl.col("image").is_not_null()).head(7)
    table.write_parquet(tmp_path / "products.parquet")
    (tmp_path / "photos").mkdir()
    for name in table["image"][1:]:
        shutil.copy(catalogue / "photos" / name, tmp_path / "photos")
    seen = []
    with caplog.at_level(logging.INFO, logger="moonlib"):
        moonlib.embed(
            finished_run,
            tmp_path / "products.parquet",
            tmp_path / "out",
            images=tmp_path / "photos",
            workers=0,
            progress=lambda *done: seen.append(done),
        )
    assert (seen[0], seen[-1]) == (("products", 0, 7), ("products", 7, 7))
    told, warned = [record for record in caplog.records if record.name.startswith("moonlib.inference")]
    assert told.getMessage().startswith("products: 7 vectors of ") and told.levelname == "INFO"
    assert warned.getMessage().startswith("1 images can't be read; ") and warned.levelname == "WARNING"
    said = capsys.readouterr()
    assert said.out == said.err == ""


def test_parquet_and_the_first_dimensions(finished_run: Path, tiny: Dataset, tmp_path: Path) -> None:
    expected, _ = Run(finished_run).representations()
    out = moonlib.embed(finished_run, tiny.directory, tmp_path / "out", dim=5, format="parquet", workers=1)
    table = parquet.read_table(out / "products.parquet")
    assert table["item_id"].to_pylist() == expected.ids.tolist()
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), expected.vectors[:, :5])


WAITING = """
import sys, time
from pathlib import Path
from moonlib.cli import main
from moonlib.embedding import embed

encode = embed._encode

def encode_and_wait(encoder, contents, *arguments, **options):
    for number, vectors in enumerate(encode(encoder, contents, *arguments, **options)):
        if number == 4 and contents.reader.table == "queries":
            Path("waits").touch()
            time.sleep(600)
        yield vectors

embed._encode = encode_and_wait
sys.exit(main(sys.argv[1:]))
"""
"""moonlib, waiting to be killed in the midst of the queries: how fast it would go on proves nothing."""


def test_killed_at_any_moment_it_is_continued_to_the_same_bytes(
    cli: Cli, finished_run: Path, tiny: Dataset, tmp_path: Path
) -> None:
    moonlib.embed(finished_run, tiny.directory, tmp_path / "whole", queries=tiny.directory, batch_size=64, workers=0)
    words = ["embed", finished_run, "--products", tiny.directory, "--queries", tiny.directory, "--out", "cut"]
    words += ["--batch-size", "64", "--workers", "1"]
    partial = tmp_path / "cut/.queries.npy.partial"
    process = Program(["-c", WAITING, *words], cwd=tmp_path, new_session=True)
    while process.poll() is None and not (tmp_path / "waits").exists():
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert partial.stat().st_size > 10_000
    again = cli(*words)
    assert again.returncode == 0, again.stderr
    assert "products:" not in again.stdout and "queries:" in again.stdout
    for name in ("products.npy", "products.ids.npy", "queries.npy", "queries.ids.npy"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_full_disk_is_told_and_what_is_written_is_kept(
    finished_run: Path, tiny: Dataset, tmp_path: Path, here: Cli
) -> None:
    words = [
        "embed",
        finished_run,
        "--products",
        tiny.directory,
        "--out",
        "out",
        "--batch-size",
        "64",
        "--workers",
        "0",
    ]
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "from moonlib.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    limited = run_program(["-c", code, *words], cwd=tmp_path)
    assert limited.returncode == 2
    (line,) = limited.stderr.splitlines()
    assert "products.npy: " in line and "make room" in line
    assert (tmp_path / "out/.products.npy.partial").stat().st_size > 64 * 32 * 4
    assert here(*words).returncode == 0
    found = Representations.open(tmp_path / "out", "products")
    assert np.isfinite(found.vectors).all() and len(found.ids) == len(tiny.products)


def test_an_unreadable_photo_is_named_and_its_product_kept(
    here: Cli, finished_run: Path, catalogue: Path, tmp_path: Path
) -> None:
    shutil.copytree(catalogue / "photos", tmp_path / "photos")
    torn, gone = sorted((tmp_path / "photos").iterdir())[:2]
    torn.write_bytes(torn.read_bytes()[:50])
    gone.unlink()
    done = here("embed", finished_run, "--products", catalogue / "products.parquet", "--images", "photos", "--out", "o")
    assert done.returncode == 0, done.stderr
    assert "2 images can't be read" in done.stdout
    lines = (tmp_path / "o/products.quarantine.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} == {int(torn.stem), int(gone.stem)}
    assert Representations.open(tmp_path / "o", "products").vectors.any(axis=1).all()


def test_a_folder_of_parts_is_a_table_like_any(here: Cli, finished_run: Path, catalogue: Path, tmp_path: Path) -> None:
    products = pl.read_parquet(catalogue / "products.parquet")
    folder = tmp_path / "parts.parquet"
    folder.mkdir()
    for part, rows in enumerate(products.iter_slices(products.height // 2 + 1)):
        rows.write_parquet(folder / f"part-{part:05d}.snappy.parquet")
    (folder / ".part-00000.snappy.parquet.crc").write_bytes(b"crc")
    (folder / "_SUCCESS").touch()
    for source, out in ((catalogue / "products.parquet", "whole"), (folder, "parts")):
        done = here("embed", finished_run, "--products", source, "--images", catalogue / "photos", "--out", out)
        assert done.returncode == 0, done.stderr
    for file in ("products.npy", "products.ids.npy"):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_another_embedding_is_never_written_over(here: Cli, finished_run: Path, tiny: Dataset, tmp_path: Path) -> None:
    moonlib.embed(finished_run, tiny.directory, tmp_path / "out", dim=8, workers=0)
    before = (tmp_path / "out/products.npy").read_bytes()
    refused = here("embed", finished_run, "--products", tiny.directory, "--out", "out", "--dim", "9")
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == ["moonlib: out holds another embedding: dim 8 (now 9); choose another place"]
    assert (tmp_path / "out/products.npy").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds no embedding"):
        moonlib.embed(finished_run, tiny.directory, tmp_path / "mine")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["embed", "RUN", "--products", "no.parquet", "--out", "out"], "no.parquet: there is no such table or dataset"),
        (["embed", "RUN", "--products", "DATA", "--out", "out", "--dim", "33"], "have 32 dimensions; keep 1 to 32"),
        (["embed", "nowhere", "--products", "DATA", "--out", "out"], "nowhere: there is no such run directory"),
        (["index", "DATA"], "is not a run directory"),
        (["search", "RUN"], "nothing to search for"),
        (["search", "RUN", "--text", " "], "nothing to search for"),
        (["search", "RUN", "--image", "no.jpg"], "no.jpg: No such file or directory"),
        (["search", "RUN", "--image", "DATA/dataset.json"], "dataset.json: not a readable image"),
        (["search", "RUN", "--text", "mug", "--index", "no.faiss"], "no.faiss is missing"),
        (["search", "RUN", "--text", "mug", "-k", "0"], "ask for at least 1"),
        (["evaluate", "RUN", "--data", "nowhere"], "'nowhere' is neither the directory of a dataset nor a source"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    words: list[str],
    problem: str,
    finished_run: Path,
    tiny: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word.replace("RUN", str(finished_run)).replace("DATA", str(tiny.directory)) for word in words]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("moonlib: ") and problem in line
    assert not list(tmp_path.rglob("*.npy"))


def test_index_and_search(here: Cli, finished_run: Path, tiny: Dataset, tmp_path: Path) -> None:
    built = here("index", finished_run, "--kind", "hnsw", "--out", "i.faiss")
    assert built.returncode == 0, built.stderr
    about = dict(line.split(maxsplit=1) for line in built.stdout.splitlines()[:-1])
    assert float(about["recall@10"]) > 0.9 and float(about["ms_per_query"]) > 0
    item = int(tiny.products.filter(pl.col("image").is_not_null())["item_id"][0])
    (sample,) = SampleReader(tiny.directory, "products").read(np.array([item]))
    assert sample.image is not None
    (tmp_path / "photo.jpg").write_bytes(sample.image)
    words = ["search", finished_run, "--image", "photo.jpg", "--text", sample.row["title"], "-k", "4"]
    for more in ([], ["--index", "i.faiss"]):
        found = here(*words, *more, "--sheet", "sheet.png")
        assert found.returncode == 0, found.stderr
        # A photo and title of its own find the product itself: query and product are encoded alike.
        assert found.stdout.split("1   1.0000")[1].split()[0] == str(item)
        with Image.open(tmp_path / "sheet.png") as sheet:
            colours = sheet.convert("RGB").getcolors(10**6)
            assert sheet.width > 600 and colours is not None and len(colours) > 500


def test_search_equals_ranking_every_vector_and_new_only_is_a_gallery_of_its_own(
    finished_run: Path, tiny: Dataset
) -> None:
    products, queries = Run(finished_run).representations()
    row = tiny.queries.filter(pl.col("image").is_null()).row(0, named=True)
    vector = queries.gather(np.array([row["query_id"]]))[0]
    listed = dict(tiny.products.select("item_id", "listed_at").iter_rows())
    for new_only in (False, True):
        hits = search(finished_run, text=row["text"], k=7, new_only=new_only)
        allowed = [i for i in listed if not new_only or listed[i] >= tiny.splits.train_until]
        cosines = [
            float(v @ vector / np.linalg.norm(v) / np.linalg.norm(vector)) for v in products.gather(np.array(allowed))
        ]
        best = sorted(zip(cosines, allowed, strict=True), reverse=True)[:7]
        np.testing.assert_allclose([hit.score for hit in hits], [cosine for cosine, _ in best], atol=1e-4)
        assert {hit.item_id for hit in hits} <= set(allowed)
        assert [hit.rank for hit in hits] == list(range(1, 8))
        assert all(hit.row["item_id"] == hit.item_id for hit in hits)


def test_an_index_of_another_encoder_is_refused(finished_run: Path, tmp_path: Path, tiny: Dataset) -> None:
    from moonlib.inference.searching import index

    path = index(finished_run, "flat", tmp_path / "i.faiss").path
    about = json.loads((tmp_path / "i.faiss.json").read_text())
    (tmp_path / "i.faiss.json").write_text(json.dumps(about | {"encoder": "another"}))
    with pytest.raises(ValueError, match="index of another encoder"):
        search(finished_run, text="mug", index=path)


def test_evaluating_on_the_runs_own_data_repeats_its_results(
    here: Cli, finished_run: Path, tiny: Dataset, tmp_path: Path
) -> None:
    done = here("evaluate", finished_run, "--data", tiny.directory, "--out", "e.json", "--workers", "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "e.json"
    assert any(line.split()[:1] == ["recall@10"] for line in done.stdout.splitlines())
    assert "valid" not in done.stdout
    written = json.loads((tmp_path / "e.json").read_text())
    assert written["results"] == Run(finished_run).results
    assert written["dataset"]["hash"] == tiny.hash
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]


def test_other_data_need_not_have_the_columns_of_segments_features_and_filters(
    here: Cli, finished_run: Path, tiny: Dataset, tmp_path: Path
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run", symlinks=True)
    for link in finished_run.iterdir():
        if link.is_symlink():
            (run / link.name).unlink()
            (run / link.name).symlink_to(link.resolve())
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["stages"]["represent"]["data"]["segments"] = ["language", "dialect"]
    features = {"users.shoe_size": "categorical", "impressions.weather": "categorical"}
    application = {"adapter": "id_only", "predictor": "mlp", "features": features}
    recipe["stages"]["application"] = {
        "module": {"class_path": "moonlib.stages.application.Application", "init_args": application}
    }
    recipe["stages"]["refine"] = {
        "module": {"class_path": "moonlib.stages.posttraining.Posttraining"},
        "data": {"filters": ["entity_filter"]},
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    done = here("evaluate", run, "--data", tiny.directory, "--out", "e.json", "--workers", "0")
    assert done.returncode == 0, done.stderr
    (told,) = [line for line in done.stderr.splitlines() if "left out" in line]
    assert told.startswith("segments left out: language, dialect: the queries of")
    assert told.endswith("have no such column; theirs are query_id, text, image, box")
    written = json.loads((tmp_path / "e.json").read_text())
    assert written["left_out"] == ["language", "dialect"]
    assert written["results"] == Run(finished_run).results


def test_evaluating_on_another_shop_keeps_the_runs_tokenizer(finished_run: Path, tmp_path: Path) -> None:
    tokenizer = (finished_run / "preprocessing/tokenizer.json").read_bytes()
    source = "{class_path: marketplace, init_args: {size: tiny, seed: 1}}"
    found = evaluate(finished_run, source, tmp_path / "e.json", workers=0)
    assert found.dataset.name == "marketplace-tiny-1"
    assert found.results["oracle/image_search/recall@10"] > 0.9
    assert found.results != Run(finished_run).results
    assert (finished_run / "preprocessing/tokenizer.json").read_bytes() == tokenizer


def test_search_prints_titles_as_they_are(
    here: Cli, finished_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    titles = ["mug [/sale]", "[new] mug", "mug :fire:", "mug \x1b[2J\0", "Tasse größer 红"]
    hits = [Hit(rank, 0.5, rank, {"title": title, "category": "a[/b]"}) for rank, title in enumerate(titles)]
    monkeypatch.setattr("moonlib.inference.searching.search", lambda *_, **__: hits)
    done = here("search", finished_run, "--text", "mug")
    assert done.returncode == 0
    for title in (*titles[:3], r"mug \x1b[2J\x00", titles[4]):
        assert title in done.stdout


@pytest.fixture
def project(finished_run: Path, tiny: Dataset, tmp_path: Path) -> Path:
    """A folder with a run in ``runs/iter1`` of the data in ``data/shop``, which its recipe gives as a relative path."""
    project = tmp_path / "project"
    shutil.copytree(finished_run.parent, project / "runs", symlinks=True)
    (project / "runs/.data").unlink()
    shutil.copytree(tiny.directory, project / "data/shop")
    file = project / "runs/iter1/recipe.yaml"
    config = yaml.safe_load(file.read_text())
    config["data"] = {"class_path": "moonlib.sources.shards.Shards", "init_args": {"path": "data/shop"}}
    file.write_text(yaml.safe_dump(config))
    return project


def test_data_of_a_relative_path_is_found_from_another_folder(here: Cli, project: Path, tmp_path: Path) -> None:
    done = here("search", project / "runs/iter1", "--text", "red mug", "-k", "3")
    assert done.returncode == 0 and not done.stderr
    titles = {hit.row["title"] for hit in search(project / "runs/iter1", text="red mug", k=3)}
    assert titles and all(title.split()[0] in done.stdout for title in titles)


def test_other_data_of_that_path_is_not_taken_for_the_run_s(here: Cli, project: Path, tmp_path: Path) -> None:
    shutil.move(project / "data/shop", project / "data/moved")
    other = example_dataset(tmp_path / "data/shop")
    assert other.hash != Dataset(project / "data/moved").hash
    done = here("search", project / "runs/iter1", "--text", "red mug", "-k", "3")
    assert done.returncode == 0 and len(done.stdout.splitlines()) > 4
    assert "note: titles and pictures are left out: " in done.stderr
    assert "its data is not in data/shop, seen from here or above the run, any more" in done.stderr


def test_a_search_with_an_export_says_why_there_are_no_titles(here: Cli, finished_run: Path) -> None:
    assert here("export", finished_run, "shipped").returncode == 0
    assert here("index", finished_run, "--out", "i.faiss").returncode == 0
    done = here("search", "shipped", "--index", "i.faiss", "--text", "red mug")
    assert done.returncode == 0 and "note: titles and pictures are left out: shipped is an export" in done.stderr
