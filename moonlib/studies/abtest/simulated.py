"""Fresh requests, ranked by every arm and clicked on by the marketplace's own shoppers.

Every arm ranks the same candidates of the same fresh requests (`moonlib.sources.marketplace.fresh_requests`) and
shows its best `SHOWN`. A shopper clicks with the simulation's true probability of the item at its position. Arms
differ in the order alone, so they are paired request by request.

Lifts are of *expected* clicks, the sum of the true probabilities of what an arm shows. Sampling a click for each would
add its Bernoulli noise to an estimate of that same sum, so the expectation is the estimator of lower variance; what
remains is chance in who comes and what for, which the interval over users tells. Sampled clicks stand beside it as
``sampled``: one uniform number for each (request, item) decides in all arms, and position enters through the
probability it is compared with.

A fresh query has a photo, a text or both of its own, drawn and written as the simulation does it, and is embedded by
the encoder of the run that reads it: a photo that a run has stored might have been trained on. Models that read the
true latents get the true latent of the query.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.artifacts.layout import QUARANTINE
from moonlib.data.content import Modalities
from moonlib.data.dataset import Dataset
from moonlib.data.quarantine import Quarantine
from moonlib.data.segments import product_segments
from moonlib.embedding.embed import Contents, encode
from moonlib.representations.store import Representations
from moonlib.runs.run import Run, RunError
from moonlib.sources.marketplace.fresh_requests import FreshRequests, draw_requests
from moonlib.sources.marketplace.market import SHOWN
from moonlib.sources.marketplace.world import World
from moonlib.stages.application import Application
from moonlib.stages.represent import Represent
from moonlib.studies.abtest.arm import Arm
from moonlib.studies.abtest.outcome import ORACLE, REVENUE, SEEN, Floats, Outcome, defined
from moonlib.studies.abtest.result import Simulation

BOTTOM = "bottom-tier merchants"


def simulated(world: World, dataset: Dataset, arms: Sequence[Arm], requests: int, seed: int) -> list[Simulation]:
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
    expected = {name: expected_clicks(fresh, place) for name, place in places.items()}
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
            Simulation(
                users=len(np.unique(users)),
                requests=requests,
                impressions=int((places[base] < SHOWN).sum()),
                seed=seed,
                ctr=defined(rate),
                revenue_per_mille=defined(revenue),
                clicks=clicks.against(base, arm.path),
                click_rates=clicks.against(base, arm.path, per_impression=True),
                sampled=sampled.against(base, arm.path).lifts,
                leaves=by_leaf.against(base, arm.path),
            )
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
            Quarantine(Path(scratch) / QUARANTINE, total=len(ids)),
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


def expected_clicks(fresh: FreshRequests, place: NDArray[np.int64]) -> Floats:
    """The true probability that each candidate is clicked, float64 [n]; 0 for what is not shown."""
    return np.where(place < SHOWN, fresh.p_click(np.minimum(place, SHOWN - 1)), 0.0)


def measures_of(dataset: Dataset, fresh: FreshRequests) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Value of a click on each candidate, float64 [n] by name; and the same for the leaves of the categories.

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
