"""Figures as small inline SVG, drawn with the page's own colours and fonts so that light, dark and print agree.

A figure is 360 units wide, about what a phone shows at full size. Series differ in colour, in marker and in dash, so no
reading depends on colour. Every figure has a text of what it shows for those who do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from moonlib.metrics.bootstrap import Interval

WIDTH = 360
STYLES = 6
"""How many series can be told apart; further ones begin anew."""

_LETTER = 6.4  # mean width of a letter of the ticks' size
_POINTS = 300  # of a line; more are thinned out


@dataclass(frozen=True)
class PlotAxis:
    """One axis of a figure.

    Attributes:
        label: what it measures, with the unit.
        log: logarithmic.
        low: where it begins at the latest.
        high: where it ends at the earliest.
    """

    label: str
    log: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class PlotSeries:
    """Points that belong together.

    Attributes:
        label: for the legend.
        points: (x, y) each.
        intervals: (low, high) of each y, if known.
        style: colour, marker and dash, from 0.
        line: join the points.
        marks: draw the points.
        names: of the points, shown beside them.
    """

    label: str
    points: Sequence[tuple[float, float]]
    intervals: Sequence[tuple[float, float]] = ()
    style: int = 0
    line: bool = False
    marks: bool = True
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Row:
    """One row of a `forest`.

    Attributes:
        label: at the left.
        value: the mark, and its interval unless that is NaN.
        text: at the right.
        style: as of `PlotSeries`.
        beside: a second, hollow mark below the first.
    """

    label: str
    value: Interval
    text: str = ""
    style: int = 0
    beside: Interval | None = None


@dataclass(frozen=True)
class Figure:
    """A figure and the words around it.

    Attributes:
        title: above it.
        svg: the drawing.
        caption: below it.
        legend: a swatch and a label each.
    """

    title: str
    svg: Markup
    caption: str = ""
    legend: Sequence[tuple[Markup, str]] = ()


def legend(series: Sequence[PlotSeries]) -> list[tuple[Markup, str]]:
    """A swatch and a label for each series."""
    found = []
    for one in series:
        parts = []
        if one.line:
            parts.append(f'<path class="ln c{one.style % STYLES}" d="M1 6H25"/>')
        if one.marks:
            parts.append(_mark(13, 6, one.style))
        found.append((_svg(26, 12, "", parts, "sw"), one.label))
    return found


def swatch(style: int, *, hollow: bool = False) -> Markup:
    """The mark of a style."""
    return _svg(26, 12, "", [_mark(13, 6, style, hollow=hollow)], "sw")


def xy(series: Sequence[PlotSeries], x: PlotAxis, y: PlotAxis, about: str, *, diagonal: bool = False) -> Markup:
    """Draw series of points and lines.

    Args:
        series: what to draw.
        x: the horizontal axis.
        y: the vertical axis.
        about: what the figure shows, in words.
        diagonal: draw the line y = x.
    """
    height, top, bottom, right = 240, 10, 40, 12
    of_x = [point[0] for one in series for point in one.points]
    of_y = [point[1] for one in series for point in one.points]
    of_y += [end for one in series for interval in one.intervals for end in interval]
    across, up = _Scale.of(of_x, x, 5), _Scale.of(of_y, y, 5)
    left = 26 + max((len(text) for _, text in up.ticks), default=1) * _LETTER
    across, up = across.on(left, WIDTH - right), up.on(height - bottom, top)
    parts = []
    for value, text in up.ticks:
        parts.append(f'<path class="gr" d="M{_n(left)} {_n(up(value))}H{WIDTH - right}"/>')
        parts.append(f'<text class="tk" x="{_n(left - 5)}" y="{_n(up(value) + 3.5)}" text-anchor="end">{text}</text>')
    for value, text in across.ticks:
        parts.append(f'<path class="ax" d="M{_n(across(value))} {height - bottom}v4"/>')
        parts.append(
            f'<text class="tk" x="{_n(across(value))}" y="{height - bottom + 15}" text-anchor="middle">{text}</text>'
        )
    parts.append(f'<path class="ax" d="M{_n(left)} {height - bottom}H{WIDTH - right}"/>')
    middle = (left + WIDTH - right) / 2
    parts.append(f'<text class="lb" x="{_n(middle)}" y="{height - 6}" text-anchor="middle">{escape(x.label)}</text>')
    parts.append(
        f'<text class="lb" transform="translate(11 {_n((top + height - bottom) / 2)}) rotate(-90)" '
        f'text-anchor="middle">{escape(y.label)}</text>'
    )
    if diagonal:
        low, high = max(across.low, up.low), min(across.high, up.high)
        if low < high:
            ends = f"M{_n(across(low))} {_n(up(low))}L{_n(across(high))} {_n(up(high))}"
            parts.append(f'<path class="ref" d="{ends}"/>')
    for one in series:
        if one.line and len(one.points) > 1:
            step = max(1, len(one.points) // _POINTS)
            thinned = [*one.points[:-1:step], one.points[-1]]
            path = "L".join(f"{_n(across(a))} {_n(up(b))}" for a, b in thinned)
            parts.append(f'<path class="ln c{one.style % STYLES}" d="M{path}"/>')
        for (a, _), (low, high) in zip(one.points, one.intervals, strict=False):
            if math.isfinite(low) and math.isfinite(high):
                ends = f"M{_n(across(a))} {_n(up(low))}V{_n(up(high))}"
                parts.append(f'<path class="iv c{one.style % STYLES}" d="{ends}"/>')
        if one.marks:
            parts += [_mark(across(a), up(b), one.style) for a, b in one.points]
    places = [(across(a), up(b), name) for one in series for (a, b), name in zip(one.points, one.names, strict=False)]
    parts += _names(places, top, height - bottom)
    return _svg(WIDTH, height, about, parts)


def _names(places: Sequence[tuple[float, float, str]], top: float, bottom: float) -> list[str]:
    """Write names beside points, none over another where there is room."""
    parts: list[str] = []
    taken: list[tuple[float, float, float]] = []  # left, right, baseline
    for x, y, name in places:
        width = len(name) * _LETTER
        beyond = x + 8 + width > WIDTH
        left = x - 7 - width if beyond else x + 7
        lines = [y + shift for shift in (-6, 12, -18, 24, -30, 36, -42, 48)]
        free = (
            line
            for line in lines
            if top + 6 <= line <= bottom - 2
            and not any(left < end and start < left + width and abs(line - used) < 11 for start, end, used in taken)
        )
        line = next(free, lines[0])
        taken.append((left, left + width, line))
        anchor, edge = ("end", x - 7) if beyond else ("start", x + 7)
        parts.append(f'<text class="nm" x="{_n(edge)}" y="{_n(line)}" text-anchor="{anchor}">{escape(name)}</text>')
    return parts


def forest(rows: Sequence[Row], axis: PlotAxis, about: str, *, zero: float | None = None) -> Markup:
    """Draw values with their intervals, one below the other.

    Args:
        rows: from top to bottom.
        axis: what they measure.
        about: what the figure shows, in words.
        zero: where a vertical line tells gain from loss.
    """
    step = 30 if any(row.beside for row in rows) else 22
    top, bottom = 6, 40
    height = top + step * len(rows) + bottom
    values = [value for row in rows for each in (row.value, row.beside) if each for value in _ends(each)]
    if zero is not None:
        values.append(zero)
    left = 10 + min(max((len(row.label) for row in rows), default=1), 22) * _LETTER
    right = WIDTH - 10 - max((len(row.text) for row in rows), default=0) * _LETTER
    scale = _Scale.of(values, axis, max(2, int((right - left) / 46))).on(left, right)
    floor = top + step * len(rows)
    parts = []
    for value, text in scale.ticks:
        parts.append(f'<path class="gr" d="M{_n(scale(value))} {top}V{floor}"/>')
        parts.append(f'<text class="tk" x="{_n(scale(value))}" y="{floor + 14}" text-anchor="middle">{text}</text>')
    if zero is not None:
        parts.append(f'<path class="ref" d="M{_n(scale(zero))} {top}V{floor}"/>')
    label = f'x="{_n((left + right) / 2)}" y="{height - 6}" text-anchor="middle"'
    parts.append(f'<text class="lb" {label}>{escape(axis.label)}</text>')
    for i, row in enumerate(rows):
        middle = top + step * (i + 0.5)
        short = row.label if len(row.label) <= 22 else row.label[:21] + "…"
        parts.append(
            f'<text class="tk" x="{_n(left - 8)}" y="{_n(middle + 3.5)}" text-anchor="end">{escape(short)}</text>'
        )
        parts.append(f'<text class="tk" x="{WIDTH}" y="{_n(middle + 3.5)}" text-anchor="end">{escape(row.text)}</text>')
        shift = 5 if row.beside else 0
        for each, y, hollow in ((row.value, middle - shift, False), (row.beside, middle + shift, True)):
            if each is None or not math.isfinite(each.estimate):
                continue
            style = row.style + hollow
            if math.isfinite(each.low) and math.isfinite(each.high):
                ends = f"M{_n(scale(each.low))} {_n(y)}H{_n(scale(each.high))}"
                parts.append(f'<path class="iv c{style % STYLES}" d="{ends}"/>')
            parts.append(_mark(scale(each.estimate), y, style, hollow=hollow))
    return _svg(WIDTH, height, about, parts)


@dataclass(frozen=True)
class _Scale:
    """Values to places on the page, and the ticks between."""

    low: float
    high: float
    log: bool
    ticks: list[tuple[float, str]]
    start: float = 0.0
    end: float = 1.0

    @classmethod
    def of(cls, values: Sequence[float], axis: PlotAxis, count: int) -> _Scale:
        finite = [value for value in values if math.isfinite(value) and (value > 0 or not axis.log)]
        finite += [end for end in (axis.low, axis.high) if end is not None]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        if axis.log and low > 0:
            return cls(low / 1.15, high * 1.15, True, _log_ticks(low / 1.15, high * 1.15))
        if high - low < 1e-12:
            low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
        pad = 0.05 * (high - low)
        low = low - pad if axis.low is None or low < axis.low else low
        high = high + pad if axis.high is None or high > axis.high else high
        return cls(low, high, False, _ticks(low, high, count))

    def on(self, start: float, end: float) -> _Scale:
        return _Scale(self.low, self.high, self.log, self.ticks, start, end)

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, -0.02), 1.02) * (self.end - self.start)


def _ticks(low: float, high: float, count: int) -> list[tuple[float, str]]:
    """About ``count`` round numbers from low to high."""
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(i * step, _compact(i * step, digits)) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round numbers, at most about six, from low to high on a logarithmic axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        if len(found) <= 6:
            break
    return [(value, _compact(value, max(0, -math.floor(math.log10(value) + 1e-9)))) for value in found]


def _compact(value: float, digits: int) -> str:
    """A tick's text."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= size * (10 if unit == "k" else 1):
            return f"{value / size:g}{unit}".replace("-", "−")
    text = f"{value:.{digits}f}"
    return (text if float(text) else text.lstrip("-")).replace("-", "−")


def _ends(value: Interval) -> tuple[float, float, float]:
    return value.estimate, value.low, value.high


def _mark(x: float, y: float, style: int, *, hollow: bool = False) -> str:
    """A marker of a style: circle, square, triangle, diamond, plus, cross."""
    kind = style % STYLES
    if kind == 0:
        shape = f'<circle cx="{_n(x)}" cy="{_n(y)}" r="3.6"'
    else:
        paths = {
            1: "m-3.3 -3.3h6.6v6.6h-6.6z",
            2: "m0 -4.4l4.2 7.4h-8.4z",
            3: "m0 -4.8l4.4 4.8l-4.4 4.8l-4.4 -4.8z",
            4: "m-4.2 0h8.4m-4.2 -4.2v8.4",
            5: "m-3.2 -3.2l6.4 6.4m0 -6.4l-6.4 6.4",
        }
        shape = f'<path d="M{_n(x)} {_n(y)}{paths[kind]}"'
    return f'{shape} class="mk c{kind}{" ho" if hollow else ""}"/>'


def _svg(width: int, height: float, about: str, parts: Sequence[str], cls: str = "fig") -> Markup:
    role = f'role="img" aria-label="{escape(about)}"' if about else 'aria-hidden="true"'
    return Markup(f'<svg class="{cls}" viewBox="0 0 {width} {_n(height)}" {role}>{"".join(map(str, parts))}</svg>')


def _n(value: float) -> str:
    """A coordinate, to a tenth."""
    return f"{value:.1f}".removesuffix(".0")
