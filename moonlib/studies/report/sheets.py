"""Retrieval as shoppers see it: query photos and what runs find for them, hits marked."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from moonlib.artifacts.layout import QUARANTINE
from moonlib.data.content import Modalities
from moonlib.data.dataset import Dataset
from moonlib.data.pixels import open_image
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import Sample, SampleReader
from moonlib.embedding.embed import Contents, encode
from moonlib.encoders.encoder import Encoder
from moonlib.representations.store import Representations
from moonlib.stages.represent import evaluation_searches
from moonlib.studies.paired import searches
from moonlib.studies.report.evidence import SEARCH_TASKS, Evidence

K = 10
SHOWN = 3
"""Searches of each kind."""
BLOCK = 65536
"""Products compared at once."""
SIDE, QUALITY = 96, 62
"""Of the pictures: the longer side in pixels, and the JPEG quality."""


@dataclass(frozen=True)
class Found:
    """One product that was found.

    Attributes:
        title: of the product; its category where it has none.
        picture: as a data URI; None if it has none.
        hit: it is a SKU of what was ordered.
    """

    title: str
    picture: str | None
    hit: bool


@dataclass(frozen=True)
class Answer:
    """Hits of one run for a query.

    Attributes:
        label: of the run.
        rank: of what was ordered, from 1.
        found: the first ten, the best first.
    """

    label: str
    rank: int
    found: list[Found]


@dataclass(frozen=True)
class ExampleSearch:
    """One search that ended in an order.

    Attributes:
        picture: the query's, as a data URI; None for a text.
        text: the query's, where it is a text search.
        ordered: title of what was ordered.
        answers: one per run.
    """

    picture: str | None
    text: str | None
    ordered: str
    answers: list[Answer]


@dataclass(frozen=True)
class Sheet:
    """Searches of one kind.

    Attributes:
        title: of the kind.
        about: how they were chosen, and out of how many.
        searches: at most `SHOWN`.
    """

    title: str
    about: str
    searches: list[ExampleSearch]


def sheets(run: Evidence, previous: Evidence | None, pictures: dict[str, Pictures]) -> list[Sheet]:
    """Draw searches of the test days at random, and wins and losses against a previous run on the same data.

    What is drawn depends on the ids of the searches alone.

    Args:
        run: its represent stage has finished.
        previous: None if there is none on the same data.
        pictures: what was opened for other runs, by dataset and task; added to.

    Returns:
        A sheet of any searches; then of those that only this run finds among its first ten, and of those that only
        the previous one does.

    Raises:
        RunError, ValueError: data, representations or the encoder are not there, or no search was ordered from.
    """
    assert run.represent is not None
    task, table = next(((task, t) for task in SEARCH_TASKS if len(t := searches(run.represent, task))), ("", None))
    if table is None:
        raise ValueError(f"{run.label} has no search of the test days that ended in an order")
    order = [hashlib.sha256(f"{a} {b}".encode()).digest() for a, b in table.select("search_id", "item_id").iter_rows()]
    table = table.with_columns(drawn=pl.Series(np.argsort(np.argsort(order))))
    kinds = [("Searches drawn at random", "", table, [run])]
    if previous and previous.represent:
        before = searches(previous.represent, task).select("search_id", "item_id", before=pl.col("rank"))
        both = table.join(before, on=["search_id", "item_id"])
        now, then = pl.col("rank") < K, pl.col("before") < K
        for title, finds, misses, among in (
            ("Won", run, previous, both.filter(now & ~then)),
            ("Lost", previous, run, both.filter(~now & then)),
        ):
            what = f"{finds.label} shows what was ordered among its first ten, {misses.label} does not: "
            kinds.append((f"{title} against {previous.label}", what, among, [run, previous]))
    place = f"{run.dataset} {task}"
    if place not in pictures:
        pictures[place] = Pictures(run.run.dataset(), task)
    found = []
    for title, what, among, runs in kinds:
        chosen = among.sort("drawn").head(SHOWN)
        of = f" {len(among):,} of" if what else ""
        about = f"{what.strip()}{of} {len(table):,} searches of the test days; {len(chosen)} drawn at random.".strip()
        found.append(Sheet(title, about, pictures[place].draw(chosen, runs)))
    return found


class Pictures:
    """Draws searches of one dataset; opens the dataset and the encoder of each run once.

    Args:
        dataset: what is searched.
        task: ``image_search`` or ``text_search``.
    """

    def __init__(self, dataset: Dataset, task: str) -> None:
        self.dataset, self.task = dataset, task
        self.asked = evaluation_searches(dataset, "test", "image_search" if task == "image_search" else "text_search")
        self.products, self.queries = (SampleReader(dataset.directory, name) for name in ("products", "queries"))
        self.catalogue = dataset.table("products", ("item_id", "spu_id", "listed_at"))
        self.encoders: dict[str, Encoder] = {}

    def draw(self, chosen: pl.DataFrame, runs: Sequence[Evidence]) -> list[ExampleSearch]:
        """Draw rows of ``searches.parquet``, with what each run finds for them."""
        keys = ["search_id", "item_id"]
        rows = self.dataset.ids.encoded(chosen.select(keys), *keys)
        rows = rows.join(self.asked, on=keys, how="left", maintain_order="left")
        if not len(rows):
            return []
        answers = [self.answers(run, rows) for run in runs]
        drawn = []
        queries = self.queries.read(rows["query_id"].to_numpy())
        ordered = self.products.read(rows["item_id"].to_numpy())
        for i, (query, product) in enumerate(zip(queries, ordered, strict=True)):
            by_photo = self.task == "image_search"
            picture = _picture(query.image) if by_photo else None
            text = None if by_photo else query.row["text"]
            drawn.append(ExampleSearch(picture, text, self.title(product), [each[i] for each in answers]))
        return drawn

    def answers(self, run: Evidence, rows: pl.DataFrame) -> list[Answer]:
        """Hits of a run for each search, as its represent stage ranked it: from the photo, or the text, alone."""
        assert run.represent is not None
        products = Representations.open(run.represent, "products")
        ids = rows["query_id"].unique().sort().to_numpy()
        vectors = self.encoded(run, ids)[np.searchsorted(ids, rows["query_id"].to_numpy())]
        queries = F.normalize(torch.from_numpy(vectors), dim=1)
        of_item = self.catalogue.select("item_id", "spu_id", listed=pl.col("listed_at").dt.epoch("us"))
        gallery = pl.DataFrame({"item_id": products.ids}).join(of_item, on="item_id", how="left", maintain_order="left")
        spu, listed = gallery["spu_id"].to_numpy(), gallery["listed"].to_numpy()
        scores = np.empty((len(rows), len(gallery)), dtype=np.float32)
        for start in range(0, len(gallery), BLOCK):
            block = torch.from_numpy(np.array(products.vectors[start : start + BLOCK], dtype=np.float32))
            similar = (queries @ F.normalize(block, dim=1).T).masked_fill(~block.any(dim=1), -torch.inf)
            scores[:, start : start + BLOCK] = similar.numpy()
        scores[listed[None] > rows["ts"].dt.epoch("us").to_numpy()[:, None]] = -np.inf
        if (run.run.config["stages"][run.represent.name].get("data") or {}).get("gallery") == "new":
            days = (self.dataset.splits.valid_until, self.dataset.splits.test_until)
            new, end = (round(day.timestamp() * 1e6) for day in days)
            scores[:, (listed < new) | (listed >= end)] = -np.inf
        keys = ["search_id", "item_id"]
        found = self.dataset.ids.encoded(searches(run.represent, self.task), *keys)
        ranked = rows.join(found, on=keys, how="left", maintain_order="left")
        best = np.argsort(-scores, axis=1, kind="stable")[:, :K]
        samples = self.products.read(products.ids[best.ravel()])
        shown = [(self.title(sample), _picture(sample.image)) for sample in samples]
        answers = []
        for i, (rank, bought) in enumerate(zip(ranked["rank"].to_list(), rows["spu_id"].to_list(), strict=True)):
            line = shown[i * best.shape[1] : (i + 1) * best.shape[1]]
            hits = [Found(*one, hit=bool(spu[j] == bought)) for one, j in zip(line, best[i], strict=True)]
            answers.append(Answer(run.label, int(rank) + 1, hits))
        return answers

    def title(self, product: Sample) -> str:
        """The title of a product; its category, or its id, where it has none."""
        named = self.dataset.ids.value("item_id", product.id)
        return str(product.row.get("title") or product.row.get("category") or named)

    def encoded(self, run: Evidence, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of queries, float32 [n, D], in the order of ascending ids."""
        modalities = Modalities.parse("image" if self.task == "image_search" else "title")
        with TemporaryDirectory() as scratch:
            quarantine = Quarantine(Path(scratch) / QUARANTINE, len(ids))
            contents = Contents(self.queries, "query", ids, modalities, quarantine, len(ids), views=run.run.views)
            if run.label not in self.encoders:
                self.encoders[run.label] = run.run.encoder()
            return np.concatenate(list(encode(self.encoders[run.label], contents)))


def _picture(image: bytes | None) -> str | None:
    """A small JPEG as a data URI; None for what is none."""
    if image is None:
        return None
    try:
        picture = open_image(image).convert("RGB")
    except OSError:
        return None
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
