"""A step of a run: one stage, or one reference of it, with the fingerprint that names its directory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from moonlib.artifacts.layout import link_name
from moonlib.config.fingerprint import made_with, material_stage
from moonlib.config.merge import merge
from moonlib.config.recipe import StageRecipe, fingerprint
from moonlib.data.dataset import Dataset
from moonlib.data.digests import digests, given_representations
from moonlib.data.reads import Reads
from moonlib.runs.lineage import Lineage
from moonlib.stages.stage import Stage


@dataclass(frozen=True)
class StageOrigin:
    """The stage of another run that a step starts from, see `moonlib.runs.warm_start`.

    Attributes:
        directory: of the finished stage.
        digest: of its content, or of the weights alone where these are an encoder's.
    """

    directory: Path
    digest: str


@dataclass(frozen=True)
class Step:
    """A stage, or a reference of it, that is about to run.

    Attributes:
        link: its name in the run directory.
        prefix: of its keys in results.json, empty for the stage itself.
        recipe: its part of the recipe.
        module: the stage.
        reads: what it reads of the stages before it.
        data: what it reads of the dataset.
        seed: what it seeds itself with.
        identity: what its fingerprint is made of.
        fingerprint: name of its directory in that of all stages.
        origin: the stage of another run that it starts from, if any.
    """

    link: str
    prefix: str
    recipe: StageRecipe
    module: Stage
    reads: Lineage
    data: Reads
    seed: int
    identity: dict[str, Any]
    fingerprint: str
    origin: StageOrigin | None = None


def step_of(
    stage: StageRecipe,
    module: Stage,
    dataset: Dataset,
    lineage: Lineage,
    *,
    seed: int,
    prefix: str = "",
    origin: StageOrigin | None = None,
    comparable: str | None = None,
    teachers: Mapping[str, str] | None = None,
    center: Mapping[str, str] | None = None,
) -> Step:
    """Fingerprint a stage: its configuration, and what it reads of the data and of the stages before it.

    Args:
        stage: its part of the recipe.
        module: the stage itself.
        dataset: the data.
        lineage: what the stages before it have left, by fingerprint.
        seed: the recipe's.
        prefix: of the reference that it is, if any.
        origin: the stage of another run that it starts from, in place of this run's weights.
        comparable: hash of what the run holds that the stage is to be compatible with, if any, see
            `moonlib.runs.comparable.content_of`.
        teachers: hash of each of the vectors that the stage learns from, by what names them, see
            `moonlib.runs.teachers`.
        center: snapshot and content of what it reads of a center, if anything, see
            `moonlib.runs.center.CenterSnapshot`.
    """
    reads, config, own_seed = lineage.read(module.needs), material_stage(stage.config), seed_of(seed, stage.name)
    if module.compatible_with is not None:  # what the run holds, and not where it lies
        config = merge(config, {"module": {"init_args": {"compatible_with": comparable}}})
    if teachers:
        config = with_digests(config, teachers)
    if origin is not None:
        reads = replace(reads, weights=None)
    started: dict[str, Any] = {} if origin is None else {"from": origin.digest}
    if teachers:
        started["teachers"] = [teachers[given] for given in module.teachers]
    if center is not None:
        started["center"] = center
    data = data_of(stage, module)
    found = digests(dataset, data)
    if "representations" in module.needs and reads.representations is None:
        found |= given_representations(dataset)
    before = {key: value for key, value in asdict(reads).items() if key != "codes" or value is not None}
    identity = {"config": config, **before, "reads": found, "seed": own_seed, **started, **made_with(config)}
    link = link_name(stage.name, prefix)
    return Step(link, prefix, stage, module, reads, data, own_seed, identity, fingerprint_of(identity), origin)


def data_of(stage: StageRecipe, module: Stage) -> Reads:
    """Look up what a stage reads of the dataset.

    Args:
        stage: its part of the recipe.
        module: the stage itself.
    """
    # By its class: a plugin's stage may have an attribute of this name.
    return type(module).reads(module, stage.data(), stage.validate is not None)


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """The fingerprint of a stage, or of the preprocessing.

    Args:
        identity: all that it is made of. Where it lists what is read of the dataset, the hash of the whole dataset says
            only where it was made, and has no part in it.
    """
    return fingerprint({key: value for key, value in identity.items() if key != "dataset" or "reads" not in identity})


def seed_of(seed: int, name: str) -> int:
    """The seed of a stage: a function of the recipe's seed and the stage's name, in 32 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "little")


def with_digests(config: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    """A stage's configuration with the digest of each teacher in place of where it is.

    Example:
        >>> with_digests({"module": {"init_args": {"teacher": "runs/week1"}}, "data": {}}, {"runs/week1": "0f3a"})
        {'module': {'init_args': {'teacher': '0f3a'}}, 'data': {}}
    """

    def replaced(value: Any) -> Any:
        if isinstance(value, str):
            return digests.get(value, value)
        if isinstance(value, Mapping):
            return {key: replaced(item) for key, item in value.items()}
        return [replaced(item) for item in value] if isinstance(value, list) else value

    return {**config, "module": replaced(config["module"])}
