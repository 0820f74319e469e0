"""A center with its encoders: products go in as a shop has them, and are found by photo, text or vector."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from moonlib.artifacts.reading import read_mapping
from moonlib.center.aliases import Alias, Target, find_alias, read_aliases, write_aliases
from moonlib.center.canary import append_canary, refuse_canaries
from moonlib.center.layout import ALIASES, CENTER, EMBEDDING, SPACES
from moonlib.center.publishing import Published, compact, open_spaces, publish, rollback
from moonlib.center.record import Record, Stamp, stamp
from moonlib.center.rows import ColumnType, Dtype
from moonlib.center.snapshot import Probe
from moonlib.center.space import Space, find_space, spaces
from moonlib.center.status import Status, read_status
from moonlib.center.view import View
from moonlib.center.where import Where
from moonlib.center.writing import Busy, make_center, require_center, writing_to
from moonlib.data.content import Content, Modalities
from moonlib.data.quarantine import Quarantine, TooManyUnreadable
from moonlib.embedding.content_hash import content_hash
from moonlib.exports.folder import Export, opened
from moonlib.inference.embedded import as_center
from moonlib.inference.embedding_folder import embedding_identity
from moonlib.inference.hits import Hit
from moonlib.inference.incoming import (
    Incoming,
    Products,
    as_frame,
    read_ids,
    read_products,
    refuse_cleared,
    work_folder,
)
from moonlib.inference.new_space import kept_types, make_space
from moonlib.inference.searching import query_vector
from moonlib.inference.upserting import Upserted, delete_products, write_products
from moonlib.representations.index import IndexKind
from moonlib.representations.store import Representations
from moonlib.runs.run import Run, RunError
from moonlib.system.remote import is_url

if TYPE_CHECKING:
    from moonlib.encoders.encoder import Encoder

log = logging.getLogger(__name__)

_LISTED = 3
"""Images that can't be read which an error names."""
COMPACT_AT = 65_536
"""Rows in a log from which on an upsert ends with a compaction."""


class Center:
    """A center, to read and to write.

    Args:
        path: its folder, or one that `moonlib embed` wrote, which can only be read.
        alias: that searches and look-ups follow.
        encoders: encoders that are open already, by their fingerprints.

    Raises:
        FileNotFoundError: there is none.

    Example:
        >>> center = Center.create("shop", "runs/iter3")  # doctest: +SKIP
        >>> center.upsert("products.parquet", images="photos")  # doctest: +SKIP
        >>> center.publish()  # doctest: +SKIP
        >>> center.search(text="red mug", where={"price": {"lt": 20}})[0].item_id  # doctest: +SKIP
    """

    def __init__(self, path: str | Path, alias: str = "live", encoders: Mapping[str, Encoder] = {}) -> None:
        self.path, self.alias = Path(path), alias
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._exports: dict[str, Run | Export] = {}
        self._encoders: dict[str, Encoder] = {}
        self._known = encoders
        self._records: dict[str, Record] = {}
        self._view: View | None = None
        self._writing = threading.Lock()
        """Of the threads that upsert with this object, one at a time does."""
        self._opened: tuple[tuple[Stamp, Stamp], list[Space]] | None = None
        self._read = self.path
        if not (self.path / CENTER).is_file() and (self.path / EMBEDDING).is_file():
            self._folder = as_center(self.path, alias)
            self._read = Path(self._folder.name)
        require_center(self._read)

    @classmethod
    def create(
        cls,
        path: str | Path,
        run: str | Path,
        dtype: Dtype = "int8",
        dim: int | None = None,
        columns: Sequence[str] | Mapping[str, ColumnType] | None = None,
        pictures: bool = True,
    ) -> Center:
        """Make a center, or in one that is there a space for another encoder, width or type.

        The alias ``live`` leads to the first space at once, and to another one when that is published.

        Args:
            path: the folder.
            run: a run directory, or an export of one, whose encoder the space is for; it is copied into the center.
            dtype: of the vectors at rest; int8 keeps their direction, which is all that a cosine reads.
            dim: keep only the first so many dimensions, of an encoder trained with Matryoshka dimensions.
            columns: to keep beside the vectors, to filter by and to show; names of `KEPT`, or any name with its type:
                ``text``, ``integer``, ``float`` or ``boolean``. By default `KEPT`, or what the space has that is there.
            pictures: whether to keep a small JPEG of each product, for pages that show products.

        Returns:
            The center. What is there already stays as it is.

        Raises:
            RunError: the encoder can't be exported.
            FileExistsError: the folder holds something else.
            ValueError: ``dim`` is wider than the vectors, a column has no known type, or the space is there already
                and keeps other columns.
        """
        center = Path(path)
        source = opened(run)
        kept_types(columns)
        make_center(center)
        with writing_to(center):
            made = make_space(center, source, dtype, dim, columns, pictures)
            if not read_aliases(center):
                write_aliases(center, {"live": Alias(Target(made.name, 0))})
        return cls(center)

    @property
    def read_only(self) -> bool:
        """Whether this is a folder that `moonlib embed` wrote."""
        return self._folder is not None

    @property
    def spaces(self) -> dict[str, Space]:
        """The spaces, by name."""
        return spaces(self._read)

    def space_of(self, run: str | Path, dtype: Dtype | None = None, dim: int | None = None) -> Space:
        """The space of a run's encoder.

        Raises:
            ValueError: there is none, or several.
        """
        fingerprint = opened(run).fingerprint
        found = [each for each in self.spaces.values() if each.fingerprint == fingerprint]
        found = [each for each in found if dtype in (None, each.dtype) and dim in (None, each.dim)]
        if len(found) != 1:
            names = ", ".join(each.name for each in found) or "none"
            raise ValueError(
                f"{self.path}: spaces of the encoder of {run}: {names}; name one of {', '.join(self.spaces)}"
            )
        return found[0]

    @property
    def view(self) -> View:
        """The newest view of what the alias leads to."""
        self._view = View.open(self._read, self.alias) if self._view is None else self._view.refreshed()
        return self._view

    def source(self, space: Space) -> Run | Export:
        """The export that a space's encoder is opened from."""
        if space.name not in self._exports:
            if self.read_only and not space.encoder.exists():
                run = read_mapping(self.path / EMBEDDING).get("run")
                raise RunError(f"{self.path} was embedded with {run}, which is not there any more: search by vector")
            self._exports[space.name] = opened(space.encoder)
        return self._exports[space.name]

    def encoder(self, space: Space) -> Encoder:
        """The encoder of a space: one that was given, or one on the CPU."""
        if space.name not in self._encoders:
            self._encoders[space.name] = self._known.get(space.fingerprint) or self.source(space).encoder()
        return self._encoders[space.name]

    def upsert(
        self,
        products: Products | None = None,
        images: str | Path | None = None,
        delete: str | Path | pl.Series | Sequence[Any] | None = None,
        *,
        space: str | None = None,
        workers: int = 0,
        device: str | None = None,
    ) -> Upserted:
        """Add products, change those that are there, and delete some.

        A product is encoded if it is new, or if what the encoder reads of it changed; if only kept columns changed, its
        vector is reused. What is acknowledged survives a kill and a power cut. Products are written 512 at a time: a
        call that is cut off is resumed by the same call, which encodes only what is missing.

        Args:
            products: a table (``.parquet`` or ``.csv``, see `moonlib.embed`), the folder of a dataset, a data frame, or
                rows. A row stands for the whole product.
            images: folder or URL that the image names start from.
            delete: a table with ``item_id``, or ids; deleted after the upsert. Unknown ones are passed over.
            space: name of the one space to write to; by default all that take upserts: those that an alias leads to,
                now or before, and those never published.
            workers: processes that read, decode and, on a CPU, encode, where the work takes longer than to start them;
                0 for none but this one.
            device: where to compute; by default a GPU if there is one.

        Returns:
            What was done to the space that the alias leads to, or to the one named.

        Raises:
            Busy: another process writes.
            ValueError: a row is not as it should be; nothing of the table was written then. Or this is an embedding,
                which can only be read.
            TooManyUnreadable: more images than tolerated can't be read; what was written before stays.
        """
        if products is None and delete is None:
            raise ValueError("nothing to upsert: give products, ids to delete, or both")
        self._require_writable()
        with self._writing:
            return self._upsert_all(products, images, delete, space, workers, device)

    def _upsert_all(
        self,
        products: Products | None,
        images: str | Path | None,
        delete: Any,
        space: str | None,
        workers: int,
        device: str | None,
    ) -> Upserted:
        targets = [find_space(self.path, space)] if space is not None else self._open_spaces()
        if not targets:
            raise ValueError(f"{self.path} has no space yet: give the run whose encoder it is for (--run)")
        if products is not None and not isinstance(products, (str, Path)):
            for each in targets:
                refuse_cleared(products, self._record(each).space)
            products = as_frame(products)
        answers = {each.name: self._upsert(each, products, images, delete, workers, device) for each in targets}
        for name, done in answers.items():
            log.info(f"{name}: {done}")
        if len(answers) > 1 and (live := read_aliases(self.path).get(self.alias)) and live.now.space in answers:
            return answers[live.now.space]
        return next(iter(answers.values()))

    def _open_spaces(self) -> list[Space]:
        """The spaces that take upserts, read again if an alias or the list of spaces changed."""
        now = stamp(self.path / ALIASES), stamp(self.path / SPACES)
        if self._opened is None or self._opened[0] != now:
            self._opened = now, open_spaces(self.path)
        return self._opened[1]

    def delete(self, ids: str | Path | pl.Series | Sequence[Any], *, space: str | None = None) -> Upserted:
        """Delete products; see `upsert`."""
        return self.upsert(delete=ids, space=space)

    def send_canary(self) -> int:
        """Write a row that no search finds, to measure how long it takes until searches know of it.

        Like a product's, its content is encoded first. It goes to the space that the alias leads to.

        Returns:
            Its sequence.

        Raises:
            Busy: another process writes.
            ValueError: the space has no product yet, or this is an embedding, which can only be read.
        """
        self._require_writable()
        received_at = time.time_ns() // 1000
        space = find_space(self.path, find_alias(self.path, self.alias).now.space)
        record, encoder = self._record(space), self.encoder(space)
        device = next((parameter.device for parameter in encoder.parameters()), torch.device("cpu"))
        batch = encoder.preprocessor([Content(None, "canary")], "product")
        with torch.inference_mode():
            encoder({name: part.to(device) for name, part in batch.items()})
        with writing_to(self.path):
            record.refresh()
            return append_canary(record, received_at)

    def status(self) -> Status:
        """Describe spaces, snapshots and aliases, with sizes, and what nobody can reach any more.

        Example: ``moonlib.Center("shop").status().spaces[0].products``
        """
        return read_status(self._read)

    def _upsert(
        self,
        space: Space,
        products: str | Path | pl.DataFrame | None,
        images: str | Path | None,
        delete: Any,
        workers: int,
        device: str | None,
    ) -> Upserted:
        received_at = time.time_ns() // 1000
        record = self._record(space)
        done = Upserted(sequence=record.sequence)
        gone = None if delete is None else read_ids(delete, record.space)
        if products is not None:
            with work_folder(products, workers) as work:
                incoming = read_products(products, images, record.space, self.source(space), work, workers)
                refuse_canaries(incoming.ids)
                self._note_columns(record, incoming)
                encoder, batch_size = self.encoder(space), self.source(space).batch_size
                try:
                    done = write_products(
                        self.path, record, incoming, received_at, encoder, batch_size, workers, device
                    )
                except TooManyUnreadable:  # which names a list in the folder that is deleted now
                    raise _too_many(incoming.contents.quarantine) from None
        if gone is not None:
            deleted, sequence = delete_products(self.path, record, gone, received_at)
            done = replace(done, deleted=deleted, sequence=sequence)
        if record.log_rows >= COMPACT_AT:
            try:
                compact(self.path, space)
            except Busy:
                log.info(f"{space.name}: the log is compacted by the next upsert, as a publish is going on")
        return done

    def _note_columns(self, record: Record, incoming: Incoming) -> None:
        """Note which columns the space's products have, so that one that is lost later is missed."""
        if new := sorted(incoming.given - {*record.space.given}):
            if record.space.given:
                log.info(f"{record.space.name}: products have a new column, {', '.join(new)}")
            with writing_to(self.path):
                record.note_given(new)

    def _record(self, space: Space) -> Record:
        if space.name not in self._records:
            self._records[space.name] = Record(space, write=True)
        record = self._records[space.name]
        record.refresh()
        return record

    def publish(
        self,
        alias: str | None = None,
        space: str | None = None,
        kind: IndexKind = "hnsw",
        keep: int = 3,
        probes: Mapping[str, Sequence[int | str]] | None = None,
        embedding: str | Path | None = None,
    ) -> Published:
        """Build a snapshot with an index, check it, and let an alias lead to it. Readers notice by themselves.

        Args:
            alias: to switch; by default the center's own.
            space: name of the space; by default the one that the alias leads to, or ``live`` where the alias is new.
            kind: of the index, see `moonlib.index`.
            keep: how many of the newest snapshots to keep, beside those that aliases lead to.
            probes: texts to search for, each with ids of which one must be among the first ten.
            embedding: folder that `moonlib embed` wrote with the same encoder, of these products or some of them. The
                space's vectors are compared with those in it; one of fewer dimensions than the encoder's needs that.

        Raises:
            GateFailed: fewer than .999 of the products with something to represent have a vector, recall@10 is below
                .95, of the index against the exact search or of the space's vectors against ``embedding``, or a probe
                fails; the alias leads where it did.
            Busy: another process publishes.
            ValueError: there is nothing to publish, no such space, or ``embedding`` is missing or of another encoder.
        """
        self._require_writable()
        alias = self.alias if alias is None else alias
        known = alias if alias in read_aliases(self.path) else "live"
        name = find_alias(self.path, known).now.space if space is None else space
        found = find_space(self.path, name)
        queries = [
            Probe(text, query_vector(self.encoder(found), None, text)[0, : found.dim], expected)
            for text, expected in (probes or {}).items()
        ]
        whole = None if embedding is None else _embedded(Path(embedding), found)
        if whole is None and found.dim < (width := int(Export(found.encoder).config["dim"])):
            raise ValueError(
                f"{found.name} keeps {found.dim} of the encoder's {width} dimensions: embed some of the products with "
                "the same run (moonlib embed), and publish with --embedding DIR, which measures what that costs"
            )
        nothing = content_hash({"title": None}, None, Modalities.parse("title"))
        return publish(
            self.path, found, alias=alias, kind=kind, keep=keep, nothing=nothing, probes=queries, whole=whole
        )

    def rollback(self, alias: str | None = None) -> Target:
        """Let an alias lead where it did before the last publish, in one rename; a second call takes it back.

        Raises:
            ValueError: there is no such alias, or it led nowhere before.
            Busy: another process writes.
        """
        self._require_writable()
        return rollback(self.path, self.alias if alias is None else alias).now

    def search(
        self,
        image: str | Path | bytes | None = None,
        text: str | None = None,
        vector: NDArray[np.float32] | None = None,
        k: int = 10,
        where: Where | Mapping[str, Any] | None = None,
    ) -> list[Hit]:
        """Find the products nearest to a photo, a text, both, or a vector.

        Args:
            image: the photo, or its file.
            text: what is searched for.
            vector: float32 [D], in place of image and text.
            k: products wanted.
            where: a filter by kept columns, as `moonlib.center.where.Where` takes it.

        Raises:
            ValueError: nothing to search for, a vector of another width, or a filter that does not fit the columns.
        """
        if k < 1:
            raise ValueError(f"k {k}: ask for at least 1 product")
        view = self.view
        if vector is None:
            photo = Path(image) if isinstance(image, str) else image
            queries = query_vector(self.encoder(view.space), photo, text)[:, : view.space.dim]
        else:
            queries = np.asarray(vector, np.float32).reshape(1, -1)
            if queries.shape[1] != view.space.dim:
                raise ValueError(f"the vector has {queries.shape[1]} dimensions; those of {view.name} {view.space.dim}")
        k = min(k, max(1, len(view)))  # of more, only the places would be made
        found = view.search(queries, k, where if where is None or isinstance(where, Where) else Where(where))
        (ids,) = found.ids
        rows = view.rows(ids).drop("item_id").to_dicts() if ids else []
        scores = found.scores[0, : len(ids)].tolist()
        return [
            Hit(rank, score, id, row, view.picture(id))
            for rank, (id, score, row) in enumerate(zip(ids, scores, rows, strict=True), 1)
        ]

    def lookup(self, ids: pl.Series | NDArray[np.int64] | Sequence[Any]) -> NDArray[np.float32]:
        """Vectors of products, float32 [n, D]; zeros where there is none."""
        return self.view.lookup(ids)

    def _require_writable(self) -> None:
        if self.read_only:
            raise ValueError(
                f"{self.path} is what `moonlib embed` wrote, and can only be read: make a center with `moonlib upsert "
                "CENTER --run RUN --products TABLE`, which takes upserts"
            )


def is_center(path: str | Path) -> bool:
    """Whether a folder opens as a center: one that `moonlib upsert` made, or `moonlib embed` wrote."""
    return not is_url(path) and any((Path(path) / name).is_file() for name in (CENTER, EMBEDDING))


def _embedded(folder: Path, space: Space) -> Representations:
    """Vectors that `moonlib embed` wrote with the encoder of a space.

    Raises:
        ValueError: they are of another encoder.
    """
    if embedding_identity(folder / EMBEDDING).get("encoder") != space.fingerprint:
        raise ValueError(f"{folder} was embedded with another encoder than that of {space.name}")
    return Representations.open(folder, "products")


def _too_many(quarantine: Quarantine) -> TooManyUnreadable:
    found = [f"{id}: {reason}" for (_, id), reason in quarantine.entries().items()]
    return TooManyUnreadable(
        f"{len(found)} images can't be read, more than the {quarantine.allowed} tolerated: mend them, or name no image "
        f"of those products; such as {'; '.join(found[:_LISTED])}"
    )
