from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from moonlib.data.content import Content, Modalities
from moonlib.data.dataset import Dataset
from moonlib.data.quarantine import Quarantine, TooManyUnreadable
from moonlib.data.reader import Sample, SampleReader
from moonlib.embedding.embed import Contents, embed, encode
from moonlib.encoders.encoder import ContentBatch, Encoder
from moonlib.runs.run import Run

BOTH = Modalities.parse("title+image")


@pytest.fixture(scope="module")
def encoder(finished_run: Path) -> Encoder:
    return Run(finished_run).encoder()


@pytest.fixture
def contents(tiny: Dataset, tmp_path: Path) -> Contents:
    reader = SampleReader(tiny.directory, "products")
    return Contents(reader, "product", reader.ids, BOTH, Quarantine(tmp_path / "quarantine.jsonl", len(reader)), 64)


class Spoiled:
    """A reader whose images of some ids cannot be decoded, or are not there at all."""

    table = "products"

    def __init__(self, reader: SampleReader, ids: set[int], image: bytes | None) -> None:
        self.reader, self.ids, self.image = reader, ids, image

    def read(self, ids: np.ndarray) -> list[Sample]:
        samples = self.reader.read(ids)
        return [Sample(s.id, s.row, self.image) if s.id in self.ids else s for s in samples]


def test_every_row_is_what_the_encoder_says_of_it(encoder: Encoder, contents: Contents, tmp_path: Path) -> None:
    store = embed(encoder, contents, tmp_path, "products")
    assert isinstance(contents.reader, SampleReader)
    for sample in contents.reader.read(contents.reader.ids[::40]):
        content = Content(sample.image, sample.row["title"], None)
        alone = encoder(encoder.preprocessor([content], "product"))[0].detach().numpy()
        found = store.gather(np.array([sample.id]))[0]
        np.testing.assert_allclose(found, alone, atol=1e-5)


def test_workers_and_a_cut_change_no_bit(encoder: Encoder, contents: Contents, tmp_path: Path) -> None:
    for name in ("whole", "parallel", "cut"):
        (tmp_path / name).mkdir()
    embed(encoder, contents, tmp_path / "whole", "products")
    embed(encoder, contents, tmp_path / "parallel", "products", workers=2)

    def full(rows: int) -> None:
        if rows > 2 * contents.chunk:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        embed(encoder, contents, tmp_path / "cut", "products", progress=full)
    rows: list[int] = []
    embed(encoder, contents, tmp_path / "cut", "products", workers=1, progress=rows.append)
    assert rows[0] == 3 * contents.chunk and rows[-1] == len(contents.ids)
    whole = (tmp_path / "whole/products.npy").read_bytes()
    assert (tmp_path / "parallel/products.npy").read_bytes() == whole
    assert (tmp_path / "cut/products.npy").read_bytes() == whole


def test_the_encoder_and_torch_are_left_as_they_were(encoder: Encoder, contents: Contents, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    encoder.train()
    try:
        embed(encoder, contents, tmp_path, "products", dim=3)
        assert encoder.training
        chunks = encode(encoder, contents)
        next(chunks)
        chunks.close()
        assert encoder.training and torch.get_num_threads() == threads
    finally:
        encoder.eval()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_and_its_row_represented_by_the_title(
    encoder: Encoder, contents: Contents, tmp_path: Path, workers: int
) -> None:
    reader, bad = contents.reader, {int(contents.ids[3]), int(contents.ids[100])}
    assert isinstance(reader, SampleReader)
    stores = []
    for name, image in (("broken", b"\xff\xd8 no picture"), ("absent", None)):
        (tmp_path / name).mkdir()
        contents.reader = Spoiled(reader, bad, image)
        stores.append(embed(encoder, contents, tmp_path / name, "products", workers=workers))
    np.testing.assert_array_equal(stores[0].vectors, stores[1].vectors)
    assert {id for _, id in contents.quarantine.entries()} == bad
    assert stores[0].vectors.any(axis=1).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_unreadable_images_end_it_on_one_line(
    encoder: Encoder, contents: Contents, tmp_path: Path, workers: int
) -> None:
    assert isinstance(contents.reader, SampleReader)
    contents.reader = Spoiled(contents.reader, set(contents.ids[64:].tolist()), b"\xff\xd8")
    with pytest.raises(TooManyUnreadable) as caught:
        embed(encoder, contents, tmp_path, "products", workers=workers)
    assert str(caught.value).startswith("11 samples cannot be read") and "\n" not in str(caught.value)
    assert (tmp_path / ".products.npy.partial").stat().st_size >= 64 * encoder.dim * 4


class Broken(Encoder):
    """Says NaN of the row with the title 'b'."""

    dim, image_dim, text_dim = 2, 0, 1

    def setup(self, *_: object) -> None: ...

    def preprocessor(self, contents: list[Content], side: str) -> ContentBatch:  # type: ignore[override]
        return {"x": torch.tensor([[float("nan") if c.text == "b" else 1.0] * 2 for c in contents])}

    def forward(self, batch: ContentBatch) -> Tensor:
        return batch["x"]


class Titles:
    table = "products"

    def read(self, ids: np.ndarray) -> list[Sample]:
        return [Sample(int(id), {"title": "b" if id == -4 else "a", "category": "c"}, None) for id in ids]


def test_a_vector_that_is_not_finite_is_named_and_not_written(tmp_path: Path) -> None:
    ids = np.array([9, -4, 2, 5])
    contents = Contents(Titles(), "product", ids, BOTH, Quarantine(tmp_path / "q", 4), 1)
    with pytest.raises(ValueError, match="products: the representation of -4 is not finite"):
        embed(Broken(), contents, tmp_path, "products")
    assert not (tmp_path / "products.npy").exists()


def test_an_id_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="id 4 stands twice"):
        Contents(Titles(), "product", np.array([4, 1, 4]), BOTH, Quarantine(tmp_path / "q", 4), 2)
