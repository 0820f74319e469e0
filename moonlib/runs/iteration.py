"""Run a recipe: its stages in order, each in a directory named by its fingerprint, and the run that links them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import RESULTS, RunLayout
from moonlib.artifacts.reading import read_numbers
from moonlib.config import recipe as recipes
from moonlib.config.earlier import present_results
from moonlib.config.merge import RecipeError, shipped
from moonlib.config.names import run_name
from moonlib.config.recipe import Recipe
from moonlib.data.dataset import Dataset
from moonlib.metrics import undefined
from moonlib.registry.deprecation import renamed_attributes
from moonlib.runs import loggers
from moonlib.runs.center import find_snapshots
from moonlib.runs.checkpoint_evaluation import evaluate_checkpoints
from moonlib.runs.comparable import old_run
from moonlib.runs.days import daily_stage, days_table, read_days, require_days, train_by_day, without_days
from moonlib.runs.initial_weights import below_initial
from moonlib.runs.lineage import DATA
from moonlib.runs.lost_parents import LostParents, load_without
from moonlib.runs.ownership import claimed
from moonlib.runs.record import begin_record, end_record
from moonlib.runs.results import Legend, add_legend, beside, read_legend, write_legend
from moonlib.runs.run import RunError
from moonlib.runs.runner import Runner, costed, legend_of, quiet
from moonlib.runs.step import Step
from moonlib.runs.tables import closing_tables, spread_table
from moonlib.runs.teachers import require_teachers
from moonlib.runs.warm_start import require_origins
from moonlib.stages.stage import Reference
from moonlib.system import processes
from moonlib.system.console import Terminal
from moonlib.system.interruption import CHECKPOINT_SECONDS, Interruption
from moonlib.system.memory import use_large_pages
from moonlib.system.progress import PROGRESS_SECONDS, StageProgress
from moonlib.system.remote import local_only

DEFAULT_RUNS = Path("runs")
"""The directory that holds the runs where none is given."""

__getattr__ = renamed_attributes(
    __name__,
    "0.6",
    Lineage="moonlib.runs.lineage:Lineage",
    StageError="moonlib.runs.runner:StageError",
    Step="moonlib.runs.step:Step",
    seed_of="moonlib.runs.step:seed_of",
)


def fit(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    runs: str | Path = "runs",
    name: str | None = None,
    replace: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    progress_seconds: float = PROGRESS_SECONDS,
    days: int | None = None,
) -> Path:
    """Run an iteration.

    Stages whose fingerprint was finished before, by whatever run, are reused; where what a recipe starts from is gone,
    those that this run has finished. A run that was cut off, at whatever moment, resumes to the same weights and
    results. The data is built first where it is missing.

    Args:
        config: a recipe's file, or the name of a shipped one.
        overrides: ``--key value`` words as on the command line.
        runs: directory that holds the runs, their stages (``.stages``) and built datasets (``.data``).
        name: of the run, see `moonlib.config.names.run_name`; the recipe's name by default.
        replace: replace another recipe's run in its directory.
        checkpoint_seconds: time between the checkpoints of a training, 0 for one after every step.
        progress_seconds: time between two lines of progress where there is no terminal.
        days: train the application day by day too, over so many of the last training days, see `moonlib.runs.days`; 0
            for those that the model it starts from has not seen, or the last 7 without one. None for no such training.

    Returns:
        The run directory.

    Raises:
        RecipeError: for anything wrong in the recipe, before anything is loaded.
        ValueError: for ``days`` that the data does not have.
        BadNameError: for what cannot be the name of a run, before anything is written.
        RunExistsError: where the run directory holds another recipe's run or what is no run, or another process works
            on it.
        FileExistsError: where a link is in the way.
        Interrupted: after SIGTERM or Ctrl-C; the same call resumes.

    Example: ``fit("recipes/iter1.yaml", ["--data.init_args.size", "tiny"])`` returns ``Path("runs/iter1")``.
    """
    use_large_pages()
    runs = local_only(runs, "a run")
    lost: LostParents | None = None
    try:
        recipe = recipes.load(config, list(overrides))
        require_parents(recipe)
    except (RecipeError, RunError) as error:
        if replace:
            raise
        before = RunLayout(runs / (Path(config).stem if name is None else name), runs)
        recipe, lost = load_without(config, list(overrides), before, error)
        if days is not None:  # which go on from those of the parent
            raise
    require_days(recipe, days)
    run = RunLayout(runs / run_name(recipe.name if name is None else name), runs)
    console = Terminal()

    def show(line: str) -> None:
        console.print(line, soft_wrap=True)

    quiet()
    if lost is not None:
        show(f"no longer there: {', '.join(lost.named)}; what this run has finished is reused without")
    loggers.require(recipe.logger_recipes)
    centers = find_snapshots(recipe)
    processes.heed_launcher(stage.world_size for stage in recipe.stages.values())
    if not processes.is_first():
        processes.end_with_parent()
    costs: dict[str, dict[str, Any]] = {}
    with Interruption().listening() as interruption, claimed(run.directory, recipe, replace, runs=runs):
        with costed(costs, DATA):
            dataset = Dataset(recipe.source().prepare(run.datasets))
        if processes.is_first():
            begin_record(run, recipe, dataset, {name: each.name for name, each in centers.items()})
        runner = Runner(
            recipe,
            dataset,
            run,
            costs,
            interruption,
            checkpoint_seconds=checkpoint_seconds,
            lost=lost,
            show=show,
            progress=StageProgress(run.directory.name, console=console, show=show, seconds=progress_seconds)
            if processes.is_first()
            else None,
            centers=centers,
        )
        results, legend = run_stages(runner, days)
        if processes.is_first():
            end_record(run, costs)
    if processes.is_first():
        console.print(closing_tables(run.directory.name, without_days(results), legend, costs))
        if days is not None:
            console.print(days_table(run.directory.name, read_days(run)))
        for sentence in below_initial(run, recipe, results):
            console.print(sentence, soft_wrap=True)
        console.print(f"run: {run.directory}", soft_wrap=True)
        again = next_command(recipe, overrides, run.directory.relative_to(runs), runs=runs, days=days)
        console.print(f"next: {again}", soft_wrap=True)
    return run.directory


def require_parents(recipe: Recipe) -> None:
    """Refuse a recipe of which an earlier run is missing, before hours are spent on the stages ahead of it.

    Raises:
        RecipeError: see `moonlib.runs.warm_start.require_origins`.
        RunError: a stage is to be compatible with what is no run, or holds no representations, or learns from vectors
            that are not there.
    """
    for name, stage in recipe.stages.items():
        if (old := stage.module().compatible_with) is not None:
            try:
                old_run(old)
            except RunError as error:
                raise RunError(f"stages.{name}.module.init_args.{error}") from error
    require_teachers(recipe)
    require_origins(recipe)


def fit_seeds(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    seeds: int,
    runs: str | Path = "runs",
    name: str | None = None,
    replace: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    progress_seconds: float = PROGRESS_SECONDS,
    days: int | None = None,
) -> list[Path]:
    """Run an iteration once per seed, and print one table with the mean and the spread of every result.

    The seeds are the recipe's and those that follow it; run i is called ``<name>-seed<i>``. The data stays the same.

    Args:
        config: as in `fit`; so are the others.
        overrides: see `fit`.
        seeds: how many.
        runs: see `fit`.
        name: see `fit`.
        replace: see `fit`.
        checkpoint_seconds: see `fit`.
        progress_seconds: see `fit`.
        days: see `fit`.

    Returns:
        The run directories.

    Raises:
        ValueError: for fewer than two seeds, or what cannot be the name of a run.
    """
    if seeds < 2:
        raise ValueError(f"a spread needs at least 2 seeds, not {seeds}")
    recipe = recipes.load(config, list(overrides))
    name = run_name(recipe.name if name is None else name)
    found = [
        fit(
            config,
            [*overrides, "--seed", str(seed)],
            runs=runs,
            name=f"{name}-seed{seed}",
            replace=replace,
            checkpoint_seconds=checkpoint_seconds,
            progress_seconds=progress_seconds,
            days=days,
        )
        for seed in range(recipe.seed, recipe.seed + seeds)
    ]
    if processes.is_first():
        results = {run.name: read_numbers(run / RESULTS) for run in found}
        Terminal().print(spread_table(results))
    return found


def run_stages(runner: Runner, days: int | None = None) -> tuple[dict[str, float], Legend]:
    """Run every stage with its references, and write results.json and costs.json after each.

    Args:
        runner: runs each of them.
        days: how many days the application is trained on one after the other, see `fit`.

    Returns:
        The results, and what they mean.
    """
    recipe, run = runner.recipe, runner.run
    results: dict[str, float] = {}
    legend = Legend()
    before = present_results(read_numbers(run.results)) if run.results.exists() else {}
    before, _ = undefined.parted(before)  # earlier versions wrote NaN
    lineage = runner.begin()
    for stage in recipe.stages.values():
        main = runner.step(stage, lineage)
        runner.made[stage.name] = main.fingerprint
        references = main.module.references(runner.dataset)
        parts: list[tuple[Reference | None, dict[str, Step]]] = [(None, {"": main})]
        parts += [(each, runner.reference_steps(stage, each, lineage)) for each in references]
        for reference, steps in parts:
            if not processes.is_first():
                for step in steps.values():
                    runner.accompany(step)
                continue
            measured = {}
            for name, step in steps.items():
                measured[name] = runner.run_step(step)
                legend |= read_legend(run.stages / step.fingerprint) or legend_of(step, runner.dataset)
                write_json(run.costs, runner.costs)
            chosen = next(iter(steps))
            if reference is not None and len(steps) > 1:
                choice = runner.choose(stage, reference, steps)
                legend |= Legend(choices={reference.prefix: choice})
                chosen = choice.chosen
            add_legend(run.directory, legend)
            prefix = "" if reference is None else reference.prefix
            results |= {beside(key, prefix): value for key, value in measured[chosen].items()}
            # What a former pass over this run has found stays until it is found again.
            write_json(run.results, dict(sorted((before | results).items())))
        if days is not None and stage.name == daily_stage(recipe):
            by_day, meanings = train_by_day(runner, stage, main, lineage, days)
            results, legend = results | by_day, legend | meanings
            if processes.is_first():
                write_json(run.costs, runner.costs)
        lineage = lineage.after(stage.provides, main.fingerprint)
    if processes.is_first():
        write_legend(run.directory, legend)
        write_json(run.results, dict(sorted(results.items())))
        if any(stage.schedule for stage in recipe.stages.values()):
            evaluate_checkpoints(runner, lineage)
    return results, legend


def next_command(
    recipe: Recipe,
    overrides: Sequence[str] = (),
    name: str | Path | None = None,
    *,
    runs: Path = DEFAULT_RUNS,
    days: int | None = None,
) -> str:
    """A command that runs the same recipe, with the same overrides, under another name and seed.

    Args:
        recipe: what was run.
        overrides: of the command line.
        name: of the run; the recipe's by default.
        runs: directory that holds the runs.
        days: see `fit`.
    """
    seed = recipe.seed + 1
    by_name = {path: name for name, path in shipped().items()}
    config = by_name.get(recipe.path, str(recipe.path)) if recipe.path.is_absolute() else str(recipe.path)
    name = str(name or recipe.name).removesuffix(f"-seed{recipe.seed}")
    words = ["--config", config, *overrides, *(() if runs == DEFAULT_RUNS else ("--runs", str(runs)))]
    words += [] if days is None else ["--days", *([str(days)] if days else [])]
    words += ["--name", f"{name}-seed{seed}", "--seed", str(seed)]
    return shlex.join(("moonlib", "fit", *words))
