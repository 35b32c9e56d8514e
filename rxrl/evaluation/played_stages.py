"""The stages of a curriculum, read off the metrics of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

Row = Mapping[str, Any]


def played_stages(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Stages of the curriculum so far, as a report lists them; the last one is under way."""
    mrl = [row for row in rows if row.get("phase") == "mrl" and "stage" in row]
    groups = [list(group) for _, group in groupby(mrl, key=lambda row: row["stage"])]
    return [_stage(group, number == len(groups)) for number, group in enumerate(groups, start=1)]


def _stage(rows: Sequence[Row], running: bool) -> dict[str, Any]:
    first = rows[0]
    held_out = _last(rows, "held_out_reward")
    return {
        "name": first["stage"],
        "steps": first.get("steps"),
        "strategy": first.get("strategy"),
        "iterations": len(rows),
        "retention": _last(rows, "retention"),
        "reward": {"mean": _last(rows, "reward") if held_out is None else held_out},
        "ended": "under way" if running else None,
    }


def _last(rows: Sequence[Row], key: str) -> float | None:
    return next((row[key] for row in reversed(rows) if isinstance(row.get(key), (int, float))), None)
