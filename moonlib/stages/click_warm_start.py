"""Warm start of a click model: the weights of an earlier one, its embeddings by id and not by place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from moonlib.artifacts.checksums import again, verified
from moonlib.artifacts.layout import WEIGHTS
from moonlib.artifacts.reading import Unreadable
from moonlib.clicks.features import Column, Features
from moonlib.clicks.impressions import Vocabularies
from moonlib.clicks.saved_vocabularies import SavedVocabularies
from moonlib.clicks.vocabulary import HashedVocabulary
from moonlib.encoders.weights import first_difference
from moonlib.stages.click_model import ClickModel

REMEDY = "give the recipe what that model was trained with, or leave `from` out and train from scratch"

KINDS = ("categorical", "multi_valued")
"""Features that have embeddings; each kind has one table, in which each feature has rows of its own."""


class ClickWarmStart:
    """Rows of an earlier model's embedding tables, and the rows that they become.

    An id or value that both models know keeps its embedding, wherever it now stands; so does the row that all unknown
    ones share. A new one begins as it would from scratch. One that has left is in no table any more.

    Args:
        saved: of the earlier model.
        vocabularies: of this one.
        features: of this one; None without any.

    Attributes:
        counts: by table or ``table.column``: how many rows were ``carried`` over, are ``new``, and have ``left``.

    Raises:
        ValueError: the models have other features, or only one of them hashes its ids.
    """

    def __init__(self, saved: SavedVocabularies, vocabularies: Vocabularies, features: Features | None) -> None:
        self.saved = saved
        self.counts: dict[str, dict[str, int]] = {}
        self._places: dict[str, tuple[Tensor, Tensor]] = {}
        self._require_features(features)
        for name in saved.description.rows:
            self._places[f"{name}.weight"] = self._ids(name, vocabularies)
        for kind in KINDS if features else ():
            assert features is not None
            if places := list(self._values(kind, features)):
                self._places[f"features.{kind}.weight"] = _joined(places)

    def load(self, model: ClickModel) -> None:
        """Carry the earlier model's weights over; nothing is changed if they do not fit.

        Raises:
            ValueError: naming the first difference between the models.
            Unreadable: the file of the weights can't be read.
            Damaged: its content is not what was written.
        """
        self._require_modules(model)
        path = self.saved.directory / WEIGHTS
        earlier = _read(path)
        state = model.state_dict()
        expected = {
            name: [self._rows(name), *tensor.shape[1:]] if name in self._places else list(tensor.shape)
            for name, tensor in state.items()
        }
        if difference := first_difference({name: list(tensor.shape) for name, tensor in earlier.items()}, expected):
            raise ValueError(f"{path} is of another click model: {difference}; {REMEDY}")
        with torch.no_grad():
            for name, tensor in state.items():
                self._load(name, tensor, earlier[name])

    def load_ids(self, model: ClickModel) -> None:
        """Carry the embeddings of ids over again, once they have begun anew."""
        earlier = _read(self.saved.directory / WEIGHTS)
        with torch.no_grad():
            for name, table in model.id_tables().items():
                self._load(f"{name}.weight", table.weight, earlier[f"{name}.weight"])

    def _load(self, name: str, tensor: Tensor, earlier: Tensor) -> None:
        if name in self._places:
            new, old = self._places[name]
            tensor[new.to(tensor.device)] = earlier[old].to(tensor)
        else:
            tensor.copy_(earlier)

    def _rows(self, parameter: str) -> int:
        """Rows of a table of the earlier model."""
        kind = parameter.split(".")[1]
        if parameter.startswith("features."):
            return sum(feature.rows for feature in self.saved.description.features if feature.kind == kind)
        return self.saved.rows(parameter.partition(".")[0])

    def _ids(self, name: str, vocabularies: Vocabularies) -> tuple[Tensor, Tensor]:
        rows = vocabularies.sizes[name]
        if isinstance(getattr(vocabularies, name), HashedVocabulary) or name in self.saved.description.hashed:
            return self._buckets(name, rows, isinstance(getattr(vocabularies, name), HashedVocabulary))
        entries = self.saved.entries(name, vocabularies.entries[name].schema["value"])
        new = torch.from_numpy(vocabularies.rows(name, entries["value"]).copy())
        return self._exact(name, new, torch.from_numpy(entries["row"].to_numpy().copy()), rows)

    def _values(self, kind: str, features: Features) -> Iterator[tuple[Tensor, Tensor]]:
        """Places of each feature of a kind, in the table of all of them."""
        first = 0
        columns = {column.full_name: column for column in features.columns}
        for earlier in self.saved.description.features:
            if earlier.kind != kind:
                continue
            new, old = self._feature(earlier.name, columns[earlier.name], features)
            yield new + columns[earlier.name].first, old + first
            first += earlier.rows

    def _feature(self, name: str, column: Column, features: Features) -> tuple[Tensor, Tensor]:
        hashed = isinstance(column.fitted, HashedVocabulary)
        if hashed or name in self.saved.description.hashed:
            return self._buckets(name, column.saved.rows, hashed)
        entries = self.saved.entries(name, features.entries[name].schema["value"])
        new = torch.from_numpy(column.rows(entries["value"]).copy()) - column.first
        return self._exact(name, new, torch.from_numpy(entries["row"].to_numpy().copy()), column.saved.rows)

    def _exact(self, name: str, new: Tensor, old: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        there = new > 0
        carried = int(there.sum())
        left = self.saved.rows(name) - 1 - carried
        self.counts[name] = {"carried": carried, "new": rows - 1 - carried, "left": left}
        unknown = new.new_zeros(1)
        return torch.cat([unknown, new[there]]), torch.cat([unknown, old[there]])

    def _buckets(self, name: str, rows: int, hashed: bool) -> tuple[Tensor, Tensor]:
        earlier = self.saved.rows(name) - 1
        there = f"{earlier:,} buckets" if name in self.saved.description.hashed else "exact vocabularies"
        here = f"{rows - 1:,} buckets" if hashed else "exact vocabularies"
        if there != here:
            raise ValueError(
                f"{self.saved.directory}: buckets: {name} has {there} there and {here} here; set the same `buckets`, "
                "or leave `from` out and train from scratch"
            )
        self.counts[name] = {"carried": earlier, "new": 0, "left": 0}
        return torch.arange(rows), torch.arange(rows)

    def _require_features(self, features: Features | None) -> None:
        there = {each.name: each.kind for each in self.saved.description.features}
        here: dict[str, str] = {each.full_name: each.kind for each in features.columns} if features else {}
        for name in sorted({*there, *here}):
            if there.get(name) != here.get(name):
                was, now = (kinds.get(name, "not declared") for kinds in (there, here))
                raise ValueError(f"{self.saved.directory}: features: {name} is {was} there and {now} here; {REMEDY}")

    def _require_modules(self, model: ClickModel) -> None:
        there, here = self.saved.description.modules, modules_of(model)
        for name in ["adapter", "predictor", *here, *there]:  # what these are made of says less than they themselves
            was, now = (names.get(name, "nothing").rpartition(".")[2] for names in (there, here))
            if there.get(name) != here.get(name):
                part = name.replace(".", ": ", 1)
                raise ValueError(f"{self.saved.directory}: {part} is {was} there and {now} here; {REMEDY}")


def modules_of(model: nn.Module) -> dict[str, str]:
    """Class of each module of a model by its name, with the package that it is of."""
    return {
        name: f"{type(module).__module__.partition('.')[0]}.{type(module).__name__}"
        for name, module in model.named_modules()
        if name
    }


def carried_over(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Say how many rows of each table were carried over, are new, and have left.

    Example:
        >>> carried_over({"user": {"carried": 1200, "new": 30, "left": 0}})
        'embeddings carried over, new, left: user 1,200, 30, 0'
    """
    parts = [f"{name} {each['carried']:,}, {each['new']:,}, {each['left']:,}" for name, each in counts.items()]
    return f"embeddings carried over, new, left: {'; '.join(parts)}"


def _joined(places: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    new, old = zip(*places, strict=True)
    return torch.cat(new), torch.cat(old)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a model's file, those that modules share under each of their names."""
    try:
        with safe_open(verified(path), framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            shared = {name: of for name, of in (file.metadata() or {}).items() if name != "format"}
    except SafetensorError as error:
        raise Unreadable(f"{path} is not a safetensors file ({error}); {again(path)}") from None
    return found | {name: found[of] for name, of in shared.items() if of in found}
