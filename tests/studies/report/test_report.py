from __future__ import annotations

import io
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest
import yaml

from moonlib.artifacts.checksums import SUMS, seal
from moonlib.cli import main
from moonlib.metrics.bootstrap import Interval
from moonlib.runs.run import RunError
from moonlib.studies.drift import drift
from moonlib.studies.paired import auc_gain, recall_gain
from moonlib.studies.report import report
from moonlib.studies.report.sections import SECTIONS


class Page(HTMLParser):
    """What a page holds: its tags with their attributes, its text, and its tables as rows of texts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.tables: list[tuple[str, list[list[str]]]] = []
        self._style = self._cell = False
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.text = re.sub(r"\s+", " ", " ".join(self.texts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"
        if tag == "table":
            self.tables.append(("", []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self._cell = True
            self.tables[-1][1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "caption":
            self.tables[-1] = (self.texts[-1], self.tables[-1][1])
        self._style = False
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._style or not data.strip():
            return
        self.texts.append(data.strip())
        if self._cell:
            self.tables[-1][1][-1][-1] += data

    def table(self, start: str) -> list[list[str]]:
        """The rows of the table whose caption starts so."""
        return next(rows for caption, rows in self.tables if caption.startswith(start))


@pytest.fixture(scope="session")
def page(lineage: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    """All three runs; what else may lie beside them does not."""
    return Page(report(lineage, tmp_path_factory.mktemp("page") / "report.html"))


@pytest.fixture
def runs(lineage: list[Path], tmp_path: Path) -> list[Path]:
    """A copy of the first two runs, to change."""
    for run in lineage[:2]:
        shutil.copytree(run, tmp_path / run.name, symlinks=True)
    (tmp_path / ".stages").symlink_to(lineage[0].parent / ".stages")
    return [tmp_path / run.name for run in lineage[:2]]


def own(run: Path, stage: str) -> Path:
    """Give a run a stage's directory of its own, to change, in place of the link."""
    stages = run / stage
    place = stages.resolve()
    stages.unlink()
    shutil.copytree(place, stages)
    (stages / SUMS).unlink()
    return stages


def test_nothing_comes_from_elsewhere(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    style = page.html.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_what_recipes_and_titles_say_is_text_and_no_markup(page: Page) -> None:
    assert "<script" not in page.html
    assert "40 steps <script>alert(2)</script>" in page.text
    titles = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert any(title and "<script>alert(1)</script>" in title for title in titles)


def test_same_files_same_bytes(page: Page, lineage: list[Path], tmp_path: Path) -> None:
    assert report(lineage, tmp_path / "again.html").read_text(encoding="utf-8") == page.html


def test_values_are_those_of_results_and_changes_those_of_the_paired_bootstrap(page: Page, lineage: list[Path]) -> None:
    results = json.loads((lineage[1] / "results.json").read_text())
    rows = page.table("Clicks, test days")
    heads = rows[0]
    assert [head for head in heads if head] == ["third", "second", "first", "id only", "shuffled"]
    auc = next(row for row in rows if row[0] == "AUC")
    assert f"{results['ctr/auc']:.4f}" in auc[heads.index("second")]
    gain = auc_gain(lineage[1] / "application", lineage[0] / "application")
    assert written(gain) in auc[heads.index("second")]
    recall = next(row for row in page.table("Image search, test days") if row[0] == "recall@10")
    assert written(recall_gain(lineage[1], lineage[0])) in recall[heads.index("second")]


def written(gain: Interval) -> str:
    return f"{gain.estimate:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]".replace("-", "−")


def test_runs_on_other_data_are_not_compared(page: Page) -> None:
    assert "The run before it, second , is on other data" in page.text.replace("second,", "second ,")
    assert "Other data than second: not compared with it" in page.text
    rows = page.table("Clicks, test days")
    third = next(row for row in rows if row[0] == "AUC")[1]
    assert "+" not in third and "−" not in third


def test_recipes_are_compared_key_by_key(page: Page) -> None:
    rows = page.table("Keys of the recipe that differ from first's")
    assert ["trainer.max_steps", "1", "40"] in rows
    changed = page.table("Keys of the recipe that differ from second's")
    assert ["posttrain"] in changed and any(row[0].startswith("data") for row in changed)


def test_hits_are_where_the_stage_ranked_them(lineage: list[Path], tmp_path: Path) -> None:
    page = Page(report(lineage[:2], tmp_path / "r.html"))
    ranks = [int(found) for found in re.findall(r"rank ([\d,]+)", page.text)]
    lists = re.findall(r'<ol class="found">(.*?)</ol>', page.html, re.S)
    assert len(ranks) == len(lists) > 3
    for rank, found in zip(ranks, lists, strict=True):
        items = re.findall(r"<li( class=\"hit\")?>", found)
        hits = [i for i, hit in enumerate(items) if hit]
        assert len(items) == 10
        if hits:
            assert hits[0] + 1 == rank  # what comes before the best hit is no hit
        else:
            assert rank > 10


def test_wins_and_losses_are_counted(lineage: list[Path], tmp_path: Path) -> None:
    page = Page(report(lineage[:2], tmp_path / "r.html"))
    before, after = (
        pl.read_parquet(run / "represent/searches.parquet").filter(task="image_search", split="test")
        for run in lineage[:2]
    )
    both = before.join(after, on=["search_id", "item_id"], suffix="_after")
    won = both.filter(pl.col("rank") >= 10, pl.col("rank_after") < 10).height
    assert won and f"first does not: {won} of {before.height} searches" in page.text


def test_figures_are_whole_svg_with_a_text_that_says_what_they_show(page: Page) -> None:
    drawings = re.findall(r'<svg class="fig".*?</svg>', page.html, re.S)
    assert len(drawings) > 5
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.get("role") == "img" and len(root.get("aria-label") or "") > 20
        assert "nan" not in drawing


def test_everything_missing_is_named_with_what_to_do(page: Page, lineage: list[Path]) -> None:
    runs = " ".join(map(str, lineage))
    assert f"moonlib exchange {runs}" in page.text
    assert "moonlib scale --config STUDY" in page.text
    assert f"moonlib abtest BASE {lineage[2]}" in page.text
    assert "only a simulated data set has an oracle" in page.text


def test_studies_are_read_where_they_are(runs: list[Path]) -> None:
    place = runs[0].parent
    point = {"run": "first", "iteration": "first", "dataset": "x", "stage": "posttrain", "step": 1}
    points = [point | {"metrics": {"image_search/recall@10": x, "ctr/auc": 0.5 + x / 10}} for x in (0.2, 0.4)]
    rate = {"intermediate": "image_search/recall@10", "downstream": "ctr/auc", "estimate": 0.1, "low": None}
    rate |= {"high": None, "spearman": 1.0, "loo_error": None, "points": 2, "runs": 1}
    exchange = {"split": "test", "points": points, "rates": [rate], "steer_by": {"ctr/auc": rate | {"sure": None}}}
    (place / "exchange.json").write_text(json.dumps(exchange))
    (place / "negatives").mkdir()
    axis = "negatives per query"
    grid = [{"x": {axis: x}, "seed": 0, "y": 0.9 - x**-0.5, "run": "r"} for x in (10, 100, 1000)]
    known = {name: {"estimate": v, "low": None, "high": None} for name, v in (("E", 0.1), ("A", 1), ("alpha", 0.5))}
    scale = {"study": "negatives", "axes": [axis], "metric": "recall", "goal": "max", "points": grid}
    scale |= {"fit": {"parameters": known, "verdict": "a power law <b>"}, "more": [scale | {"metric": "other"}]}
    (place / "negatives/scale.json").write_text(json.dumps(scale))
    (runs[1] / "abtest").mkdir()
    lift = {"estimate": 0.021, "low": 0.015, "high": 0.027}
    test = {"base": "first", "run": "second", "users": 4000, "lifts": {"all": lift}, "oracle": {"all": 0.1}}
    (runs[1] / "abtest/first.json").write_text(json.dumps(test | {"share_of_oracle": {"all": [0.21, 0.1, 0.3]}}))
    page = Page(report(runs))
    assert "A gain of .10 in recall goes with +0.0100 of AUC" in page.text
    assert "Steer ctr/auc by image_search/recall@10" in page.text
    assert "a power law <b>" in page.text and "fitted law" in page.text and "negatives: other" in page.text
    assert "+2.1 % [+1.5, +2.7], 95 %" in page.text.replace("\u00a0", " ")
    assert "21 % of the oracle's" in page.text.replace("\u00a0", " ")
    assert "moonlib exchange" not in page.text and "moonlib scale" not in page.text


def test_drift_is_read_where_it_is_and_asked_for_where_a_run_began_from_another(runs: list[Path]) -> None:
    assert "moonlib drift" not in Page(report(runs)).text
    recipe = runs[1] / "recipe.yaml"
    began = yaml.safe_load(recipe.read_text())
    posttrain = began["stages"]["posttrain"]["module"]["init_args"]
    posttrain["compatible_with"] = "runs/week0"  # which is not there, so that no command can compare them
    recipe.write_text(yaml.safe_dump(began, sort_keys=False))
    assert "moonlib drift" not in Page(report(runs)).text
    posttrain["compatible_with"] = str(runs[0])
    recipe.write_text(yaml.safe_dump(began, sort_keys=False))
    page = Page(report(runs))
    assert f"no {runs[1]}/drift/*.json: `moonlib drift {runs[0]} {runs[1]}`" in page.text
    found = drift(runs[0], runs[1], out=runs[1] / "drift/week0.json")
    page = Page(report(runs))
    assert "moonlib drift" not in page.text
    (table,) = [rows for caption, rows in page.tables if "recall of one run's queries" in caption]
    assert [row[0] for row in table] == ["", "all", *found.segments]
    overlap = found.everything.overlap
    assert overlap is not None and f"{overlap.estimate:.3f}" in table[1][3]
    assert f"{found.everything.recall['new on old'].estimate:.3f}" in table[1][5]
    # The run was made anew since.
    file = runs[1] / "drift/week0.json"
    file.write_text(file.read_text().replace(found.versions["new"], "0123456789abcdef"))
    page = Page(report(runs))
    assert f"{file} is of vectors that the run does not have any more: `moonlib drift" in page.text
    assert not [caption for caption, _ in page.tables if "recall of one run's queries" in caption]


def test_of_many_rates_those_that_predict_best_are_shown(runs: list[Path]) -> None:
    rates = [
        {"intermediate": f"metric{i}", "downstream": downstream, "estimate": 0.1, "low": 0.05, "high": 0.2}
        | {"spearman": 0.5, "loo_error": (i * 7 % 30) / 100, "points": 9, "runs": 9}
        for downstream in ("ctr/gauc", "ctr/auc")
        for i in range(30)
    ]
    (runs[0].parent / "exchange.json").write_text(json.dumps({"split": "test", "points": [], "rates": rates}))
    text = Page(report(runs)).text
    by_error = sorted(range(30), key=lambda i: i * 7 % 30)
    assert [f"metric{i}" for i in by_error[:12]] == re.findall(r"metric\d+", text)[:12]
    assert len(re.findall(r"metric\d+", text)) == 12 + 2 and "all stand in exchange.json" in text


@pytest.mark.parametrize("content", ["{", "[]", '{"points": 3, "rates": {}, "steer_by": [], "lifts": 5, "fit": []}'])
def test_a_broken_file_of_a_study_stops_nothing(runs: list[Path], content: str) -> None:
    places = [runs[0].parent / "exchange.json", runs[0].parent / "x/scale.json", runs[1] / "abtest/first.json"]
    for place in (*places, runs[1] / "drift/first.json"):
        place.parent.mkdir(exist_ok=True)
        place.write_text(content)
    page = Page(report(runs))
    told = {"{": "is no JSON file that can be read", "[]": "holds no JSON object, but '[]'"}.get(content)
    for place, key in zip(places, ("points", "points", "lifts"), strict=True):
        assert (f"{place} {told}" if told else f"{place}: '{key}' is '") in page.text


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("results.json", '{"ctr/auc": {"test": 1}}', "'ctr/auc' is \"{'test': 1}\", and no finite number"),
        ("results.json", "[1]", "holds no JSON object, but '[1]'"),
        ("costs.json", "[]", "holds no JSON object, but '[]'"),
        (
            "costs.json",
            '{"represent": {"seconds": "long"}}',
            "'seconds' of 'represent' is 'long', and should be a number",
        ),
        ("costs.json", None, "is no JSON file that can be read"),
        ("recipe.yaml", "stages: [", "cannot be read"),
        ("recipe.yaml", "[" * 5000, "the run's stages are told without it"),
        ("represent/identity.json", "{", "is no JSON file that can be read"),
        ("represent/metrics.json", "3", "holds no JSON object, but '3'"),
        ("represent/searches.parquet", "", "is no Parquet file that can be read"),
        ("application/predictions.parquet", None, "is no Parquet file that can be read"),
        ("posttrain/csv/metrics.csv", "<html>", "is no CSV log, it has no column 'step'"),
        ("posttrain/csv/metrics.csv", "step,loss\n1,a\n", "is no CSV log that can be read"),
        ("posttrain/filters.json", '[{"filter": "x", "tables": 3}]', "is not what filters leave"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_told(
    runs: list[Path], name: str, content: str | None, told: str
) -> None:
    file = runs[1] / name
    if "/" in name:
        own(runs[1], Path(name).parts[0])
    file.unlink(missing_ok=True)
    if content is None:
        file.mkdir()
    else:
        file.write_text(content)
    page = Page(report(runs))
    assert str(file) in page.text and told in page.text
    assert page.table("Image search, test days") and page.table("Seconds of each stage")


def test_a_flipped_bit_and_a_probability_that_is_text_are_told(runs: list[Path]) -> None:
    file = own(runs[1], "application") / "predictions.parquet"
    seal(file.parent)
    whole = file.read_bytes()
    file.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    text = Page(report(runs)).text
    assert f"{file} is damaged: its SHA-256 is" in text
    (file.parent / SUMS).unlink()
    pl.read_parquet(io.BytesIO(whole)).cast({"probability": pl.String}).write_parquet(file)
    assert f"{file}: column 'probability' holds String, and should hold floats" in Page(report(runs)).text
    pl.read_parquet(io.BytesIO(whole)).with_columns(pl.col("probability") + 1).write_parquet(file)
    assert f"{file}: a probability is 1." in Page(report(runs)).text


def test_without_its_recipe_a_run_still_tells_what_its_stages_left(runs: list[Path]) -> None:
    before = Page(report(runs[1:])).table("Clicks, test days")
    (runs[1] / "recipe.yaml").unlink()
    page = Page(report(runs[1:]))
    assert f"{runs[1]} is not a run directory, it has no recipe.yaml" in page.text
    assert page.table("Clicks, test days") == before


@pytest.mark.parametrize("name", ["PanicException", "KeyError"])
def test_a_section_that_cannot_be_written_is_named(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kind = type(name, (BaseException if name == "PanicException" else Exception,), {})

    def stop(*_: object) -> None:
        raise kind("index out of bounds")

    monkeypatch.setitem(SECTIONS, "Calibration", stop)
    page = Page(report(runs))
    assert f"{name}: index out of bounds; copy the run's files again" in page.text and "Calibration" in page.text


def test_one_run_has_its_page_in_itself(runs: list[Path]) -> None:
    path = report(runs[:1])
    assert path == runs[0] / "report.html"
    assert "One run" in Page(path).text and not list(runs[0].glob(".*partial*"))


def test_a_run_without_data_or_results_is_still_told_of(runs: list[Path]) -> None:
    (runs[1] / "results.json").unlink()
    recipe = runs[0] / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("lineage", "moved"))
    page = Page(report(runs[::-1]))
    assert f"{runs[1]} has no results yet" in page.text
    assert "its data is not in" in page.text
    assert "AUC" in page.text


def test_other_impressions_are_told_and_not_paired(runs: list[Path]) -> None:
    file = own(runs[1], "application") / "predictions.parquet"
    table = pl.read_parquet(file)
    table.head(len(table) - 3).write_parquet(file)
    page = Page(report(runs))
    assert "second: its impressions are not those of the first run on the same data" in page.text
    auc = next(row for row in page.table("Clicks, test days") if row[0] == "AUC")
    assert "[" not in auc[1] and "[" in auc[2]


def test_seeds_of_one_recipe_stand_side_by_side(runs: list[Path]) -> None:
    recipe = runs[1] / "recipe.yaml"
    shutil.copy(runs[0] / "recipe.yaml", recipe)
    recipe.write_text(recipe.read_text().replace("seed: 0", "seed: 1"))
    page = Page(report(runs))
    assert page.table("Keys of the recipe")[1:] == [["seed", "0", "1"]]


def test_filters_and_quarantine_are_counted(runs: list[Path]) -> None:
    stage = own(runs[1], "posttrain")
    reasons = [json.dumps({"table": "products", "id": i, "reason": "broken"}) for i in range(7)]
    (stage / "quarantine.jsonl").write_text("\n".join(reasons) + "\n")
    filters = json.loads((stage / "filters.json").read_text())
    filters[0]["tables"]["searches"] |= {"in": 200, "out": 150, "removed": {"<i>why</i>": 50}}
    (stage / "filters.json").write_text(json.dumps(filters))
    page = Page(report(runs))
    assert ["posttrain: SpuMerge", "searches", "200", "150", "25.0", "<i>why</i>: 50"] in page.table("What filters")
    assert ["posttrain", "7", str(stage / "quarantine.jsonl")] in page.table("Samples that could not be read")


def test_mistakes_are_told(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        report([])
    with pytest.raises(ValueError, match="given twice"):
        report([runs[0], runs[0]])
    with pytest.raises(RunError, match="not a run directory"):
        report([tmp_path])


def test_command_line(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", *map(str, runs), "--out", "told.html"]) == 0
    assert capsys.readouterr().out.startswith("report: told.html, ")
    assert main(["report", "nowhere"]) == 2
    assert capsys.readouterr().err == "moonlib: nowhere: there is no such run directory\n"


def test_headings_descend_one_level_at_a_time(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_controls_of_titles_and_recipes_are_shown_as_what_they_are(lineage: list[Path], tmp_path: Path) -> None:
    page = report(lineage[:2], tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", page)
    assert r"\x1b[2J\x00" in page and r"\x1b[31m\x00\x9b" in page
