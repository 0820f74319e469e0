"""Weeks in a row on one marketplace: what a warm start costs and keeps, beside training from scratch every week.

    python benchmarks/weeks.py                        five weeks of the small marketplace
    python benchmarks/weeks.py --size medium --products 20000 --weeks 2 --weights 0 0.3 3

The marketplace has 210 days, with impressions on the last twelve; a week here is ``--days`` of them. Every week has the
days so far, and the products listed by then; of those that were there the week before, 3 % have changed: price, title
or picture. Weeks after the first are appended to the week before (`moonlib data build --append`) and fitted twice:
recipes/weekly.yaml from the week before (``--encoder.from``, ``--stages.application.from``, ``compatible_with``), and
recipes/iter3.yaml from scratch on the same data (``--warm`` and ``--scratch`` name other recipes). ``--weights`` fits
the second week with other weights of the compatibility term, 0 for none.

Seconds are those of the stages, as costs.json notes them: data and start-up are apart. Finished stages are reused, so
an interrupted study continues. Ends with ``ratio``: the least of .35 of the seconds from scratch over ours, over weeks.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from moonlib.artifacts.layout import COSTS, RESULTS
from moonlib.data.dataset import Dataset
from moonlib.sources.marketplace.source import Marketplace
from moonlib.studies.drift import Drift, drift
from moonlib.testing.data import write_pictures

CHANGED = 0.03
"""Share of the products that change from one week to the next."""

FIGURES = {
    "image@10": "image_search/recall@10",
    "text@10": "text_search/recall@10",
    "AUC": "ctr/auc",
}


@dataclass(frozen=True)
class Shop:
    """Tables of a marketplace and the folder of their pictures.

    Attributes:
        tables: by name; names of pictures are files of the folder ``photos``.
        folder: where weeks are written.
        starts: the first moment of the simulation.
        days: how many there are.
    """

    tables: dict[str, pl.DataFrame]
    folder: Path
    starts: datetime
    days: int

    @classmethod
    def of(cls, dataset: Dataset, folder: Path, products: int | None, seed: int) -> Shop:
        """Take a marketplace apart; of a larger one, keep so many products and what was done with them."""
        tables = {name: dataset.table(name) for name in ("products", "queries", "users", "searches", "impressions")}
        if products is not None and products < tables["products"].height:
            spus = tables["products"]["spu_id"].unique(maintain_order=True)
            share = products / tables["products"].height
            kept = spus.filter(pl.Series(np.random.default_rng(seed).random(len(spus)) < share))
            tables["products"] = tables["products"].filter(pl.col("spu_id").is_in(kept.implode()))
            items = tables["products"]["item_id"].implode()
            for name in ("searches", "impressions"):
                tables[name] = tables[name].filter(pl.col("item_id").is_in(items))
        for name in ("products", "queries"):
            tables[name] = write_pictures(dataset, name, tables[name], folder / "photos")
        times = pl.concat([tables["searches"]["ts"], tables["impressions"]["ts"]])
        first, last = times.min(), times.max()
        assert isinstance(first, datetime) and isinstance(last, datetime)
        starts = first.replace(hour=0, minute=0, second=0, microsecond=0)
        return cls(tables, folder, starts, (last - starts).days + 1)

    def week(self, number: int, until: int, since: int | None, seed: int) -> Path:
        """Write the tables of a week: all before ``until`` days, or what is new since the week before.

        Args:
            number: of the week, from 1.
            until: days from the start of the simulation.
            since: days that the week before ended after; None for the first week.
            seed: which products change.
        """
        folder = self.folder / f"tables{number}"
        if (folder / "done").exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        end = self.starts + timedelta(days=until)
        begin = None if since is None else self.starts + timedelta(days=since)
        products = self.tables["products"].filter(pl.col("listed_at") < end)
        for earlier in range(2, number):  # what changed before goes on from there
            products = products.update(pl.read_parquet(self.folder / f"tables{earlier}/products.parquet"), on="item_id")
        if begin is not None:
            old = products.filter(pl.col("listed_at") < begin)
            rng = np.random.default_rng([seed, number])
            changed = old.filter(pl.Series(rng.random(old.height) < CHANGED))
            products = pl.concat(
                [self._changed(changed, rng, number), products.filter(pl.col("listed_at") >= begin)],
                how="vertical",
            )
        products.write_parquet(folder / "products.parquet")
        searches, impressions = (self._between(name, begin, end) for name in ("searches", "impressions"))
        asked = pl.concat([searches["query_id"], impressions["query_id"]]).drop_nulls().unique()
        queries = self.tables["queries"].filter(pl.col("query_id").is_in(asked.implode()))
        for name, frame in (("queries", queries), ("searches", searches), ("impressions", impressions)):
            frame.write_parquet(folder / f"{name}.parquet")
        self.tables["users"].write_parquet(folder / "users.parquet")
        (folder / "done").touch()
        return folder

    def _between(self, name: str, begin: datetime | None, end: datetime) -> pl.DataFrame:
        frame = self.tables[name].filter(pl.col("ts") < end)
        return frame if begin is None else frame.filter(pl.col("ts") >= begin)

    def _changed(self, products: pl.DataFrame, rng: np.random.Generator, number: int) -> pl.DataFrame:
        """A third of the products with another price, a third with another title, a third with another picture."""
        kind = pl.Series(rng.integers(0, 3, products.height))
        for image in products.filter((kind == 2) & products["image"].is_not_null())["image"]:
            with Image.open(self.folder / "photos" / image) as picture:
                ImageOps.mirror(picture).save(self.folder / "photos" / f"week{number}-{image}", quality=90)
        products = products.with_columns(
            price=pl.when(kind == 0).then(pl.col("price") * 0.9).otherwise(pl.col("price")),
            title=pl.when(kind == 1).then(pl.col("title") + " new season").otherwise(pl.col("title")),
            image=pl.when(kind == 2).then(pl.format(f"week{number}-{{}}", "image")).otherwise(pl.col("image")),
        )
        if "images" in products.columns:
            others = pl.concat_list("image", pl.col("images").list.slice(1))
            products = products.with_columns(images=pl.when(pl.col("images").is_not_null()).then(others))
        return products


def moonlib(*words: str | Path) -> float:
    """Run a command of moonlib; return its seconds."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "moonlib", *map(str, words)], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(f"moonlib {' '.join(map(str, words))} ended with {done.returncode}")
    return time.perf_counter() - began


def seconds(run: Path) -> float:
    """Seconds of a run's stages, also where they were reused; what their references took is counted, too."""
    costs: dict[str, dict[str, Any]] = json.loads((run / COSTS).read_text())
    stages = {name: cost for name, cost in costs.items() if name != "data"}
    return sum(cost.get("first_run", cost)["seconds"] for cost in stages.values())


def row(name: str, run: Path, scratch: Path | None, found: Drift | None) -> list[str]:
    """A row of the table."""
    results = json.loads((run / RESULTS).read_text())
    took = seconds(run)
    figures = [f"{results[key]:.4f}" if key in results else "" for key in FIGURES.values()]  # or not defined here
    cells = [name, *figures, f"{took:.0f}"]
    cells.append("" if scratch is None else f"{took / seconds(scratch):.2f}")
    if found is None:
        return [*cells, "", "", ""]
    everything = found.everything
    shown = [everything.overlap, *(everything.recall.get(key) for key in ("new on old", "new on new"))]
    return [*cells, *("" if each is None else f"{each.estimate:.4f}" for each in shown)]


def main() -> None:
    """Fit the weeks, and print a row for each of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "small", "medium"), default="small", help="of the marketplace")
    parser.add_argument("--products", type=int, help="keep so many of its products")
    parser.add_argument("--weeks", type=int, default=5)
    parser.add_argument("--days", type=int, help="of a week; by default 7 of two weeks, and 2 of more")
    parser.add_argument("--weights", type=float, nargs="*", default=[], help="of the compatibility term, in week 2")
    parser.add_argument("--weight", type=float, default=1.0, help="of the compatibility term, in every week")
    parser.add_argument("--scratch", default="iter3", help="recipe of the first week, and of every week from scratch")
    parser.add_argument("--warm", default="weekly", help="recipe of the weeks that start from the week before")
    parser.add_argument("--seed", type=int, default=21, help="of the marketplace, of what changes, and of the recipes")
    parser.add_argument("--out", type=Path, default=Path("runs/weeks"))
    parser.add_argument("overrides", nargs="*", help="of every recipe, after --")
    arguments = parser.parse_args()
    out, seed = arguments.out, arguments.seed
    out.mkdir(parents=True, exist_ok=True)
    runs, days = out / "runs", arguments.days or (7 if arguments.weeks <= 2 else 2)
    shop = Shop.of(Dataset(Marketplace(arguments.size, seed).prepare(out / "data")), out, arguments.products, seed)

    def fit(recipe: str, week: int, name: str, *words: str | Path) -> Path:
        data = ("--data", out / f"week{week}", "--seed", str(seed))
        moonlib("fit", "--config", recipe, "--runs", runs, "--name", name, *data, *words, *arguments.overrides)
        return runs / name

    def warm(week: int, weight: float) -> Path:
        before = runs / f"week{week - 1}"
        name = f"week{week}" if weight == arguments.weight else f"week{week}-weight{weight:g}"
        words: list[str | Path] = ["--encoder.from", before, "--stages.application.from", before]
        for stage in ("posttrain", "refine") if weight else ():
            words += [f"--stages.{stage}.module.init_args.compatible_with", before]
            words += [f"--stages.{stage}.module.init_args.compatibility", str(weight)]
        return fit(arguments.warm, week, name, *words)

    table = Table("run", *FIGURES, "seconds", "of scratch", "overlap@10", "new on old", "new on new")
    builds, ratios = [], []
    for week in range(1, arguments.weeks + 1):
        until = shop.days - days * (arguments.weeks - week)
        tables = shop.week(week, until, None if week == 1 else until - days, seed)
        data = out / f"week{week}"
        if not data.exists():
            append = () if week == 1 else ("--append", out / f"week{week - 1}")
            took = moonlib("data", "build", tables, "--images", out / "photos", "--out", data, *append)
            builds.append(f"data of week {week}: {took:.1f} s")
        if week == 1:
            table.add_row(*row("week1", fit(arguments.scratch, 1, "week1"), None, None))
            continue
        before, scratch = runs / f"week{week - 1}", fit(arguments.scratch, week, f"scratch{week}")
        table.add_row(*row(f"week{week}, from scratch", scratch, None, drift(before, scratch)))
        for weight in dict.fromkeys([arguments.weight, *(arguments.weights if week == 2 else ())]):
            run = warm(week, weight)
            table.add_row(*row(f"week{week}, warm, weight {weight:g}", run, scratch, drift(before, run)))
            if weight == arguments.weight:
                ratios.append(0.35 * seconds(scratch) / seconds(run))
    console = Console(width=120)
    for line in builds:
        console.print(line, highlight=False)
    console.print(table)
    print(f"ratio: {min(ratios):.2f}" if ratios else "ratio: 0")


if __name__ == "__main__":
    main()
