"""Embedding again encodes only what changed, whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

import moonlib
from moonlib.artifacts.checksums import SUMS, Damaged, seal, verified, verify_all
from moonlib.artifacts.reading import Unreadable
from moonlib.data.content import Content, Modalities
from moonlib.data.images import UnreadableImage
from moonlib.encoders.encoder import ContentBatch, Encoder
from moonlib.representations.store import Representations
from moonlib.testing.processes import run_program

ROWS, BATCH = 60, 8


class Reading(Encoder):
    """A vector that depends on all that is read of a row, and a little on its batch; counts the rows it has seen."""

    dim, image_dim, text_dim = 8, 1, 1

    def setup(self, *_: object) -> None: ...

    def preprocessor(self, contents: list[Content], side: str) -> ContentBatch:  # type: ignore[override]
        if any(each.image is not None and each.image.startswith(b"torn") for each in contents):
            raise UnreadableImage("not a readable image: torn")
        digests = [hashlib.sha256(repr(each).encode()).digest()[: self.dim] for each in contents]
        return {"x": torch.tensor([list(digest) for digest in digests], dtype=torch.float32) + 1}

    def forward(self, batch: ContentBatch) -> Tensor:
        encoded.append(len(batch["x"]))
        return batch["x"] * (1 + 1e-6 * len(batch["x"]))


encoded: list[int] = []


def source(views: str = "main", fingerprint: str = "f" * 16) -> SimpleNamespace:
    return SimpleNamespace(
        encoder=Reading,
        fingerprint=fingerprint,
        batch_size=BATCH,
        views=views,
        text_ids=[],
        directory=Path("run"),
        modalities=lambda side: Modalities.parse("rich+image"),
    )


@pytest.fixture(autouse=True)
def run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose encoder takes no time."""
    monkeypatch.setattr("moonlib.inference.catalogue.opened", lambda run: source(*run.split()))
    encoded.clear()


def catalogue(folder: Path, ids: list[Any] | None = None) -> pl.DataFrame:
    """Products with a picture each, some of them with two."""
    (folder / "photos").mkdir()
    ids = list(range(0, 10 * ROWS, 10)) if ids is None else ids
    for row in range(ROWS):
        for end in ("", "b"):
            (folder / "photos" / f"{row}{end}.jpg").write_bytes(f"picture {row}{end}".encode())
    frame = pl.DataFrame(
        {
            "item_id": ids,
            "title": [f"title {row}" for row in range(ROWS)],
            "category": ["Home/Mugs"] * ROWS,
            "attributes": [json.dumps({"colour": "red"})] * ROWS,
            "images": [[f"{row}.jpg", f"{row}b.jpg"] if row % 2 else [f"{row}.jpg"] for row in range(ROWS)],
            "box": [[0.0, 0.0, 0.5, 0.5]] * ROWS,
            "price": [1.0] * ROWS,
        }
    )
    return frame


def written(folder: Path, frame: pl.DataFrame, name: str = "products.parquet") -> Path:
    frame.write_parquet(folder / name)
    return folder / name


def embed(folder: Path, table: Path, out: str, run: str = "main", **more: Any) -> Path:
    encoded.clear()
    return moonlib.embed(run, table, folder / out, images=folder / "photos", workers=0, device="cpu", **more)


def changed(frame: pl.DataFrame, row: int, **values: Any) -> pl.DataFrame:
    """The table with other values in one row."""
    return frame.with_columns(
        pl.when(pl.int_range(pl.len()) == row)
        .then(pl.lit(value, frame.schema[name]))
        .otherwise(pl.col(name))
        .alias(name)
        for name, value in values.items()
    )


def week_two(folder: Path, frame: pl.DataFrame) -> pl.DataFrame:
    """Two titles and one picture changed, a price too, four products gone, three new."""
    (folder / "photos/40.jpg").write_bytes(b"another picture")
    frame = changed(changed(changed(frame, 3, title="other"), 20, title="another"), 7, price=9.0)
    kept = frame.filter(~pl.int_range(pl.len()).is_in([0, 11, 12, 59]))
    new = frame.head(3).with_columns(
        item_id=pl.lit(pl.Series([5, 6, 10_001]))
        if frame["item_id"].dtype.is_integer()
        else pl.lit(pl.Series(["a new", "k new", "z new"])),
        title=pl.lit("new"),
    )
    return pl.concat([new, kept])


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and path.name != ".lock"}


def by_id(out: Path) -> dict[int | str, bytes]:
    store = Representations.open(out, "products")
    names = store.ids.tolist() if store.names is None else store.names.to_list()
    return {name: vector.tobytes() for name, vector in zip(names, store.vectors, strict=True)}


@pytest.mark.parametrize("text", [False, True])
def test_only_what_changed_is_encoded_and_the_rest_keeps_its_bits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: bool
) -> None:
    frame = catalogue(tmp_path, [f"i{row:03d}" for row in range(ROWS)] if text else None)
    table = written(tmp_path, frame)
    embed(tmp_path, table, "out")
    assert sum(encoded) == ROWS
    before = by_id(tmp_path / "out")
    (tmp_path / "out/notes.txt").write_text("mine")
    table = written(tmp_path, week_two(tmp_path, frame))
    with caplog.at_level(logging.INFO, logger="moonlib"):
        assert embed(tmp_path, table, "out") == tmp_path / "out"
    assert "59 products: 53 reused, 3 changed, 3 new, 4 gone in " in caplog.text
    assert encoded == [6]
    after = by_id(tmp_path / "out")
    embed(tmp_path, table, "whole")
    whole = by_id(tmp_path / "whole")
    assert list(after) == list(whole)
    anew = {frame["item_id"][row] for row in (3, 20, 40)}
    for id, vector in after.items():
        if id in before and id not in anew:
            assert vector == before[id]
        np.testing.assert_allclose(np.frombuffer(vector, "<f4"), np.frombuffer(whole[id], "<f4"), rtol=1e-4)
    ends = ("content.npy", "ids.npy", *(("ids.parquet",) if text else ()))
    assert all(
        files(tmp_path / "out")[f"products.{end}"] == files(tmp_path / "whole")[f"products.{end}"] for end in ends
    )
    assert (tmp_path / "out/notes.txt").read_text() == "mine"
    assert verify_all(tmp_path / "out") == []
    assert {path.name for path in tmp_path.iterdir()} == {"out", "whole", "photos", "products.parquet"}


def test_the_same_again_writes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = written(tmp_path, catalogue(tmp_path))
    out = embed(tmp_path, table, "out")
    before = out.stat().st_ino, files(out)
    with caplog.at_level(logging.INFO, logger="moonlib"):
        embed(tmp_path, table, "out")
    assert (out.stat().st_ino, files(out)) == before and not encoded
    assert "60 products: 60 reused, 0 changed, 0 new, 0 gone" in caplog.text


FIELDS: dict[str, dict[str, Any]] = {
    "title": {"title": "other"},
    "leaf": {"category": "Home/Cups"},
    "attributes": {"attributes": json.dumps({"colour": "blue"})},
    "box": {"box": [0.0, 0.0, 0.5, 0.6]},
    "no picture": {"images": None},
    "another picture": {"images": ["8.jpg"]},
    "price": {"price": 2.0},
    "root": {"category": "Kitchen/Mugs"},
    "second picture": {"images": ["5.jpg", "8.jpg"]},
    "fewer pictures": {"images": ["5.jpg"]},
}
UNREAD = {"main": {"price", "root", "second picture", "fewer pictures"}, "mean": {"price", "root"}}


@pytest.mark.parametrize("views", ["main", "mean"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_change_encodes_exactly_its_row_and_of_what_is_not_read_none(tmp_path: Path, field: str, views: str) -> None:
    frame = catalogue(tmp_path)
    before = by_id(embed(tmp_path, written(tmp_path, frame), "out", views))
    after = by_id(embed(tmp_path, written(tmp_path, changed(frame, 5, **FIELDS[field])), "out", views))
    read = field not in UNREAD[views]
    assert [id for id in before if before[id] != after[id]] == ([50] if read else [])
    assert bool(encoded) == read


def test_pictures_that_could_not_be_read_are_tried_again(tmp_path: Path) -> None:
    frame = catalogue(tmp_path)
    table = written(tmp_path, frame)
    photos = tmp_path / "photos"
    (photos / "4.jpg").unlink()
    (photos / "6.jpg").write_bytes(b"torn")
    (photos / "8.jpg").write_bytes(b"torn")
    out = embed(tmp_path, table, "out")

    def listed() -> set[int]:
        return {json.loads(line)["id"] for line in (out / "products.quarantine.jsonl").read_text().splitlines()}

    assert listed() == {40, 60, 80}
    embed(tmp_path, written(tmp_path, changed(frame, 30, title="other")), "out")
    assert sum(encoded) == 1 and listed() == {40, 60, 80}
    (photos / "4.jpg").write_bytes(b"here now")
    (photos / "6.jpg").write_bytes(b"whole now")
    embed(tmp_path, written(tmp_path, frame), "out")
    assert sum(encoded) == 3 and listed() == {80}
    embed(tmp_path, written(tmp_path, changed(frame, 8, images=None)), "out")
    assert sum(encoded) == 1 and not (out / "products.quarantine.jsonl").exists()
    assert SUMS in files(out) and verify_all(out) == []


def test_parquet_and_another_folder(tmp_path: Path) -> None:
    frame = catalogue(tmp_path, [f"i{row:03d}" for row in range(ROWS)])
    embed(tmp_path, written(tmp_path, frame), "week1", format="parquet")
    week1 = files(tmp_path / "week1")
    table = written(tmp_path, week_two(tmp_path, frame))
    embed(tmp_path, table, "week2", format="parquet", reuse=tmp_path / "week1")
    assert encoded == [6] and files(tmp_path / "week1") == week1
    embed(tmp_path, table, "npy", reuse=tmp_path / "week2")
    assert not encoded
    packed = pl.read_parquet(tmp_path / "week2/products.parquet")
    assert packed.columns == ["item_id", "vector", "content"]
    assert {id: np.float32(vector).tobytes() for id, vector in packed.select("item_id", "vector").iter_rows()} == by_id(
        tmp_path / "npy"
    )
    hashes = np.load(tmp_path / "npy/products.content.npy")
    assert packed["content"].to_list() == [row.tobytes() for row in hashes]
    embed(tmp_path, table, "week1", format="parquet")
    assert encoded == [6]
    assert pl.read_parquet(tmp_path / "week1/products.parquet").equals(packed)


def kill_at(place: str, after: bool, count: int, table: Path, out: str, **more: Any) -> None:
    """Embed in a process that is killed before or after the nth call of a function."""
    words = [str(Path(__file__).parent), json.dumps([place, after, count, str(table), out, more])]
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import test_reuse; "
        "test_reuse.killed(*json.loads(sys.argv[2]))"
    )
    done = run_program(["-c", code, *words], cwd=table.parent)
    assert done.returncode == -signal.SIGKILL, (place, done.stderr)


def killed(place: str, after: bool, count: int, table: str, out: str, more: dict[str, Any]) -> None:
    """Embed, until a function is called."""
    names = place.split("/")
    module: Any = importlib.import_module(names[0])
    for name in names[1:-1]:
        module = getattr(module, name)
    function, calls = getattr(module, names[-1]), 0

    def kill(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = function(*arguments, **options)
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(module, names[-1], kill)
    catalogue: Any = importlib.import_module("moonlib.inference.catalogue")
    reuse: Any = importlib.import_module("moonlib.inference.reuse")
    catalogue.opened = lambda run: source(*run.split())
    reuse.HASHED_AT_ONCE, reuse._BLOCK = 16, 32
    embed(Path(table).parent, Path(table), out, **more)


MOMENTS = [
    ("moonlib.inference.catalogue/write_json", False, 1),  # before the first byte
    ("moonlib.representations.store/GrowingArray/append", True, 2),  # while contents are compared
    ("moonlib.representations.store/GrowingArray/append", True, 8),  # hashes of a chunk, and not yet its vectors
    ("moonlib.representations.store/GrowingArray/finish", True, 2),  # between hashes and vectors
    ("moonlib.representations.store/GrowingArray/append", True, 12),  # while rows are merged
    ("moonlib.inference.embedding_folder/_seal", False, 1),
    ("moonlib.inference.embedding_folder/exchange", False, 1),
    ("moonlib.inference.embedding_folder/exchange", True, 1),
    ("moonlib.inference.embedding_folder/shutil/rmtree", False, 2),
]


@pytest.mark.parametrize("format", ["npy", "parquet"])
def test_killed_at_any_moment_the_old_is_whole_and_the_same_command_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    monkeypatch.setattr("moonlib.inference.reuse.HASHED_AT_ONCE", 16)
    monkeypatch.setattr("moonlib.inference.reuse._BLOCK", 32)
    frame = catalogue(tmp_path)
    (tmp_path / "photos/8.jpg").write_bytes(b"torn")
    embed(tmp_path, written(tmp_path, frame, "1.parquet"), "first", format=format)
    (tmp_path / "first/notes.txt").write_text("mine")
    (tmp_path / "photos/9.jpg").write_bytes(b"torn")
    two = week_two(tmp_path, frame)
    for row in (23, 26, 33, 36):
        two = changed(two, row, title="changed")
    table = written(tmp_path, two, "2.parquet")
    shutil.copytree(tmp_path / "first", tmp_path / "whole")
    old, new = files(tmp_path / "first"), files(embed(tmp_path, table, "whole", format=format))
    for number, (place, after, count) in enumerate(MOMENTS if format == "npy" else MOMENTS[4::2]):
        out = tmp_path / f"out{number}"
        shutil.copytree(tmp_path / "first", out)
        kill_at(place, after, count, table, out.name, format=format)
        assert files(out) in (old, new), place
        assert files(embed(tmp_path, table, out.name, format=format)) == new, place
        assert not list(tmp_path.glob("*.partial")) and not list(out.glob(".work")), place
        shutil.rmtree(out)


def test_killed_while_it_goes_on_it_resumes_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moonlib.inference.reuse.HASHED_AT_ONCE", 16)
    frame = catalogue(tmp_path)
    embed(tmp_path, written(tmp_path, frame), "out")
    table = written(tmp_path, frame.with_columns(title=pl.lit("other")))
    place = "moonlib.representations.store/GrowingArray/append"
    kill_at(place, True, 8, table, "out")  # four times hashes, then those and the vectors of two chunks
    embed(tmp_path, table, "out")
    assert sum(encoded) == ROWS - 2 * BATCH


def test_without_hashes_all_is_encoded_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = catalogue(tmp_path)
    out = embed(tmp_path, written(tmp_path, frame), "out")
    (out / "products.content.npy").unlink()
    seal(out)
    table = written(tmp_path, changed(frame, 1, title="other"))
    with caplog.at_level(logging.INFO, logger="moonlib"):
        embed(tmp_path, table, "out")
    assert "holds no content hashes, as an earlier version of moonlib wrote it: all products are encoded" in caplog.text
    assert sum(encoded) == ROWS
    embed(tmp_path, written(tmp_path, frame), "out")
    assert sum(encoded) == 1


def test_what_is_damaged_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    frame = catalogue(tmp_path)
    out = embed(tmp_path, written(tmp_path, frame), "out")
    table = written(tmp_path, changed(frame, 1, title="other"))
    kept = tmp_path / "kept"
    shutil.copytree(out, kept)

    def refused(name: str, content: bytes | np.ndarray, error: type[Exception], problem: str, sealed: bool) -> None:
        shutil.rmtree(out)
        shutil.copytree(kept, out)
        if isinstance(content, bytes):
            (out / name).write_bytes(content)
        else:
            np.save(out / name, content)
        if sealed:
            seal(out)
        before = files(out)
        with pytest.raises(error, match=problem):
            embed(tmp_path, table, "out")
        assert files(out) == before and not list(tmp_path.glob("*.partial")) and not encoded

    vectors, ids = files(kept)["products.npy"], np.load(kept / "products.ids.npy")
    hashes = np.load(kept / "products.content.npy")
    refused("products.npy", vectors[:-7], Damaged, r"out/products\.npy is damaged", sealed=False)
    refused("products.npy", vectors[:-7], Unreadable, r"out/products\.npy ", sealed=True)
    refused(
        "products.content.npy", hashes[:-1], Unreadable, r"content\.npy holds uint8 \[59, 16\], expected", sealed=True
    )
    swapped = ids.copy()
    swapped[[4, 5]] = swapped[[5, 4]]
    refused("products.ids.npy", swapped, Unreadable, r"ids\.npy: row 6 has the id 40 after 50", sealed=True)
    wide = np.zeros((ROWS, 3), np.float32)
    refused("products.npy", wide, Unreadable, "products are float32 vectors of 3 dimensions, expected", sealed=True)


def test_another_encoder_or_width_is_refused_by_name(tmp_path: Path) -> None:
    table = written(tmp_path, catalogue(tmp_path))
    embed(tmp_path, table, "out", dim=4)
    for out, reuse in (("out", None), ("new", tmp_path / "out")):
        for more, problem in (({"dim": 5}, r"dim 4 \(now 5\)"), ({"dim": 4, "batch_size": 3}, "batch_size 8")):
            with pytest.raises(ValueError, match=f"holds another embedding: {problem}"):
                embed(tmp_path, table, out, reuse=reuse, **more)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="holds another embedding: encoder fff"):
            embed(tmp_path, table, out, "main eee", reuse=reuse, dim=4)
        with pytest.raises(ValueError, match=r"views None \(now mean\)"):
            embed(tmp_path, table, out, "mean", reuse=reuse, dim=4)
    with pytest.raises(ValueError, match="photos holds no embedding"):
        embed(tmp_path, table, "new", reuse=tmp_path / "photos")
    assert not (tmp_path / "new").exists()


def test_a_failure_does_not_block_the_next_call(tmp_path: Path) -> None:
    frame = catalogue(tmp_path)
    bad = written(tmp_path, changed(frame, 1, item_id=0), "bad.parquet")
    with pytest.raises(ValueError, match="appears a second time"):
        embed(tmp_path, bad, "out")
    assert not (tmp_path / "out").exists()
    table = written(tmp_path, frame)
    kill_at("moonlib.representations.store/GrowingArray/keep", False, 1, table, "out")
    embed(tmp_path, table, "out", dim=4)  # nothing was encoded: another width is no other embedding
    with pytest.raises(ValueError, match="appears a second time"):
        embed(tmp_path, bad, "out", dim=4)
    assert verify_all(tmp_path / "out") == [] and not list(tmp_path.glob("*.partial"))


def test_queries_may_be_added_and_are_not_lost(tmp_path: Path) -> None:
    table = written(tmp_path, catalogue(tmp_path))
    queries = written(tmp_path, pl.DataFrame({"query_id": [1, 2], "text": ["mug", "cup"]}), "queries.parquet")
    embed(tmp_path, table, "out")
    embed(tmp_path, table, "out", queries=queries)
    assert sum(encoded) == 2
    with pytest.raises(ValueError, match="holds queries too: give --queries again"):
        embed(tmp_path, table, "out")
    assert len(Representations.open(tmp_path / "out", "queries").ids) == 2


def test_a_link_stays_a_link_and_an_open_embedding_stays_what_it_was(tmp_path: Path) -> None:
    frame = catalogue(tmp_path, [f"i{row:03d}" for row in range(ROWS)])
    embed(tmp_path, written(tmp_path, frame), "real")
    (tmp_path / "out").symlink_to("real")
    store = Representations.open(tmp_path / "out", "products")
    vectors = np.array(store.vectors)
    embed(tmp_path, written(tmp_path, week_two(tmp_path, frame)), "out")
    assert (tmp_path / "out").is_symlink() and len(Representations.open(tmp_path / "out", "products").ids) == 59
    np.testing.assert_array_equal(store.vectors, vectors)
    with pytest.raises(Unreadable, match="of newer vectors than were opened"):
        _ = store.names


def test_an_index_of_replaced_vectors_is_told_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from moonlib.inference.searching import _refuse_outdated
    from moonlib.representations.index import Index

    frame = catalogue(tmp_path)
    embed(tmp_path, written(tmp_path, frame), "out")
    inside = moonlib.index(tmp_path / "out", "flat").path
    (tmp_path / "elsewhere").mkdir()
    outside = moonlib.index(tmp_path / "out", "flat", tmp_path / "elsewhere/i.faiss").path
    embed(tmp_path, written(tmp_path, changed(frame, 1, price=3.0)), "out")
    for path in (inside, outside):
        _refuse_outdated(Index.open(path))  # the vectors are what they were
    with caplog.at_level(logging.INFO, logger="moonlib"):
        embed(tmp_path, written(tmp_path, changed(frame, 1, title="other")), "out")
    assert "products.flat.faiss is an index of the vectors before" in caplog.text
    for path in (inside, outside):
        with pytest.raises(ValueError, match=r"build it again with `moonlib index .*out --kind flat`"):
            _refuse_outdated(Index.open(path))
    _refuse_outdated(moonlib.index(tmp_path / "out", "flat"))
    shutil.rmtree(verified(tmp_path / "out"))
    _refuse_outdated(Index.open(outside))  # shipped without its vectors
