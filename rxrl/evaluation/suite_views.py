"""What a page shows of a suite and of curves of stress: plots, sentences and table rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rxrl.evaluation.axes import HELD, holds_sentence
from rxrl.evaluation.charts import Mark, Series, dot_plot, legend, line_plot, plot

STYLES = ("mrl", "supervised", "smat", "plain")


def suite_view(suite: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Scores of the groups as a plot and a table, and what is published of other systems."""
    if not suite:
        return None
    rows = suite["groups"]
    marks = [Mark(row["name"], "mrl", row["score"], row["low"], row["high"]) for row in rows if row["score"] is not None]
    draw = plot(dot_plot(marks, title=f"Scores of the suite {suite['name']}")) if marks else None
    notes = {row["note"] for row in rows}
    shared = rows[0]["note"] if len(notes) == 1 else ""
    return {"unpublished": "", **suite, "plot": draw, "noted": len(notes) > 1, "note": shared}


def curve_views(stress: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """One panel for each axis, where each curve leaves 0.9, and the numbers."""
    if not stress:
        return None
    found = {axis: part for axis, part in stress.items() if part["curves"]}
    curves = [(axis, curve) for axis, part in found.items() for curve in part["curves"]]
    return {
        "held": HELD,
        "panels": [_panel(axis, part) for axis, part in found.items()],
        "sentences": [
            {"tone": "open" if curve["holds"] is None else "good", "text": _upper(holds_sentence(axis, curve))} for axis, curve in curves
        ],
        "rows": [(axis, curve["name"], point) for axis, curve in curves for point in curve["points"]],
    }


def _panel(axis: str, part: Mapping[str, Any]) -> dict[str, Any]:
    curves = part["curves"]
    title = _upper(f"{axis}: {part['title']}")
    if axis == "paraphrase":
        marks = [Mark(point["label"], "mrl", point["mean"], point["low"], point["high"]) for point in curves[0]["points"]]
        return {"title": title, "legend": "", "plot": plot(dot_plot(marks, title=title, level=HELD), half=True)}
    series = [
        Series(
            curve["name"], style, [(point["x"], point["mean"]) for point in curve["points"]],
            [(point["low"], point["high"]) for point in curve["points"]],
        )
        for curve, style in zip(curves, STYLES, strict=False)
    ]  # fmt: skip
    keys = legend([(each.label, each.style, "line") for each in series]) if len(series) > 1 else ""
    draw = line_plot(series, title=title, x_label=part["title"], y_range=(0.0, 1.0), level=HELD, height=230)
    return {"title": title, "legend": keys, "plot": plot(draw, half=True)}


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
