from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from moonlib.artifacts.reading import Unreadable
from moonlib.representations import residual_kmeans
from moonlib.representations.residual_kmeans import (
    coded,
    decode,
    encode,
    fit_codebooks,
    read_codebooks,
    scaled,
    write_codebooks,
)
from moonlib.representations.store import Representations


def vectors(n: int = 300, dim: int = 8) -> torch.Tensor:
    found = torch.randn(n, dim, generator=torch.Generator().manual_seed(0)) * torch.arange(1, n + 1).unsqueeze(1)
    found[7] = 0
    return found


def test_codes_are_of_the_nearest_centroids_by_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residual_kmeans, "BLOCK", 50)  # several of them
    given = vectors()
    books = fit_codebooks(given, levels=2, size=5, seed=3)
    codes = encode(given, books)
    for row, found in zip(given, codes.tolist(), strict=True):
        if not row.any():
            assert found == [-1, -1]
            continue
        left, expected = F.normalize(row, dim=0) * 8**0.5, []
        for book in books:
            expected.append(min(range(5), key=lambda k: (left - book[k]).norm().item()))
            left = left - book[expected[-1]]
        assert found == expected
        torch.testing.assert_close(
            decode(torch.tensor([found]), books)[0], F.normalize(row, dim=0) * 8**0.5 - left, rtol=1e-4, atol=1e-4
        )
    assert not decode(codes, books)[7].any()


def test_each_level_leaves_less_and_the_same_seed_gives_the_same() -> None:
    given = vectors()
    books = fit_codebooks(given, levels=3, size=16, seed=3)
    assert torch.equal(books, fit_codebooks(given, levels=3, size=16, seed=3))
    assert not torch.equal(books, fit_codebooks(given, levels=3, size=16, seed=4))
    codes, there = encode(given, books), given.any(dim=1)
    errors = [(scaled(given) - decode(codes[:, :n], books))[there].square().mean().item() for n in (1, 2, 3)]
    assert 1 > errors[0] > 1.2 * errors[1] > 1.4 * errors[2]


def test_length_is_of_no_consequence() -> None:
    given = vectors()
    books = fit_codebooks(given, levels=2, size=5, seed=3)
    assert torch.equal(encode(given, books), encode(F.normalize(given, dim=1), books))


@pytest.mark.parametrize("n", [0, 1, 3])
def test_fewer_vectors_than_centroids_leave_the_rest_unused(n: int) -> None:
    given = vectors()[:n]
    books = fit_codebooks(given, levels=2, size=5, seed=0)
    assert books.shape == (2, 5, 8) and books.isfinite().all()
    assert (encode(given, books) < max(n, 1)).all()
    torch.testing.assert_close(decode(encode(given, books), books), scaled(given), rtol=1e-4, atol=1e-4)


def test_a_store_made_of_codes_has_the_same_ids_and_nothing_where_nothing_was() -> None:
    given = vectors()
    store = Representations(np.arange(300)[::-1].copy(), given.numpy())
    books = fit_codebooks(given, levels=2, size=5, seed=3)
    found = coded(store, books)
    assert np.array_equal(found.ids, store.ids)
    torch.testing.assert_close(torch.from_numpy(found.vectors.copy()), decode(encode(given, books), books).flip(0))
    assert not found.gather(np.array([299 - 7])).any()


def test_codebooks_survive_the_file_and_what_is_none_is_refused(tmp_path: Path) -> None:
    books = fit_codebooks(vectors(), levels=2, size=5, seed=3)
    write_codebooks(tmp_path, books)
    assert torch.equal(read_codebooks(tmp_path), books)
    (tmp_path / "codebooks.safetensors").write_bytes(b"no")
    with pytest.raises(Unreadable, match=r"codebooks\.safetensors is not a safetensors file"):
        read_codebooks(tmp_path)
    with pytest.raises(FileNotFoundError, match="no codebooks at"):
        read_codebooks(tmp_path / "elsewhere")
