"""How far two sets of vectors of the same products lie apart, and whether the searches of one work on the other.

A product moved by 1 - the cosine of its new and its old vector. That says little where a whole space was turned, which
no neighbour notices; so beside it stands the overlap of neighbours: the share of a product's k nearest that are the
same in both. And recall says what a shop would see that encodes queries with one encoder and has not yet embedded its
products with it: of new queries on old vectors, and the other way round.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from moonlib.artifacts.checksums import Damaged
from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import EXPORT, is_read
from moonlib.artifacts.reading import Unreadable, read_mapping
from moonlib.data.dataset import Dataset
from moonlib.data.evaluation import evaluation_searches, microseconds
from moonlib.metrics.bootstrap import Interval, resampled_sums
from moonlib.metrics.recall import ranks
from moonlib.representations.index import TIE
from moonlib.representations.shared import rows_of_named, shop_ids
from moonlib.representations.store import Representations, unit
from moonlib.runs.run import Run, RunError
from moonlib.system.fitted_table import FittedTable
from moonlib.system.remote import is_url, local_copy, local_only, without_credentials

SAMPLE = 5000
"""Products whose neighbours are compared, where there are more."""

SCORES = 2**24
"""Cosines that are held at once."""

ROWS = 16_384
"""Vectors that are read at once."""

CELLS = ("new on new", "new on old", "old on new", "old on old")
"""Queries of one space on the products of one, by the names that `Part.recall` has for them."""

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Moved:
    """How far products moved: 1 - cosine of the new and the old vector, from 0 to 2.

    Attributes:
        mean: over the products.
        median: half of them moved less.
        p90: nine of ten moved less.
        p99: 99 of 100 moved less.
    """

    mean: float
    median: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Part:
    """Drift of some of the products.

    Attributes:
        products: how many of them have a vector in both spaces.
        moved: how far; None where widths differ.
        overlap: share of the k nearest neighbours that are the same; None where none of the products was compared.
        searches: of test days that ended in an order of one of the products, by the names of `CELLS`.
        recall: recall@k of these searches, by the names of `CELLS`; a cell is missing where it is not defined.
    """

    products: int
    moved: Moved | None
    overlap: Interval | None
    searches: dict[str, int]
    recall: dict[str, Interval]


@dataclass(frozen=True)
class Drift:
    """Distance between two sets of vectors of the same products, see `drift`.

    Attributes:
        old: where the old vectors are.
        new: where the new ones are.
        versions: what tells the vectors of the two from those that other runs leave in their places.
        k: neighbours, and K of recall@K.
        dims: widths of the old and of the new vectors.
        products: that have a vector in both.
        only_old: that have one in the old space alone.
        only_new: that have one in the new space alone.
        compared: products whose neighbours were compared, a sample where there are more.
        everything: of all products that are in both.
        segments: of parts of them: ``new`` (listed since the end of training) and each top level of the categories.
        added: of the products that only the new space has: their searches there, among all its products.
        ratio: recall of new queries on old vectors over that on new ones; None where it is not defined.
        notes: why something is not defined.
    """

    old: str
    new: str
    versions: dict[str, str]
    k: int
    dims: tuple[int, int]
    products: int
    only_old: int
    only_new: int
    compared: int
    everything: Part
    segments: dict[str, Part]
    added: Part | None
    ratio: Interval | None
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Its values as strict JSON; null for what is not defined."""
        found: dict[str, Any] = _plain(asdict(self))
        return found


@dataclass(frozen=True)
class _Space:
    """Vectors of one side.

    Attributes:
        place: what the user calls it.
        products: their vectors.
        queries: those of queries; None where there are none.
        version: name of the directory that a run's vectors are in, which is their fingerprint; or the encoder's.
        run: None for a folder of `moonlib embed`.
    """

    place: str
    products: Representations
    queries: Representations | None
    version: str
    run: Run | None

    @classmethod
    def open(cls, place: str | Path) -> _Space:
        directory, name = local_copy(place, is_read), without_credentials(str(place))
        if not directory.is_dir():
            raise FileNotFoundError(f"{name}: there is no such run directory, nor a folder of `moonlib embed`")
        if (directory / "embedding.json").is_file():
            if (directory / "products.parquet").exists():
                raise ValueError(f"{name} holds Parquet; drift reads what `moonlib embed --format npy` writes")
            if not Representations.are_in(directory, "products"):
                raise ValueError(f"{name} is not complete; the `moonlib embed` that wrote it resumes it")
            queries = None
            if Representations.are_in(directory, "queries"):
                queries = Representations.open(directory, "queries")
            return cls(name, Representations.open(directory, "products"), queries, directory.name, None)
        if (directory / EXPORT).is_file():
            raise RunError(
                f"{name} is an export, which holds no representations: embed products with it (`moonlib embed`), and "
                "give that folder"
            )
        run = Run(directory)
        products, asked = run.representations()
        return cls(name, products, asked if len(asked.ids) else None, run.represented.name, run)


def drift(
    old: str | Path,
    new: str | Path,
    *,
    data: str | Path | None = None,
    k: int = 10,
    sample: int = SAMPLE,
    seed: int = 0,
    out: str | Path | None = None,
) -> Drift:
    """Compare two sets of vectors of a shop's products: of two runs, or of two folders that `embed` wrote.

    Products are the same where the shop's ids are. Neighbours are the k nearest by cosine among the products that have
    a vector in both, found exactly, a block of vectors at a time. Recall is that of the test days' searches whose query
    has a vector and whose ordered product is one of these: a hit is any SKU of the ordered SPU among the first k of the
    products listed by then, that are in both spaces; ties are broken against us. A run's stored vector of a query reads
    what its represent stage was told to (``data.query``), so this is not the recall of image or text search alone.

    Args:
        old: a run directory, or what `embed` wrote as ``npy``; or its URL.
        new: the same.
        data: directory of the dataset that says which products are of which category, and what was searched for; by
            default the new run's, or else the old one's.
        k: neighbours, and K of recall@K.
        sample: products whose neighbours are compared, drawn where there are more; all of them are looked among.
        seed: of this draw, and of the resamples of intervals.
        out: a JSON file to write, too.

    Returns:
        The drift. Intervals are 95 %, over resamples of products (overlap) or of users (recall).

    Raises:
        RunError: a place is no run, or holds no representations.
        FileNotFoundError: there is no such place.
        Damaged: a file of vectors is not what was written.
        Unreadable: it was cut, or is none.
        ValueError: the two have no products in common, their ids are text in one and int64 in the other, or ``k`` or
            ``sample`` is below 1.

    Example: ``drift("runs/week1", "runs/week2").everything.overlap``
    """
    for name, value in (("k", k), ("sample", sample)):
        if value < 1:
            raise ValueError(f"{name} {value}: expected at least 1")
    file = None if out is None else local_only(out, "a drift")
    before, after = _Space.open(old), _Space.open(new)
    pairs = _in_common(before, after)
    notes: list[str] = []
    dataset = _dataset(data, after, before, notes)
    dims = before.products.dim, after.products.dim
    if dims[0] != dims[1]:
        notes.append(
            f"the old vectors have {dims[0]} dimensions and the new ones {dims[1]}: how far products moved is not "
            "defined, nor is recall across; the overlap of neighbours is"
        )
    moved = _moved(before.products, after.products, pairs) if dims[0] == dims[1] else None
    drawn = _drawn(len(pairs.old), sample, seed)
    overlap = None
    if len(pairs.old) > 1:
        nearest = min(k, len(pairs.old) - 1)
        if nearest < k:
            notes.append(f"only {len(pairs.old)} products are in both: overlap is that of their {nearest} neighbours")
        overlap = neighbour_overlap(before.products, after.products, pairs.old, pairs.new, drawn, nearest)
    else:
        notes.append("only one product is in both: it has no neighbours to compare")
    if len(drawn) < len(pairs.old):
        notes.append(f"neighbours of {len(drawn):,} products were compared, drawn from {len(pairs.old):,}")
    parts = {"": np.ones(len(pairs.old), dtype=bool)}
    hits: dict[str, _Hits] = {}
    added = None
    if dataset is not None:
        catalogue = _Catalogue.of(dataset, before, after)
        parts |= catalogue.parts(pairs)
        hits = _searches(dataset, catalogue, before, after, k, notes)
        added = _added(dataset, catalogue, pairs, after, k, seed)
    found = {
        name: _part(
            inside,
            None if moved is None else moved[inside],
            None if overlap is None else overlap[inside[drawn]],
            {cell: each.of(name) for cell, each in hits.items()},
            seed,
        )
        for name, inside in parts.items()
    }
    ratio = None
    if {"new on new", "new on old"} <= hits.keys():
        ratio = _ratio(hits["new on old"], hits["new on new"], seed)
    result = Drift(
        old=before.place,
        new=after.place,
        versions={"old": before.version, "new": after.version},
        k=k,
        dims=dims,
        products=len(pairs.old),
        only_old=pairs.only_old,
        only_new=pairs.only_new,
        compared=len(drawn) if overlap is not None else 0,
        everything=found.pop(""),
        segments=found,
        added=added,
        ratio=ratio,
        notes=notes,
    )
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, result.to_json())
    return result


@dataclass(frozen=True)
class _Pairs:
    """Products with a vector in both spaces: their rows in each, int64 [n]; and how many have one in one alone."""

    old: NDArray[np.int64]
    new: NDArray[np.int64]
    only_old: int
    only_new: int


def _in_common(old: _Space, new: _Space) -> _Pairs:
    try:
        rows = rows_of_named(old.products, shop_ids(new.products))
    except ValueError as error:
        raise ValueError(f"{old.place} and {new.place} can't be compared: {error}") from error
    in_old, in_new = _represented(old), _represented(new)
    both = (rows >= 0) & in_new
    both[both] = in_old[rows[both]]
    place = np.flatnonzero(both)
    if not len(place):
        raise ValueError(
            f"{old.place} ({int(in_old.sum()):,} products) and {new.place} ({int(in_new.sum()):,}) have no product in "
            "common: they are of different shops, or one of them is of another part of the catalogue"
        )
    return _Pairs(rows[place], place, int(in_old.sum()) - len(place), int(in_new.sum()) - len(place))


def _represented(space: _Space) -> NDArray[np.bool_]:
    """Which rows are vectors of products, bool [N]: not all zeros."""
    store = space.products
    found = np.empty(len(store.ids), dtype=bool)
    for start in range(0, len(found), ROWS):
        block = store.vectors[start : start + ROWS]
        found[start : start + ROWS] = block.any(axis=1)
        if not np.isfinite(block).all():
            row = start + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
            raise ValueError(f"{space.place}: the vector of product {store.named(row)} has a value that is not finite")
    return found


def _moved(old: Representations, new: Representations, pairs: _Pairs) -> NDArray[np.float64]:
    """1 - cosine of the two vectors of each product, float64 [n]."""
    found = np.empty(len(pairs.old))
    for start in range(0, len(found), ROWS):
        part = slice(start, start + ROWS)
        before, after = (
            store.read(rows[part]).astype(np.float64) for store, rows in ((old, pairs.old), (new, pairs.new))
        )
        product = np.einsum("nd,nd->n", before, after)
        found[part] = 1 - product / (np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1))
    return found.clip(min=0)  # rounding of what did not move


def _drawn(total: int, sample: int, seed: int) -> NDArray[np.int64]:
    """Places of the products whose neighbours are compared, ascending."""
    if total <= sample:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, sample, replace=False))


def neighbour_overlap(
    old: Representations,
    new: Representations,
    old_rows: NDArray[np.int64],
    new_rows: NDArray[np.int64],
    of: NDArray[np.int64],
    k: int,
) -> NDArray[np.float64]:
    """Share of the k nearest neighbours of a product in one space that are among its k nearest in the other.

    Neighbours are found exactly and by cosine; a product is none of its own. One that ties (up to 1e-6) with the last
    of the k in the old space counts as one of them.

    Args:
        old: vectors.
        new: vectors of any other width.
        old_rows: int64 [n], rows of n products there.
        new_rows: int64 [n], rows of the same products here.
        of: int64 [m], places among the n of those whose neighbours are compared.
        k: neighbours, from 1 to n - 1.

    Returns:
        float64 [m], from 0 to 1. The memory it takes does not grow with n times m.
    """
    last = _neighbours(old, old_rows, of, k)[1][:, -1]
    found = np.empty(len(of))
    theirs = _neighbours(new, new_rows, of, k)[0]
    at_once = max(1, SCORES // (k * old.dim))
    for start in range(0, len(of), at_once):
        part = slice(start, start + at_once)
        own = unit(old.read(old_rows[of[part]]))
        near = old.read(old_rows[theirs[part]].reshape(-1))
        cosines = np.einsum("md,mkd->mk", own, unit(near).reshape(len(own), k, -1))
        found[part] = (cosines >= last[part, None] - TIE).mean(axis=1)
    return found


def _neighbours(
    store: Representations, rows: NDArray[np.int64], of: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k nearest among the rows of a store, by place among these, and their cosines: [m, k] each."""
    at_once = min(len(of), max(1, SCORES // ROWS))
    places, scores = np.empty((len(of), k), np.int64), np.empty((len(of), k), np.float32)
    for first in range(0, len(of), at_once):
        asked = of[first : first + at_once]
        queries = torch.from_numpy(unit(store.read(rows[asked])))
        best, near = torch.empty(len(asked), 0), torch.empty(len(asked), 0, dtype=torch.int64)
        for start in range(0, len(rows), ROWS):
            cosines = queries @ torch.from_numpy(unit(store.read(rows[start : start + ROWS]))).T
            own = (asked >= start) & (asked < start + ROWS)
            cosines[np.flatnonzero(own), asked[own] - start] = -torch.inf
            few, where = cosines.topk(min(k, cosines.shape[1]), dim=1)
            best, near = torch.cat([best, few], dim=1), torch.cat([near, where + start], dim=1)
            best, kept = best.topk(min(k, best.shape[1]), dim=1)
            near = near.gather(1, kept)
        places[first : first + at_once], scores[first : first + at_once] = near.numpy(), best.numpy()
    return places, scores


def _dataset(data: str | Path | None, new: _Space, old: _Space, notes: list[str]) -> Dataset | None:
    """The data that searches and categories are read from; None, with a note, where there is none."""
    if data is not None:
        return Dataset(data)
    problems = []
    for space in (new, old):
        if space.run is None:
            continue
        try:
            return space.run.dataset()
        except RunError as error:
            problems.append(str(error))
    why = "; ".join(problems) or "folders of `moonlib embed` do not name it"
    notes.append(f"without a dataset there are no categories and no searches ({why}): give it, with --data")
    return None


@dataclass(frozen=True)
class _Catalogue:
    """The products of a dataset, beside the rows of both stores.

    Attributes:
        item_id: int64 [n], of the dataset.
        spu_id: int64 [n].
        listed_at: int64 [n], microseconds.
        top: text [n], the top level of each one's category; null for none.
        new: bool [n], listed since the end of training.
        old_row: int64 [n], -1 for none.
        new_row: int64 [n], -1 for none.
    """

    item_id: NDArray[np.int64]
    spu_id: NDArray[np.int64]
    listed_at: NDArray[np.int64]
    top: pl.Series
    new: NDArray[np.bool_]
    old_row: NDArray[np.int64]
    new_row: NDArray[np.int64]

    @classmethod
    def of(cls, dataset: Dataset, old: _Space, new: _Space) -> _Catalogue:
        table = dataset.table("products", ("item_id", "spu_id", "category", "listed_at")).sort("item_id")
        named = dataset.ids.decode("item_id", table["item_id"])
        rows = []
        for space in (old, new):
            try:
                found = rows_of_named(space.products, named)
            except ValueError as error:
                raise ValueError(f"{space.place} is not of {dataset.directory}: {error}") from error
            there = found >= 0
            there[there] = _represented(space)[found[there]]
            rows.append(np.where(there, found, -1))
        return cls(
            table["item_id"].to_numpy(),
            table["spu_id"].to_numpy(),
            microseconds(table["listed_at"]).numpy(),
            table["category"].cast(pl.String).str.split("/").list.first(),
            (table["listed_at"] >= dataset.splits.train_until).to_numpy(),
            rows[0],
            rows[1],
        )

    def parts(self, pairs: _Pairs) -> dict[str, NDArray[np.bool_]]:
        """Which of the products in both belong to each segment, bool [n]."""
        place = np.full(int(pairs.new.max()) + 1, -1)
        known = (self.new_row >= 0) & (self.new_row < len(place))
        place[self.new_row[known]] = np.flatnonzero(known)
        at = place[pairs.new]
        inside = {name: np.append(there, False)[at] for name, there in self.segments().items()}
        return {name: there for name, there in inside.items() if there.any()}

    def segments(self) -> dict[str, NDArray[np.bool_]]:
        """Which products of the dataset belong to each segment, bool [n]."""
        found = {"new": self.new}
        for name in self.top.drop_nulls().unique().sort().to_list():
            found[name if name != "new" else "category=new"] = (self.top == name).fill_null(False).to_numpy()
        return found


@dataclass(frozen=True)
class _Hits:
    """Searches of one cell.

    Attributes:
        hit: float64 [n], 1 where the ordered product was found.
        user: int64 [n].
        inside: which belong to each segment, bool [n]; all of them to the empty one.
    """

    hit: NDArray[np.float64]
    user: NDArray[np.int64]
    inside: Mapping[str, NDArray[np.bool_]]

    def of(self, segment: str) -> _Hits:
        """The searches of a segment."""
        chosen = self.inside.get(segment, np.zeros(len(self.hit), dtype=bool))
        return _Hits(self.hit[chosen], self.user[chosen], {})


def _searches(
    dataset: Dataset, catalogue: _Catalogue, old: _Space, new: _Space, k: int, notes: list[str]
) -> dict[str, _Hits]:
    """The searches of test days for products in both, by cell; a cell that is not defined is missing, with a note."""
    for space in (old, new):
        if space.queries is None:
            notes.append(f"{space.place} holds no vectors of queries: there is no recall of its queries")
    both = (catalogue.old_row >= 0) & (catalogue.new_row >= 0)
    asked = evaluation_searches(dataset, "test")
    found: dict[str, _Hits] = {}
    for queries, side in ((new, "new"), (old, "old")):
        if queries.queries is None:
            continue
        searches = _answerable(dataset, catalogue, asked, queries, both)
        if not len(searches.query):
            notes.append(
                f"no search of the test days has a vector of its query in {queries.place}, and an ordered "
                "product in both: there is no recall of its queries"
            )
            continue
        for gallery, where in ((new, "new"), (old, "old")):
            if queries.products.dim == gallery.products.dim:
                rows = catalogue.new_row if where == "new" else catalogue.old_row
                found[f"{side} on {where}"] = searches.hits(catalogue, queries, gallery, rows, both, k)
    if {"new on new", "old on old"} <= found.keys():
        counts = len(found["new on new"].hit), len(found["old on old"].hit)
        if counts[0] != counts[1]:
            notes.append(
                f"recall of new queries is that of {counts[0]:,} searches and of old queries that of {counts[1]:,}: "
                "the others' queries have no vector there"
            )
    return {cell: found[cell] for cell in CELLS if cell in found}


@dataclass(frozen=True)
class _Asked:
    """Searches whose query has a vector: its row, the ordered product's place in the catalogue, user and time [n]."""

    query: NDArray[np.int64]
    item: NDArray[np.int64]
    user: NDArray[np.int64]
    time: torch.Tensor

    def hits(
        self,
        catalogue: _Catalogue,
        queries: _Space,
        gallery: _Space,
        rows: NDArray[np.int64],
        there: NDArray[np.bool_],
        k: int,
    ) -> _Hits:
        """Look for the ordered products among some of the catalogue.

        Args:
            catalogue: n products.
            queries: whose queries.
            gallery: whose products.
            rows: int64 [n], of the products in the gallery.
            there: bool [n], which of them are looked among.
            k: K of recall@K.
        """
        assert queries.queries is not None
        # In the order of the vectors, which stay on disk; what is outside the gallery counts as never listed.
        spu = np.zeros(len(gallery.products.ids), dtype=np.int64)
        listed = np.full(len(spu), NEVER)
        spu[rows[there]], listed[rows[there]] = catalogue.spu_id[there], catalogue.listed_at[there]
        found = ranks(
            torch.from_numpy(queries.queries.read(self.query)),
            gallery.products.vectors,
            torch.from_numpy(catalogue.spu_id[self.item]),
            torch.from_numpy(spu),
            self.time,
            torch.from_numpy(listed),
        )
        missed = found >= len(spu)
        hit = ((found < k) & ~missed).double().numpy()
        inside = {name: chosen[self.item] for name, chosen in catalogue.segments().items()}
        return _Hits(hit, self.user, {"": np.ones(len(hit), dtype=bool), **inside})


def _answerable(
    dataset: Dataset, catalogue: _Catalogue, asked: pl.DataFrame, space: _Space, among: NDArray[np.bool_]
) -> _Asked:
    """The searches whose query has a vector in a space and whose ordered product is among some of the catalogue."""
    assert space.queries is not None
    try:
        rows = rows_of_named(space.queries, dataset.ids.decode("query_id", asked["query_id"]))
    except ValueError as error:
        raise ValueError(f"queries of {space.place} are not of {dataset.directory}: {error}") from error
    items = np.searchsorted(catalogue.item_id, asked["item_id"].to_numpy())
    kept = (rows >= 0) & among[items]
    return _Asked(
        rows[kept], items[kept], asked["user_id"].to_numpy()[kept], microseconds(asked["ts"])[torch.from_numpy(kept)]
    )


def _added(dataset: Dataset, catalogue: _Catalogue, pairs: _Pairs, new: _Space, k: int, seed: int) -> Part | None:
    """Recall of the products that the new space alone has, among all of its products; None where there are none."""
    if not pairs.only_new:
        return None
    only = (catalogue.new_row >= 0) & (catalogue.old_row < 0)
    hits: dict[str, _Hits] = {}
    if new.queries is not None:
        searches = _answerable(dataset, catalogue, evaluation_searches(dataset, "test"), new, only)
        if len(searches.query):
            found = searches.hits(catalogue, new, new, catalogue.new_row, catalogue.new_row >= 0, k)
            hits = {"new on new": found.of("")}
    return _part(only[only], None, None, hits, seed)


def _part(
    inside: NDArray[np.bool_],
    moved: NDArray[np.float64] | None,
    overlap: NDArray[np.float64] | None,
    hits: dict[str, _Hits],
    seed: int,
) -> Part:
    of_moved = None
    if moved is not None and len(moved):
        quantiles = (float(value) for value in np.quantile(moved, [0.5, 0.9, 0.99]))
        of_moved = Moved(float(moved.mean()), *quantiles)
    of_overlap = None
    if overlap is not None and len(overlap):
        of_overlap = _mean(overlap, np.arange(len(overlap)), seed)
    recall = {cell: _mean(each.hit, each.user, seed) for cell, each in hits.items() if len(each.hit)}
    return Part(int(inside.sum()), of_moved, of_overlap, {cell: len(each.hit) for cell, each in hits.items()}, recall)


def _mean(values: NDArray[np.float64], users: NDArray[np.int64], seed: int) -> Interval:
    sums = resampled_sums([values, np.ones(len(values))], users, seed=seed)
    return sums.interval(lambda of: of[0] / of[1])


def _ratio(cross: _Hits, own: _Hits, seed: int) -> Interval | None:
    """Recall of the same searches on other vectors over that on their own, paired; None where that is 0."""
    if not own.hit.any():
        return None
    return resampled_sums([cross.hit, own.hit], own.user, seed=seed).interval(lambda of: of[0] / of[1])


def _plain(value: Any) -> Any:
    """JSON values, null in place of what is not finite."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def default_file(old: str | Path, new: str | Path) -> Path | None:
    """File of a run's drift against another: ``drift/OLD.json`` in the run.

    A drift against another run of that name, of another folder, is not overwritten: this one's name gets 8 digits of a
    hash of where the old run is.

    Args:
        old: see `drift`.
        new: see `drift`.

    Returns:
        None where ``new`` is no local run.

    Raises:
        ValueError: both are the same run.
    """
    if not is_url(old) and not is_url(new) and Path(old).resolve() == Path(new).resolve():
        raise ValueError(
            f"{old} and {new} are the same vectors: there is nothing to compare; give an earlier run as OLD"
        )
    if is_url(new) or (Path(new) / "embedding.json").is_file():
        return None
    layout, place = Run(new).layout, _placed(old)
    file = layout.drift(Path(place).name)
    try:
        other = read_mapping(file).get("old")
    except (FileNotFoundError, Unreadable, Damaged):  # one that can't be read is of no use to anybody
        other = None
    if isinstance(other, str) and _placed(other) != place:
        file = layout.drift(f"{Path(place).name}-{hashlib.sha256(place.encode()).hexdigest()[:8]}")
    return file


def _placed(run: str | Path) -> str:
    """Where a run is, in full."""
    return without_credentials(str(run)) if is_url(run) else str(Path(run).resolve())


def drift_tables(found: Drift) -> list[FittedTable]:
    """Lay a drift out for the terminal: all products with intervals, and the segments."""
    everything = found.everything
    rows: list[tuple[str, list[str]]] = []
    if everything.moved:
        for name, value in asdict(everything.moved).items():
            rows.append((f"moved, {name}", [f"{value:.4f}", "", f"{everything.products:,}"]))
    if everything.overlap:
        rows.append((f"overlap@{found.k}", [*_cells(everything.overlap), f"{found.compared:,}"]))
    for cell, interval in everything.recall.items():
        queries, _, products = cell.partition(" on ")
        label = f"recall@{found.k}, {queries} queries on {products}"
        rows.append((label, [*_cells(interval), f"{everything.searches[cell]:,}"]))
    if found.ratio:
        rows.append(("  new on old / new on new", [*_cells(found.ratio), ""]))
    title = (
        f"{found.new} against {found.old}: {found.products:,} products in both, {found.only_old:,} in the old one "
        f"alone, {found.only_new:,} in the new one alone"
    )
    first = FittedTable(title, "moved: 1 - cosine", ["", "95 %", "n"], rows, notes=found.notes)
    segments: dict[str, Part] = {"all": everything, **found.segments}
    if found.added is not None:
        segments["not in the old one"] = found.added
    if len(segments) == 1:
        return [first]
    headings = ["n", "moved", "overlap", "searches", *CELLS]
    by_segment = [
        (
            name,
            [
                f"{part.products:,}",
                "" if part.moved is None else f"{part.moved.mean:.4f}",
                "" if part.overlap is None else f"{part.overlap.estimate:.3f}",
                f"{max(part.searches.values(), default=0):,}",
                *(f"{part.recall[cell].estimate:.3f}" if cell in part.recall else "" for cell in CELLS),
            ],
        )
        for name, part in segments.items()
    ]
    second = f"by category and of new products; on the right recall@{found.k} of queries on products"
    return [first, FittedTable(second, "products", headings, by_segment, repeated=1)]


def _cells(interval: Interval) -> tuple[str, str]:
    low, high = (f"{value:.3f}" for value in (interval.low, interval.high))
    return f"{interval.estimate:.3f}", f"[{low}, {high}]" if math.isfinite(interval.low) else ""
