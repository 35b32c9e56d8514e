"""Callbacks of a Memory Reinforcement Learning run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rxrl.evaluation import Evaluation
from rxrl.runs.callbacks import Progress, RunCallback
from rxrl.training.alarms import Alarm
from rxrl.training.rollout import Rollout

__all__ = ["Callback", "Progress"]


class Callback(RunCallback):
    """Callback of `MRLTrainer`: the events of every training, and those of reinforcement learning.

    A rollout is the first process's share of the conversations.
    """

    def on_rollout(self, rollout: Rollout) -> None:
        """Conversations were played; `rollout.scored_turns` holds them as text."""

    def on_update(self, metrics: Mapping[str, float]) -> None:
        """The weights were updated."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Held-out conversations were played."""

    def on_alarm(self, alarm: Alarm) -> None:
        """A metric crossed a threshold."""

    def on_stage_end(self, row: Mapping[str, Any]) -> None:
        """A stage of the curriculum ended; `row` is its line in the report."""
