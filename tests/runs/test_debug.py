"""The short runs of ``fit --debug``."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from moonlib.runs.debug import debug


def test_overfit_learns_one_batch_by_heart(
    runs: Path, short_iter2: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    # What the command line says goes over the preset.
    lengths = ["--stages.pretrain.trainer.max_steps=60", "--stages.application.trainer.max_epochs=60"]
    overrides = [*short_iter2, *lengths, "--stages.application.data.batch_size=256"]
    run = debug("overfit", "iter2", overrides, runs=runs)
    assert run == runs / ".debug/overfit/iter2/iter2"
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.split()[2:]}
    for stage in ("pretrain", "posttrain", "application"):
        losses = pl.read_csv(run / stage / "csv/metrics.csv")["loss"]
        assert rows[stage][1:] == [str(len(losses)), f"{losses[0]:.4f}", f"{losses[-1]:.4f}"]
        if stage != "posttrain":
            assert len(losses) == 60 and losses[-1] < losses[0] / 2, stage


def test_profile_says_where_the_time_goes_and_starts_afresh(
    runs: Path, short_iter2: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    left = runs / ".debug/profile/iter2/.stages/old"
    left.mkdir(parents=True)
    debug("profile", "iter2", short_iter2, runs=runs)
    assert not left.exists()
    printed = capsys.readouterr().out
    for stage, steps in (("pretrain", 4), ("posttrain", 3)):
        table = printed.partition(f"\n{stage}\nwaiting for data")[2].partition("in all")
        shares = [float(share) for share in re.findall(r"([\d.]+)%", table[0])]
        assert len(shares) == 6 and sum(shares) == pytest.approx(100, abs=1)
        assert int(re.findall(r"(\d+) steps", table[2])[0]) == steps * (2 if stage == "posttrain" else 1)
