from __future__ import annotations

from pathlib import Path

import pytest

from moonlib.cli.app import main
from moonlib.inference.center import Center


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
    for more, message in (
        (["--where", '{"prize": 1}'], "unknown column 'prize'"),
        (["--alias", "next"], "has no alias 'next'; it has live"),
        (["--new-only"], "--index and --new-only are of a run"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    assert main(["search", str(finished_run), "--text", "mug", "--alias", "live"]) == 2
    assert "--where and --alias are of a center" in capsys.readouterr().err
