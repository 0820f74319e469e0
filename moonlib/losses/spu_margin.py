"""Classification over SPUs with an additive angular margin."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moonlib.losses.loss import Loss, LossData


class SpuMargin(Loss):
    """Asks that a vector is nearer to its SPU's centre than to those of others, by an angle.

    Every SPU of the products that are trained on is a class y with a learned centre w_y. A vector x at the angle a to
    its own centre costs

        -log( e^(s cos(a + m)) / (e^(s cos(a + m)) + sum over other classes j of e^(s cos(x, w_j))) )

    and a query the mean of two costs: of its own vector and of its item's, both samples of the item's SPU. So all
    photos and titles of an SPU gather, whatever a batch holds. Beyond a + m = pi, where the cosine would rise again,
    its place is taken by cos(a) - m sin(m), which goes on falling.

    The sum goes over ``sampled`` other classes, drawn anew in each step, the same on all devices; with at least as many
    as there are classes, over all of them. Where there are more SPUs than ``buckets``, each has the bucket of a hash
    of its id, which it may share.

    Args:
        margin: m, in radians.
        scale: s, the inverse of a temperature.
        sampled: other classes in a step, at most.
        buckets: centres at most; each has as many numbers as a vector.

    Raises:
        ValueError: an argument is out of range.

    Source: Deng et al., "ArcFace: additive angular margin loss for deep face recognition" (2019), equation 3;
    sampled classes as in An et al., "Partial FC: training 10 million identities on a single machine" (2021). SPUs as
    classes: Pailitao-VL (arXiv 2602.13704). The defaults are our choice: the paper's margin is 0.5, its scale 64.

    Example:
        >>> SpuMargin().arguments
        ('queries', 'items', 'spu_id', 'seed')
    """

    classes: Tensor

    def __init__(self, margin: float = 0.3, scale: float = 16.0, sampled: int = 4096, buckets: int = 1_000_000) -> None:
        super().__init__()
        if not 0 <= margin < math.pi / 2:
            raise ValueError(f"margin must be at least 0 and below pi / 2, got {margin}")
        if scale <= 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        for name, number in (("sampled", sampled), ("buckets", buckets)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        self.margin, self.scale, self.sampled, self.buckets = margin, scale, sampled, buckets

    def setup(self, data: LossData) -> None:
        """Make a centre for each SPU; see `Loss.setup`."""
        classes = torch.from_numpy(np.unique(data.catalogue.spu_id))
        self.hashed = len(classes) > self.buckets
        # Not part of the state: it follows from the data.
        self.register_buffer("classes", classes[:0] if self.hashed else classes, persistent=False)
        number = self.buckets if self.hashed else len(classes)
        self.centres = nn.Parameter(torch.randn(number, data.dim) / data.dim**0.5)

    def forward(self, queries: Tensor, items: Tensor, spu_id: Tensor, seed: int) -> Tensor:
        """Compute one loss per query, float [Q], in float32 or wider."""
        own = self.class_of(spu_id)
        others = self.draw(seed).to(own.device)
        same = own[:, None] == others
        # The centres are gathered before they are scaled: those that no row needs cost nothing.
        towards, away = (F.normalize(self.centres[rows], dim=1) for rows in (own, others))
        return (self.costs(queries, towards, away, same) + self.costs(items, towards, away, same)) / 2

    def class_of(self, spu_id: Tensor) -> Tensor:
        """The centre of each SPU, int64 of the same shape."""
        if self.hashed:
            return bucket(spu_id, self.buckets)
        return torch.searchsorted(self.classes, spu_id)

    def draw(self, seed: int) -> Tensor:
        """The classes that all rows of a step are told apart from, int64, each once."""
        if self.sampled >= len(self.centres):
            return torch.arange(len(self.centres))
        return torch.randperm(len(self.centres), generator=torch.Generator().manual_seed(seed))[: self.sampled]

    def costs(self, vectors: Tensor, towards: Tensor, away: Tensor, same: Tensor) -> Tensor:
        """The cost of each vector.

        Args:
            vectors: float [Q, D], of length 1.
            towards: float [Q, D], the centre of each one's class.
            away: float [S, D], centres of the classes drawn.
            same: bool [Q, S], which of these are a vector's own.

        Returns:
            float [Q], in float32 or wider.
        """
        vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        with torch.autocast(vectors.device.type, enabled=False):
            own, others = (vectors * towards.to(vectors)).sum(dim=1), vectors @ away.to(vectors).T
        # The lowest finite value stands for minus infinity: its exp is 0, but its gradient is 0 and not NaN.
        others = (self.scale * others).masked_fill(same, torch.finfo(vectors.dtype).min)
        wanted = self.scale * with_margin(own, self.margin).unsqueeze(1)
        return torch.cat([wanted, others], dim=1).logsumexp(dim=1) - wanted.squeeze(1)


def with_margin(cosine: Tensor, margin: float) -> Tensor:
    """Cosine of an angle that is larger by a margin; beyond pi, a line that goes on falling.

    Args:
        cosine: float, of any shape.
        margin: in radians, from 0 to pi / 2.

    Returns:
        float, of the same shape.

    Example:
        >>> with_margin(torch.tensor([0.6, 0.0, -1.0]), math.pi / 3)
        tensor([-0.3928, -0.8660, -1.9069])
    """
    sine = (1 - cosine.square()).clamp(min=torch.finfo(cosine.dtype).eps).sqrt()
    within = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine > -math.cos(margin), within, cosine - margin * math.sin(margin))


def bucket(ids: Tensor, buckets: int) -> Tensor:
    """Spread ids over buckets; one id always has the same.

    Args:
        ids: int64.
        buckets: how many there are.

    Returns:
        int64 of the same shape, from 0 to ``buckets`` - 1.

    Source: multiplicative hashing (Knuth, "The art of computer programming", volume 3, section 6.4) with 2^64 divided
    by the golden ratio.

    Example:
        >>> bucket(torch.tensor([1, 2, 1]), 1000)
        tensor([444, 305, 444])
    """
    mixed = ids * -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number; it wraps around
    return torch.remainder(mixed >> 20, buckets)
