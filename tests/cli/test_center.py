from __future__ import annotations

from pathlib import Path

import pytest

from moonlib.cli.app import main
from moonlib.inference.center import Center
from tests.centers import make_bare


def test_a_center_is_searched(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    center = Center.create(tmp_path / "shop", finished_run, pictures=False)
    center.upsert([{"item_id": 7, "title": "red mug", "price": 5.0}, {"item_id": 8, "title": "lamp", "price": 9.0}])
    words = ["search", str(tmp_path / "shop"), "--text", "red mug"]
    assert main(words) == 0
    assert "lamp" in capsys.readouterr().out
    assert main([*words, "--where", '{"price": {"lt": 6}}']) == 0
    found = capsys.readouterr().out
    assert "red mug" in found
    assert "lamp" not in found
    assert main([*words, "--where", '{"price": {"gt": 60}}']) == 0
    assert capsys.readouterr().out == "nothing was found: no product passes the filter\n"
    for more, message in (
        (["--where", '{"prize": 1}'], "unknown column 'prize'"),
        (["--alias", "next"], "has no alias 'next'; it has live"),
        (["--new-only"], "--index and --new-only are of a run"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    assert main(["search", str(finished_run), "--text", "mug", "--alias", "live"]) == 2
    assert "--where and --alias are of a center" in capsys.readouterr().err


def test_a_folder_that_is_no_center_is_told_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors" / "embedding.json").write_text("{}")
    words = ["publish", "center status", "upsert", "serve"]
    for name, message in (("none", "no such center, seen from"), ("vectors", "is what `moonlib embed` wrote")):
        for verb in words[:3] if name == "none" else words[1::2]:
            assert main([*verb.split(), str(tmp_path / name)]) == 2
            error = capsys.readouterr().err
            assert message in error and "moonlib upsert CENTER --run RUN --products TABLE" in error


def test_a_beginning_of_several_spaces_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    center = make_bare(tmp_path / "shop", "int8", "float16")
    assert main(["publish", str(center), "--space", "ffff"]) == 2
    assert "has 2 spaces that begin with 'ffff'; it has ffffffffffff-8-float16, f" in capsys.readouterr().err


def test_the_same_upsert_again_goes_to_the_same_space(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("item_id,title\n7,red mug\n")
    words = ["upsert", tmp_path / "shop", "--run", finished_run, "--products", tmp_path / "products.csv", "--workers=0"]
    assert main([*map(str, words), "--dtype", "float16"]) == 0
    assert main([*map(str, words)]) == 0
    assert [space.dtype for space in Center(tmp_path / "shop").spaces.values()] == ["float16"]


def test_columns_of_a_space_that_is_there_are_not_ignored(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "products.csv").write_text("item_id,title,colour\n7,red mug,red\n")
    words = ["upsert", tmp_path / "shop", "--run", finished_run, "--products", tmp_path / "products.csv", "--workers=0"]
    assert main([*map(str, words), "--columns", "title"]) == 0
    assert main([*map(str, words), "--columns", "title, colour"]) == 2
    assert "keeps title, and that can't be changed" in capsys.readouterr().err
    assert main([*map(str, words), "--columns", "title"]) == 0
    assert Center(tmp_path / "shop").view.rows([7]).columns == ["item_id", "title"]
