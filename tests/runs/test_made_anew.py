"""What is made anew when the data changes: the table of every-week.md, from fingerprints and from a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import moonlib
import moonlib.docs
from moonlib.artifacts import layout
from moonlib.artifacts.layout import IDENTITY, PREDICTIONS, WEIGHTS, RunLayout
from moonlib.config.recipe import Recipe, load
from moonlib.data.content import Modalities
from moonlib.data.dataset import Dataset
from moonlib.data.digests import digests
from moonlib.data.reads import Reads
from moonlib.data.restricted import RestrictedDataset
from moonlib.data.shards import write_dataset
from moonlib.data.splits import Splits
from moonlib.data.tables import Tables
from moonlib.runs.iteration import fit
from moonlib.runs.lineage import Lineage
from moonlib.runs.run import Run, RunError
from moonlib.runs.runner import Runner
from moonlib.runs.step import fingerprint_of
from moonlib.system.interruption import Interruption
from moonlib.testing.examples import EXAMPLE_SPLITS, START, example_picture, example_tables

PAGE = Path(moonlib.docs.__path__[0]) / "pages" / "every-week.md"
HEADING = "What is made anew"
KNOWN = 1001
"""A product that training sees."""

FEATURES = {"users.region": "categorical"}


def shop() -> Tables:
    """The example's tables, with a feature of users, and a day after the last with nothing in it."""
    tables = example_tables()
    regions = pl.Series("region", ["north", "south"] * (len(tables.users) // 2))
    return replace(tables, users=tables.users.with_columns(regions))


def changed(table: str, column: str, value: Any, row: int = KNOWN) -> Callable[[Tables], Tables]:
    """One value of one row."""

    def change(tables: Tables) -> Tables:
        frame = tables[table]
        here = pl.col(frame.columns[0]) == row
        new = pl.lit(pl.Series([value], dtype=frame.schema[column])).first()
        frame = frame.with_columns(pl.when(here).then(new).otherwise(column).alias(column))
        assert not frame.equals(tables[table])
        return replace(tables, **{table: frame})

    return change


def with_product(listed_at: datetime) -> Callable[[Tables], Tables]:
    """One product more, which nobody has acted on."""

    def change(tables: Tables) -> Tables:
        like = tables.products.filter(pl.col("item_id") == KNOWN)
        listed = pl.lit(listed_at).cast(like.schema["listed_at"])
        new = like.with_columns(item_id=pl.lit(5000, pl.Int64), spu_id=pl.lit(5000, pl.Int64), listed_at=listed)
        return replace(tables, products=pl.concat([tables.products, new]))

    return change


def with_day(tables: Tables) -> Tables:
    """One day more, of searches with queries of their own and of impressions."""
    searches = tables.searches.tail(20).with_columns(
        search_id=pl.col("search_id") + 10_000, query_id=200 + pl.int_range(20), ts=pl.col("ts") + timedelta(days=1.5)
    )
    impressions = tables.impressions.tail(20).with_columns(
        search_id=pl.col("search_id") + 20_000, ts=pl.col("ts") + timedelta(days=1.1)
    )
    queries = tables.queries.tail(20).with_columns(query_id=200 + pl.int_range(20))
    return replace(
        tables,
        searches=pl.concat([tables.searches, searches]),
        impressions=pl.concat([tables.impressions, impressions]),
        queries=pl.concat([tables.queries, queries]),
    )


def moved(**days: float) -> Splits:
    """The example's splits with some of the dates on other days."""
    return replace(EXAMPLE_SPLITS, **{f"{name}_until": START + timedelta(days=day) for name, day in days.items()})


CHANGES: dict[str, tuple[Callable[[Tables], Tables], Splits]] = {
    "a price": (changed("products", "price", 4.0), EXAMPLE_SPLITS),
    "a title": (changed("products", "title", "another title"), EXAMPLE_SPLITS),
    "a picture": (lambda tables: tables, EXAMPLE_SPLITS),  # see `built`
    "a category": (changed("products", "category", "goods/other"), EXAMPLE_SPLITS),
    "an attribute": (changed("products", "attributes", [{"key": "colour", "value": "mauve"}]), EXAMPLE_SPLITS),
    "a feature of a user": (changed("users", "region", "west", row=1), EXAMPLE_SPLITS),
    "a product listed before training ends": (with_product(START), EXAMPLE_SPLITS),
    "a product listed later": (with_product(START + timedelta(days=7.5)), EXAMPLE_SPLITS),
    "a day after the last": (with_day, moved(test=11)),
    "a day after the last, and all dates a day later": (with_day, moved(behaviour=6, train=8, valid=9, test=11)),
    "`test_until`": (lambda tables: tables, moved(test=9.9)),
    "`valid_until`": (lambda tables: tables, moved(valid=8.5)),
    "`train_until`": (lambda tables: tables, moved(train=7.2)),
    "`behaviour_until`": (lambda tables: tables, moved(behaviour=4.5)),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Dataset]:
    """Builds the shop with one of the changes, or as it is."""
    folder = tmp_path_factory.mktemp("shops")

    @cache
    def build(change: str = "") -> Dataset:
        apply, splits = CHANGES.get(change, (lambda tables: tables, EXAMPLE_SPLITS))
        place = folder / f"{len(list(folder.iterdir()))}"
        place.mkdir()

        def picture(table: str, name: str) -> bytes:
            repainted = change == "a picture" and name.endswith("-1") and table == "products"
            return example_picture(table, name.replace("-1", "-777") if repainted else name)

        write_dataset(place, apply(shop()), picture, splits, name="shop", version="1", workers=1)
        return Dataset(place)

    return build


@cache
def recipe_of(name: str, overrides: tuple[str, ...]) -> Recipe:
    """A shipped recipe; typing it takes longer than all else here."""
    return load(name, list(overrides))


@cache
def fingerprints(dataset: Dataset, name: str, overrides: tuple[str, ...], references: bool) -> dict[str, str]:
    """The fingerprints of the preprocessing and of all stages, and of their references; nothing is run."""
    recipe = recipe_of(name, overrides)
    runner = Runner(recipe, dataset, RunLayout(Path("run"), Path()), {}, Interruption())
    encoder = recipe.encoder()
    assert encoder is not None
    found = {"preprocessing": fingerprint_of(runner.preprocessing_identity(encoder.reads().before("train_until")))}
    lineage = Lineage(dataset.hash, found["preprocessing"])
    for stage in recipe.stages.values():
        step = runner.step(stage, lineage)
        found[stage.name] = step.fingerprint
        for reference in step.module.references(dataset) if references else []:
            for each in runner.reference_steps(stage, reference, lineage).values():
                found[each.link] = each.fingerprint
        lineage = lineage.after(stage.provides, step.fingerprint)
    return found


def anew(
    built: Callable[[str], Dataset], change: str, recipe: str, *overrides: str, references: bool = False
) -> set[str]:
    """The stages whose fingerprint a change has changed."""
    before, after = (fingerprints(built(each), recipe, overrides, references) for each in ("", change))
    return {name for name, fingerprint in before.items() if after[name] != fingerprint}


def table() -> tuple[list[str], dict[str, set[str]]]:
    """The stages of the page's table, and those that it says are made anew by each change."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {HEADING}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    header, _, *body = rows
    return [name.strip("`") for name in header[1:]], {
        change: {name.strip("`") for name, cell in zip(header[1:], cells, strict=True) if cell}
        for change, *cells in body
    }


def test_the_page_has_a_row_for_every_change() -> None:
    stages, said = table()
    assert stages == ["preprocessing", *load("iter3").stages]
    assert list(said) == list(CHANGES)


NAMED = ("--stages.application.module.init_args.features", json.dumps(FEATURES))


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_page_says_is_made_anew(change: str, built: Callable[[str], Dataset]) -> None:
    stages, said = table()
    assert anew(built, change, "iter3", *NAMED).intersection(stages) == said[change]


@pytest.mark.parametrize(
    "change", ["a price", "a picture", "an attribute", "a day after the last", "`behaviour_until`"]
)
def test_the_page_is_true_of_iter5(change: str, built: Callable[[str], Dataset]) -> None:
    assert anew(built, change, "iter5", *NAMED) == table()[1][change]


def test_a_feature_that_no_recipe_names_changes_nothing(built: Callable[[str], Dataset]) -> None:
    assert anew(built, "a feature of a user", "iter3") == set()


def test_references_read_what_they_need(built: Callable[[str], Dataset]) -> None:
    found = anew(built, "a price", "iter3", references=True)
    assert found == {"application", "application.baseline", "application.baseline.shuffled"}
    found = anew(built, "a picture", "iter3", references=True)
    assert "represent.baseline.thumbnail" in found and "represent.baseline.initial" in found
    assert not found & {"represent.baseline.chance", "application.baseline"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        # A published tokenizer is fitted to nothing, and nothing of this recipe shows categories to the encoder.
        ("a category", {"application"}),
        ("an attribute", set()),
        ("a title", {"posttrain", "represent", "application"}),
        # Measured on validation days while it trains, it reads these, and none later.
        ("`valid_until`", {"posttrain", "represent", "application"}),
        ("`test_until`", {"represent", "application"}),
        ("a day after the last", {"represent", "application"}),
    ],
)
def test_an_encoder_with_a_published_tokenizer(
    change: str, expected: set[str], built: Callable[[str], Dataset]
) -> None:
    assert anew(built, change, "small_catalogue") == expected


STEPS = 3
SMALL = [
    *("--encoder.init_args.text.class_path", "transformer", "--encoder.init_args.text.init_args.vocab_size", "300"),
    *(f"--stages.{name}.trainer.max_steps={STEPS}" for name in ("pretrain", "posttrain")),
    *(f"--stages.{name}.data.workers=0" for name in ("pretrain", "posttrain", "represent")),
    *(f"--stages.{name}.data.batch_size=16" for name in ("pretrain", "posttrain")),
]


def test_a_changed_price_makes_the_click_model_anew_and_all_else_is_reused_to_the_bit(
    built: Callable[[str], Dataset], tmp_path: Path
) -> None:
    def run(change: str, runs: Path, name: str) -> Path:
        data = ["--data.class_path", "shards", "--data.init_args.path", str(built(change).directory)]
        return fit("iter2", [*data, *SMALL], runs=runs, name=name)

    week1, week2 = (run(change, tmp_path / "runs", name) for change, name in (("", "week1"), ("a price", "week2")))
    scratch = run("a price", tmp_path / "scratch", "week2")
    reused = {name for name, cost in json.loads((week2 / layout.COSTS).read_text()).items() if cost.get("reused")}
    assert {"preprocessing", "pretrain", "posttrain", "represent"} <= reused
    assert not reused & {"application", "application.baseline", "application.baseline.shuffled"}
    for file in (f"posttrain/{WEIGHTS}", "represent/products.npy", f"application/{PREDICTIONS}", layout.RESULTS):
        assert (week2 / file).read_bytes() == (scratch / file).read_bytes()
    first, second = (pl.read_parquet(place / "application" / PREDICTIONS) for place in (week1, week2))
    assert not np.array_equal(first["probability"], second["probability"])
    # A run knows its own data, whichever run made its stages.
    assert (Run(week1).dataset().hash, Run(week2).dataset().hash) == (built("").hash, built("a price").hash)
    identity = json.loads((week2 / "pretrain" / IDENTITY).read_text())
    assert identity["dataset"] == built("").hash and "products.price" not in identity["reads"]
    stage, context = Run(week2).reopen("represent", built("a price"))
    assert context.dataset.hash == built("a price").hash and stage.provides == "representations"
    with pytest.raises(RunError, match="but from other data"):
        Run(week2).reopen("application", built(""))


def test_a_price_that_is_appended_leaves_the_rows_where_they_were(
    built: Callable[[str], Dataset], tmp_path: Path
) -> None:
    before = built("")
    tables = shop()
    row = tables.products.filter(pl.col("item_id") == KNOWN).with_columns(price=pl.lit(4.0))
    (name,) = row["image"].to_list()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / name).write_bytes(example_picture("products", name))
    out = moonlib.build(row, images=tmp_path / "images", append=before.directory, out=tmp_path / "week2", workers=1)
    grown = Dataset(out)
    assert grown.products["item_id"][-1] == KNOWN
    reads = Reads.of(products=["title", "price"])
    old, new = (RestrictedDataset(each, reads, "a test").products for each in (before, grown))
    assert new["item_id"].to_list() == old["item_id"].to_list() and not new.equals(old)
    assert new.drop("price").equals(old.drop("price"))
    shown = Reads.content("products", [Modalities.parse("rich+image")])
    assert digests(grown, shown) == digests(before, shown)
    assert digests(grown, reads) != digests(before, reads)
