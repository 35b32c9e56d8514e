"""Callbacks: objects that a training notifies of its events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rxrl.curricula import Stage
from rxrl.models import ReactiveTransformer


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a training after an iteration.

    Attributes:
        phase: `mrl`, or the name of the supervised stage.
        iteration: Iterations done; for supervised stages, steps.
        total: Iterations at most; an estimate where a supervised stage ends after a number of tokens.
        metrics: The line of `metrics.jsonl`: plain Python values.
        stage: Stage of the curriculum that the iteration belonged to; None in supervised stages.
        times: The line of `timings.jsonl`, of supervised stages.
    """

    phase: str
    iteration: int
    total: int
    metrics: Mapping[str, Any]
    stage: Stage | None = None
    times: Mapping[str, float] = field(default_factory=dict)


class Training(Protocol):
    """A running training, as callbacks see it."""

    @property
    def model(self) -> ReactiveTransformer:
        """The model that is trained."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the training has reached its end."""
        ...


class RunCallback:
    """Callback of any training; override the events you need. Values belong to the training: read them, do not change them.

    With several processes only the first one calls back, with the numbers of all of them.
    """

    def on_start(self, training: Training) -> None:
        """Training starts or resumes."""

    def on_iteration(self, progress: Progress) -> None:
        """A line of metrics was written: after every iteration, or after every `log_every` steps of a supervised stage."""

    def on_checkpoint(self, path: Path) -> None:
        """A checkpoint that the run can resume from was written."""

    def on_end(self, training: Training) -> None:
        """Training reached its end."""
