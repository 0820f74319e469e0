"""Limits of a server: the key ``serve`` of a YAML file, and options of ``moonlib serve``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from moonlib.config.merge import RecipeError
from moonlib.config.typing import construct

MAY_BE_ZERO = ("canary_seconds", "recall_share", "wait_ms")


@dataclass(frozen=True)
class ServeSettings:
    """Limits of a server.

    Attributes:
        batch: queries encoded at once, at most.
        wait_ms: how long a batch waits for queries that are on their way, in milliseconds; a lone query never waits.
        queue: queries in progress at once; one more is answered 429.
        timeout_ms: time that a query may take once it has arrived, in milliseconds; then it is answered 504.
        max_bytes: size of a query, picture included; a larger one is answered 413.
        max_pixels: width × height of a picture.
        k: products that a query may ask for.
        max_text: characters of a query's text.
        max_ids: ids of a look-up, or of a deletion.
        max_products_bytes: size of a request to add products, pictures included.
        receive_seconds: time a client has to send its request; then it is answered 408.
        refresh_ms: how often the center is asked for newer products and snapshots, in milliseconds.
        drain_seconds: time that requests in progress have to be answered after SIGTERM.
        canary_seconds: how often a server that may write measures its freshness by a canary; 0 for never.
        recall_share: share of the queries that are answered exactly as well, to measure recall; 0 for none.
        log_queries: also log texts and filters of queries.

    Raises:
        ValueError: a limit is not positive; the message names it.
    """

    batch: int = 32
    wait_ms: float = 5.0
    queue: int = 256
    timeout_ms: float = 500.0
    max_bytes: int = 5_000_000
    max_pixels: int = 25_000_000
    k: int = 200
    max_text: int = 2_000
    max_ids: int = 100_000
    max_products_bytes: int = 100_000_000
    receive_seconds: float = 10.0
    refresh_ms: float = 500.0
    drain_seconds: float = 30.0
    canary_seconds: float = 60.0
    recall_share: float = 0.01
    log_queries: bool = False

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "log_queries" and (value < 0 or (value == 0 and name not in MAY_BE_ZERO)):
                raise ValueError(f"{name}: expected a positive number, got {value}")
        if self.recall_share > 1:
            raise ValueError(f"recall_share: expected a share from 0 to 1, got {self.recall_share}")


def read_settings(path: Path | None = None, **given: Any) -> ServeSettings:
    """Read settings from a YAML file's key ``serve``.

    Args:
        path: the file; None for the defaults.
        given: settings that win over the file's; None is passed over.

    Raises:
        ValueError: the file is no YAML, or a key is unknown or has a value of another type; the message names both.
    """
    found: Any = {}
    if path is not None:
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(found, dict) or not isinstance(found.get("serve"), dict):
            names = ", ".join(field.name for field in fields(ServeSettings))
            raise ValueError(f"{path}: expected a mapping `serve:` with some of {names}")
        if others := sorted(map(str, set(found) - {"serve"})):
            raise ValueError(f"{path}: unknown key {others[0]}; expected only `serve`")
        found = found["serve"]
    try:
        settings: ServeSettings = construct(
            ServeSettings, found | {name: value for name, value in given.items() if value is not None}, ("serve",)
        ).build()
    except RecipeError as error:
        raise ValueError(f"{path}: {error}" if path else str(error)) from None
    return settings
