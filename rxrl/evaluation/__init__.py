"""Evaluation on held-out conversations: play, controls, retention metrics and the report.

Evaluation never uses the training's random resets, and its headline is retention, not the training reward.
"""

from __future__ import annotations

from rxrl.evaluation.chance import chance
from rxrl.evaluation.evaluate import Evaluation, evaluate
from rxrl.evaluation.metrics import (
    compare,
    cost_by_turn,
    retention_by_distance,
    summarise,
    summarise_comparisons,
    summarise_controls,
    summarise_stage,
)
from rxrl.evaluation.play import CONTROLS, WHOLE_CONTROLS, Playthrough, play, play_conditions
from rxrl.evaluation.records import TurnRecord, read_records, rescore, write_records
from rxrl.evaluation.report import read_report, write_report, write_run_report
from rxrl.evaluation.resuming import KeptBatches, TurnCost, Watch
from rxrl.evaluation.scenarios import compare_scenarios
from rxrl.evaluation.stress import measure_stress, stress_axes, stress_by_axis, with_small_talk

__all__ = [
    "CONTROLS",
    "WHOLE_CONTROLS",
    "Evaluation",
    "KeptBatches",
    "Playthrough",
    "TurnCost",
    "TurnRecord",
    "Watch",
    "chance",
    "compare",
    "compare_scenarios",
    "cost_by_turn",
    "evaluate",
    "measure_stress",
    "play",
    "play_conditions",
    "read_records",
    "read_report",
    "rescore",
    "retention_by_distance",
    "stress_axes",
    "stress_by_axis",
    "summarise",
    "summarise_comparisons",
    "summarise_controls",
    "summarise_stage",
    "with_small_talk",
    "write_records",
    "write_report",
    "write_run_report",
]
