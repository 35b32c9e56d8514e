"""Small inline SVG plots: lines with bands, ranges and dots with whiskers. Colours come from the page's style sheet.

Every plot is drawn twice, wide and narrow, and the style sheet shows the one that fits: text stays readable on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Literal

from markupsafe import Markup

Point = tuple[float, float]
Key = tuple[str, str, Literal["line", "dotted", "dot"]]

WIDE, NARROW = 720, 340
LETTER = 7.4
"""Width of a letter of a bold label, on average."""
DENSE = 40
"""Lines with more points than this are drawn without a dot on each."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot.

    Attributes:
        label: Name in the legend.
        style: Class of the style sheet: `mrl`, `supervised`, `smat`, `swapped`, `empty`, `oracle` or `plain`.
        points: x and y of each point, sorted by x.
        band: Lower and upper end at each point, or nothing.
    """

    label: str
    style: str
    points: Sequence[Point]
    band: Sequence[Point] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """One value with its extent: a row of a dot plot or a column of a range plot; `points` are single values behind it."""

    label: str
    style: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    points: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis in data units, drawn between two pixel positions."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixel position of a value."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from at or above `low` to at or below `high`, about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def number(value: float | None, digits: int = 2) -> str:
    """A number for people: fixed digits, but at least one that is not zero down to 0.0001; a dash for nothing."""
    if value is None or not math.isfinite(value):
        return "–"
    if 1e-4 <= abs(value) < 0.5 * 10.0**-digits:
        digits = math.ceil(-math.log10(abs(value)))
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def plot(draw: Callable[[int], Markup], *, half: bool = False) -> Markup:
    """Both widths of a plot, as the style sheet expects them; a half plot is always as narrow as one of two columns."""
    if half:
        return Markup('<div class="plot">{}</div>').format(draw(NARROW))
    return Markup('<div class="plot wide">{}</div><div class="plot narrow">{}</div>').format(draw(WIDE), draw(NARROW))


def legend(entries: Sequence[Key]) -> Markup:
    """The legend of a plot: (label, style, kind of mark) for each entry."""
    items = Markup().join(
        Markup('<li><svg class="key" width="26" height="10" aria-hidden="true">{}</svg>{}</li>').format(_key(style, kind), label)
        for label, style, kind in entries
    )
    return Markup('<ul class="legend">{}</ul>').format(items)


def _key(style: str, kind: str) -> Markup:
    if kind == "dot":
        return Markup('<circle class="dot {}" cx="13" cy="5" r="4"/>').format(style)
    return Markup('<line class="line {} {}" x1="1" y1="5" x2="25" y2="5"/>').format(style, "dotted" if kind == "dotted" else "")


def line_plot(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "",
    y_range: tuple[float, float] | None = None,
    x_whole: bool = True,
    level: float | None = None,
    borders: Sequence[tuple[float, str]] = (),
    height: int = 300,
) -> Callable[[int], Markup]:
    """A plot of lines with optional bands.

    Args:
        series: The lines; bands are drawn below all of them.
        title: Said to screen readers.
        x_label: Label below the x axis.
        y_range: Fixed range of y; by default it follows the data.
        x_whole: Only whole numbers on the x axis.
        level: A dotted horizontal line (chance).
        borders: x positions of thin vertical lines with a short label (curriculum stages).
        height: Height in pixels.

    Returns:
        A function from width in pixels to the drawing.
    """

    def draw(width: int) -> Markup:
        xs = [x for item in series for x, _ in item.points]
        x_low, x_high = min(xs), max(xs)
        pad = 0.5 if x_high == x_low else 0.0
        low, high = y_range or _y_range(series)
        x_axis = Axis(x_low - pad, x_high + pad, 44, width - 14)
        y_axis = Axis(low, high, height - (40 if x_label else 26), 16 if borders else 10)
        marks = _x_ticks(x_low, x_high, whole=x_whole, count=8 if width > 500 else 5)
        parts = [_y_grid(y_axis, x_axis), _x_grid(marks, x_axis, y_axis, x_label, height)]
        parts += [_border(x, label, x_axis, y_axis) for x, label in _inside(borders, x_low, x_high)]
        parts += [_band(item, x_axis, y_axis) for item in series if item.band]
        if level is not None:
            parts.append(_hline(level, x_axis, y_axis))
        parts += [_line(item, x_axis, y_axis) for item in series]
        return svg(width, height, f"{title}. {'; '.join(map(_spoken, series))}", parts)

    return draw


def dot_plot(
    rows: Sequence[Mark], *, title: str, x_range: tuple[float, float] = (0.0, 1.0), level: float | None = None
) -> Callable[[int], Markup]:
    """One row for each mark: its label, a dot with whiskers, and its value in figures at the right."""

    def draw(width: int) -> Markup:
        gutter, step, top = (190 if width > 500 else 128), 34, 8
        height = top + step * len(rows) + 28
        x_axis = Axis(*x_range, gutter, width - 56)
        y_axis = Axis(0, len(rows), top, top + step * len(rows))
        marks = ticks(*x_range, count=5 if width > 500 else 2)
        parts = [_x_grid(marks, x_axis, Axis(0, 1, y_axis.end, y_axis.start), "", height, lines=True)]
        if level is not None:
            x = x_axis(level)
            parts.append(tag('<line class="level" x1="{}" x2="{}" y1="{}" y2="{}"/>', x, x, y_axis.start, y_axis.end))
        parts += [_dot_row(row, x_axis, y_axis(index + 0.5), gutter, width) for index, row in enumerate(rows)]
        return svg(width, height, f"{title}. {'; '.join(map(_said, rows))}", parts)

    return draw


def range_plot(
    columns: Sequence[Mark], *, title: str, y_range: tuple[float, float], x_label: str = "", height: int = 260
) -> Callable[[int], Markup]:
    """One column for each mark: a bar from its lowest to its highest value with a dot at the mean, means joined by a line."""

    def draw(width: int) -> Markup:
        x_axis = Axis(0, len(columns), 44, width - 14)
        y_axis = Axis(*y_range, height - (56 if x_label else 40), 10)
        parts = [_y_grid(y_axis, x_axis)]
        centres = [x_axis(index + 0.5) for index in range(len(columns))]
        path = " ".join(f"{x:.1f},{y_axis(mark.value):.1f}" for x, mark in zip(centres, columns, strict=True))
        every = math.ceil(len(columns) / max(1, (width - 58) // 44))
        for index, (x, mark) in enumerate(zip(centres, columns, strict=True)):
            parts.append(_column(mark, x, y_axis, named=index % every == 0))
        parts.insert(1 + len(columns), tag('<polyline class="line {} thin" points="{}"/>', columns[0].style, path))
        if x_label:
            parts.append(tag('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>', (44 + width - 14) / 2, height - 6, x_label))
        return svg(width, height, f"{title}. {'; '.join(map(_said, columns))}", parts)

    return draw


def _inside(borders: Sequence[tuple[float, str]], low: float, high: float) -> list[tuple[float, str]]:
    """The borders within the axis; of those before it the last one, which begins the part that is shown, at its start."""
    before = [border for border in borders if border[0] <= low]
    return [(low, label) for _, label in before[-1:]] + [border for border in borders if low < border[0] <= high]


def _spoken(series: Series) -> str:
    """A line for those who cannot see it."""
    (first, start), (last, end) = series.points[0], series.points[-1]
    lowest, highest = (number(pick(y for _, y in series.points), 3) for pick in (min, max))
    if len(series.points) == 1:
        return f"{series.label}: {number(start, 3)} at {first:,g}"
    return f"{series.label}: from {number(start, 3)} at {first:,g} to {number(end, 3)} at {last:,g}, between {lowest} and {highest}"


def _said(mark: Mark) -> str:
    """A mark for those who cannot see it."""
    span = "" if mark.low is None or mark.high is None else f", {number(mark.low, 3)} to {number(mark.high, 3)}"
    return f"{mark.label}: {number(mark.value, 3)}{span}"


def svg(width: int, height: float, title: str, parts: Sequence[Markup]) -> Markup:
    """A drawing that screen readers take for one picture with the title as its name."""
    body = Markup("\n").join(parts)
    return tag('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>', width, height, title, body)


def tag(form: str, *values: object) -> Markup:
    """Fills an SVG form; numbers are cut to a tenth of a pixel, all else is escaped."""
    return Markup(form).format(*(f"{value:.1f}" if isinstance(value, float) else value for value in values))


def _y_range(series: Sequence[Series]) -> tuple[float, float]:
    ys = [y for item in series for _, y in item.points] + [end for item in series for pair in item.band for end in pair]
    low, high = min(ys), max(ys)
    if low >= 0 and low < 0.4 * high:
        low = 0.0
    room = 0.06 * ((high - low) or abs(high) or 1.0)
    return (low if low == 0.0 else low - room), high + room


def _x_ticks(low: float, high: float, *, whole: bool, count: int) -> list[float]:
    if whole and high - low < 2 * count:
        step = max(1, math.ceil((high - low + 1) / (2 * count)))
        return [float(x) for x in range(math.ceil(low), math.floor(high) + 1, step)]
    return [x for x in ticks(low, high, count) if not whole or float(x).is_integer()]


def _y_grid(y_axis: Axis, x_axis: Axis) -> Markup:
    marks = ticks(y_axis.low, y_axis.high, 5 if abs(y_axis.start - y_axis.end) > 150 else 3)
    step = marks[1] - marks[0] if len(marks) > 1 else abs(marks[0])
    digits = min(5, max(0, math.ceil(-math.log10(step) - 1e-9))) if step else 0
    digits += step > 0 and abs(round(step * 10**digits) - step * 10**digits) > 1e-6
    form = ".2g" if 0 < step < 1e-5 else f",.{digits}f"
    rows = (
        tag(
            '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text class="tick" x="{}" y="{}" text-anchor="end">{}</text>',
            x_axis.start, x_axis.end, y_axis(y), y_axis(y), x_axis.start - 8, y_axis(y) + 4, format(y, form),
        )
        for y in marks
    )  # fmt: skip
    return Markup().join(rows)


def _x_grid(marks: Sequence[float], x_axis: Axis, y_axis: Axis, label: str, height: float, *, lines: bool = False) -> Markup:
    below = y_axis.start + 18
    parts = [tag('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>', x_axis(x), below, f"{x:,g}") for x in marks]
    if lines:
        parts += [
            tag('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>', x_axis(x), x_axis(x), y_axis.start, y_axis.end) for x in marks
        ]
    if label:
        parts.append(
            tag('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>', (x_axis.start + x_axis.end) / 2, height - 4, label)
        )
    return Markup().join(parts)


def _border(x: float, label: str, x_axis: Axis, y_axis: Axis) -> Markup:
    at = x_axis(x)
    return tag(
        '<line class="border" x1="{}" x2="{}" y1="{}" y2="{}"/><text class="tick" x="{}" y="{}">{}</text>',
        at, at, y_axis.start, y_axis.end - 8, at + 3, y_axis.end - 4, label,
    )  # fmt: skip


def _hline(value: float, x_axis: Axis, y_axis: Axis) -> Markup:
    y = y_axis(value)
    return tag('<line class="level" x1="{}" x2="{}" y1="{}" y2="{}"/>', x_axis.start, x_axis.end, y, y)


def _band(series: Series, x_axis: Axis, y_axis: Axis) -> Markup:
    xs = [x_axis(x) for x, _ in series.points]
    lower = [f"{x:.1f},{y_axis(low):.1f}" for x, (low, _) in zip(xs, series.band, strict=True)]
    upper = [f"{x:.1f},{y_axis(high):.1f}" for x, (_, high) in zip(xs, series.band, strict=True)]
    return tag('<polygon class="band {}" points="{}"/>', series.style, " ".join(upper + lower[::-1]))


def _line(series: Series, x_axis: Axis, y_axis: Axis) -> Markup:
    positions = [(x_axis(x), y_axis(y)) for x, y in series.points]
    line = tag('<polyline class="line {}" points="{}"/>', series.style, " ".join(f"{x:.1f},{y:.1f}" for x, y in positions))
    if len(positions) > DENSE:
        return line
    form = '<circle class="dot {}" cx="{}" cy="{}" r="3"><title>{}: {}</title></circle>'
    dots = (
        tag(form, series.style, x, y, series.label, number(value, 3)) for (x, y), (_, value) in zip(positions, series.points, strict=True)
    )
    return line + Markup().join(dots)


def _dot_row(row: Mark, x_axis: Axis, y: float, gutter: int, width: int) -> Markup:
    lines = wrap(row.label, int((gutter - 14) / LETTER), max_lines=2, placeholder=" …") or [""]
    places = [y + 4 + 14 * (index - (len(lines) - 1) / 2) for index in range(len(lines))]
    parts = [
        tag('<text class="row {}" x="{}" y="{}" text-anchor="end">{}</text>', row.style, gutter - 14, place, line)
        for place, line in zip(places, lines, strict=True)
    ]
    if row.low is not None and row.high is not None:
        parts.append(tag('<line class="whisker {}" x1="{}" x2="{}" y1="{}" y2="{}"/>', row.style, x_axis(row.low), x_axis(row.high), y, y))
    parts += [tag('<circle class="point {}" cx="{}" cy="{}" r="3"/>', row.style, x_axis(value), y) for value in row.points]
    hint = f"{row.label}: {number(row.value, 3)} {row.note}"
    parts.append(tag('<circle class="dot {}" cx="{}" cy="{}" r="5"><title>{}</title></circle>', row.style, x_axis(row.value), y, hint))
    parts.append(
        tag(
            '<text class="value" x="{}" y="{}" text-anchor="end">{}</text>',
            width - 6,
            y + 4,
            number(row.value, 2 if abs(row.value) > 1 else 3),
        )
    )
    return Markup().join(parts)


def _column(mark: Mark, x: float, y_axis: Axis, *, named: bool) -> Markup:
    low = mark.value if mark.low is None else mark.low
    high = mark.value if mark.high is None else mark.high
    hint = f"{mark.label} {mark.note}: min {number(low)}, mean {number(mark.value)}, max {number(high)}"
    top, bottom = y_axis(high) - 1, y_axis(low) + 1
    parts = [
        tag('<rect class="range {}" x="{}" y="{}" width="14" height="{}" rx="3"/>', mark.style, x - 7, top, bottom - top),
        tag('<circle class="dot {}" cx="{}" cy="{}" r="4.5"><title>{}</title></circle>', mark.style, x, y_axis(mark.value), hint),
    ]
    if named:
        below = y_axis.start + 22
        parts.append(tag('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>', x, below, mark.label))
        if mark.note:
            parts.append(tag('<text class="tick faint" x="{}" y="{}" text-anchor="middle">{}</text>', x, below + 13, mark.note))
    return Markup().join(parts)
