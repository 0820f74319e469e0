"""Tables at the end of a run, as a terminal of 80 columns shows them."""

from __future__ import annotations

import io

import pytest
from rich.console import RenderableType

from moonlib.metrics.metric import Meaning
from moonlib.runs.results import REFERENCES, Legend
from moonlib.runs.tables import closing_tables, metric_tables, spread_table
from moonlib.system.console import Terminal

LONG = "emoji-small-catalogue-heads-first-seed12"


def shown(table: RenderableType, width: int = 80) -> str:
    file = io.StringIO()
    Terminal(file=file, force_terminal=True, color_system=None, _environ={"COLUMNS": str(width)}).print(table)
    return file.getvalue()


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def everything() -> tuple[dict[str, float], Legend]:
    """Results of every task, with segments and all references that the task's stage has."""
    searches = ("baseline/chance", "baseline/thumbnail", "baseline/initial", "oracle")
    of_task = {
        "image_search": (("recall@1", "recall@10"), searches),
        "text_search": (("recall@1", "recall@10"), searches),
        "ctr": (
            ("auc", "gauc", "logloss", "ne", "pcoc", "ece"),
            ("baseline", "baseline/shuffled", "oracle", "ceiling"),
        ),
        "retrieval": (
            ("recall@10", "share_new@100", "share_new_gallery", "user_weight"),
            ("baseline/query", "baseline/user", "baseline/popularity", "baseline/shuffled", "oracle"),
        ),
        "relevance": (("auc", "ndcg@10"), ("baseline/cosine", "baseline/shuffled", "oracle")),
    }
    results, rows = {}, {}
    for task, (metrics, references) in of_task.items():
        for segment in ("", "@new", "@tail", "@category=Home & Garden/Vases and bowls"):
            rows[f"{task}/n{segment}"] = 89_780
            for metric in metrics:
                for prefix in ("", *(f"{reference}/" for reference in references)):
                    results[f"{prefix}{task}/{metric}{segment}"] = 0.5
    return results, Legend(REFERENCES, {}, rows)


def test_the_closing_tables_of_all_tasks_fit_80_columns_and_nothing_is_cut() -> None:
    results, legend = everything()
    text = shown(closing_tables(LONG, results, legend, {"application.baseline.shuffled": {"seconds": 1.0}}))
    assert all(len(line) <= 80 for line in text.splitlines()) and "…" not in text
    lines = words(text)
    whole = [word for line in lines for word in line]
    for word in (
        LONG + ":",
        *legend.references.values(),
        "bowls",
        "share_new_gallery",
        "application.baseline.shuffled",
    ):
        assert set(word.split()) <= set(whole), word
    assert ["auc", "89,780", *["0.5000"] * 5] in lines  # a line per metric: n, the run, four references
    assert text.count("\n") < 150


def test_a_row_per_metric_and_segment_with_its_n_and_a_wide_terminal_is_made_use_of() -> None:
    values = {"ctr/auc": 0.7, "ctr/auc@new": 0.6, "oracle/ctr/auc": 0.75, "valid/ctr/auc": 0.1, "ctr/pcoc@new": 1.0}
    legend = Legend({"oracle": "oracle", "ceiling": "ceiling"}, {}, {"ctr/n": 1234, "ctr/n@new": 56})
    (table,) = metric_tables("iter9", values, legend)
    assert words(shown(table))[:6] == [
        ["iter9:", "ctr", "on", "test", "days,", "n:", "impressions"],
        ["ctr", "n", "iter9", "oracle"],
        ["─" * len(shown(table).splitlines()[2])],
        ["auc", "1,234", "0.7000", "0.7500"],
        ["@new", "56", "0.6000", "–"],
        ["pcoc@new", "56", "1.0000", "–"],
    ]
    results, legend = everything()
    wide = shown(closing_tables(LONG, results, legend, {}), 160)
    headings = "retrieval n this run shuffled query only user only popularity oracle"
    assert headings in {" ".join(line) for line in words(wide)}


def test_results_without_numbers_of_rows_have_no_column_for_them() -> None:
    (table,) = metric_tables("iter9", {"alignment": 0.7}, Legend())
    assert words(shown(table))[1] == ["iter9"] and words(shown(table))[3] == ["alignment", "0.7000"]


def test_a_run_below_a_baseline_is_told_so_by_the_direction_of_each_metric() -> None:
    values = {"ctr/auc": 0.6, "ctr/logloss": 0.4, "ctr/pcoc": 0.9, "mine/cost": 2.0, "ctr/auc@new": 0.1}
    values |= {f"baseline/{key}": value for key, value in {"ctr/auc": 0.7, "ctr/logloss": 0.3, "ctr/pcoc": 1.0}.items()}
    values |= {"baseline/mine/cost": 1.0, "baseline/ctr/auc@new": 0.2, "oracle/ctr/auc": 0.9, "baseline/x/ctr/auc": 0.5}
    legend = Legend(
        {"baseline": "id only", "baseline/x": "x", "oracle": "oracle"}, {"mine/cost": Meaning("cost", False)}
    )
    notes = [note for table in metric_tables("iter9", values, legend) for note in table.notes]
    assert notes == [
        "worse than the baseline id only: auc 0.6000 against 0.7000, logloss 0.4000 against 0.3000",
        "worse than the baseline id only: cost 2.0000 against 1.0000",
    ]
    assert notes[0] in " ".join(shown(metric_tables("iter9", values, legend)[0]).split())


@pytest.mark.parametrize("seeds", [2, 12])
def test_seeds_of_a_long_name_fit_too(seeds: int) -> None:
    names = [f"emoji-small-catalogue-heads-first-seed{seed}" for seed in range(seeds)]
    runs = {name: {"image_search/recall@10@category=Home & Garden/Vases": 0.5} for name in names}
    text = shown(spread_table(runs))
    assert all(len(line) <= 80 for line in text.splitlines()) and "…" not in text
    assert all(name in text for name in names) and all(f"seed{seed}" in text for seed in range(seeds))
    assert "0.5000  0.0000  0.5000  0.5000" in text
