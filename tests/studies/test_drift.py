from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from moonlib.artifacts.checksums import Damaged
from moonlib.artifacts.reading import Unreadable
from moonlib.cli.app import main
from moonlib.data.dataset import Dataset
from moonlib.data.evaluation import evaluation_searches
from moonlib.metrics.bootstrap import Interval
from moonlib.representations.store import Representations
from moonlib.runs.run import RunError
from moonlib.studies.drift import CELLS, default_file, drift, drift_tables, neighbour_overlap

Vectors = NDArray[np.float32]


def folder(
    place: Path,
    ids: NDArray[np.int64],
    vectors: Vectors,
    names: list[str] | None = None,
    queries: tuple[NDArray[np.int64], Vectors] | None = None,
) -> Path:
    """A folder as `moonlib embed` leaves it."""
    place.mkdir(parents=True)
    (place / "embedding.json").write_text(json.dumps({"identity": {"encoder": "0123"}}))
    Representations(ids, vectors, None if names is None else pl.Series(names)).save(place, "products")
    if queries is not None:
        Representations(*queries).save(place, "queries")
    return place


def draw(rows: int, dim: int = 6, seed: int = 0) -> Vectors:
    return np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(a @ b) / (math.hypot(*a.tolist()) * math.hypot(*b.tolist()))


def nearest_by_hand(vectors: dict[int, NDArray[Any]], item: int, k: int) -> set[int]:
    others = sorted((other for other in vectors if other != item), key=lambda o: -cosine(vectors[o], vectors[item]))
    return set(others[:k])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.integers(3, 40), st.integers(1, 12))
def test_overlap_equals_a_loop_over_products(seed: int, rows: int, k: int) -> None:
    k = min(k, rows - 1)
    rng = np.random.default_rng(seed)
    old, new = draw(rows, 5, seed), draw(rows, 3, seed + 1)
    old_rows, new_rows = rng.permutation(rows), rng.permutation(rows)
    of = np.sort(rng.choice(rows, max(1, rows // 2), replace=False))
    ids = np.arange(rows)
    found = neighbour_overlap(Representations(ids, old), Representations(ids, new), old_rows, new_rows, of, k)
    before = {i: old[row].astype(float) for i, row in enumerate(old_rows)}
    after = {i: new[row].astype(float) for i, row in enumerate(new_rows)}
    expected = [len(nearest_by_hand(before, int(i), k) & nearest_by_hand(after, int(i), k)) / k for i in of]
    np.testing.assert_allclose(found, expected)


def test_overlap_does_not_depend_on_how_much_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stores = [Representations(np.arange(90), draw(90, 4, seed)) for seed in (0, 1)]
    rows = np.arange(90)
    whole = neighbour_overlap(*stores, rows, rows, rows, 10)
    monkeypatch.setattr("moonlib.studies.drift.ROWS", 7)
    monkeypatch.setattr("moonlib.studies.drift.SCORES", 100)
    np.testing.assert_array_equal(neighbour_overlap(*stores, rows, rows, rows, 10), whole)
    assert 0 < whole.mean() < 0.5


def test_vectors_against_themselves_have_not_moved(tmp_path: Path) -> None:
    vectors = draw(60)
    vectors[7] = vectors[8]  # equal products, whose order among the neighbours is chance
    place = folder(tmp_path / "a", np.arange(60), vectors)
    found = drift(place, place)
    assert found.everything.moved is not None
    assert dataclasses.astuple(found.everything.moved) == pytest.approx((0, 0, 0, 0), abs=1e-12)
    assert found.everything.overlap == Interval(1.0, 1.0, 1.0)
    assert (found.products, found.only_old, found.only_new, found.compared) == (60, 0, 0, 60)


def test_a_rotation_moves_all_products_and_keeps_their_neighbours(tmp_path: Path) -> None:
    vectors = draw(200)
    turn, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((6, 6)))
    old = folder(tmp_path / "old", np.arange(200), vectors)
    new = folder(tmp_path / "new", np.arange(200), (vectors @ turn).astype(np.float32))
    found = drift(old, new).everything
    assert found.moved is not None and found.overlap is not None
    assert found.moved.mean > 0.3
    assert found.overlap.estimate == 1.0


def test_products_are_matched_by_id_and_moved_is_a_loop(tmp_path: Path) -> None:
    old_ids, new_ids = np.array([9, 2, 5, 4, 11, 30]), np.array([5, 77, 9, 4, 2, 30])
    before, after = draw(6, seed=1), draw(6, seed=2)
    after[5] = 0  # nothing could be represented
    found = drift(folder(tmp_path / "old", old_ids, before), folder(tmp_path / "new", new_ids, after), k=2)
    old, new = dict(zip(old_ids.tolist(), before, strict=True)), dict(zip(new_ids.tolist(), after, strict=True))
    moved = [1 - cosine(old[item].astype(float), new[item].astype(float)) for item in (2, 4, 5, 9)]
    assert (found.products, found.only_old, found.only_new) == (4, 2, 1)
    assert found.everything.moved is not None and found.everything.overlap is not None
    assert found.everything.moved.mean == pytest.approx(np.mean(moved))
    assert found.everything.moved.p90 == pytest.approx(np.quantile(moved, 0.9))
    both = (2, 4, 5, 9)
    shares = [
        len(nearest_by_hand({i: old[i] for i in both}, i, 2) & nearest_by_hand({i: new[i] for i in both}, i, 2)) / 2
        for i in both
    ]
    assert found.everything.overlap.estimate == pytest.approx(np.mean(shares))


def test_text_ids_are_matched_as_text_whatever_their_numbers(tmp_path: Path) -> None:
    vectors = draw(5)
    old = folder(tmp_path / "old", np.arange(4), vectors[1:], ["B", "C", "D", "E"])
    new = folder(tmp_path / "new", np.arange(5), vectors, ["A", "B", "C", "D", "E"])
    found = drift(old, new, k=1)
    assert (found.products, found.only_new) == (4, 1)
    assert found.everything.moved is not None
    assert found.everything.moved.p99 == pytest.approx(0, abs=1e-12)


def test_another_width_leaves_the_overlap_of_neighbours(tmp_path: Path) -> None:
    vectors = draw(50, 8)
    vectors[:, 4:] *= 1e-4
    old, new = folder(tmp_path / "old", np.arange(50), vectors), folder(tmp_path / "new", np.arange(50), vectors[:, :4])
    found = drift(old, new, k=5)
    assert found.everything.moved is None
    assert found.everything.overlap is not None
    assert found.everything.overlap.estimate == 1.0
    assert any("the old vectors have 8 dimensions and the new ones 4" in note for note in found.notes)
    assert found.to_json()["everything"]["moved"] is None


def test_a_sample_is_drawn_from_many_and_told(tmp_path: Path) -> None:
    old, new = (folder(tmp_path / name, np.arange(400), draw(400, 4, seed)) for seed, name in enumerate("ab"))
    whole, part = drift(old, new).everything.overlap, drift(old, new, sample=200)
    assert part.compared == 200
    assert "neighbours of 200 products were compared, drawn from 400" in part.notes
    assert whole is not None and part.everything.overlap is not None
    assert part.everything.overlap.low < whole.estimate < part.everything.overlap.high
    assert part == drift(old, new, sample=200)


def by_hand(
    dataset: Dataset, asked: Representations, products: Representations, both: set[int], k: int
) -> list[tuple[int, bool]]:
    """Ordered product and whether it was found, search by search."""
    table = dataset.table("products", ("item_id", "spu_id", "listed_at")).rows_by_key(
        "item_id", named=True, unique=True
    )
    listed = {item: row["listed_at"] for item, row in table.items()}
    vectors = dict(zip(products.ids.tolist(), products.vectors, strict=True))
    queries = dict(zip(asked.ids.tolist(), asked.vectors, strict=True))
    found = []
    for row in evaluation_searches(dataset, "test").iter_rows(named=True):
        if row["query_id"] not in queries or row["item_id"] not in both:
            continue
        scores = {i: cosine(queries[row["query_id"]], vectors[i]) for i in both if listed[i] <= row["ts"]}
        hits = [score for i, score in scores.items() if table[i]["spu_id"] == row["spu_id"]]
        rivals = [s for i, s in scores.items() if table[i]["spu_id"] != row["spu_id"] and hits and s >= max(hits)]
        found.append((row["item_id"], bool(hits) and len(rivals) < k))
    return found


@pytest.fixture
def spaces(tiny: Dataset, tmp_path: Path) -> tuple[Path, Path]:
    """Two embeddings of the tiny marketplace: the old one lacks some products, the new one others, both queries."""
    items = tiny.products["item_id"].sort().to_numpy()
    queries = tiny.queries["query_id"].sort().to_numpy()
    base, asked = draw(len(items), 8, 0), draw(len(queries), 8, 3)
    places = []
    for name, there, heard, seed in (
        ("old", np.arange(len(items)) % 10 != 3, np.arange(len(queries)) % 4 != 1, 1),
        ("new", np.arange(len(items)) % 10 != 6, np.arange(len(queries)) % 5 != 1, 2),
    ):
        products = base + 0.3 * draw(len(items), 8, seed)
        near = asked + 0.3 * draw(len(queries), 8, seed + 10)
        places.append(folder(tmp_path / name, items[there], products[there], None, (queries[heard], near[heard])))
    return places[0], places[1]


def test_recall_of_every_cell_equals_a_loop_over_searches(tiny: Dataset, spaces: tuple[Path, Path]) -> None:
    old, new = spaces
    found = drift(old, new, data=tiny.directory, k=20)
    stores = {
        name: [Representations.open(place, t) for t in ("products", "queries")]
        for name, place in zip(("old", "new"), spaces, strict=True)
    }
    both = set(stores["old"][0].ids.tolist()) & set(stores["new"][0].ids.tolist())
    top = dict(zip(tiny.products["item_id"], tiny.products["category"].str.split("/").list.first(), strict=True))
    for cell, interval in found.everything.recall.items():
        asked, products = cell.split(" on ")
        expected = by_hand(tiny, stores[asked][1], stores[products][0], both, 20)
        assert found.everything.searches[cell] == len(expected) > 40
        assert interval.estimate == pytest.approx(np.mean([hit for _, hit in expected]))
        assert interval.low <= interval.estimate <= interval.high
        for name, part in found.segments.items():
            inside = [hit for item, hit in expected if top[item] == name]
            if inside:
                assert part.searches[cell] == len(inside)
                assert part.recall[cell].estimate == pytest.approx(np.mean(inside))
    assert list(found.everything.recall) == ["new on new", "new on old", "old on new", "old on old"]
    assert found.ratio is not None
    recall = {cell: interval.estimate for cell, interval in found.everything.recall.items()}
    assert found.ratio.estimate == pytest.approx(recall["new on old"] / recall["new on new"])
    assert sum(part.products for name, part in found.segments.items() if name != "new") == found.products
    assert found.added is not None
    assert found.added.products == found.only_new
    assert any("recall of new queries is that of" in note for note in found.notes)


def test_folders_that_name_no_data_are_compared_without_searches(tiny: Dataset, spaces: tuple[Path, Path]) -> None:
    found = drift(*spaces)
    assert found.everything.recall == {}
    assert found.segments == {}
    assert any("give it, with --data" in note for note in found.notes)


def test_a_run_against_itself(finished_run: Path) -> None:
    found = drift(finished_run, finished_run, k=5)
    cells = list(found.everything.recall.values())
    assert len(cells) == 4
    assert len({cell.estimate for cell in cells}) == 1
    assert found.ratio is None or found.ratio.estimate == 1
    assert found.added is None
    assert {"new"} < found.segments.keys()


def test_the_tables_fit_80_columns_and_say_everything(tiny: Dataset, spaces: tuple[Path, Path]) -> None:
    found = drift(*spaces, data=tiny.directory)
    for table in drift_tables(found):
        lines = [text for text, _ in table.lines(80)]
        assert max(map(len, lines)) <= 80
    text = "\n".join(text for table in drift_tables(found) for text, _ in table.lines(80))
    for words in (
        "moved, median",
        "overlap@10",
        "recall@10, new queries on old",
        "not in the old one",
        *found.segments,
    ):
        assert words in text


def test_what_is_written_is_what_is_returned(spaces: tuple[Path, Path], tmp_path: Path) -> None:
    found = drift(*spaces, out=tmp_path / "deep/drift.json")
    written = json.loads((tmp_path / "deep/drift.json").read_text())
    assert written == json.loads(json.dumps(found.to_json()))
    assert written["everything"]["overlap"]["estimate"] == found.everything.overlap.estimate  # type: ignore[union-attr]


Spoil = Callable[[Path], None]


def cut(place: Path) -> None:
    file = place / "products.npy"
    file.write_bytes(file.read_bytes()[:-3])


def not_finite(place: Path) -> None:
    vectors = np.load(place / "products.npy")
    vectors[2, 1] = np.nan
    np.save(place / "products.npy", vectors)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (shutil.rmtree, FileNotFoundError, "there is no such run directory, nor a folder of `moonlib embed`"),
        (lambda place: (place / "products.npy").unlink(), ValueError, "is not complete"),
        (lambda place: (place / "products.parquet").touch(), ValueError, "holds Parquet; drift reads what"),
        (lambda place: (place / "embedding.json").unlink(), RunError, "is not a run directory"),
        (lambda place: (place / "embedding.json").rename(place / "config.json"), RunError, "is an export, which holds"),
        (cut, Unreadable, r"products\.npy"),
        (not_finite, ValueError, "the vector of product 2 has a value that is not finite"),
    ],
    ids=["gone", "half", "parquet", "no run", "export", "cut", "not finite"],
)
@pytest.mark.parametrize("side", ["old", "new"])
def test_places_without_whole_vectors_are_named(
    side: str, spoil: Spoil, error: type[Exception], message: str, tmp_path: Path
) -> None:
    places = {
        name: folder(tmp_path / name, np.arange(9), draw(9, seed=seed)) for seed, name in enumerate(("old", "new"))
    }
    spoil(places[side])
    with pytest.raises(error, match=message) as caught:
        drift(places["old"], places["new"], out=tmp_path / "out.json")
    assert str(places[side]) in str(caught.value)
    assert not (tmp_path / "out.json").exists()


def test_vectors_of_other_products_are_refused(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", np.arange(5), draw(5))
    b = folder(tmp_path / "b", np.arange(10, 15), draw(5))
    c = folder(tmp_path / "c", np.arange(5), draw(5), list("ABCDE"))
    with pytest.raises(ValueError, match=r"a \(5 products\) and .*b \(5\) have no product in common"):
        drift(a, b)
    with pytest.raises(ValueError, match="its ids are int64, such as 0, and here they are text, such as 'A'"):
        drift(a, c)
    with pytest.raises(ValueError, match="its ids are text, such as 'A', and here they are int64, such as 0"):
        drift(c, a)
    for wrong in ({"k": 0}, {"sample": 0}):
        with pytest.raises(ValueError, match="0: expected at least 1"):
            drift(a, a, **wrong)


def test_a_run_whose_vectors_were_pruned_or_changed_is_named(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run.parent, tmp_path / "runs", symlinks=True) / finished_run.name
    stage = (run / "represent").resolve()
    vectors = (stage / "products.npy").read_bytes()
    (stage / "products.npy").write_bytes(vectors[:-1] + bytes([vectors[-1] ^ 1]))
    with pytest.raises(Damaged, match=r"products\.npy is damaged"):
        drift(finished_run, run)
    shutil.rmtree(stage)
    with pytest.raises(RunError, match=r"represent is missing, .* was deleted; `moonlib fit"):
        drift(run, finished_run)


def test_the_verb_prints_tables_or_json_and_leaves_a_file_in_the_run(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run.parent, tmp_path / "runs", symlinks=True) / finished_run.name
    assert main(["drift", str(finished_run), str(run), "--k", "5"]) == 0
    printed = capsys.readouterr().out
    file = run / "drift" / f"{finished_run.name}.json"
    assert printed.rstrip().endswith(str(file).rpartition("/")[2])
    assert "overlap@5" in printed
    assert max(map(len, printed.replace(str(file), "").split("\n"))) <= 80
    assert main(["drift", str(finished_run), str(run), "--k", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(file.read_text())


def test_a_run_is_not_compared_with_itself(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = [str(finished_run), str(finished_run.parent / "." / finished_run.name)]
    for words in (twice, [*twice, "--out", "drift.json"]):
        assert main(["drift", *words]) == 2
        assert "are the same vectors: there is nothing to compare" in capsys.readouterr().err
    assert not (finished_run / "drift").exists()


def test_runs_of_one_name_do_not_overwrite_each_others_drift(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = finished_run.name
    run, other = (shutil.copytree(finished_run.parent, tmp_path / each, symlinks=True) / name for each in "ab")
    first = run / "drift" / f"{name}.json"
    assert default_file(finished_run, run) == default_file(other, run) == first
    assert main(["drift", str(finished_run), str(run)]) == 0
    second = default_file(other, run)
    assert second is not None and re.fullmatch(rf"{name}-[0-9a-f]{{8}}\.json", second.name)
    assert main(["drift", str(other), str(run)]) == 0
    assert [json.loads(file.read_text())["old"] for file in (first, second)] == [str(finished_run), str(other)]
    assert default_file(finished_run, run) == first and default_file(other, run) == second
    first.write_text("{")  # of no use to anybody
    assert default_file(other, run) == first


def test_the_verb_writes_nothing_into_a_folder_of_embed_unless_told(
    spaces: tuple[Path, Path], tiny: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = map(str, spaces)
    before = sorted(path.name for path in spaces[1].iterdir())
    assert main(["drift", old, new, "--data", str(tiny.directory), "--out", str(tmp_path / "d.json")]) == 0
    assert json.loads((tmp_path / "d.json").read_text())["everything"]["recall"].keys() == set(CELLS)
    assert sorted(path.name for path in spaces[1].iterdir()) == before
    (spaces[1] / "products.npy").unlink()
    capsys.readouterr()
    assert main(["drift", old, new]) == 2
    assert "is not complete; the `moonlib embed` that wrote it resumes it" in capsys.readouterr().err
