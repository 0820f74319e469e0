"""A shop of one's own, from nothing to a report: how long it takes and how much one types.

    python benchmarks/shop.py                     685 products, from the wheel, in build/shop

Makes what a small shop has: a CSV export with text SKUs, several real pictures per product, queries by photo and text,
40 days of searches and of a feed that nobody searched for, and what exports are like: quotes in titles, zeros in front,
gaps, a picture that is gone, sessions across midnight. Pictures are those of the emoji sets that npm installs; shoppers
are simulated: they click what they asked for, what is of their categories, and what has their colours.

Then a user installs the wheel in a new environment and types the commands of the README, away from the checkout.
Nothing of moonlib is configured but by these. Making the shop is not counted. Ends with ``ratio``: 15 minutes over the
time that all of the user's commands take.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl
from moonlib_emoji.concepts import MEASURED_GROUPS, Concept, read_concepts
from moonlib_emoji.packages import DRAWINGS, RENDERS
from PIL import Image, ImageEnhance, ImageOps
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
EMOJI = ROOT / "plugins" / "moonlib-emoji"
LIMIT = 15 * 60
SEARCHES, SHOWN = 9_000, 7
FEEDS, FED = 2_678, 10
DAYS = 40
USERS = 1_200
START = np.datetime64("2025-01-06T00:00:00", "s")

COMMANDS = (
    "moonlib data build tables --images photos --out data/shop",
    "moonlib data check data/shop --sheet products.png",
    "moonlib fit --config iter3 --data data/shop --name shop",
    "moonlib embed runs/shop --products tables/products.csv --images photos --out vectors",
    "moonlib index vectors",
    'moonlib search runs/shop --text "red fruit" --index vectors/products.hnsw.faiss --sheet found.png',
    "moonlib evaluate runs/shop --data data/shop",
    "moonlib report runs/shop --out report.html",
)


@dataclass(frozen=True)
class Shelf:
    """The products of the shop, and what shoppers see in them; all arrays have one row per product.

    Attributes:
        concepts: what each of them is.
        sku: text ids, GTINs with their zeros and SKUs of letters.
        subgroup: int64, number of its category.
        colour: float64 [N, 3], mean of the picture's coloured pixels, centred over the shop.
        quality: float64, what makes it sell by itself.
        images: names of its pictures, the main one first.
    """

    concepts: Sequence[Concept]
    sku: list[str]
    subgroup: np.ndarray
    colour: np.ndarray
    quality: np.ndarray
    images: list[list[str]]


def on_white(path: Path, side: int = 192) -> Image.Image:
    """A picture of the set, opaque, square."""
    with Image.open(path) as file:
        picture = file.convert("RGBA")
    opaque = Image.new("RGBA", picture.size, "white")
    opaque.alpha_composite(picture)
    return ImageOps.pad(opaque.convert("RGB"), (side, side), color="white")


def taken(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The same thing as somebody's camera sees it: turned, moved, in another light, before another wall."""
    wall = tuple(int(value) for value in rng.integers(120, 256, 3))
    picture = picture.rotate(float(rng.uniform(-25, 25)), Image.Resampling.BILINEAR, fillcolor=wall)
    scale = float(rng.uniform(0.6, 0.95))
    small = picture.resize((int(192 * scale),) * 2)
    room = Image.new("RGB", (192, 192), wall)
    room.paste(small, tuple(int(value) for value in rng.integers(0, 193 - small.width, 2)))
    room = ImageEnhance.Brightness(room).enhance(float(rng.uniform(0.7, 1.25)))
    return ImageEnhance.Color(room).enhance(float(rng.uniform(0.6, 1.3)))


def photograph(task: tuple[Concept, str, int, Path, Path]) -> tuple[list[str], list[float]]:
    """Write the pictures of one product.

    Returns:
        Names of the product's pictures, the main one first, and the mean colour of what is not white.
    """
    concept, name, seed, packages, photos = task
    rng = np.random.default_rng(seed)
    render = on_white(packages / RENDERS / concept.render)
    names = [f"{name}.jpg"]
    render.save(photos / names[0], quality=90)
    for view in range(int(rng.integers(0, 4))):
        names.append(f"{name}_{view + 2}.jpg")
        taken(render, rng).save(photos / names[-1], quality=85)
    pixels = np.asarray(render, dtype=np.float64).reshape(-1, 3)
    coloured = pixels[pixels.min(1) < 230]
    return names, (coloured if len(coloured) else pixels).mean(0).tolist()


def ask(task: tuple[Path, list[Path], int]) -> None:
    """Write photos that shoppers take of one thing; each is taken anew."""
    source, files, seed = task
    picture, rng = on_white(source), np.random.default_rng(seed)
    for file in files:
        taken(picture, rng).save(file, quality=80)


def stock(size: int, seed: int, packages: Path, photos: Path) -> Shelf:
    """Choose the products and write their pictures."""
    rng = np.random.default_rng(seed)
    concepts = [concept for concept in read_concepts(packages) if concept.group in MEASURED_GROUPS]
    concepts = [concepts[i] for i in sorted(rng.permutation(len(concepts))[:size])]
    photos.mkdir(parents=True)
    sku = [f"{i * 97 + 614:013d}" if i % 3 else f"EMJ-{concept.hexcode}" for i, concept in enumerate(concepts)]
    tasks = [(concept, sku[i], seed * 100_003 + i, packages, photos) for i, concept in enumerate(concepts)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        images, colours = zip(*pool.map(photograph, tasks, chunksize=16), strict=True)
    colour = np.array(colours)
    colour = (colour - colour.mean(0)) / colour.std(0)
    subgroups = sorted({concept.subgroup for concept in concepts})
    return Shelf(
        concepts,
        sku,
        np.array([subgroups.index(concept.subgroup) for concept in concepts]),
        colour,
        rng.normal(0, 0.5, len(concepts)),
        list(images),
    )


def products(shelf: Shelf, rng: np.random.Generator) -> pl.DataFrame:
    """The table of products as a shop exports it, with what is wrong with it."""
    names = []
    for i, concept in enumerate(shelf.concepts):
        title = concept.english
        title = f'{title}, 12" tall' if i % 17 == 0 else f"{title} “premium”, boxed" if i % 11 == 0 else title
        names.append("" if i % 97 == 5 else title)
    images = [json.dumps(list(names)) if i % 61 else "" for i, names in enumerate(shelf.images)]
    images[7] = json.dumps(["gone.jpg"])
    return pl.DataFrame(
        {
            "item_id": shelf.sku,
            "title": names,
            "category": [
                "" if i % 83 == 9 else f"{c.group.replace('-', ' & ')} > {c.subgroup}"
                for i, c in enumerate(shelf.concepts)
            ],
            "price": ["" if i % 29 == 3 else f"{rng.lognormal(2.5, 0.6):.2f}" for i in range(len(names))],
            "merchant_id": [f"merchant-{i % 13:02d}" for i in range(len(names))],
            "brand": [("Noto", "Fluent", "Ærø & Søn", "")[i % 4] for i in range(len(names))],
            "attributes": [json.dumps({"tags": ", ".join(c.english_tags[:4])}) for c in shelf.concepts],
            "images": images,
        }
    )


def traffic(shelf: Shelf, rng: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, np.ndarray]:
    """Queries, and what shoppers were shown and did: searches and impressions, of searches and of the feed.

    Returns:
        The tables, and for every query the product it asks for and how: 0 by the other artist's drawing, 1 by a photo,
        2 by its name, 3 by what it is like, int64 [Q, 2].
    """
    groups = int(shelf.subgroup.max()) + 1
    users = np.array([str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(USERS)])
    likes = rng.dirichlet(np.full(groups, 0.05), USERS) * 5  # a few categories each
    taste = rng.normal(0, 1, (USERS, 3))
    visits = SEARCHES + FEEDS
    kind = rng.permutation(np.arange(visits) < SEARCHES)  # True: a search
    user = (rng.pareto(1.2, visits) * 40).astype(np.int64) % USERS
    wish = likes[user][:, shelf.subgroup] + 0.6 * taste[user] @ shelf.colour.T + shelf.quality  # [visits, N]
    target = (wish + rng.gumbel(size=wish.shape)).argmax(1)
    # A search shows what was asked for, more of its category, and others; the feed what one may like.
    near = np.where(shelf.subgroup[target][:, None] == shelf.subgroup, 2.0, 0.0)
    pull = np.where(kind[:, None], near, 0.4 * wish) + rng.gumbel(size=wish.shape)
    pull[np.flatnonzero(kind), target[kind]] = 50
    order = np.argsort(-pull, axis=1)[:, :FED]
    second = (rng.beta(3, 1.2, visits) * 86_400).astype(np.int64)  # evenings, and past midnight
    moment = START + rng.integers(0, DAYS, visits) * 86_400 + second
    row, position = np.nonzero((np.arange(FED) < SHOWN) | ~kind[:, None])
    shuffled = rng.random((visits, FED))
    shuffled[kind, SHOWN:] = 2
    item = order[row, np.argsort(shuffled, axis=1)[row, position]]
    hit = kind[row] & (item == target[row])
    alike = kind[row] & (shelf.subgroup[item] == shelf.subgroup[target[row]])
    score = -3.2 + 0.9 * wish[row, item] + 2.2 * hit + 0.5 * alike - 0.12 * position
    clicked = rng.random(len(row)) < 1 / (1 + np.exp(-score))
    shown_at = moment[row] + position * rng.integers(4, 40, visits)[row]

    # Every photo is a query of its own; those who type the same ask the same.
    asked = np.stack([target[kind], rng.choice(4, SEARCHES, p=[0.3, 0.25, 0.25, 0.2])], axis=1)
    by_photo = asked[:, 1] < 2
    photos = [f"asked/{i:05d}.jpg" if photo else "" for i, photo in enumerate(by_photo)]
    texts = ["" if by_photo[i] else _words(shelf.concepts[item], how) for i, (item, how) in enumerate(asked.tolist())]
    ids = [f"photo-{i:05d}" if photo else f"text: {texts[i]}" for i, photo in enumerate(by_photo)]
    queries = pl.DataFrame({"query_id": ids, "text": texts, "image": photos})
    query = np.full(visits, "", dtype=object)
    query[kind] = ids
    name = np.array([f"v{i:06x}-{token:08x}" for i, token in enumerate(rng.integers(0, 2**32, visits))])
    impressions = pl.DataFrame(
        {
            "search_id": name[row],
            "user_id": users[user[row]],
            "query_id": query[row].tolist(),
            "item_id": [shelf.sku[i] for i in item],
            "position": position,
            "clicked": np.where(clicked, "true", "false"),
            "ts": np.datetime_as_string(shown_at, "s"),
        }
    )
    # Of what was asked for most clicks end in an order, of the rest some; feeds lead to orders too.
    ordered = clicked & (rng.random(len(row)) < np.where(hit, 0.9, 0.15))
    done = np.flatnonzero(clicked)
    searches = impressions[done].select(
        "search_id",
        "user_id",
        "query_id",
        "item_id",
        action=pl.Series(np.where(ordered[done], "order", "click")),
        ts=pl.Series(np.datetime_as_string(shown_at[done] + 25, "s")),
    )
    return queries, searches, impressions, asked


def _words(concept: Concept, how: int) -> str:
    return concept.english if how == 2 else " ".join([*concept.english_tags, concept.english][:2])


def make(folder: Path, size: int, seed: int) -> None:
    """Write the shop's export and its pictures."""
    subprocess.run(["make", "-C", EMOJI, "packages"], check=True, stdout=subprocess.DEVNULL)
    rng = np.random.default_rng(seed)
    shelf = stock(size, seed, EMOJI / "node_modules", folder / "photos")
    queries, searches, impressions, asked = traffic(shelf, rng)
    (folder / "photos" / "asked").mkdir()
    tasks = []
    for item, how in np.unique(asked[asked[:, 1] < 2], axis=0).tolist():
        concept = shelf.concepts[item]
        source = Path(DRAWINGS, concept.drawing) if how == 0 else Path(RENDERS, concept.render)
        numbers = np.flatnonzero((asked == (item, how)).all(1))
        files = [folder / "photos" / queries["image"][int(number)] for number in numbers]
        tasks.append((EMOJI / "node_modules" / source, files, seed * 100_003 + 2 * item + how))
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        list(pool.map(ask, tasks, chunksize=16))
    (folder / "tables").mkdir()
    queries = queries.unique("query_id", maintain_order=True)
    tables = {"products": products(shelf, rng), "queries": queries, "searches": searches, "impressions": impressions}
    for name, table in tables.items():
        table.write_csv(folder / "tables" / f"{name}.csv", include_bom=name == "products")
        print(f"{name}.csv: {table.height:,} rows")


def main() -> None:
    """Make the shop, go through the commands, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/shop"), help="a folder that is made anew")
    parser.add_argument("--products", type=int, default=685)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--environment", type=Path, help="a virtual environment that has moonlib; by default a new one")
    parser.add_argument("--only-make", action="store_true", help="write the shop's export and stop")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    make(out, arguments.products, arguments.seed)
    if arguments.only_make:
        return

    taken_by: list[tuple[str, float]] = []

    def run(command: str, words: list[str], environment: dict[str, str]) -> None:
        print(f"\n$ {command}", flush=True)
        start = time.perf_counter()
        subprocess.run(words, check=True, cwd=out, env=environment)
        taken_by.append((command, time.perf_counter() - start))

    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    clean |= {"COLUMNS": "80", "HF_HUB_OFFLINE": "1"}
    place = arguments.environment and arguments.environment.resolve()
    if place is None:
        wheels = out / "wheel"
        wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*wheel, "--wheel-dir", wheels, ROOT], check=True)
        (built,) = wheels.glob("*.whl")
        place = out / ".venv"
        run("python3 -m venv .venv", [sys.executable, "-m", "venv", str(place)], clean)
        # torch<2.14 finds a build for processors alone; without it pip takes 5 GB of libraries for a GPU.
        install = [str(place / "bin/pip"), "install", "--quiet", str(built), "torch<2.14"]
        run("pip install moonlib-embedding 'torch<2.14'", install, clean)
    clean["PATH"] = f"{place / 'bin'}:{clean['PATH']}"
    for command in COMMANDS:
        run(command, shlex.split(command), clean)

    table = Table("command", "seconds")
    table.columns[1].justify = "right"
    for command, seconds in taken_by:
        table.add_row(command, f"{seconds:.1f}")
    total = sum(seconds for _, seconds in taken_by)
    table.add_row(f"{len(taken_by)} commands, 0 lines of code of one's own", f"{total:.1f}")
    Console(width=120).print(table)
    print(f"ratio: {LIMIT / total:.2f}")


if __name__ == "__main__":
    main()
