"""How a marketplace is written: by any number of processes, resumed after a kill, under ids of either kind."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from moonlib.data import shards
from moonlib.data.dataset import Dataset
from moonlib.data.ids import FAMILIES, Family
from moonlib.data.tables import Tables, validate
from moonlib.sources.marketplace import album
from moonlib.sources.marketplace.fresh_requests import draw_requests, marketplace_of
from moonlib.sources.marketplace.source import Marketplace
from moonlib.sources.marketplace.world import SIZES, Size
from moonlib.testing.processes import run_program
from tests.disks import full_disk

SMALLER = Size(number=0, spus=40, categories=8, users=40, searches_per_day=12, picture=16)
"""As `tiny` but for less of everything, so that it is built in a second."""


@pytest.fixture(scope="module", autouse=True)
def smaller() -> Iterator[None]:
    """Make `tiny` smaller still, with several files of pictures and several shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "tiny", SMALLER)
        patch.setattr(album, "_PICTURES_PER_TASK", 32)
        patch.setitem(shards.write_dataset.__kwdefaults__, "samples_per_shard", 32)
        yield


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The marketplace, built by one process."""
    return Dataset(Marketplace("tiny", seed=5).prepare(tmp_path_factory.mktemp("one"), workers=1))


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("workers", [2, 3])
def test_bytes_do_not_depend_on_the_number_of_workers(numbered: Dataset, tmp_path: Path, workers: int) -> None:
    directory = Marketplace("tiny", seed=5).prepare(tmp_path, workers=workers)
    assert len(list((directory / "shards").glob("queries-*.tar"))) > 2 * workers  # so that all have some
    assert files(directory) == files(numbered.directory)


KILLED = """
import os, signal, sys
from importlib import import_module
from pathlib import Path
from moonlib.data import shards
from moonlib.sources.marketplace import album, world
from moonlib.sources.marketplace.source import Marketplace

cache, module, name, calls = Path(sys.argv[1]), import_module(sys.argv[2]), sys.argv[3], int(sys.argv[4])
world.SIZES["tiny"] = world.Size(*map(int, sys.argv[5:]))
album._PICTURES_PER_TASK = 32
shards.write_dataset.__kwdefaults__["samples_per_shard"] = 32
take = album.Shots.take

def counted(shots, number):
    with (cache / "drawn").open("a") as file:
        file.write(f"{number} ")
    return take(shots, number)

album.Shots.take = counted
real = getattr(module, name)

def until_killed(*arguments, **options):
    global calls
    calls -= 1
    if calls == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)

setattr(module, name, until_killed)
Marketplace("tiny", seed=5).prepare(cache, workers=1)
"""

MOMENTS = [
    ("moonlib.sources.marketplace.traffic", "_pages", 100),
    ("moonlib.sources.marketplace.album", "_draw", 4),
    ("moonlib.data.sample_shards", "_write", 3),
    ("moonlib.data.shards", "_arrow", 2),
    ("moonlib.artifacts.directories", "seal", 1),
]
"""When the build is killed, one after the other: module, function, before which call of it."""


def test_a_build_that_is_killed_in_every_phase_goes_on_to_the_same_bytes(numbered: Dataset, tmp_path: Path) -> None:
    size = [str(value) for value in vars(SMALLER).values()]
    whole = []
    for moment in MOMENTS:
        killed = run_program(["-c", KILLED, str(tmp_path), *map(str, moment), *size])
        assert killed.returncode == -signal.SIGKILL, (moment, killed.stderr)
        partial = tmp_path / f"{numbered.directory.name}.partial"
        whole.append((len(list(partial.glob("pictures/*.npy"))), len(list(partial.glob("whole/*.json")))))
    last = run_program(["-c", KILLED, str(tmp_path), "moonlib.data.shards", "_arrow", "-1", *size])
    assert last.returncode == 0, last.stderr
    assert whole[:3] == [(0, 0), (3, 0), (whole[-1][0], 2)]
    assert files(tmp_path / numbered.directory.name) == files(numbered.directory)
    drawn = Counter(map(int, (tmp_path / "drawn").read_text().split()))
    pictures = numbered.products["images"].list.len().sum() + numbered.queries["image"].count()
    assert drawn == Counter(range(pictures))  # each once, in whichever process


@pytest.mark.parametrize("room", [10_000, 80_000], ids=["simulating", "drawing"])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(album, "_PICTURES_PER_TASK", 256)
    with full_disk(room), pytest.raises(OSError, match=r"make room .* then run the same command again") as full:
        Marketplace("tiny", seed=5).prepare(tmp_path, workers=2)
    assert full.value.filename.startswith(str(tmp_path / "marketplace-v"))
    assert not list(tmp_path.iterdir())


def test_what_a_process_left_that_was_killed_at_the_very_end_goes(numbered: Dataset) -> None:
    before = files(numbered.directory)
    (numbered.directory / "pictures").mkdir()
    (numbered.directory / "pictures/000000.npy").touch()
    Marketplace("tiny", seed=5).prepare(numbered.directory.parent)
    assert files(numbered.directory) == before


@pytest.fixture(scope="module")
def texts(numbered: Dataset) -> Dataset:
    """The same with text ids."""
    return Dataset(Marketplace("tiny", seed=5, ids="text").prepare(numbered.directory.parent, workers=1))


def test_text_ids_are_other_names_of_the_same_rows(numbered: Dataset, texts: Dataset) -> None:
    assert texts.directory.name == f"{numbered.directory.name}-text"
    assert set(texts.ids) == set(FAMILIES.values())
    pairs: dict[Family, set[tuple[int, str]]] = {family: set() for family in texts.ids}
    for table in numbered.counts:
        one, other = numbered.table(table), texts.table(table)
        columns = [name for name in one.columns if name in FAMILIES]
        assert_frame_equal(one.drop(columns), other.drop(columns))
        for name in columns:
            called = zip(one[name], texts.ids.decode(name, other[name]), strict=True)
            pairs[FAMILIES[name]] |= {(number, text) for number, text in called if number is not None}
            assert other[name].null_count() == one[name].null_count()
    for family, found in pairs.items():
        numbers, names = zip(*sorted(found), strict=True)
        assert len(set(numbers)) == len(set(names)) == len(names) == len(texts.ids[family])
        assert list(names) == sorted(names)


def test_text_ids_are_numbered_as_those_of_any_shop(texts: Dataset) -> None:
    tables = {table: texts.table(table) for table in texts.counts}
    read = {table: texts.ids.decoded(frame, *set(frame.columns) & set(FAMILIES)) for table, frame in tables.items()}
    checked = validate(Tables(**read))
    for table, frame in tables.items():
        assert_frame_equal(checked[table], frame)
    for family, known in checked.ids.items():
        numbers = np.arange(len(known))
        assert known.decode(numbers).equals(texts.ids[family].decode(numbers))


def test_the_truth_of_text_ids_is_that_of_their_numbers(numbered: Dataset, texts: Dataset) -> None:
    assert numbered.truth is not None and texts.truth is not None
    item = dict(zip(numbered.products["item_id"], texts.products["item_id"], strict=True))
    for file in sorted(numbered.truth.iterdir()):
        one, other = pl.read_ipc(file), pl.read_ipc(texts.truth / file.name)
        columns = [name for name in one.columns if name.endswith("_id")]
        assert_frame_equal(one.drop(columns), other.drop(columns))
        if "item_id" in columns:
            assert one["item_id"].replace_strict(item).equals(other["item_id"])


def test_a_world_is_known_by_its_text_ids(numbered: Dataset, texts: Dataset) -> None:
    world = marketplace_of(texts)
    assert world is not None
    requests = draw_requests(world, 30)
    of_numbers = draw_requests(world.simulate("tiny", 5), 30)
    asked, same = requests.impressions, of_numbers.impressions
    assert not asked["search_id"].is_in(texts.searches["search_id"].unique().implode()).any()
    for name in ("item_id", "user_id"):
        table = "products" if name == "item_id" else "users"
        number = dict(zip(numbered.table(table)[name], texts.table(table)[name], strict=True))
        assert same[name].replace_strict(number).equals(asked[name])


def test_other_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="ids 'uuid' is none of int64, text"):
        Marketplace("tiny", ids="uuid")  # type: ignore[arg-type]
    assert repr(Marketplace("tiny", 3, "text")) == "Marketplace(size='tiny', seed=3, ids='text')"
