"""Heat maps as inline SVG: rows and columns of cells, the darker the higher the value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from rxrl.evaluation.charts import number, svg, tag

Cells = Sequence[Sequence[float | None]]

FAINTEST, STRONGEST = 0.06, 1.0


def heatmap(
    values: Cells,
    *,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    y_label: str = "",
    x_label: str = "",
    ends: tuple[float, float] | None = None,
    style: str = "mrl",
) -> Callable[[int], Markup]:
    """A heat map; a cell without a value is left empty.

    Args:
        values: `[rows][columns]`.
        title: Said to screen readers, with the range of the values.
        rows: Label of each row.
        columns: Label of each column; some are left out where they would touch.
        y_label: What the rows are.
        x_label: What the columns are.
        ends: Values of the faintest and of the strongest cell; None takes them from the values.
        style: Class of the style sheet.

    Returns:
        A function from width in pixels to the drawing.
    """
    known = [value for row in values for value in row if value is not None]
    low, high = ends or (min(known, default=0.0), max(known, default=1.0))

    def draw(width: int) -> Markup:
        gutter = 12 + 7 * max((len(label) for label in rows), default=0) + (16 if y_label else 0)
        step = min((width - gutter - 10) / max(len(columns), 1), 44.0)
        tall = max(min(max(step, 16.0), 26.0, 420 / max(len(rows), 1)), 5.0)
        foot = 14 + tall * len(rows)
        parts = [_cell(value, gutter + step * x, 8 + tall * y, step, tall, (low, high), style, f"{rows[y]}, {columns[x]}")
                 for y, row in enumerate(values) for x, value in enumerate(row) if value is not None]  # fmt: skip
        every = math.ceil(13 / tall)
        parts += [_label(label, gutter - 6, 8 + tall * (y + 0.5) + 4, "end") for y, label in enumerate(rows) if y % every == 0]
        apart = math.ceil((7 * max((len(label) for label in columns), default=1) + 6) / step)
        parts += [_label(label, gutter + step * (x + 0.5), foot + 8, "middle") for x, label in enumerate(columns) if x % apart == 0]
        if x_label:
            middle = gutter + step * len(columns) / 2
            parts.append(tag('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>', middle, foot + 26, x_label))
        if y_label:
            middle = 8 + tall * len(rows) / 2
            parts.append(tag('<text class="axis" transform="translate(11 {}) rotate(-90)" text-anchor="middle">{}</text>', middle, y_label))
        said = f"{title}; from {number(low, 3)} (faint) to {number(high, 3)} (strong)"
        return svg(width, foot + (32 if x_label else 14), said, parts)

    return draw


def _cell(value: float, x: float, y: float, wide: float, tall: float, ends: tuple[float, float], style: str, name: str) -> Markup:
    low, high = ends
    share = min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5
    opacity = f"{FAINTEST + (STRONGEST - FAINTEST) * share:.2f}"
    form = '<rect class="cell {}" x="{}" y="{}" width="{}" height="{}" fill-opacity="{}"><title>{}: {}</title></rect>'
    return tag(form, style, x, y, wide - 1, tall - 1, opacity, name, number(value, 3))


def _label(text: str, x: float, y: float, anchor: str) -> Markup:
    return tag('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>', x, y, anchor, text)
