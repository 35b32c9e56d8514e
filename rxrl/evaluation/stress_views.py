"""From a report's `stress` to what its page shows: one panel an axis, and the same numbers as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rxrl.evaluation.answers import too_few
from rxrl.evaluation.charts import Mark, dot_plot, plot
from rxrl.evaluation.views import CONDITIONS, HEADLINES, axis_title


def stress_view(run: Mapping[str, Any]) -> dict[str, Any] | None:
    """Panels and table of the axes, with the conversations as they are in the first place."""
    stress = run.get("stress") or {}
    conditions = [(name, label, style) for name, label, style in CONDITIONS if any(axis.get(name) for axis in stress.values())]
    if not conditions:
        return None
    groups = [("as they are", {name: _headline(run.get(name) or {}) for name, _, _ in conditions})]
    groups += [(axis_title(axis), found) for axis, found in stress.items()]
    rows = [(title, [_known(found.get(name)) for name, _, _ in conditions]) for title, found in groups]
    rows = [(title, cells) for title, cells in rows if any(cells)]
    panels = []
    for title, cells in rows:
        marks = [_mark(label, style, cell) for (_, label, style), cell in zip(conditions, cells, strict=True) if cell]
        panels.append((title[0].upper() + title[1:], plot(dot_plot(marks, title=f"Retention, {title}"), half=True)))
    return {"panels": panels, "columns": [label for _, label, _ in conditions], "rows": rows}


def _headline(part: Mapping[str, Any]) -> dict[str, Any] | None:
    """Mean and interval of the number that the page begins with."""
    name = next((key for key, _ in HEADLINES if part.get(key) is not None), None)
    if name is None:
        return None
    low, high = part.get(f"{name}_interval") or (None, None)
    return {"mean": part[name], "low": low, "high": high, "conversations": part.get(f"{name}_conversations")}


def _known(part: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A cell; without its interval where too few conversations gave it."""
    if not part:
        return None
    few = too_few(part.get("conversations"))
    return {"mean": part["mean"], "low": None if few else part.get("low"), "high": None if few else part.get("high")}


def _mark(label: str, style: str, cell: Mapping[str, Any]) -> Mark:
    return Mark(label, style, cell["mean"], cell["low"], cell["high"])
