"""The numbers of an evaluation as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from rxrl.evaluation import Evaluation
from rxrl.evaluation.axes import holds_sentence

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
    if evaluation.suite:
        return [_suite_table(evaluation.suite)]
    found = [headline, distances] if summary["by_distance"] else [headline]
    found += [_scenario_table(name, each) for name, each in evaluation.scenarios.items()]
    return [*found, *([_stress_table(evaluation.stress)] if evaluation.stress else [])]


def _suite_table(suite: Mapping[str, Any]) -> Table:
    """Score of each group between its bounds."""
    table = Table(title=f"Suite {suite['name']}: {suite['measures']}", title_justify="left")
    for place, heading in enumerate(("group", "score", "95 % interval", "blind", "oracle", "questions")):
        table.add_column(heading, justify="right" if place else "left", no_wrap=place > 0)
    for row in suite["groups"]:
        span = "-" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
        score, blind, oracle = ("-" if row[name] is None else f"{row[name]:.3f}" for name in ("score", "blind", "oracle"))
        table.add_row(row["name"], score, span, blind, oracle, f"{row['questions']:,}")
    if suite["mean"] is not None:
        table.add_section()
        table.add_row("mean of the groups", f"{suite['mean']:.3f}")
    return table


def suite_notes(suite: Mapping[str, Any]) -> list[str]:
    """What stands below the table of a suite: notes on its groups, and what others have published."""
    if not suite:
        return []
    notes: dict[str, list[str]] = {}
    for row in suite["groups"]:
        if row["note"]:
            notes.setdefault(row["note"], []).append(row["name"])
    groups = len(suite["groups"])
    lines = [note if len(names) == groups else f"{', '.join(names)}: {note}" for note, names in notes.items()]
    for row in suite["published"]:
        comparable = "comparable" if row["matches"] else "not comparable"
        lines.append(f"Published: {row['score']}, {row['system']} ({row['source']}); {comparable}: {row['note']}.")
    return lines if suite["published"] else [*lines, suite["unpublished"]]


def _stress_table(stress: Mapping[str, Any]) -> Table:
    """The points of all curves."""
    table = Table("", "", "retention", title="Under stress", title_justify="left")
    for axis, found in stress.items():
        for curve in found["curves"]:
            for place, point in enumerate(curve["points"]):
                name = "" if place else f"{axis}, {curve['name']}"
                table.add_row(name, point["label"], f"{point['mean']:.3f} ({point['low']:.3f} to {point['high']:.3f})")
            table.add_section()
    return table


def stress_notes(stress: Mapping[str, Any]) -> list[str]:
    """Where each curve leaves 0.9."""
    return [holds_sentence(axis, curve) for axis, found in stress.items() for curve in found["curves"]]


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
