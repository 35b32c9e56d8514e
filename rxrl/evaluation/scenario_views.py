"""What the page shows of scenarios: the score between its bounds, what memory contributes, and the score by turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rxrl.evaluation.charts import Mark, Series, dot_plot, legend, line_plot, number, plot
from rxrl.scoring import HIGHEST

Part = Mapping[str, Any]

# A line or mark without a label is what the page is about: after MRL, or the player of an evaluation.
LINES: Final = (
    ("", "mrl", "by_turn"),
    ("before MRL", "supervised", "before_by_turn"),
    ("best player", "oracle", "best_by_turn"),
    ("blind player", "plain", "blind_by_turn"),
)
MARKS: Final = (
    ("", "mrl", "after"),
    ("before MRL", "supervised", "before"),
    ("swapped memory", "swapped", "swapped_memory"),
    ("empty memory", "empty", "empty_memory"),
    ("best player", "oracle", "best"),
    ("blind player", "plain", "blind"),
)


def scenario_views(found: Mapping[str, Part]) -> list[dict[str, Any]]:
    """The view of each scenario of a report's `scenarios`."""
    return [_view(name, each) for name, each in found.items()]


def _view(name: str, found: Part) -> dict[str, Any]:
    here = "after MRL" if _known(found, "before") else "this player"
    lines = [(label or here, style, found.get(key) or ()) for label, style, key in LINES]
    shown = [(label, style, _points(values)) for label, style, values in lines]
    series = [Series(label, style, points) for label, style, points in shown if points]
    draw = line_plot(series, title=f"Score by turn, {name}", x_label="turn", y_range=(0.0, HIGHEST)) if series else None
    marks = [
        Mark(label or here, style, found[key], *(found.get(f"{key}_interval") or (None, None)))
        for label, style, key in MARKS
        if _known(found, key)
    ]
    return {
        "name": name,
        "condition": here,
        "value": found.get("after"),
        "interval": found.get("after_interval"),
        "dialogues": found.get("dialogues"),
        "steps": found.get("steps"),
        "level": found.get("level"),
        "sentences": list(_sentences(found)),
        "marks": plot(dot_plot(marks, title=f"Score, {name}", x_range=(0.0, HIGHEST), level=found.get("blind"))) if marks else None,
        "by_turn": plot(draw) if draw else None,
        "legend": legend([(item.label, item.style, "line") for item in series]),
        "columns": [label for label, _, values in lines if values],
        "rows": list(enumerate(zip(*(values for _, _, values in lines if values), strict=False), start=1)),
    }


def _sentences(found: Part) -> Iterator[dict[str, str]]:
    gain = found.get("gain")
    if gain:
        change = "raised" if gain["low"] > 0 else "lowered" if gain["high"] < 0 else "did not move"
        span = f"paired 95 % interval of the difference {number(gain['low'])} to {number(gain['high'])}"
        tone = "good" if gain["low"] > 0 else "bad" if gain["high"] < 0 else "open"
        yield {"tone": tone, "text": f"MRL {change} the score: from {number(found['before'])} to {number(found['after'])} ({span})."}
    if _known(found, "share"):
        low, high = found.get("after_interval") or (found["after"], found["after"])
        tone = "good" if low > found["blind"] else "bad" if high < found["blind"] else "open"
        way = f"goes {number(found['share'])} of the way from the first to the second"
        place = way if found["share"] > 0 else "does not do better than no memory"
        text = (
            f"The best that can be earned without memory is {number(found['blind'])}, and the best player earns {number(found['best'])}. "
            f"{'The model' if _known(found, 'before') else 'This player'} {place}."
        )
        yield {"tone": tone, "text": text}
    if _known(found, "empty_memory") and _known(found, "swapped_memory"):
        worse = max(found["empty_memory"], found["swapped_memory"])
        low = (found.get("after_interval") or (found["after"],))[0]
        text = (
            f"With an empty memory from the first turn on it earns {number(found['empty_memory'])}, with the memory of another dialogue "
            f"{number(found['swapped_memory'])}."
        )
        yield {"tone": "good" if worse < low else "open", "text": text}


def _points(values: Any) -> list[tuple[float, float]]:
    return [(float(turn), value) for turn, value in enumerate(values, start=1) if value is not None]


def _known(found: Part, key: str) -> bool:
    return found.get(key) is not None
