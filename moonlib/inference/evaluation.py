"""A run's encoder, measured on another dataset."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from moonlib.artifacts.directories import write_json
from moonlib.config.recipe import RecipeError, StageRecipe
from moonlib.config.typing import construct_component
from moonlib.data.dataset import Dataset
from moonlib.metrics import undefined
from moonlib.metrics.counts import noted_rows
from moonlib.runs.results import Legend, beside
from moonlib.runs.run import Run
from moonlib.runs.runner import quiet
from moonlib.stages.represent import Represent
from moonlib.stages.stage import StageContext
from moonlib.system.remote import is_url, local_only, without_credentials

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        run: the run directory.
        encoder: fingerprint of the encoder.
        dataset: what it was measured on.
        legend: titles of the references, titles and directions of the metrics.
        results: metrics under flat keys, as in results.json.
        undefined: why a metric is not among the results, by its key.
        left_out: columns of queries whose segments are not among the results, because the data has no such column.
        file: the JSON file that holds all this.
    """

    run: Path
    encoder: str
    dataset: Dataset
    legend: Legend
    results: dict[str, float]
    undefined: dict[str, str]
    left_out: list[str]
    file: Path

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return {
            "run": str(self.run),
            "encoder": self.encoder,
            "dataset": {
                "name": self.dataset.name,
                "version": self.dataset.version,
                "hash": self.dataset.hash,
                "directory": str(self.dataset.directory),
            },
            "references": dict(self.legend.references),
            "metrics": {key: asdict(meaning) for key, meaning in self.legend.metrics.items()},
            "results": self.results,
            "undefined": self.undefined,
            "left_out": self.left_out,
        }


def evaluate(run: str | Path, data: str | Path, out: str | Path | None = None, *, workers: int = 2) -> Evaluation:
    """Measure a run's encoder on another dataset, as the run's represent stage measures it on its own.

    The encoder, its preprocessing, what products and queries are read for, the K of recall@K and the segments are the
    run's. The same baselines stand beside, and for a simulated dataset the oracle. A segment whose column the data
    lacks is left out, and told. Features and filters are of other stages, and their columns are not needed.

    Args:
        run: a run directory.
        data: the directory of a dataset or its URL, or a source as a recipe's key ``data`` says it (YAML), such as
            ``{class_path: marketplace, init_args: {size: tiny, seed: 7}}``; that is built where `moonlib fit` builds.
        out: the JSON file to write; by default ``evaluations/NAME-HASH.json`` in the run directory.
        workers: processes that read, decode and, on a CPU, encode; has no effect on the result.

    Returns:
        What was measured, as the file holds it.

    Raises:
        RunError: see `Run.encoder`.
        ValueError: there is no such data, or it holds no search that ended in an order on its validation or test days.
    """
    if is_url(run) and out is None:
        raise ValueError(f"{without_credentials(str(run))}: results are not written there; say where, with --out")
    source = Run(run)
    fingerprint, dataset = source.fingerprint, _dataset(data, source.cache)
    stage = source.represent or StageRecipe("represent", {"module": "represent"})
    main = stage.module()
    assert isinstance(main, Represent)
    steps: list[tuple[str, StageRecipe]] = [("", stage)]
    references = main.references(dataset)
    legend = Legend.of(main, references)
    for reference in references:
        steps.append((reference.prefix, stage.override(dict(reference.module))))
    columns = dataset.arrow("queries").column_names
    segments = [column for column in stage.data().segments if column in columns]
    lacking = [column for column in stage.data().segments if column not in columns]
    if lacking:
        log.warning(
            f"segments left out: {', '.join(lacking)}: the queries of {dataset.directory} have no such column; "
            f"theirs are {', '.join(columns)}"
        )
    name = f"{dataset.directory.name}-{dataset.hash[:8]}.json"
    file = local_only(out, "a result") if out else source.layout.evaluations / name
    file.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, float] = {}
    left_out: dict[str, str] = {}
    quiet()
    for prefix, step in steps:
        module = step.module()
        assert isinstance(module, Represent)
        trainer = step.trainer(logger=False, enable_checkpointing=False, enable_model_summary=False)
        encoder = source.encoder(trained=module.of == "encoder") if "encoder" in module.needs else None
        settings = replace(step.data(), workers=workers, segments=segments)
        with tempfile.TemporaryDirectory(prefix=f".{file.stem}.", dir=file.parent) as scratch:
            context = StageContext(dataset, settings, trainer, Path(scratch), seed=0, encoder=encoder)
            metrics = module.retrieval(context)
            legend |= Legend(rows=noted_rows(context.directory))
            left_out |= {beside(key, prefix): why for key, why in undefined.noted(context.directory).items()}
        if not metrics:
            raise ValueError(
                f"{dataset.directory} has no search of validation or test days that had a query and ended in an order"
            )
        results |= {beside(key, prefix): value for key, value in metrics.items()}
    found = Evaluation(
        run=source.directory,
        encoder=fingerprint,
        dataset=dataset,
        legend=legend,
        results=dict(sorted(results.items())),
        undefined=dict(sorted(left_out.items())),
        left_out=lacking,
        file=file,
    )
    write_json(file, found.to_json())
    return found


def _dataset(data: str | Path, cache: Path) -> Dataset:
    """The dataset that a directory or a source names."""
    if is_url(data) or Path(data).is_dir():
        return Dataset(data)
    try:
        value = yaml.safe_load(str(data))
        return Dataset(construct_component("sources", value, ("data",)).build().prepare(cache))
    except (yaml.YAMLError, RecipeError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"'{data}' is neither the directory of a dataset nor a source ({problem})") from error
