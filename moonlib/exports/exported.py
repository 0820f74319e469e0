"""The folder that `moonlib export` wrote, opened; see `moonlib.exports.folder`. Nothing that trains is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

import moonlib
from moonlib.artifacts.checksums import Damaged
from moonlib.artifacts.layout import EXPORT, EXPORT_HERE, EXPORT_WEIGHTS, is_read
from moonlib.artifacts.reading import Unreadable, read_json
from moonlib.config.encoder import ready
from moonlib.data.content import Modalities, Side
from moonlib.runs.errors import RunError
from moonlib.system.remote import local_copy, without_credentials
from moonlib.system.versions import DISTRIBUTION, version_hint

if TYPE_CHECKING:
    from moonlib.data.dataset import Dataset
    from moonlib.embedding.embed import Views
    from moonlib.encoders.encoder import Encoder
    from moonlib.representations.store import Representations

FORMAT = 2
"""Of config.json; a higher one can't be read by this version. 1 has no ``views``, and reads the main picture."""

CONFIG, WEIGHTS, HERE = EXPORT, EXPORT_WEIGHTS, EXPORT_HERE

PROGRAM = "moonlib_program"
"""The key that marks the config.json of an export ``--to`` a program."""


class Export:
    """A folder that `export` wrote. What `Run` says of a run's encoder it says of this one, in the same words.

    Attributes:
        directory: the folder.
        config: what its config.json says.

    Args:
        directory: the folder, or its URL.

    Raises:
        RunError: it is none, or was written by a later version.

    Example: ``Export("shipped").encoder()``
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = local_copy(directory, is_read)
        directory = without_credentials(str(directory))
        file = self.directory / CONFIG
        try:
            config = read_json(file)
        except FileNotFoundError:
            raise RunError(f"{directory} is not an export, it has no {CONFIG}") from None
        except (Unreadable, Damaged) as error:
            raise RunError(str(error)) from None
        written = config.get("moonlib_export") if isinstance(config, dict) else None
        if isinstance(config, dict) and PROGRAM in config:
            raise RunError(
                f"{directory} is an export --to {config.get('program')}: its README.md says how to run it without "
                "moonlib; for a folder that moonlib opens, export the run without --to"
            )
        if not isinstance(written, int):
            raise RunError(f"{file} was not written by `moonlib export`: it is another kind of model's")
        if written > FORMAT:
            raise RunError(
                f"{file} was written by moonlib {config.get('moonlib_version')}; this is {moonlib.__version__}, which "
                f"reads format {FORMAT}: pip install --upgrade {DISTRIBUTION}"
            )
        if lacks := [key for key in ("encoder", "fingerprint", "reads", "batch_size", "versions") if key not in config]:
            raise RunError(f"{file} is broken: it has no {lacks[0]}; export the run again")
        self.config: dict[str, Any] = config

    @property
    def fingerprint(self) -> str:
        """That of the run, see `Run.fingerprint`."""
        return str(self.config["fingerprint"])

    def modalities(self, side: Side) -> Modalities:
        """Modalities that the run's representations of products or of queries are made from."""
        return Modalities.parse(self.config["reads"][side])

    @property
    def views(self) -> Views:
        """Which pictures the run's representations are made from, of those that have several."""
        views: Views = self.config.get("views", "main")
        return views

    @property
    def text_ids(self) -> list[str]:
        """The tables whose ids are text in the run's data, see `Run.text_ids`."""
        return list(self.config.get("text_ids", ()))

    @property
    def batch_size(self) -> int:
        """How many rows the run's representations were encoded at once; their last bits depend on it."""
        return int(self.config["batch_size"])

    def encoder(self) -> Encoder:
        """The encoder, in eval mode. Nothing is downloaded.

        Raises:
            RunError: a file is missing or broken, or something the encoder needs is not installed.
        """
        config = replaced(self.config["encoder"], HERE, str(self.directory.resolve()))
        weights = self.directory / WEIGHTS
        if not weights.is_file():
            raise RunError(f"{weights} is missing; export the run again")
        try:
            return ready(config, self.directory, 0, weights)
        except pl.exceptions.PolarsError as error:
            raise RunError(
                f"{self.directory} lacks the encoder's fitted preprocessing; export the run again"
            ) from error
        except ValueError as error:
            hint = version_hint(self.config["versions"], "it")
            raise RunError(f"{self.directory}: {error}{hint}") from error

    def representations(self) -> tuple[Representations, Representations]:
        """An export has none.

        Raises:
            RunError: always.
        """
        raise RunError(
            f"{self.directory} is an export, which holds no representations; embed products with it (`moonlib embed`), "
            "index them (`moonlib index`) and search with --index"
        )

    def dataset(self) -> Dataset:
        """An export has none.

        Raises:
            RunError: always.
        """
        raise RunError(f"{self.directory} is an export, which holds no data; give the run directory")


def replaced(value: Any, old: str, new: str) -> Any:
    """A JSON value in whose strings ``old`` is replaced; a path becomes a string."""
    if isinstance(value, Mapping):
        return {key: replaced(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, old, new) for item in value]
    return str(value).replace(old, new) if isinstance(value, (str, Path)) else value
