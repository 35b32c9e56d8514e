"""Callbacks: what a training tells the outside, moment by moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rxrl.curricula import Stage
from rxrl.evaluation import Evaluation
from rxrl.training.rollout import Rollout

if TYPE_CHECKING:
    from rxrl.training.alarms import Alarm
    from rxrl.training.trainer import MRLTrainer


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands after an iteration.

    Attributes:
        iteration: Iterations done.
        total: Iterations at most.
        stage: Stage of the curriculum that the iteration belonged to.
        metrics: The line of `metrics.jsonl`: plain Python values.
    """

    iteration: int
    total: int
    stage: Stage
    metrics: Mapping[str, Any]


class Callback:
    """Does nothing; override what you want to hear of. Values are the training's own: read them, do not change them.

    With several processes only the first one calls back, with the numbers of all; a rollout is that process's share.
    """

    def on_start(self, trainer: MRLTrainer) -> None:
        """Training begins, or goes on."""

    def on_rollout(self, rollout: Rollout) -> None:
        """Conversations were played; `rollout.scored_turns` holds them as text."""

    def on_update(self, metrics: Mapping[str, float]) -> None:
        """The weights were updated."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Held-out conversations were played."""

    def on_iteration(self, progress: Progress) -> None:
        """An iteration is over and its metrics are written."""

    def on_alarm(self, alarm: Alarm) -> None:
        """A metric has crossed a threshold."""

    def on_stage_end(self, row: Mapping[str, Any]) -> None:
        """A stage of the curriculum was left; `row` is its line in the report."""

    def on_checkpoint(self, path: Path) -> None:
        """A checkpoint was written."""

    def on_end(self, trainer: MRLTrainer) -> None:
        """The curriculum has ended."""
