"""Learning curves of a report, read from the rows of metrics.jsonl without fixed names for every trainer's keys."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from rxrl.evaluation.charts import Key, Series, legend, line_plot, plot

Row = Mapping[str, Any]

POINTS = 240
"""Longer curves are averaged in buckets, so that a report stays small."""
MOST_LINES = 4

_PHASES = {
    "pretrain": "Joint pre-training",
    "pretraining": "Joint pre-training",
    "joint": "Joint pre-training",
    "sft": "Interaction fine-tuning",
    "finetune": "Interaction fine-tuning",
    "memory": "Memory attention",
    "reading": "Reading",
    "memory-attention": "Memory attention",
    "smat": "Supervised memory-aware training",
    "smat-continued": "Supervised training continued",
    "mrl": "Memory reinforcement learning",
}
_MEMORY_LOSSES = (
    ("true", "true memory", "mrl"),
    ("empty", "empty memory", "empty"),
    ("other", "another's memory", "swapped"),
    ("swap", "another's memory", "swapped"),
)
_MRL_PANELS = (
    ("Reward", ("reward",), (0.0, 10.0)),
    ("Retention", ("retention",), (0.0, 1.0)),
    ("KL to the reference", ("kl", "reference_kl", "kl_reference"), None),
    ("Entropy", ("entropy",), None),
    ("Norm of the gradient", ("grad_norm",), None),
    ("Critic: explained variance", ("explained_variance",), None),
    ("Share of clipped tokens", ("clip_fraction",), None),
    ("Change of memory in a write", ("memory_drift",), None),
    ("Openness of the write gate", ("gate_openness",), (0.0, 1.0)),
)
_TERM = "reward/"
_STYLES = ("mrl", "supervised", "smat", "plain")
_HELD_OUT = ("validation_", "val_", "eval_", "held_out_", "validation/", "val/", "eval/")
_STEP_KEYS = ("iteration", "step", "update")


@dataclass(frozen=True, slots=True)
class Panel:
    """One small plot with its title and legend."""

    title: str
    legend: Markup
    plot: Markup


@dataclass(frozen=True, slots=True)
class Group:
    """Plots that stand together below one heading."""

    title: str
    panels: Sequence[Panel]


def learning_curves(metrics: Iterable[Row]) -> list[Group]:
    """The plots of all phases that have something to plot: supervised stages in the order in which they ran, then MRL.

    Args:
        metrics: Rows of metrics.jsonl, in order. `phase` names the phase (`mrl`, or a supervised one); `iteration` or `step` is
            the x axis; keys that speak of loss are plotted in supervised phases; reward, retention, kl and entropy in `mrl`.
    """
    phases: dict[str, list[Row]] = {}
    for row in metrics:
        phases.setdefault(str(row.get("phase", "training")), []).append(row)
    supervised = [panel for name, rows in phases.items() if not _is_mrl(name) for panel in _supervised_panels(phase_title(name), rows)]
    reinforced = [panel for name, rows in phases.items() if _is_mrl(name) for panel in _mrl_panels(rows)]
    groups = (Group("Supervised stages", supervised), Group("Memory reinforcement learning", reinforced))
    return [group for group in groups if group.panels]


def _is_mrl(phase: str) -> bool:
    return phase.lower().startswith("mrl")


def phase_title(name: str) -> str:
    """A phase's name in words."""
    return _PHASES.get(name.lower().replace("_", "-"), name.replace("_", " ").replace("-", " ").capitalize())


def _supervised_panels(title: str, rows: Sequence[Row]) -> list[Panel]:
    xs = _positions(rows)
    keys = {key for row in rows for key in row if "loss" in key and _number(row[key]) is not None}
    of_memory = [(key, label, style) for word, label, style in _MEMORY_LOSSES for key in sorted(keys) if _speaks_of(key, word)]
    plain = sorted(keys - {key for key, _, _ in of_memory}, key=lambda key: (_loss_label(key) != "training", key != "val_loss", key))
    panels = (
        _panel(f"{title}: loss", [_series(rows, xs, key, _loss_label(key), style) for key, style in zip(plain, _STYLES, strict=False)]),
        _panel(f"{title}: loss by what memory holds", [_series(rows, xs, *entry) for entry in of_memory]),
    )
    return [panel for panel in panels if panel]


def _mrl_panels(rows: Sequence[Row]) -> list[Panel]:
    xs = _positions(rows)
    borders = _stage_borders(rows, xs)
    panels = [_panel(title, _mrl_series(title, rows, xs, keys), y_range=y_range, borders=borders) for title, keys, y_range in _MRL_PANELS]
    terms = sorted({key for row in rows for key in row if key.startswith(_TERM)})
    lines = [_series(rows, xs, key, key.removeprefix(_TERM), style) for key, style in zip(terms, _STYLES, strict=False)]
    panels.insert(1, _panel("Parts of the reward", lines, y_range=(0.0, 10.0), borders=borders) if len(terms) > 1 else None)
    return [panel for panel in panels if panel]


def _panel(
    title: str,
    series: Sequence[Series],
    *,
    y_range: tuple[float, float] | None = None,
    borders: Sequence[tuple[float, str]] = (),
) -> Panel | None:
    drawn = [item for item in series if item.points][:MOST_LINES]
    if not any(len(item.points) > 1 for item in drawn):
        return None
    keys: list[Key] = [(item.label, item.style, "line" if len(item.points) > 1 else "dot") for item in drawn]
    entries = legend(keys) if len(drawn) > 1 else Markup()
    title += " (band: lowest to highest)" if any(item.band for item in drawn) else ""
    return Panel(title, entries, plot(line_plot(drawn, title=title, y_range=y_range, borders=borders, height=190), half=True))


def _mrl_series(title: str, rows: Sequence[Row], xs: Sequence[float], keys: Sequence[str]) -> list[Series]:
    """The first of `keys` as training rows have it, with `<key>_min` and `_max` as a band, and its held-out twin."""
    key = _first_present(rows, keys)
    if key is None:
        return []
    held_out = _first_present(rows, [f"{prefix}{key}" for prefix in _HELD_OUT])
    series = [_series(rows, xs, key, "training" if held_out else title, "mrl", band=(f"{key}_min", f"{key}_max"))]
    return series + ([_series(rows, xs, held_out, "held out", "supervised")] if held_out else [])


def _first_present(rows: Sequence[Row], keys: Iterable[str]) -> str | None:
    return next((key for key in keys if any(_number(row.get(key)) is not None for row in rows)), None)


def _series(rows: Sequence[Row], xs: Sequence[float], key: str, label: str, style: str, band: tuple[str, str] | None = None) -> Series:
    found = [(x, value, row) for x, row in zip(xs, rows, strict=True) if (value := _number(row.get(key))) is not None]
    points = [(x, value) for x, value, _ in found]
    ends = [tuple(_number(row.get(name)) for name in band) for _, _, row in found] if band else []
    pairs = [(low, high) for low, high in ends if low is not None and high is not None]
    whole = len(pairs) == len(points)
    size = math.ceil(len(points) / POINTS) if points else 1
    return Series(label, style, _thin(points, size), _thin(pairs, size) if whole else ())


def _thin(pairs: Sequence[tuple[float, float]], size: int) -> list[tuple[float, float]]:
    if size <= 1:
        return list(pairs)
    buckets = (pairs[start : start + size] for start in range(0, len(pairs), size))
    return [(sum(a for a, _ in bucket) / len(bucket), sum(b for _, b in bucket) / len(bucket)) for bucket in buckets]


def _positions(rows: Sequence[Row]) -> list[float]:
    """Place of each row on the x axis: its step where steps never go back, else its place in the phase (iterations restart at stages)."""
    for key in _STEP_KEYS:
        steps = [_number(row.get(key)) for row in rows]
        known = [step for step in steps if step is not None]
        if len(known) == len(steps) and all(a <= b for a, b in pairwise(known)):
            return known
    return [float(index) for index in range(1, len(rows) + 1)]


def _stage_borders(rows: Sequence[Row], xs: Sequence[float]) -> list[tuple[float, str]]:
    """Where curriculum stages begin, labelled with their steps; labels are left out where stages are many."""
    starts = [
        (x, str(row.get("steps", row.get("stage"))))
        for index, (x, row) in enumerate(zip(xs, rows, strict=True))
        if "stage" in row and (index == 0 or row["stage"] != rows[index - 1].get("stage"))
    ]
    return starts if len(starts) > 1 else []


def _speaks_of(key: str, word: str) -> bool:
    return any(part.startswith(word) for part in key.replace("/", "_").split("_"))


def _loss_label(key: str) -> str:
    words = key.replace("/", "_").split("_")
    if words == ["loss"] or "train" in words:
        return "training"
    if any(word in ("val", "validation", "valid", "eval") for word in words):
        return "validation" if len(words) == 2 else " ".join(words)
    return " ".join(word for word in words if word != "loss")


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
