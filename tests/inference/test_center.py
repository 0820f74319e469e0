"""`moonlib.Center`: what an upsert encodes and keeps, what it refuses, and what searches answer with."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from moonlib import Center, embed
from moonlib.center.aliases import Target
from moonlib.center.snapshot import GateFailed
from moonlib.data.quarantine import TooManyUnreadable
from moonlib.exports.folder import export
from moonlib.inference.upserting import Upserted
from moonlib.representations.store import Representations, unit
from moonlib.runs.run import RunError

WORDS = ("red", "blue", "small", "large", "mug", "shirt", "lamp", "chair")


def photo(seed: int, size: int = 40) -> bytes:
    """A JPEG that no other seed has."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def shop(n: int = 12, first: int = 0) -> pl.DataFrame:
    """Products of a shop, with their pictures."""
    ids = range(first, first + n)
    return pl.DataFrame(
        {
            "item_id": list(ids),
            "title": [f"{WORDS[i % 8]} {WORDS[(i // 8) % 8]} {i}" for i in ids],
            "image": [photo(i) for i in ids],
            "category": ["Home > Mugs" if i % 2 else "Apparel > Shirts" for i in ids],
            "price": [10.0 + i for i in ids],
        }
    )


@pytest.fixture(scope="module")
def exported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder of a run, as a folder of its own."""
    return Path(export(finished_run, tmp_path_factory.mktemp("exports") / "encoder"))


@pytest.fixture
def center(exported: Path, tmp_path: Path) -> Iterator[Center]:
    """A center without products."""
    yield Center.create(tmp_path / "center", exported, columns=("title", "category", "price"))


def counts(done: Upserted) -> tuple[int, int, int, int]:
    """Encoded, changed columns only, unchanged, deleted."""
    return done.encoded, done.changed_columns_only, done.unchanged, done.deleted


def vectors_of(exported: Path, frame: pl.DataFrame, tmp_path: Path, name: str) -> np.ndarray[Any, Any]:
    """Unit vectors that `moonlib embed` makes of the same products."""
    frame.write_parquet(tmp_path / f"{name}.parquet")
    embed(exported, tmp_path / f"{name}.parquet", tmp_path / name, workers=0)
    return unit(Representations.open(tmp_path / name, "products").read(slice(None)))


def test_only_what_the_encoder_reads_is_encoded_again(center: Center, exported: Path, tmp_path: Path) -> None:
    first = shop()
    assert counts(center.upsert(first)) == (12, 0, 0, 0)
    assert counts(center.upsert(first)) == (0, 0, 12, 0)
    dearer = first.with_columns(price=pl.col("price") + (pl.col("item_id") < 3))
    before = center.lookup(dearer["item_id"])
    assert counts(center.upsert(dearer)) == (0, 3, 9, 0)
    np.testing.assert_array_equal(center.lookup(dearer["item_id"]), before)
    assert center.view.rows([2, 3])["price"].to_list() == [13.0, 13.0]
    renamed = dearer.with_columns(title=pl.when(item_id=5).then(pl.lit("a green teapot")).otherwise("title"))
    repainted = renamed.with_columns(pl.Series("image", [photo(99), *renamed["image"].to_list()[1:]]))
    assert counts(center.upsert(repainted)) == (2, 0, 10, 0)
    expected = vectors_of(exported, repainted, tmp_path, "all")
    assert (unit(center.lookup(repainted["item_id"])) * expected).sum(axis=1).min() > 0.999  # int8 keeps the direction


def test_products_are_found_by_text_photo_and_vector_before_and_after_a_publish(center: Center) -> None:
    frame = shop()
    center.upsert(frame)
    wanted = frame.row(7, named=True)
    for published in (False, True):
        if published:
            assert center.publish(kind="flat").name == center.view.name == f"{next(iter(center.spaces))}@000001"
        hits = center.search(vector=center.lookup([7])[0], k=3)
        assert hits[0].item_id == 7 and hits[0].score == pytest.approx(1, abs=1e-3)
        assert hits[0].row == {"title": wanted["title"], "category": "Home/Mugs", "price": 17.0}
        assert hits[0].image is not None and Image.open(io.BytesIO(hits[0].image)).size == (40, 40)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert len(center.search(image=photo(3), text="lamp", k=20)) == 12
    center.delete([7])
    assert 7 not in [hit.item_id for hit in center.search(vector=center.lookup([6])[0], k=12)]
    assert not center.lookup([7]).any() and not center.view.has([7])[0]


def test_a_path_and_rows_give_what_a_frame_gives(center: Center, exported: Path, tmp_path: Path) -> None:
    frame = shop()
    photos = tmp_path / "photos"
    photos.mkdir()
    for id, data in zip(frame["item_id"], frame["image"], strict=True):
        (photos / f"{id}.jpg").write_bytes(data)
    named = frame.with_columns(image=pl.format("{}.jpg", "item_id"))
    named.write_csv(tmp_path / "products.csv")
    assert counts(center.upsert(tmp_path / "products.csv", images=photos)) == (12, 0, 0, 0)
    assert counts(center.upsert(frame)) == (0, 0, 12, 0)
    assert counts(center.upsert(frame.to_dicts())) == (0, 0, 12, 0)
    pl.DataFrame({"item_id": [0, 3, 500]}).write_csv(tmp_path / "gone.csv")
    assert counts(center.upsert(delete=tmp_path / "gone.csv")) == (0, 0, 0, 2)
    assert len(center.view) == 10


def test_workers_have_no_effect(
    center: Center, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moonlib.inference.incoming._CHUNK", 5)
    monkeypatch.setattr("moonlib.embedding.changed._WORTH_PROCESSES", 0)
    frame = shop()
    other = Center.create(tmp_path / "other", exported, columns=("price",))
    center.upsert(frame)
    other.upsert(frame, workers=2)
    np.testing.assert_array_equal(center.lookup(frame["item_id"]), other.lookup(frame["item_id"]))


def test_an_image_that_cannot_be_read_is_named_and_the_rest_represents_the_product(center: Center) -> None:
    frame = shop(3).with_columns(pl.Series("image", [photo(0), b"<html>", photo(2)]))
    done = center.upsert(frame)
    assert done.encoded == 3 and list(done.quarantined) == [1] and "readable" in done.quarantined[1]
    assert center.lookup([1]).any() and center.view.picture(1) is None
    assert counts(center.upsert(shop(3))) == (1, 0, 2, 0)
    assert center.view.picture(1) is not None
    with pytest.raises(TooManyUnreadable, match=r"11 images can't be read.*10 tolerated.*such as 0: not a readable"):
        center.upsert(shop(12).with_columns(image=pl.lit(b"<html>")))


def test_pictures_can_be_turned_off(exported: Path, tmp_path: Path) -> None:
    center = Center.create(tmp_path / "center", exported, pictures=False)
    center.upsert(shop(2))
    center.publish()
    assert center.view.picture(0) is None
    assert not list((tmp_path / "center").rglob("pictures.arrow"))


def test_an_encoder_that_is_open_already_is_not_opened_again(center: Center) -> None:
    space = next(iter(center.spaces.values()))
    encoder = center.encoder(space)
    again = Center(center.path, encoders={space.fingerprint: encoder})
    again.upsert(shop(3))
    again.send_canary()
    assert again.encoder(space) is encoder


def test_large_pictures_are_made_small(center: Center) -> None:
    center.upsert(shop(1).with_columns(pl.Series("image", [photo(0, 300)])))
    small = center.view.picture(0)
    assert small is not None and Image.open(io.BytesIO(small)).size == (256, 256)


def test_what_does_not_fit_the_space_is_refused_and_nothing_is_written(center: Center) -> None:
    center.upsert(shop(4))
    before = center.view.sequence
    refused: list[tuple[pl.DataFrame, str]] = [
        (shop(4).drop("title"), "no column 'title'.*the encoder reads it"),
        (shop(4).drop("image"), "no column 'image'.*the encoder reads it"),
        (shop(4).drop("price"), "no column 'price'.*the center keeps it"),
        (shop(4).with_columns(pl.col("item_id").cast(pl.String) + "x"), "ids are text.*are int64"),
        (shop(4).with_columns(price=pl.lit("cheap")), "price.*cheap"),
        (pl.concat([shop(2), shop(1)]), "appears a second time"),
        (shop(4).with_columns(image=pl.lit("a.jpg")), "no folder of images"),
        (shop(0), "no rows"),
    ]
    for frame, message in refused:
        with pytest.raises(ValueError, match=message):
            center.upsert(frame)
    for ids, message in ((["x7"], "delete.*x7"), ([1, "x"], "delete: ids are of several types"), ([2**63], "int64")):
        with pytest.raises(ValueError, match=message):
            center.delete(ids)
    center.upsert(shop(1).with_columns(title=pl.lit("red")))
    with pytest.raises(ValueError, match="no column 'category', nor 'price'"):
        center.upsert(shop(4).drop("price", "category"))
    rows = shop(4).to_dicts()
    del rows[2]["price"], rows[2]["image"]
    with pytest.raises(ValueError, match=r"products: row 3 has no 'image', 'price', which other rows"):
        center.upsert(rows)
    assert center.view.sequence == before + 1


def test_ids_are_kept_to_the_bit(exported: Path, tmp_path: Path) -> None:
    texts = [
        "a",
        "A",
        " a",
        "a ",
        "\x00",
        "e\u0301",
        "\u00e9",
        "\U0001f98a",
        "../x",
        "NULL",
        "01",
        "1",
        '"q", r',
        "x" * 5000,
    ]
    numbers = [-(2**63) + 1, -1, 0, 1, 2**62, 2**63 - 1]
    for name, ids in (("texts", texts), ("numbers", numbers)):
        center = Center.create(tmp_path / name, exported, columns=("title",), pictures=False)
        center.upsert([{"item_id": id, "title": f"{WORDS[n % 8]} {n}"} for n, id in enumerate(ids)])
        titles = [f"{WORDS[n % 8]} {n}" for n in range(len(ids))]
        for publish in (False, True):
            if publish:
                center.publish(kind="flat")
            assert center.view.rows(ids)["title"].to_list() == titles
            vectors = center.lookup(ids)
            assert vectors.any(axis=1).all()
            hits = center.search(vector=vectors[1], k=10_000)
            assert sorted(hit.item_id for hit in hits) == sorted(ids)  # type: ignore[type-var]
            assert all(hit.row["title"] == titles[ids.index(hit.item_id)] for hit in hits)  # type: ignore[arg-type]
        center.delete(ids[1:2])
        assert center.view.has(ids).tolist() == [True, False, *[True] * (len(ids) - 2)]
        assert not center.view.has([None]).any()
        with pytest.raises(ValueError, match="ids are of several types"):
            center.lookup([1, "a"])
    with pytest.raises(ValueError, match="9223372036854775808 is no int64"):
        center.lookup([1, 2**63])


def test_text_ids_stay_text(exported: Path, tmp_path: Path) -> None:
    center = Center.create(tmp_path / "center", exported, columns=("price",))
    frame = shop().with_columns(item_id=pl.format("sku-{}", "item_id"))
    center.upsert(frame)
    center.publish()
    assert counts(center.upsert(frame.head(2).with_columns(price=pl.lit(1.0)))) == (0, 2, 0, 0)
    hit = center.search(vector=center.lookup(["sku-1"])[0], k=1)[0]
    assert (hit.item_id, hit.row) == ("sku-1", {"price": 1.0})
    with pytest.raises(ValueError, match=r"int64.*text"):
        center.upsert(shop(2))
    assert counts(center.upsert(delete=["sku-1", "sku-99"])) == (0, 0, 0, 1)


def test_a_new_column_that_the_encoder_reads_has_products_encoded_again(exported: Path, tmp_path: Path) -> None:
    center = Center.create(tmp_path / "center", exported, columns=("price",))
    center.upsert(shop(4).drop("image"))
    assert center.view.picture(0) is None
    assert counts(center.upsert(shop(4))) == (4, 0, 0, 0)
    assert center.view.picture(0) is not None


def test_a_backfill_of_another_space_and_the_way_back(center: Center, exported: Path) -> None:
    frame = shop()
    center.upsert(frame)
    center.publish()
    (v1,) = center.spaces
    Center.create(center.path, exported, dtype="float32", columns=("title", "category", "price"))
    (v2,) = set(center.spaces) - {v1}
    assert center.view.space.name == v1
    center.upsert(frame.head(6), space=v2)
    assert counts(center.upsert(frame.tail(6))) == (0, 0, 6, 0)  # of what answers now; the other space is filled too
    center.upsert(delete=[0])
    center.publish(space=v2)
    assert center.view.name == f"{v2}@000001" and len(center.view) == 11
    center.upsert(shop(1, first=50))
    assert center.rollback() == Target(v1, 1)
    assert center.view.space.name == v1 and center.view.has([50])[0] and len(center.view) == 12
    assert center.rollback() == Target(v2, 1)
    center.publish()  # of v2 again: v1 is nowhere to roll back to any more
    center.upsert(shop(1, first=60))
    center.publish()
    center.upsert(shop(1, first=61))
    assert len(Center(center.path).view) == 14
    with pytest.raises(ValueError, match=r"2 spaces|no space"):
        center.publish(space=v1[:5])


def test_an_embedding_opens_as_a_center_that_can_only_be_read(exported: Path, tmp_path: Path) -> None:
    frame = shop()
    expected = vectors_of(exported, frame, tmp_path, "all")
    center = Center(tmp_path / "all")
    assert center.read_only and len(center.view) == 12 and center.view.snapshot == 1
    np.testing.assert_allclose(unit(center.lookup(frame["item_id"])), expected, atol=1e-6)
    assert center.search(vector=expected[4], k=1)[0].item_id == 4
    assert len(center.search(text="red mug", k=5)) == 5
    for change in (lambda: center.upsert(frame), lambda: center.publish(), lambda: center.rollback()):
        with pytest.raises(ValueError, match=r"can only be read.*moonlib upsert"):
            change()


def test_probes_and_coverage_guard_a_publish(center: Center) -> None:
    center.upsert(shop())
    best = center.search(text="mug", k=12)
    center.publish(probes={"mug": [best[0].item_id]})
    with pytest.raises(GateFailed, match="'mug' finds none"):
        center.publish(probes={"mug": [best[11].item_id]})
    assert center.view.snapshot == 1
    assert center.publish(alias="canary").snapshot == 1 == Center(center.path, "canary").view.snapshot
    nothing = pl.DataFrame({"item_id": [900], "title": [""], "image": [None], "category": ["x"], "price": [1.0]})
    center.upsert(nothing)
    assert center.publish(kind="flat").about.coverage == 1  # nothing can be said of it, so it needs no vector
    center.upsert(nothing.with_columns(pl.Series("image", [b"<html>"])))
    with pytest.raises(GateFailed, match="item 900"):
        center.publish()
    assert center.view.snapshot == 2


def test_what_is_no_center_is_refused(tmp_path: Path, exported: Path, center: Center) -> None:
    with pytest.raises(FileNotFoundError, match="no such center"):
        Center(tmp_path / "nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="no center"):
        Center.create(tmp_path / "full", exported)
    with pytest.raises(RunError):
        Center.create(tmp_path / "new", tmp_path / "full")
    with pytest.raises(ValueError, match="keep 1 to 32"):
        Center.create(tmp_path / "wide", exported, dim=33)
    with pytest.raises(ValueError, match="'color'"):
        Center.create(tmp_path / "typeless", exported, columns=("color",))
    with pytest.raises(ValueError, match="no products"):
        center.publish()
    with pytest.raises(ValueError, match="nowhere before"):
        center.rollback()
    with pytest.raises(ValueError, match="no alias 'canary'"):
        _ = Center(center.path, alias="canary").view


def test_a_space_that_is_there_keeps_its_columns(center: Center, exported: Path) -> None:
    for same in (None, ("price", "title", "category"), {"title": "text", "category": "text", "price": "float"}):
        assert Center.create(center.path, exported, columns=same).spaces == center.spaces  # type: ignore[arg-type]
    for other in (("title",), {"title": "text", "category": "text", "price": "text"}):
        with pytest.raises(
            ValueError, match=r"keeps title \(text\), category \(text\), price \(float\), and that can't"
        ):
            Center.create(center.path, exported, columns=other)  # type: ignore[arg-type]


def test_vectors_that_lost_their_neighbours_are_not_published(exported: Path, tmp_path: Path) -> None:
    frame = shop(40)
    frame.write_parquet(tmp_path / "products.parquet")
    embed(exported, tmp_path / "products.parquet", tmp_path / "vectors", workers=0)
    small = Center.create(tmp_path / "center", exported, dtype="int8", dim=2)
    small.upsert(frame)
    with pytest.raises(ValueError, match=r"keeps 2 of the encoder's \d+ dimensions.*--embedding DIR"):
        small.publish()
    with pytest.raises(GateFailed, match=r"vectors of 2 dimensions kept as int8 have a recall@10 of 0\.\d+"):
        small.publish(embedding=tmp_path / "vectors")
    assert small.view.snapshot == 0
    large = Center.create(tmp_path / "large", exported, dtype="float32")
    large.upsert(frame)
    done = large.publish(kind="flat", embedding=tmp_path / "vectors")
    assert done.about.recall_of_vectors == 1
    about = tmp_path / "vectors" / "embedding.json"
    (tmp_path / "vectors" / "moonlib.sha256").unlink()
    about.write_text(about.read_text().replace(large.view.space.fingerprint, "0" * 40))
    with pytest.raises(ValueError, match="was embedded with another encoder than that of"):
        large.publish(embedding=tmp_path / "vectors")
