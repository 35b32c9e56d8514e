"""The numbers of an evaluation as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from rxrl.evaluation import Evaluation

_HEADLINE = {
    "retention at 16 turns": "retention_at_16",
    "retention, distance 9 to 16": "retention_far",
    "retention, distance 1 to 2": "retention_near",
    "retention, all asking turns": "retention",
}
_CONTROL_NAMES = {"empty_memory": "empty memory", "swapped_memory": "swapped memory", "oracle": "oracle (reference answers)"}


def tables(evaluation: Evaluation) -> list[Table]:
    """The numbers for people."""
    summary, controls = evaluation.summary, evaluation.controls
    headline = Table(title=f"{summary['conversations']} conversations, {summary['asking_turns']} asking turns", title_justify="left")
    for heading in ("", "mean", "95 % interval", "turns"):
        headline.add_column(heading, justify="left" if not heading else "right")
    for text, name in _HEADLINE.items():
        if summary[name] is not None:
            headline.add_row(text, *_numbers(summary[name], summary[f"{name}_interval"], summary[f"{name}_turns"]))
    _add_reference_rows(headline, summary, controls)
    distances = Table(title="Retention by distance", title_justify="left")
    for heading in ("distance", "mean", "95 % interval", "turns"):
        distances.add_column(heading, justify="right")
    for row in summary["by_distance"]:
        distances.add_row(str(row["distance"]), *_numbers(row["mean"], (row["low"], row["high"]), row["turns"]))
    found = [headline, distances] if summary["by_distance"] else [headline]
    return [*found, *(_scenario_table(name, each) for name, each in evaluation.scenarios.items())]


def _scenario_table(name: str, found: Mapping[str, Any]) -> Table:
    """Score of a scenario between its bounds, and by turn."""
    title = f"Scenario {name}, level {found['level']}, {found['dialogues']} dialogues of {found['steps']} turns"
    table = Table("", "outcome of 10", title=title, title_justify="left")
    low, high = found["interval"]
    table.add_row("score", f"{found['score']:.2f} ({low:.2f} to {high:.2f})")
    for text, key in (("without memory at best", "blind"), ("best player", "best")):
        table.add_row(text, f"{found[key]:.2f}")
    table.add_row("share between the two", "-" if found["share"] is None else f"{found['share']:.2f}")
    for text, key in (("empty memory throughout", "empty_memory"), ("swapped memory throughout", "swapped_memory")):
        if found[key] is not None:
            table.add_row(text, f"{found[key]:.2f}")
    table.add_row("by turn", " ".join("-" if value is None else f"{value:.1f}" for value in found["by_turn"]))
    return table


def _add_reference_rows(table: Table, summary: Mapping[str, Any], controls: Mapping[str, Any]) -> None:
    """Controls, chance and reward."""
    table.add_section()
    for control, text in _CONTROL_NAMES.items():
        part = controls.get(control)
        name = "retention" if part is None or part["retention_at_16"] is None else "retention_at_16"
        if part is not None and part[name] is not None:
            table.add_row(text, *_numbers(part[name], part[f"{name}_interval"], part[f"{name}_turns"]))
    if summary["chance"] is not None:
        table.add_row("chance", f"{summary['chance']:.3f}", "", "")
    table.add_section()
    for text, name in (("reward, asking turns", "reward"), ("reward, other turns", "reward_other")):
        part = summary[name]
        if part["mean"] is not None:
            table.add_row(text, f"{part['mean']:.2f}", f"min {part['min']:.2f}, max {part['max']:.2f}", str(part["turns"]))


def _numbers(mean: float, interval: Sequence[float], turns: int) -> tuple[str, str, str]:
    return f"{mean:.3f}", f"{interval[0]:.3f} to {interval[1]:.3f}", str(turns)
