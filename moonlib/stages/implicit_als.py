"""Factorisation of who acted on what, by alternating least squares on implicit feedback."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 1_000_000
"""Numbers that are gathered at once."""


@dataclass(frozen=True)
class Actions:
    """Actions of U users on I items; a pair stands once.

    Attributes:
        user: int64 [E], from 0 to U - 1.
        item: int64 [E], from 0 to I - 1.
        count: float32 [E], weighted number of actions, above 0.
        users: U.
        items: I.
    """

    user: Tensor
    item: Tensor
    count: Tensor
    users: int
    items: int

    @property
    def by_item(self) -> Actions:
        """The same with users and items exchanged."""
        return Actions(self.item, self.user, self.count, self.items, self.users)


def factorise(
    actions: Actions, dim: int, iterations: int, regularization: float, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Vectors x of users and y of items whose products say who acts on what.

    Minimises the sum over all pairs of user u and item i, those without an action too, of

        c_ui * (p_ui - x_u . y_i)^2 + regularization * (sum of |x_u|^2 + sum of |y_i|^2),    c_ui = 1 + alpha * count_ui

    where p_ui is 1 for a pair with an action and 0 for all others. In turn the vectors of one side are solved for
    exactly, given the other's. What is common to all rows, the sum over all items, is computed once, so that a turn
    costs what the actions do and not what all pairs would. Rows are solved in blocks of nearly equal numbers of
    actions, padded to the longest: no loop goes over rows.

    Args:
        actions: who did what.
        dim: width D.
        iterations: turns of both sides.
        regularization: as above, above 0.
        alpha: as above.
        generator: the items' first vectors are drawn from it.

    Returns:
        float32 [U, D] and [I, D]; the items' are solved for last. Zeros for who or what has no action.

    Source: Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback datasets" (2008), equations 3 to 5.

    Example:
        >>> both = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 0, 1, 2])
        >>> actions = Actions(*both, torch.ones(5), users=3, items=3)
        >>> _, items = factorise(actions, 2, 10, 0.1, 10.0, torch.Generator().manual_seed(0))
        >>> torch.nn.functional.cosine_similarity(items[:1], items[1:]).round(decimals=1).abs()
        tensor([1., 0.])
    """
    items = torch.randn(actions.items, dim, generator=generator) / dim**0.5
    of_users, of_items = (list(_blocks(each, dim)) for each in (actions, actions.by_item))
    users = torch.zeros(actions.users, dim)
    for _ in range(iterations):
        users = _solve(of_users, items, actions.users, regularization, alpha)
        items = _solve(of_items, users, actions.items, regularization, alpha)
    return users, items


@dataclass(frozen=True)
class _Block:
    """Rows of nearly as many actions each.

    Attributes:
        row: int64 [B].
        column: int64 [B, L], what each row's actions are on; 0 for padding.
        count: float32 [B, L]; 0 for padding.
    """

    row: Tensor
    column: Tensor
    count: Tensor


def _blocks(actions: Actions, dim: int) -> Iterator[_Block]:
    """Rows (users) by their number of actions, in blocks of which no more than `BLOCK` numbers are gathered."""
    order = torch.argsort(actions.user, stable=True)
    column, count = actions.item[order], actions.count[order]
    sizes = torch.bincount(actions.user, minlength=actions.users)
    starts = sizes.cumsum(0) - sizes
    rows = torch.argsort(sizes, stable=True, descending=True)
    rows = rows[sizes[rows] > 0]
    first = 0
    while first < len(rows):
        longest = int(sizes[rows[first]])
        block = rows[first : first + max(1, BLOCK // (dim * max(longest, dim)))]
        # A block ends where rows have a fifth fewer actions than its first: the rest would be padding.
        block = block[sizes[block] * 5 >= longest * 4]
        place = torch.arange(longest)
        there = place < sizes[block, None]
        found = (starts[block, None] + place).clamp(max=len(column) - 1)
        yield _Block(block, column[found].masked_fill(~there, 0), count[found].masked_fill(~there, 0))
        first += len(block)


def _solve(blocks: list[_Block], other: Tensor, rows: int, regularization: float, alpha: float) -> Tensor:
    """The vectors of one side given the other's, float32 [rows, D]."""
    common = other.T @ other + regularization * torch.eye(other.shape[1])
    solved = other.new_zeros(rows, other.shape[1])
    for block in blocks:
        known = other[block.column]
        more = (alpha * block.count).unsqueeze(2)
        right = known.transpose(1, 2) @ (more + (more > 0))
        known *= more.sqrt()
        left = torch.baddbmm(common, known.transpose(1, 2), known)
        solved[block.row] = torch.cholesky_solve(right, torch.linalg.cholesky(left)).squeeze(2)
    return solved


def ranks_of(users: Tensor, items: Tensor, user: Tensor, item: Tensor, known: Actions) -> Tensor:
    """Rank of one item among those that its user has not acted on, by the product of their vectors.

    Args:
        users: float [U, D].
        items: float [I, D].
        user: int64 [n], each once.
        item: int64 [n].
        known: what the users have acted on, which is not ranked.

    Returns:
        int64 [n], 0 for the best; ties count against it.

    Example:
        >>> none = torch.zeros(0, dtype=torch.int64)
        >>> known = Actions(none, none, torch.zeros(0), 1, 3)
        >>> items = torch.tensor([[0.1], [0.3], [0.2]])
        >>> ranks_of(torch.ones(1, 1), items, torch.tensor([0]), torch.tensor([2]), known)
        tensor([1])
    """
    place = torch.full((known.users,), -1)
    place[user] = torch.arange(len(user))
    order = torch.argsort(place[known.user], stable=True)
    asked, seen = place[known.user][order], known.item[order]
    found = []
    at_once = max(1, BLOCK // max(1, len(items)))
    for start in range(0, len(user), at_once):
        part = slice(start, start + at_once)
        scores = users[user[part]] @ items.T
        first, end = torch.searchsorted(asked, torch.tensor([start, start + len(scores)])).tolist()
        scores[asked[first:end] - start, seen[first:end]] = -torch.inf
        own = (users[user[part]] * items[item[part]]).sum(dim=1, keepdim=True)
        # Sums of products and a product of matrices differ in their last bits: the item itself counts once, below.
        better = (scores >= own).sum(dim=1) - (scores.gather(1, item[part, None]) >= own).squeeze(1).long()
        found.append(better)
    return torch.cat(found) if found else user.new_zeros(0)
