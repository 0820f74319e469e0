from __future__ import annotations

import math
from pathlib import Path

import pytest

from moonlib.metrics.undefined import leave_out, noted, parted, sentences


def test_what_is_not_defined_is_left_out_and_noted(tmp_path: Path) -> None:
    kept = leave_out({"ctr/logloss": 0.5, "n": 3, "ctr/auc": math.nan, "mine/ratio": math.inf}, tmp_path)
    assert kept == {"ctr/logloss": 0.5, "n": 3}
    assert noted(tmp_path) == {
        "ctr/auc": "it needs rows of both classes, such as clicked and unclicked ones",
        "mine/ratio": "its value is inf",
    }


@pytest.mark.parametrize("value", [True, None, "0.5", [0.5]])
def test_a_stage_whose_metric_is_no_number_is_told_before_it_is_finished(value: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the stage's metric 'mine/share' is .*; a metric is a float or an int"):
        leave_out({"mine/share": value}, tmp_path)  # type: ignore[dict-item]


def test_an_empty_segment_is_told_once_and_other_reasons_by_themselves() -> None:
    none = dict.fromkeys(["ctr/auc@new", "ctr/gauc@new", "ctr/logloss@new", "valid/ctr/auc@new"], math.nan)
    some = dict.fromkeys(["ctr/pcoc@tail"], math.nan)
    told = list(sentences(parted(none | some)[1]))
    begin = "not defined, and so not among the results: "
    assert told == [
        f"{begin}ctr/auc@new, ctr/gauc@new, ctr/logloss@new (there is no row)",
        f"{begin}ctr/pcoc@tail (it needs a clicked row)",
        f"{begin}valid/ctr/auc@new (it needs rows of both classes, such as clicked and unclicked ones)",
    ]
