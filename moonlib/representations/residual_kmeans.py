"""Residual k-means: a vector as one code per level, the nearest centroid of what the levels before left over."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from moonlib.artifacts.checksums import again, verified
from moonlib.artifacts.layout import CODEBOOKS
from moonlib.artifacts.reading import Unreadable
from moonlib.representations.store import Representations
from moonlib.system.disk import replacing

UNUSED = 1e6
"""Each component of a centroid that stands for none: far away, it is nearest to nothing."""

BLOCK = 65_536
"""Vectors that are coded at once."""


def scaled(vectors: Tensor) -> Tensor:
    """Scale vectors to length sqrt(D), as codebooks are fitted to them; zeros stay zeros.

    Args:
        vectors: float [..., D].

    Returns:
        float32 [..., D].
    """
    return F.normalize(vectors.float(), dim=-1) * vectors.shape[-1] ** 0.5


def fit_codebooks(vectors: Tensor, levels: int, size: int, seed: int) -> Tensor:
    """Place the centroids of each level by k-means of what the levels before left over.

    Args:
        vectors: float [N, D], of whatever length each; rows of zeros are left out.
        levels: how many codes a vector has.
        size: centroids per level.
        seed: of k-means.

    Returns:
        Codebooks, float32 [levels, size, D]. With fewer distinct vectors than centroids some stay unused; without any
        vector all do.

    Source: residual quantisation as in Rajput et al., "Recommender systems with generative retrieval" (arXiv
    2305.05065), by k-means per level.
    """
    import faiss

    residual = scaled(vectors[vectors.any(dim=1)]).cpu()
    books = torch.full((levels, size, vectors.shape[1]), UNUSED)
    for level in range(levels if len(residual) else 0):
        number = min(size, len(residual))
        means = faiss.Kmeans(residual.shape[1], number, seed=seed + level, min_points_per_centroid=1)
        means.train(residual.numpy())
        books[level, :number] = torch.from_numpy(means.centroids)
        residual = residual - books[level][nearest(residual, books[level])]
    return books


def encode(vectors: Tensor, codebooks: Tensor) -> Tensor:
    """Code vectors.

    Args:
        vectors: float [N, D].
        codebooks: float [levels, size, D].

    Returns:
        int64 [N, levels]; -1 throughout for a row of zeros, which has nothing to code.

    Example:
        >>> books = torch.tensor([[[1.0, 1.0], [-1.0, 1.0]], [[0.0, 0.4], [0.0, -0.4]]])
        >>> encode(torch.tensor([[2.0, 3.0], [0.0, 0.0]]), books)
        tensor([[ 0,  0],
                [-1, -1]])
    """
    codes = torch.full((len(vectors), len(codebooks)), -1)
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        there, residual = block.any(dim=1), scaled(block)
        for level, book in enumerate(codebooks):
            code = nearest(residual, book)
            residual = residual - book[code]
            codes[start : start + BLOCK, level] = code.masked_fill(~there, -1)
    return codes


def decode(codes: Tensor, codebooks: Tensor) -> Tensor:
    """Add up the centroids of codes: the vectors again, as far as the codes tell.

    Args:
        codes: int64 [N, L], of the first L levels, as `encode` gives them.
        codebooks: float [levels, size, D].

    Returns:
        float32 [N, D], of length about sqrt(D); zeros where there was nothing to code.
    """
    total = codebooks.new_zeros(len(codes), codebooks.shape[2])
    for level, book in enumerate(codebooks[: codes.shape[1]]):
        total = total + book[codes[:, level].clamp(min=0)]
    return total.masked_fill(codes[:, :1] < 0, 0)


def coded(store: Representations, codebooks: Tensor) -> Representations:
    """Vectors made of their codes alone, in memory.

    Args:
        store: the vectors as they are.
        codebooks: float [levels, size, D].

    Returns:
        The same ids, float32 [N, D].
    """
    blocks = [torch.zeros(0, store.dim)]
    for start in range(0, len(store.ids), BLOCK):
        codes = encode(torch.from_numpy(store.read(slice(start, start + BLOCK))), codebooks)
        blocks.append(decode(codes, codebooks))
    return Representations(store.ids, torch.cat(blocks).numpy(), store.names)


def nearest(vectors: Tensor, centroids: Tensor) -> Tensor:
    """Number of the centroid nearest to each vector.

    Args:
        vectors: float [..., D].
        centroids: float [K, D].

    Returns:
        int64 [...].

    Example:
        >>> nearest(torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0, 3.0], [0.0, 1.0]]))
        tensor([1])
    """
    with torch.autocast(vectors.device.type, enabled=False):
        centroids = centroids.to(vectors.dtype)
        # |v - c|² without |v|², which is the same for all c.
        return (centroids.square().sum(dim=1) / 2 - vectors @ centroids.T).argmin(dim=-1)


def write_codebooks(directory: Path, codebooks: Tensor) -> None:
    """Write codebooks, float32 [levels, size, D], into the directory of a stage."""
    from safetensors.torch import save_file

    with replacing(directory / CODEBOOKS) as partial:
        save_file({"codebooks": codebooks.contiguous()}, str(partial))


def read_codebooks(directory: Path) -> Tensor:
    """Read the codebooks of a stage or an export, float32 [levels, size, D].

    Raises:
        FileNotFoundError: there are none.
        Damaged: the file is not what was written.
        Unreadable: it holds no codebooks.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = directory / CODEBOOKS
    if not file.exists():
        raise FileNotFoundError(f"no codebooks at {file}")
    try:
        found = load_file(verified(file)).get("codebooks")
    except SafetensorError as error:
        raise Unreadable(f"{file} is not a safetensors file ({error}); {again(file)}") from None
    if found is None or found.ndim != 3 or not found.is_floating_point():
        raise Unreadable(f"{file} holds no codebooks, floats [levels, size, D]; {again(file)}")
    return found
