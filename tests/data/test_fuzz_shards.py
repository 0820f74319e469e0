"""Whatever happens to a file of a dataset is noticed, or changes nothing; no reader ends the process."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.artifacts.checksums import SUMS, seal
from moonlib.cli.errors import is_users, message
from moonlib.data.build import ImageFolder
from moonlib.data.check import check
from moonlib.data.dataset import Dataset
from moonlib.data.reader import SampleReader
from moonlib.data.shards import write_dataset
from moonlib.data.splits import Splits
from moonlib.data.tables import Tables, validate
from moonlib.representations.store import Representations
from moonlib.sources.shards import Shards
from moonlib.testing.data import forget_checksums
from moonlib.testing.processes import run_program

CHANGES = ("flip", "flip", "flip", "write", "cut", "extend", "insert", "swap", "empty", "delete")

Change = tuple[str, int, float, int, bytes]
"""What is done, to which file, where in it, which bit or which other file, and what is written."""

changes = st.lists(
    st.tuples(
        st.sampled_from(CHANGES),
        st.integers(0, 1000),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 7),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture
def whole(tmp_path: Path, shop: Tables, splits: Splits, image_folder: Path) -> Path:
    """A dataset that has all that a dataset may have, in several shards."""
    histories = pl.DataFrame({"user_id": [5, 6], "ts": ["2025-01-07"] * 2, "item_ids": [[1, 2], [3]]})
    tables = validate(Tables(shop.products, shop.queries, shop.users, shop.searches, shop.impressions, histories))
    (image_folder / "c.jpg").write_bytes(b"no picture, so that there is a list of those")
    vectors = Representations(np.array([-5, 7, 9]), np.arange(6, dtype=np.float32).reshape(3, 2))
    write_dataset(
        tmp_path / "whole",
        tables,
        ImageFolder(image_folder, 512),
        splits,
        name="shop",
        version="1",
        representations={"products": vectors},
        samples_per_shard=2,
    )
    (tmp_path / "whole/truth").mkdir()
    (tmp_path / "whole/truth/latent.npy").write_bytes(b"what training must not see")
    seal(tmp_path / "whole")
    return tmp_path / "whole"


def spoil(directory: Path, todo: list[Change]) -> list[str]:
    """Change files; return the names of those that are not as they were."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    before = {path: path.read_bytes() for path in files}
    for change, number, place, bit, new in todo:
        file = files[number % len(files)]
        data = bytearray(file.read_bytes()) if file.exists() else bytearray()
        at = int(place * len(data))
        if change == "delete":
            file.unlink(missing_ok=True)
            continue
        if change == "flip" and data:
            data[at] ^= 1 << bit
        elif change == "write":
            data[at : at + len(new)] = new
        elif change == "cut":
            data = data[:at]
        elif change == "extend":
            data += new
        elif change == "insert":
            data[at:at] = new
        elif change == "empty":
            data.clear()
        elif change == "swap" and (other := files[(number + 1 + bit) % len(files)]).exists():
            data, theirs = bytearray(other.read_bytes()), data
            other.write_bytes(theirs)
        file.write_bytes(data)
    return [str(path) for path in files if not path.exists() or path.read_bytes() != before[path]]


def read_all(directory: Path) -> list[Any]:
    """Everything that training and evaluation read of a dataset."""
    dataset = Dataset(Shards(directory).prepare(directory))
    found: list[Any] = [dataset.table(name).to_dicts() for name in dataset.counts]
    for table in ("products", "queries"):
        reader = SampleReader(directory, table)
        found.append([(sample.id, sample.row, sample.image) for sample in reader.read(reader.ids)])
    return found


def attempt(call: Callable[[Path], Any], directory: Path) -> Any:
    """What a call returns; the line that a user would get where it refuses."""
    try:
        return call(directory)
    except BaseException as error:
        assert isinstance(error, Exception) and is_users(error), repr(error)
        assert message(error) and "\n" not in message(error), repr(error)
        return message(error)


def test_every_change_is_noticed(whole: Path) -> None:
    expected = read_all(whole)
    assert check(whole).ok

    @settings(max_examples=120, deadline=None)
    @given(changes)
    def any_change(todo: list[Change]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(shutil.copytree(whole, Path(folder) / "copy"))
            changed = spoil(copy, todo)
            found = attempt(read_all, copy)
            report = check(copy)
            if str(copy / SUMS) in changed:  # without it, only `check` tells that nothing could be compared
                assert any(SUMS in line for line in [*report.problems, *report.warnings]) or len(report.problems) > 0
            else:
                assert isinstance(found, str) or found == expected, changed
                assert report.ok == (not changed)
                assert all(any(name in line for line in report.problems) for name in changed), report.problems

    any_change()


def tries(whole: Path, examples: int) -> None:
    """Change a dataset that has no checksums; whatever that makes of it, there is an answer."""

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(changes)
    def any_change(todo: list[Change]) -> None:
        print(repr(todo), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(shutil.copytree(whole, Path(folder) / "copy"))
            spoil(copy, todo)
            attempt(read_all, copy)
            attempt(check, copy)

    any_change()


def test_a_dataset_older_than_checksums_ends_no_process(whole: Path) -> None:
    """In a process of its own: what Arrow or polars makes of damaged bytes might end it."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import pathlib, test_fuzz_shards as fuzz; "
    code += "fuzz.tries(pathlib.Path(sys.argv[2]), int(sys.argv[3]))"
    words = ["-c", code, Path(__file__).parent, forget_checksums(whole), "120"]
    done = run_program(words, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=600)
    assert done.returncode == 0, f"{done.stdout.splitlines()[-1:]} ended with {done.returncode}: {done.stderr[-3000:]}"
