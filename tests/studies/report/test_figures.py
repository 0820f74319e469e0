from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from moonlib.metrics.bootstrap import Interval
from moonlib.studies.report.figures import PlotAxis, PlotSeries, Row, forest, legend, xy


def texts(drawing: str, cls: str) -> list[ElementTree.Element]:
    return [each for each in ElementTree.fromstring(drawing).iter("text") if each.get("class") == cls]


def middle(drawing: str, shape: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(shape + r' cx="([\d.]+)" cy="([\d.]+)"', drawing)]


def test_points_are_where_the_ticks_say() -> None:
    series = [PlotSeries("a", [(0.0, 10.0), (5.0, 20.0), (10.0, 30.0)])]
    drawing = xy(series, PlotAxis("steps"), PlotAxis("loss"), "about")
    ticks = {
        each.text: float(each.get("x") or 0) for each in texts(drawing, "tk") if each.get("text-anchor") == "middle"
    }
    found = middle(drawing, "<circle")
    assert [x for x, _ in found] == pytest.approx([ticks["0"], (ticks["0"] + ticks["10"]) / 2, ticks["10"]], abs=0.2)
    assert found[0][1] > found[1][1] > found[2][1]  # up is more


def test_a_logarithmic_axis_puts_equal_factors_at_equal_distances() -> None:
    drawing = xy(
        [PlotSeries("a", [(10.0, 1), (100.0, 1), (1000.0, 1)])], PlotAxis("n", log=True), PlotAxis("y"), "about"
    )
    x = [x for x, _ in middle(drawing, "<circle")]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)


def test_words_are_escaped() -> None:
    series = [PlotSeries("<b>", [(0, 0), (1, 1)], names=["<i>", "&"])]
    drawing = xy(series, PlotAxis("<x>"), PlotAxis('"y"'), 'about "<all>"')
    root = ElementTree.fromstring(drawing)
    assert root.get("aria-label") == 'about "<all>"'
    assert {each.text for each in texts(drawing, "nm")} == {"<i>", "&"}
    rows = [Row("<script>", Interval(0.1, 0, 0.2), "<u>")]
    assert "<script>" not in forest(rows, PlotAxis("<x>"), "about")


def test_names_of_equal_points_stand_apart() -> None:
    series = [PlotSeries("runs", [(0.5, 0.5)] * 4, names=["iter1", "iter2", "iter3", "iter4"])]
    drawing = xy(series, PlotAxis("x"), PlotAxis("y"), "about")
    lines = sorted(float(each.get("y") or 0) for each in texts(drawing, "nm"))
    assert min(b - a for a, b in itertools.pairwise(lines)) >= 11


def test_what_is_not_known_is_not_drawn() -> None:
    rows = [Row("a", Interval(0.5, math.nan, math.nan)), Row("b", Interval(math.nan, math.nan, math.nan))]
    drawing = forest(rows, PlotAxis("x"), "about")
    assert "nan" not in drawing and 'class="iv' not in drawing
    assert len(middle(drawing, "<circle")) == 1


def test_series_differ_without_colour() -> None:
    series = [PlotSeries(str(i), [(0, i), (1, i)], style=i, line=True) for i in range(6)]
    marks = [re.sub(r'c\d|M13 6| class="[^"]*"', "", swatch.partition("M1 6H25")[2]) for swatch, _ in legend(series)]
    assert len(set(marks)) == 6


def test_long_lines_are_thinned_and_keep_their_ends() -> None:
    points = [(float(i), float(i % 7)) for i in range(10_001)]
    drawing = xy([PlotSeries("loss", points, line=True, marks=False)], PlotAxis("steps"), PlotAxis("loss"), "about")
    assert len(drawing) < 15_000
    path = re.search(r'class="ln c0" d="M([\d. L]+)"', drawing)
    assert path is not None
    x = [float(place.split()[0]) for place in path[1].split("L")]
    full = xy(
        [PlotSeries("loss", [points[0], points[-1]])], PlotAxis("steps", low=0, high=10_000), PlotAxis("loss"), "about"
    )
    assert x[0] < 60 and x[-1] == pytest.approx(middle(full, "<circle")[-1][0], abs=15)


def test_one_point_and_none_are_no_error() -> None:
    for points in ([], [(3.0, 0.0)]):
        ElementTree.fromstring(xy([PlotSeries("a", points)], PlotAxis("x", log=True), PlotAxis("y"), "about"))
    ElementTree.fromstring(forest([], PlotAxis("x"), "about", zero=0.0))
