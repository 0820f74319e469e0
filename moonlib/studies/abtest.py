"""An A/B test before there is one: two click models rank, and the marketplace's shoppers click.

Every arm ranks the same candidates of the same fresh requests (`moonlib.data.marketplace.fresh_requests`) and shows its
best `SHOWN`. A shopper clicks with the simulation's true probability of the item at its position. Arms differ in the
order alone, so they are paired request by request.

Lifts are of *expected* clicks, the sum of the true probabilities of what an arm shows. Sampling a click for each would
add its Bernoulli noise to an estimate of that same sum, so the expectation is the estimator of lower variance; what
remains is chance in who comes and what for, which the interval over users tells. Sampled clicks stand beside it as
``sampled``: one uniform number for each (request, item) decides in all arms, and position enters through the
probability it is compared with.

A fresh query has a photo, a text or both of its own, drawn and written as the simulation does it, and is embedded by
the encoder of the run that reads it: a photo that a run has stored might have been trained on. Models that read the
true latents get the true latent of the query.

Where data is no marketplace, what was shown by chance is used in place of a simulation, see
`moonlib.studies.off_policy`.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from moonlib.data.content import Modalities
from moonlib.data.dataset import Dataset
from moonlib.data.marketplace.fresh_requests import FreshRequests, draw_requests, marketplace_of
from moonlib.data.marketplace.traffic import SHOWN
from moonlib.data.marketplace.world import World
from moonlib.data.quarantine import Quarantine
from moonlib.data.segments import product_segments
from moonlib.directories import write_json
from moonlib.iteration import quiet
from moonlib.metrics.bootstrap import Interval, ResampledSums, resampled_sums
from moonlib.representations.embed import Contents, encode
from moonlib.representations.store import Representations
from moonlib.run import Run, RunError
from moonlib.stages.application import Application
from moonlib.stages.represent import Represent
from moonlib.studies.off_policy import effective_sample_size, importance_weights, policy_value, randomised, reordered

REQUESTS = 6_000
"""Fresh requests of a test; on `small` they are of about 2,600 shoppers."""

ORACLE = "oracle"
"""The arm that ranks by the true click probability, positions apart."""

SEEN = "impressions of "
"""Before an arm's name: an arm whose clicks are the impressions of that one."""

BOTTOM = "bottom-tier merchants"
REVENUE = "revenue per mille"

CONTEXT = (
    "context: of MOON online, Taobao reported +20.00 % CTR, and +34.80 % on new products (arXiv 2511.11305). Those are "
    "their figures, of another shop and against another model: not comparable."
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Arm:
    """A click model of a finished run.

    Attributes:
        run: the run.
        link: the stage, or reference of it, that trained the model, as the run directory calls it.
    """

    run: Run
    link: str

    @property
    def name(self) -> str:
        """The run's name; of a reference with its own, as in ``iter3.baseline``."""
        reference = self.link.partition(".")[2]
        return f"{self.run.name}.{reference}" if reference else self.run.name

    @property
    def path(self) -> str:
        """Tells it from any other arm."""
        return str(self.run.directory.resolve() / self.link)

    @classmethod
    def at(cls, path: str | Path) -> Arm:
        """The model of a path.

        Args:
            path: a run directory, for its application, or a directory in one, such as
                ``runs/iter3/application.baseline`` for the id-only baseline.

        Raises:
            RunError: it is neither, or the run has no application.
        """
        path = Path(path)
        if path.is_dir() and not (path / "recipe.yaml").is_file() and (path.parent / "recipe.yaml").is_file():
            return cls(Run(path.parent), path.name)
        run = Run(path)
        names = [name for name in run.config["stages"] if run.class_of(name) is Application]
        if not names:
            raise RunError(f"{path}: its recipe has no application, and so the run has no click model to test")
        return cls(run, names[-1])

    def predictions(self) -> pl.DataFrame:
        """What the model predicted for the test days' impressions, in their order."""
        file = self.run.directory / self.link / "predictions.parquet"
        if not file.is_file():
            raise RunError(f"{file} is missing: {self.link} has not finished, or is no application")
        return pl.read_parquet(file).filter(pl.col("split") == "test")


def abtest(
    base: str | Path,
    runs: Sequence[str | Path],
    *,
    requests: int = REQUESTS,
    seed: int = 0,
    out: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Test the click models of runs against a base's.

    On a dataset of the marketplace shoppers are simulated. On other data whose log has propensities, the estimates are
    those of `moonlib.studies.off_policy`.

    Args:
        base: a run directory, or a reference in one, see `Arm.at`.
        runs: the same, one or more; of the same data.
        requests: fresh requests to simulate.
        seed: of the requests; another seed draws others.
        out: directory to write ``RUN/BASE.json`` in, in place of ``abtest/BASE.json`` in each run directory.

    Returns:
        What each file holds, and ``file``, where it is. Lifts are relative, 0.2 for 20 %; an interval is
        ``{"estimate", "low", "high"}``, 95 %, over users.

    Raises:
        RunError: a run has no finished application, or another one's data.
        ValueError: the data is no marketplace and its log has no propensities.

    Example: ``abtest("runs/iter3/application.baseline", ["runs/iter1", "runs/iter3"])``
    """
    quiet()
    started = time.perf_counter()
    arms = [Arm.at(path) for path in (base, *runs)]
    dataset = arms[0].run.dataset()
    for arm in arms:  # before anything that takes its time
        module, _ = arm.run.reopen(arm.link, dataset)
        if not isinstance(module, Application):
            raise RunError(f"{arm.run.directory / arm.link} is no application, and has no click model to test")
        if module.representation == "truth":
            raise RunError(
                f"{arm.run.directory / arm.link} is the true click probability and no model; that ranking is the "
                "oracle, which stands beside every test"
            )
    world = marketplace_of(dataset)
    found = simulated(world, dataset, arms, requests, seed) if world else [{} for _ in arms[1:]]
    if logged := from_log(dataset, arms):
        for result, estimates in zip(found, logged, strict=True):
            result["logged"] = estimates
            if not world:
                lift = estimates["all positions"].get("lift")
                result |= {"lifts": {"all": lift} if lift else {}, "users": estimates["users"]}
    elif not world:
        raise ValueError(
            f"{dataset.directory}: an A/B test needs what shoppers would have done, and this data cannot tell: it is "
            f"no dataset of this version's marketplace, and no test-day impression has a propensity. Show a share of "
            "the searches in random order and log the propensity"
        )
    seconds = round(time.perf_counter() - started, 1)
    for arm, result in zip(arms[1:], found, strict=True):
        result |= {
            "base": arms[0].name,
            "run": arm.name,
            "method": "simulation" if world else "snips",
            "dataset": {"name": dataset.name, "version": dataset.version, "hash": dataset.hash},
            "seconds": seconds,
        }
        file = _file(arm, arms[0], None if out is None else Path(out))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, result)
        result["file"] = str(file)
    return found


def _file(arm: Arm, base: Arm, out: Path | None) -> Path:
    if out is not None:
        return out / arm.name / f"{base.name}.json"
    reference = arm.link.partition(".")[2]
    return arm.run.directory / "abtest" / (f"{reference}.vs.{base.name}.json" if reference else f"{base.name}.json")


# --- simulated shoppers ----------------------------------------------------------------------------------------------


def simulated(world: World, dataset: Dataset, arms: Sequence[Arm], requests: int, seed: int) -> list[dict[str, Any]]:
    """Let arms rank fresh requests and shoppers click.

    Args:
        world: the simulation behind the dataset.
        dataset: what it wrote.
        arms: the base, then the others.
        requests: how many.
        seed: of the requests.

    Returns:
        The results of each arm but the base.
    """
    fresh = draw_requests(world, requests, seed)
    view = dataset.with_queries(fresh.queries)
    embedded: dict[Path, Representations] = {}
    orders = {arm.path: scores_of(arm, view, fresh, embedded) for arm in arms}
    places = {name: rank(score, fresh.request) for name, score in orders.items()}
    places[ORACLE] = rank(fresh.appeal.wish, fresh.request)
    expected = {name: _clicks(fresh, place) for name, place in places.items()}
    drawn = {name: (fresh.uniform < chances).astype(np.float64) for name, chances in expected.items()}

    measures, leaves = measures_of(dataset, fresh)
    users = fresh.impressions["user_id"].to_numpy()
    base = arms[0].path
    impressions = {SEEN + name: (place < SHOWN).astype(np.float64) for name, place in places.items()}
    clicks = Outcome.of(expected | impressions, measures, users)
    sampled = Outcome.of(drawn, measures, users)
    by_leaf = Outcome.of(expected, leaves, users)
    results = []
    for arm in arms[1:]:
        roles = {"base": base, "run": arm.path, "oracle": ORACLE}
        rate = {role: clicks.interval(_ratio, (name, "all"), (SEEN + name, "all")) for role, name in roles.items()}
        revenue = {
            role: clicks.interval(lambda earned, shown: 1000 * earned / shown, (name, REVENUE), (SEEN + name, "all"))
            for role, name in roles.items()
        }
        results.append(
            {
                "users": len(np.unique(users)),
                "requests": requests,
                "impressions": int((places[base] < SHOWN).sum()),
                "seed": seed,
                "estimator": "expected clicks",
                "ctr": _plain(rate),
                "revenue_per_mille": _plain(revenue),
                **clicks.against(base, arm.path),
                "click_rates": clicks.against(base, arm.path, per_impression=True),
                "sampled": sampled.against(base, arm.path)["lifts"],
                "leaves": by_leaf.against(base, arm.path),
            }
        )
    return results


def _ratio(a: Floats, b: Floats) -> Floats:
    return np.asarray(a / b)


def scores_of(
    arm: Arm, dataset: Dataset, fresh: FreshRequests, embedded: dict[Path, Representations]
) -> NDArray[np.float64]:
    """An arm's probability of a click of every candidate, float64 [n].

    Args:
        arm: whose model.
        dataset: with the fresh queries.
        fresh: the requests.
        embedded: the fresh queries' representations by the stage that makes them; filled here.
    """
    module, context = arm.run.reopen(arm.link, dataset)
    assert isinstance(module, Application)
    asked: Representations | None = None
    if module.adapter.reads_content and module.representation == "oracle":
        asked = Representations(fresh.queries["query_id"].to_numpy(), fresh.latent)
    elif module.adapter.reads_content:
        assert context.representations is not None
        made_by = context.representations.resolve()
        if made_by not in embedded:
            embedded[made_by] = embed_queries(arm.run, made_by, dataset, fresh)
        asked = embedded[made_by]
    return module.score(context, fresh.impressions, asked)


def embed_queries(run: Run, made_by: Path, dataset: Dataset, fresh: FreshRequests) -> Representations:
    """Represent fresh queries as a stage of a run has represented the dataset's own.

    Args:
        run: the run.
        made_by: the stage's directory.
        dataset: the data of the run.
        fresh: the requests.
    """
    link = next(name for name in run.config["stages"] if (run.directory / name).resolve() == made_by)
    module, context = run.reopen(link, dataset)
    if not isinstance(module, Represent):
        raise RunError(f"{run.directory / link} is not moonlib's stage represent: fresh queries cannot be embedded")
    if "encoder" in module.needs:
        context = replace(context, encoder=run.encoder(trained="weights" in module.needs))
    ids = fresh.queries["query_id"].to_numpy()
    with tempfile.TemporaryDirectory() as scratch:
        encoder = module.encoder(replace(context, directory=Path(scratch), data=context.data))
        contents = Contents(
            fresh.samples,
            "query",
            ids,
            Modalities.parse(context.data.query),
            Quarantine(Path(scratch) / "quarantine.jsonl", total=len(ids)),
            context.data.batch_size,
        )
        vectors = list(encode(encoder, contents, device=context.trainer.strategy.root_device))
    return Representations(contents.ids, np.concatenate(vectors))


def rank(score: Floats, request: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each candidate in its request, best first: int64 [n], from 0; equal scores stay in their order.

    Args:
        score: float64 [n].
        request: int64 [n], ascending.

    Example:
        >>> rank(np.array([0.1, 0.3, 0.2, 0.5]), np.array([0, 0, 0, 1]))
        array([2, 0, 1, 0])
    """
    order = np.lexsort((-score, request))
    first = np.searchsorted(request, request)  # where each candidate's request begins
    place = np.empty(len(request), dtype=np.int64)
    place[order] = np.arange(len(request)) - first
    return place


def _clicks(fresh: FreshRequests, place: NDArray[np.int64]) -> Floats:
    """The true probability that each candidate is clicked, float64 [n]; 0 for what is not shown."""
    return np.where(place < SHOWN, fresh.p_click(np.minimum(place, SHOWN - 1)), 0.0)


def measures_of(dataset: Dataset, fresh: FreshRequests) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """What a click on each candidate counts for, float64 [n] by name; and the same for the leaves of the categories.

    A click counts for the segments its item belongs to: ``new`` and ``tail`` products, departments, and merchants of
    the bottom tier, the third with the fewest clicks on training days. For ``revenue per mille`` it counts what it
    brings on average: chance of an order × price.
    """
    items = dataset.table("products", ("item_id", "category", "merchant_id"))
    items = items.with_columns(department=pl.col("category").str.split("/").list.first())
    train = dataset.splits.select(dataset.impressions, "train").filter("clicked")
    clicks = train.join(items, on="item_id").group_by("merchant_id").agg(pl.len().alias("clicks"))
    merchants = items.select("merchant_id").unique().join(clicks, on="merchant_id", how="left").fill_null(0)
    third = merchants.sort("clicks", "merchant_id").head(len(merchants) // 3)["merchant_id"]
    of = (
        fresh.impressions.select("item_id")
        .join(items, on="item_id", how="left", maintain_order="left")
        .join(product_segments(dataset), on="item_id", how="left", maintain_order="left")
        .with_columns(bottom=pl.col("merchant_id").is_in(third.implode()))
    )

    def counted(mask: pl.Series) -> Floats:
        return mask.fill_null(False).to_numpy().astype(np.float64)

    measures = {
        "all": np.ones(len(of)),
        "new": counted(of["new"]),
        "tail": counted(of["tail"]),
        BOTTOM: counted(of["bottom"]),
        REVENUE: fresh.appeal.p_order() * fresh.price,
    }
    measures |= {f"department={name}": counted(of["department"] == name) for name in of["department"].unique().sort()}
    leaves = {f"category={name}": counted(of["category"] == name) for name in of["category"].unique().sort()}
    return measures, leaves


@dataclass(frozen=True)
class Outcome:
    """What every arm earned by every measure, with resamples of users.

    Attributes:
        names: (arm, measure) of each of the sums.
        sums: K of them.
    """

    names: list[tuple[str, str]]
    sums: ResampledSums

    @classmethod
    def of(cls, clicks: Mapping[str, Floats], measures: Mapping[str, Floats], users: NDArray[np.int64]) -> Outcome:
        """Sum up.

        Args:
            clicks: float64 [n], of each candidate, by arm.
            measures: float64 [n], what a click counts for, by name.
            users: int64 [n].
        """
        # Users first, one sum after the other: K rows of n would take a gigabyte.
        people, user = np.unique(users, return_inverse=True)
        names = [(arm, measure) for arm in clicks for measure in measures]
        of_user = [np.bincount(user, clicks[arm] * measures[measure], minlength=len(people)) for arm, measure in names]
        return cls(names, resampled_sums(np.stack(of_user), people))

    def interval(self, statistic: Callable[..., Any], *sums: tuple[str, str]) -> Interval:
        """An interval of a function of some (arm, measure), given one argument for each."""
        rows = [self.names.index(name) for name in sums]
        return self.sums.interval(lambda all_sums: statistic(*all_sums[rows]))

    def against(self, base: str, run: str, per_impression: bool = False) -> dict[str, dict[str, dict[str, float]]]:
        """Lifts of a run over a base, those of the oracle, and the run's share of them, by measure.

        What is not defined is left out: a lift where the base earned nothing, and a share where the oracle's own lift
        is not surely above 0.

        Args:
            base: an arm.
            run: another.
            per_impression: of what is earned by the impressions of a segment's items, in place of all that is earned
                with them; an arm that shows fewer of them may still have found the better ones.
        """
        lifts, oracle, share = dict[str, Interval](), dict[str, Interval](), dict[str, Interval]()
        for measure in dict.fromkeys(measure for _, measure in self.names):
            if per_impression and measure in ("all", REVENUE):  # every arm has equally many impressions
                continue
            arms = [(arm, measure) for arm in (run, base, ORACLE)]
            if per_impression:
                arms += [(SEEN + arm, measure) for arm in (run, base, ORACLE)]
            lifts[measure] = self.interval(partial(_made, _lift), *arms)
            oracle[measure] = self.interval(partial(_made, _oracle_lift), *arms)
            if oracle[measure].low > 0:
                share[measure] = self.interval(partial(_made, _share), *arms)
        return {"lifts": _plain(lifts), "oracle": _plain(oracle), "share_of_oracle": _plain(share)}


def _made(of: Callable[[Floats, Floats, Floats], Floats], *sums: Floats) -> Floats:
    """A function of what run, base and oracle have earned, each divided by its impressions where these follow."""
    return of(*(a / b for a, b in zip(sums[:3], sums[3:], strict=True)) if len(sums) > 3 else sums)


def _lift(run: Floats, base: Floats, oracle: Floats) -> Floats:
    return run / base - 1


def _oracle_lift(run: Floats, base: Floats, oracle: Floats) -> Floats:
    return oracle / base - 1


def _share(run: Floats, base: Floats, oracle: Floats) -> Floats:
    return (run - base) / (oracle - base)


def _plain(intervals: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    """Intervals as JSON has them; those that are not defined are left out."""
    found = {key: {name: float(value) for name, value in asdict(each).items()} for key, each in intervals.items()}
    return {key: each for key, each in found.items() if all(map(math.isfinite, each.values()))}


# --- logged data -----------------------------------------------------------------------------------------------------


def from_log(dataset: Dataset, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Estimate the click rate if an arm had ordered what test days showed in an order made by chance.

    Args:
        dataset: the data of the runs.
        arms: the base, then the others.

    Returns:
        Of each arm but the base: for the ``first position`` and for ``all positions`` the IPS and SNIPS estimates and
        the effective sample size of the base and of the run, and the lift of SNIPS. Empty where the log has no
        propensities.
    """
    test = dataset.splits.select(dataset.impressions, "test").with_row_index("row")
    log = randomised(test)
    if log.is_empty():
        return []
    scores = []
    for arm in arms:
        predicted = arm.predictions()
        keys = ["search_id", "item_id"]
        if not predicted.select(keys).equals(test.select(keys)):
            raise RunError(f"{arm.run.directory / arm.link}: its predictions are not of the test days of {dataset}")
        scores.append(predicted["probability"].to_numpy()[log["row"].to_numpy()])
    chances = [reordered(log, score) for score in scores]
    clicked, propensity = log["clicked"].to_numpy().astype(np.float64), log["chance"].to_numpy()
    users = log["user_id"].to_numpy()
    places = {"first position": (log["place"] == 0).to_numpy(), "all positions": np.ones(len(log), dtype=bool)}
    results: list[dict[str, Any]] = []
    for chance in chances[1:]:
        found: dict[str, Any] = {"searches": log["search_id"].n_unique(), "users": log["user_id"].n_unique()}
        for name, rows in places.items():
            values, weighted = dict[str, Any](), list[Floats]()
            for role, of in (("base", chances[0]), ("run", chance)):
                value = policy_value(clicked[rows], of[rows], propensity[rows], users[rows])
                weights = importance_weights(of[rows], propensity[rows])
                weighted += [weights * clicked[rows], weights]
                values[role] = _plain({"ips": value.ips, "snips": value.snips}) | {
                    "effective_samples": effective_sample_size(weights),
                    "decisions": value.decisions,
                }
            sums = resampled_sums(weighted, users[rows])
            values |= _plain({"lift": sums.interval(lambda s: (s[2] / s[3]) / (s[0] / s[1]) - 1)})
            found[name] = values
        results.append(found)
    return results


# --- what is printed -------------------------------------------------------------------------------------------------


def tables(found: Sequence[Mapping[str, Any]]) -> Group:
    """Lay out what `abtest` returned: lifts beside the oracle's and the share of them, then the log's estimates."""
    parts: list[Any] = []
    base = found[0]["base"]
    if found[0]["method"] == "simulation":
        first = found[0]
        who = f"{first['requests']:,} fresh requests of {first['users']:,} shoppers, 95 % intervals over shoppers"
        parts.append(_lifts(f"lift of clicks over {base}: {who}", "clicks on", found))
        rates = [{"run": each["run"], **each["click_rates"]} for each in found]
        parts.append(_lifts(f"lift of the click rate of what is shown, over {base}", "impressions of", rates))
    if "logged" in found[0]:
        log = found[0]["logged"]
        table = _table(
            f"click rate had the model ordered what {log['searches']:,} searches of test days showed in random order",
            "",
            ["first position: IPS", "SNIPS", "eff. n", "all positions: IPS", "SNIPS", "eff. n", "lift of SNIPS"],
        )
        rows = [(base, "base", log), *((each["run"], "run", each["logged"]) for each in found)]
        for name, role, estimates in rows:
            cells = []
            for place in ("first position", "all positions"):
                value = estimates[place][role]
                cells += [_percent(value.get("ips"), ".2f"), _percent(value.get("snips"), ".2f")]
                cells.append(f"{value['effective_samples']:,.0f}")
            table.add_row(
                name, *cells, _percent(estimates["all positions"].get("lift"), "+.1f") if role == "run" else ""
            )
        parts.append(table)
    return Group(*parts, CONTEXT)


def _lifts(title: str, first: str, found: Sequence[Mapping[str, Any]]) -> Table:
    """A row per segment; of each run the lift and the share of the oracle's, and last the oracle's."""
    table = _table(title, first, [*(title for each in found for title in (each["run"], "of the oracle's")), ORACLE])
    for key in found[0]["lifts"]:
        cells = []
        for each in found:
            cells += [_percent(each["lifts"].get(key), "+.2f"), _percent(each["share_of_oracle"].get(key), ".0f")]
        table.add_row(key, *cells, _percent(found[0]["oracle"].get(key), "+.2f"))
    return table


def _table(title: str, first: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _percent(interval: Mapping[str, float] | None, form: str) -> str:
    """An interval in per cent; empty where there is none."""
    if interval is None or not all(map(math.isfinite, interval.values())):
        return ""
    estimate, low, high = (format(100 * interval[key], form) for key in ("estimate", "low", "high"))
    return f"{estimate} % [{low}, {high}]"
