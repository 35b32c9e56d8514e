"""Figures for papers, drawn with matplotlib (the extra `figures`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rxrl.errors import MissingExtraError
from rxrl.evaluation.evaluate import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#1b63b5", "#c2711a", "#2c8a67", "#b14a86", "#6c5fb0", "#444b57")
SIZE = (4.8, 3.0)
"""Inches: one column of a paper of two."""


def retention_figure(evaluations: Mapping[str, Evaluation]) -> Figure:
    """Retention by distance of several evaluations, with 95 % intervals.

    Args:
        evaluations: By the name that the legend shows.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = _empty("turns since the fact was told or said", "retention")
    for (name, evaluation), colour in zip(evaluations.items(), COLOURS, strict=False):
        rows = evaluation.summary["by_distance"]
        x, mean, low, high = ([row[key] for row in rows] for key in ("distance", "mean", "low", "high"))
        axes.plot(x, mean, color=colour, label=name, marker="o", markersize=3)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    chance = next((each.summary.get("chance") for each in evaluations.values()), None)
    if chance is not None:
        axes.axhline(chance, color="#5b6472", linestyle=":", linewidth=1, label="chance")
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, fontsize=8)
    return figure


def forgetting_figure(probe: Mapping[str, Any]) -> Figure:
    """The forgetting matrix of a probe: told at, asked after.

    Args:
        probe: As `rxrl.evaluation.probes.probe` gives it, or the content of `probe.json`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = _empty("asked after interaction", "told at interaction")
    cells = [[float("nan") if cell is None else cell for cell in row] for row in probe["forgetting"]]
    count = len(cells)
    picture = axes.imshow(cells, vmin=0, vmax=1, cmap="Blues", extent=(0.5, count + 0.5, count + 0.5, 0.5))
    figure.colorbar(picture, ax=axes, label="retention")
    return figure


def _empty(x_label: str, y_label: str) -> tuple[Figure, Any]:
    try:
        from matplotlib.figure import Figure as New  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("A figure for a paper", "figures") from error
    figure = New(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes
