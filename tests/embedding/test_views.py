"""The vector of a product with several pictures: of the main one, or the mean of all."""

from __future__ import annotations

import io
from pathlib import Path

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from moonlib.data.content import Content, Modalities
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import Sample
from moonlib.embedding.embed import Contents, Views, averaged, embed
from moonlib.encoders.thumbnail import Thumbnail


def picture(seed: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((40, 40), Image.Resampling.BICUBIC).save(out, "JPEG", quality=95)
    return out.getvalue()


class Shelf:
    """Products in memory: a list of pictures each."""

    table = "products"

    def __init__(self, pictures: dict[int, list[bytes]]) -> None:
        self.pictures = pictures

    def read(self, ids: np.ndarray) -> list[Sample]:
        samples = []
        for id in ids.tolist():
            main, *more = self.pictures[id] or [None]
            row = {"title": None, "box": [0.0, 0.0, 0.5, 0.5] if main else None}
            samples.append(Sample(id, row, main, tuple(more)))  # type: ignore[arg-type]
        return samples


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Thumbnail:
    encoder = Thumbnail()
    encoder.setup(pl.DataFrame(), tmp_path_factory.mktemp("thumbnail"))
    return encoder


def vectors(
    encoder: Thumbnail,
    shelf: dict[int, list[bytes]],
    path: Path,
    views: Views,
    *,
    chunk: int = 4,
    workers: int = 0,
    words: str = "image",
) -> np.ndarray:
    path.mkdir(exist_ok=True)
    quarantine = Quarantine(path / "quarantine.jsonl", total=len(shelf))
    contents = Contents(
        Shelf(shelf), "product", np.array(list(shelf)), Modalities.parse(words), quarantine, chunk, views=views
    )
    return np.array(embed(encoder, contents, path, f"{views}{chunk}{workers}{words}", workers=workers).vectors)


SHELF = {1: [picture(1)], 2: [picture(2), picture(3), picture(4)], 3: [], 4: [picture(5), picture(6)], 5: [picture(7)]}


@pytest.mark.parametrize("copies", [2, 3, 16])
def test_copies_of_one_picture_have_its_vector(encoder: Thumbnail, tmp_path: Path, copies: int) -> None:
    # The box is the main picture's alone, so copies are compared without one.
    shelf = {id: [picture(id)] * (1 + id % copies) for id in range(1, 7)}

    class Whole(Shelf):
        def read(self, ids: np.ndarray) -> list[Sample]:
            return [Sample(s.id, s.row | {"box": None}, s.image, s.more) for s in super().read(ids)]

    stores = []
    for views in ("main", "mean"):
        quarantine = Quarantine(tmp_path / "q", total=6)
        contents = Contents(
            Whole(shelf), "product", np.array(list(shelf)), Modalities.parse("image"), quarantine, 4, views=views
        )
        stores.append(np.array(embed(encoder, contents, tmp_path, views).vectors))
    assert stores[0].any(axis=1).all()
    np.testing.assert_allclose(stores[1], stores[0], atol=1e-6)


def test_the_mean_is_that_of_the_directions_and_of_the_lengths(encoder: Thumbnail, tmp_path: Path) -> None:
    found = vectors(encoder, SHELF, tmp_path, "mean")
    for row, pictures in enumerate(SHELF.values()):
        box = (0.0, 0.0, 0.5, 0.5)
        each = [Content(image, None, None if i else box) for i, image in enumerate(pictures)] or [Content(None, None)]
        alone = np.stack([encoder(encoder.preprocessor([one], "product"))[0].detach().numpy() for one in each])
        lengths = np.linalg.norm(alone, axis=1, keepdims=True)
        expected = (alone / np.maximum(lengths, 1e-9)).mean(axis=0) * lengths.mean()
        np.testing.assert_allclose(found[row], expected, atol=1e-6)


def test_main_reads_the_main_picture_alone(encoder: Thumbnail, tmp_path: Path) -> None:
    mains = {id: pictures[:1] for id, pictures in SHELF.items()}
    found = vectors(encoder, SHELF, tmp_path / "a", "main")
    assert np.array_equal(found, vectors(encoder, mains, tmp_path / "b", "main"))
    assert np.array_equal(found, vectors(encoder, mains, tmp_path / "b", "mean"))


def test_a_text_is_not_averaged(encoder: Thumbnail, tmp_path: Path) -> None:
    found = [vectors(encoder, SHELF, tmp_path, views, words="title") for views in ("main", "mean")]  # type: ignore[arg-type]
    assert np.array_equal(*found)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_the_size_of_chunks_change_nothing(encoder: Thumbnail, tmp_path: Path, workers: int) -> None:
    expected = vectors(encoder, SHELF, tmp_path, "mean")
    assert np.array_equal(vectors(encoder, SHELF, tmp_path, "mean", workers=workers), expected)
    np.testing.assert_allclose(vectors(encoder, SHELF, tmp_path, "mean", chunk=1), expected, atol=1e-6)


def test_a_picture_that_cannot_be_decoded_is_named_and_left_out(encoder: Thumbnail, tmp_path: Path) -> None:
    broken = b"\xff\xd8\xff no picture"
    shelf = SHELF | {
        2: [picture(2), broken, picture(4)],
        4: [broken, picture(6)],
        5: [broken, broken],
    }
    left = SHELF | {2: [picture(2), picture(4)], 5: []}
    found, expected = (vectors(encoder, one, tmp_path / str(i), "mean") for i, one in enumerate((shelf, left)))
    assert np.array_equal(found[[0, 1, 2, 4]], expected[[0, 1, 2, 4]])
    whole = encoder(encoder.preprocessor([Content(picture(6), None)], "product"))[0].detach().numpy()
    np.testing.assert_allclose(found[3], whole, atol=1e-6)  # without the box of the picture that is gone
    named = Quarantine(tmp_path / "0" / "quarantine.jsonl", total=5).entries()
    assert {id for _, id in named} == {2, 4, 5}


@given(arrays(np.float32, (3, 4), elements=st.floats(-8, 8, width=32)), st.integers(2, 9))
def test_averages_of_equal_vectors_are_the_vector(one: np.ndarray, copies: int) -> None:
    rows = np.repeat(np.arange(3), copies)
    np.testing.assert_allclose(averaged(np.repeat(one, copies, axis=0), rows), one, atol=1e-6)


def test_a_long_vector_counts_no_more_than_a_short_one() -> None:
    found = averaged(np.float32([[100, 0], [0, 1], [0, 0], [0, 0]]), np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(found, [[25.25, 25.25], [0, 0]], rtol=1e-6)


def test_what_is_not_finite_stays_so() -> None:
    assert not np.isfinite(averaged(np.float32([[np.nan, 1], [1, 1]]), np.array([0, 0]))).all()
