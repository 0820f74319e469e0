"""Several losses in one stage, as a recipe writes them: from names to weights.

    losses:
      info_nce: 1
      distill: {weight: 0.5, init_args: {teacher: collaborative}}
      wide: {class_path: info_nce, init_args: {temperature: 0.2}, weight: 0.1}

An entry is a number, the weight of the loss of that name; the name of a loss, with weight 1; or a mapping with
``weight``, ``dims`` (a head of the encoder, or two numbers) and, like any component, ``class_path`` (by default the
entry's own name) and ``init_args``. Layers merge in this form, each entry by itself; what is typed and kept in a run is
`moonlib.losses.weighted.WeightedLoss`, whose fields an entry may also give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

LOSSES = "losses"


def flat(content: dict[str, Any]) -> dict[str, Any]:
    """A layer with each entry of its ``losses`` as a mapping that another layer's can be merged with.

    Example:
        >>> flat({"stages": {"posttrain": {"module": {"init_args": {"losses": {"info_nce": 1}}}}}})
        {'stages': {'posttrain': {'module': {'init_args': {'losses': {'info_nce': {'weight': 1}}}}}}}
    """
    return _each_entry(content, lambda name, entry: _flat(entry))


def nested(content: dict[str, Any]) -> dict[str, Any]:
    """A merged recipe with each entry of ``losses`` as the fields of `moonlib.losses.weighted.WeightedLoss`.

    Beside them ``loss`` is null, unless it is given.

    Example:
        >>> nested({"stages": {"refine": {"module": {"init_args": {"losses": {"info_nce": {"weight": 1}}}}}}})
        {'stages': {'refine': {'module': {'init_args': {'loss': None, 'losses': {'info_nce': {'weight': 1, 'loss': {'class_path': 'info_nce'}}}}}}}}
    """  # noqa: E501
    return _each_entry(content, _nested)


def _flat(entry: Any) -> Any:
    if isinstance(entry, str):
        return {"class_path": entry}
    if isinstance(entry, int | float) and not isinstance(entry, bool):
        return {"weight": entry}
    if isinstance(entry, dict) and "loss" in entry:
        loss = entry["loss"]
        rest = {key: value for key, value in entry.items() if key != "loss"}
        return {**({"class_path": loss} if isinstance(loss, str) else loss or {}), **rest}
    return entry


def _nested(name: str, entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    component = {key: value for key, value in entry.items() if key in ("class_path", "init_args")}
    rest = {key: value for key, value in entry.items() if key not in ("class_path", "init_args")}
    return {**rest, "loss": {"class_path": name, **component}}


def _each_entry(content: dict[str, Any], change: Callable[[str, Any], Any]) -> dict[str, Any]:
    """Change the entries of ``losses`` of all stages; whatever has another form is left to the typing."""
    stages = content.get("stages")
    if not isinstance(stages, Mapping):
        return content
    return {**content, "stages": {name: _of_stage(stage, change) for name, stage in stages.items()}}


def _of_stage(stage: Any, change: Callable[[str, Any], Any]) -> Any:
    place = stage
    for part in ("module", "init_args", LOSSES):
        place = place.get(part) if isinstance(place, Mapping) else None
    if place is None:
        return stage
    module, arguments = stage["module"], stage["module"]["init_args"]
    losses = place
    if isinstance(place, Mapping):
        losses = {name: change(str(name), entry) for name, entry in place.items()}
    if change is _nested:
        arguments = {"loss": None, **arguments}  # required, and null beside several
        if isinstance(losses, Mapping):  # null without a parent removes nothing
            losses = {name: entry for name, entry in losses.items() if entry is not None}
    return {**stage, "module": {**module, "init_args": {**arguments, LOSSES: losses}}}
