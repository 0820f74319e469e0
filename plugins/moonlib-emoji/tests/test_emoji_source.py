"""The source over a miniature of the three packages, drawn here in their published layout."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from moonlib_emoji.concepts import MEASURED_GROUPS, part_of, read_concepts
from moonlib_emoji.packages import VERSIONS
from moonlib_emoji.pictures import Pictures
from moonlib_emoji.source import SPLITS, Emoji, cut, tables
from PIL import Image

from moonlib.data import Dataset, SampleReader
from moonlib.registry import get

PLUGIN = Path(__file__).parents[1]
GROUPS = ["smileys-emotion", "objects", "food-drink", "animals-nature", "travel-places", "activities", "flags"]
Annotate = Callable[[str, int], None]


def digest(hexcode: str) -> int:
    return int(hashlib.md5(hexcode.encode()).hexdigest(), 16)


def colour(hexcode: str, salt: str) -> tuple[int, int, int]:
    red, green, blue = hashlib.md5((hexcode + salt).encode()).digest()[:3]
    return red, green, blue


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """70 concepts over seven groups; one with the selector FE0F, which only some of the files spell out."""
    root = tmp_path / "node_modules"
    renders = root / "@lobehub" / "fluent-emoji-3d" / "assets"
    drawings = root / "emoji-datasource-google" / "img" / "google" / "64"
    data = root / "emojibase-data"
    for folder in (renders, drawings, data / "en", data / "zh", data / "meta"):
        folder.mkdir(parents=True)
    for name, version in VERSIONS.items():
        (root / name / "package.json").write_text(json.dumps({"name": name, "version": version}))

    hexcodes = [f"{0x1F400 + i:X}" for i in range(69)] + ["2602"]
    english, chinese = [], []
    for order, hexcode in enumerate(hexcodes):
        group = order % len(GROUPS)
        entry = {"hexcode": hexcode, "group": group, "subgroup": group, "order": order}
        english.append(entry | {"label": f"thing {order}", "tags": [f"tag{order}", "thing"]})
        chinese.append(entry | {"label": f"东西{order}", "tags": ["东西"]})
        picture = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
        picture.paste((*colour(hexcode, "render"), 255), (8, 8, 24, 24))
        picture.save(renders / f"{hexcode.lower()}{'-fe0f' if hexcode == '2602' else ''}.webp", lossless=True)
        picture.paste((*colour(hexcode, "drawing"), 255), (8, 8, 24, 24))
        picture.resize((16, 16)).save(drawings / f"{hexcode.lower()}.png")
    # A skin tone is a variant, a regional indicator has no group, the last two are drawn by one artist only.
    Image.new("RGBA", (32, 32)).save(renders / "1f400-1f3fb.webp")
    for hexcode in ("1F1E6", "1FAE9", "1FAEA"):
        grouped = {} if hexcode == "1F1E6" else {"group": 1, "subgroup": 1}
        english.append({"hexcode": hexcode, "label": hexcode, **grouped})
        chinese.append({"hexcode": hexcode, "label": hexcode, **grouped})
    for path in (renders / "1f1e6.webp", renders / "1fae9.webp", drawings / "1f1e6.png", drawings / "1faea.png"):
        Image.new("RGBA", (16, 16)).save(path)

    (data / "en" / "data.json").write_text(json.dumps(english))
    (data / "zh" / "data.json").write_text(json.dumps(chinese[::-1]), encoding="utf-8")
    names = {str(i): name for i, name in enumerate(GROUPS)}
    subgroups = {number: f"{name}-kind" for number, name in names.items()}
    (data / "meta" / "groups.json").write_text(json.dumps({"groups": names, "subgroups": subgroups}))
    return root


def test_concepts_are_joined_by_hexcode_whatever_the_selectors_and_the_order(packages: Path) -> None:
    concepts = {concept.hexcode: concept for concept in read_concepts(packages)}
    assert len(concepts) == 70
    assert not {"1F1E6", "1FAE9", "1FAEA", "1F400-1F3FB"} & set(concepts)
    umbrella = concepts["2602"]
    assert (umbrella.render, umbrella.drawing) == ("2602-fe0f.webp", "2602.png")
    assert (umbrella.english, umbrella.chinese) == ("thing 69", "东西69")
    assert umbrella.group == GROUPS[69 % 7]


def test_the_fully_qualified_picture_wins_over_another_spelling(packages: Path) -> None:
    folder = packages / "@lobehub" / "fluent-emoji-3d" / "assets"
    Image.new("RGBA", (32, 32)).save(folder / "2602.webp")
    assert {c.hexcode: c.render for c in read_concepts(packages)}["2602"] == "2602-fe0f.webp"


@pytest.mark.parametrize("group", GROUPS)
def test_one_concept_in_five_is_held_out_by_md5(group: str) -> None:
    hexcodes = [f"{0x1F300 + i:X}" for i in range(1000)]
    held_out = {h for h in hexcodes if part_of(h, group) in ("test", "left out")}
    assert held_out == {h for h in hexcodes if digest(h) % 5 == 0}
    parts = {part_of(h, group) for h in hexcodes}
    assert parts == ({"train", "valid", "test"} if group in MEASURED_GROUPS else {"train", "left out"})


def test_the_parts_of_known_emoji_do_not_move() -> None:
    # md5 of "1F436", "1F34E", "1F600", "2602-FE0F", "1F382", last decimal digit: 0, 5, 4, 6, 1.
    assert part_of("1F436", "animals-nature") == part_of("1F34E", "food-drink") == "test"
    assert part_of("1F436", "flags") == "left out"
    assert part_of("1F600", "smileys-emotion") == part_of("2602-FE0F", "travel-places") == "train"
    assert part_of("1F382", "activities") == "valid"
    assert part_of("1F382", "people-body") == "train"


def test_products_are_named_in_both_languages(packages: Path) -> None:
    made = tables(read_concepts(packages))
    product = made.products.row(by_predicate=pl.col("hexcode") == "1F400", named=True)
    assert product["title"] == "thing 0 东西0"
    assert product["category"] == "smileys-emotion/smileys-emotion-kind"
    assert dict(product["attributes"]) == {"tags": "tag0, thing", "标签": "东西"}
    asked = made.searches.filter(item_id=product["item_id"]).join(made.queries, on="query_id")
    assert set(asked.select("text", "language", "image").rows()) == {
        (None, None, "1f400.png"),
        ("thing 0", "en", None),
        ("东西0", "zh", None),
    }
    assert set(asked["action"]) == {"order"}


def test_no_training_stage_can_see_a_concept_that_is_measured(packages: Path) -> None:
    concepts = read_concepts(packages)
    made = tables(concepts)
    hexcodes = dict(made.products.select("item_id", "hexcode").rows())
    seen = {hexcodes[item] for item in SPLITS.known(made.products)["item_id"]}
    seen |= {hexcodes[item] for item in made.searches.filter(pl.col("ts") < SPLITS.train_until)["item_id"]}
    assert seen == {c.hexcode for c in concepts if c.part == "train"}
    assert not {h for h in seen if digest(h) % 5 == 0}
    tested = {hexcodes[item] for item in SPLITS.select(made.searches, "test")["item_id"]}
    assert tested == {c.hexcode for c in concepts if digest(c.hexcode) % 5 == 0 and c.group in MEASURED_GROUPS}
    validated = {hexcodes[item] for item in SPLITS.select(made.searches, "valid")["item_id"]}
    assert validated and validated | tested | seen == set(hexcodes.values())


def test_training_searches_end_before_behaviour_until_and_nothing_is_bought_before_it_is_listed(packages: Path) -> None:
    made = tables(read_concepts(packages))
    events = made.searches.join(made.products.select("item_id", "listed_at"), on="item_id")
    assert (events["ts"] > events["listed_at"]).all()
    assert SPLITS.select(made.searches, "train").is_empty()
    assert events["ts"].max() < SPLITS.test_until
    listed = SPLITS.known(made.products)
    assert set(SPLITS.select(made.searches, "behaviour")["item_id"]) == set(listed["item_id"])


def test_a_photo_is_the_other_artists_drawing_on_white(packages: Path) -> None:
    read = Pictures(packages, 24)
    product = Image.open(io.BytesIO(read("products", "1f400.webp")))
    photo = Image.open(io.BytesIO(read("queries", "1f400.png")))
    for picture, salt in ((product, "render"), (photo, "drawing")):
        assert (picture.size, picture.mode) == ((24, 24), "RGB")
        assert picture.getpixel((0, 0)) == (255, 255, 255)
        assert picture.getpixel((12, 12)) == colour("1F400", salt)


def test_an_unsquare_picture_is_padded_not_stretched(packages: Path) -> None:
    folder = packages / "emoji-datasource-google" / "img" / "google" / "64"
    Image.new("RGB", (20, 40), "black").save(folder / "1f400.png")
    picture = Image.open(io.BytesIO(Pictures(packages, 40)("queries", "1f400.png")))
    assert [picture.getpixel((x, 20)) for x in (2, 20, 37)] == [(255, 255, 255), (0, 0, 0), (255, 255, 255)]


def test_prepare_builds_once_a_dataset_that_moonlib_opens(packages: Path, tmp_path: Path) -> None:
    directory = Emoji(packages, size=24).prepare(tmp_path / "cache")
    dataset = Dataset(directory)
    assert dataset.splits == SPLITS
    assert dataset.counts["queries"] == 3 * dataset.counts["products"] == dataset.counts["searches"]
    product = dataset.products.row(by_predicate=pl.col("hexcode") == "1F400", named=True)
    sample = SampleReader(directory, "products").read(pl.Series([product["item_id"]]).to_numpy())[0]
    assert sample.row["title"] == "thing 0 东西0"
    assert sample.image is not None and Image.open(io.BytesIO(sample.image)).size == (24, 24)
    before = (directory / "dataset.json").stat().st_mtime_ns
    assert Emoji(packages, size=24).prepare(tmp_path / "cache") == directory
    assert (directory / "dataset.json").stat().st_mtime_ns == before
    assert Emoji(packages, size=16).prepare(tmp_path / "cache") != directory


def test_missing_packages_are_answered_with_the_command_that_installs_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"npm install --prefix .*@lobehub/fluent-emoji-3d@1\.1\.0"):
        Emoji(tmp_path / "node_modules").prepare(tmp_path / "cache")


def test_a_broken_picture_is_named(packages: Path, tmp_path: Path) -> None:
    renders = packages / "@lobehub" / "fluent-emoji-3d" / "assets"
    (renders / "1f400.webp").write_bytes(b"RIFF....WEBP")
    directory = Emoji(packages, size=24).prepare(tmp_path / "one")
    (line,) = (directory / "quarantine.jsonl").read_text().splitlines()
    assert "1f400.webp: cannot be read as a picture" in json.loads(line)["reason"]


def test_more_than_a_few_broken_pictures_stop_the_build(packages: Path, tmp_path: Path) -> None:
    for name in ("1f407", "1f40e"):
        (packages / "emoji-datasource-google" / "img" / "google" / "64" / f"{name}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 of \d+ images .*1f407\.png: cannot be read as a picture"):
        Emoji(packages, size=24).prepare(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_broken_annotations_are_named(packages: Path) -> None:
    (packages / "emojibase-data" / "zh" / "data.json").write_text("[{")
    with pytest.raises(ValueError, match=r"zh/data\.json: cannot be read as JSON"):
        read_concepts(packages)


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="size is 0"):
        Emoji(size=0)


def test_a_cut_takes_concepts_to_train_on_alone_and_a_smaller_one_is_part_of_a_larger_one(packages: Path) -> None:
    concepts = read_concepts(packages)
    some, more = ({c.hexcode for c in cut(concepts, n)} for n in (5, 20))
    assert cut(concepts, None) == concepts
    assert some < more < {c.hexcode for c in concepts}
    others = {c.hexcode for c in concepts if c.part != "train"}
    assert len(some - others) == 5 and len(more - others) == 20 and others <= some
    directory = Emoji(packages, size=24, train=5).prepare(packages.parent / "cache")
    dataset = Dataset(directory)
    assert len(dataset.splits.known(dataset.products)) == 5
    assert directory != Emoji(packages, size=24).prepare(packages.parent / "cache")


def test_more_concepts_than_there_are_and_fewer_than_one_are_refused(packages: Path) -> None:
    with pytest.raises(ValueError, match=r"train: 1000 concepts to train on are asked for, and there are \d+"):
        Emoji(packages, train=1000).prepare(packages.parent / "cache")
    with pytest.raises(ValueError, match="train is 0"):
        Emoji(train=0)


def test_the_installed_distribution_enters_by_the_entry_point() -> None:
    assert get("sources", "emoji") is Emoji


def test_the_pinned_versions_are_those_the_error_names() -> None:
    assert json.loads((PLUGIN / "package.json").read_text())["dependencies"] == VERSIONS
