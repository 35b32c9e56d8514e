"""Where a Memory Reinforcement Learning run stands, apart from weights and optimizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class TrainerState:
    """Where a run stands, apart from weights and optimizers.

    Attributes:
        iteration: Iterations done.
        tokens: Tokens trained on.
        positions: How far each kind of conversation is used up.
        stage_rewards: Mean reward of each iteration of the current stage, None where no turn was scored.
        stages: Rows of the report, one for each stage that has ended.
        alarms: Those that have sounded: iteration, stage, name and message of each.
        kl_coefficient: Coefficient of the KL to the reference, where it adapts.
    """

    iteration: int = 0
    tokens: int = 0
    positions: dict[str, int] = field(default_factory=dict)
    stage_rewards: list[float | None] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    kl_coefficient: float | None = None

    @property
    def stage_iteration(self) -> int:
        """Iterations done in the current stage."""
        return len(self.stage_rewards)

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> TrainerState:
        """The state of a checkpoint."""
        coefficient = saved["kl_coefficient"]
        return cls(
            iteration=int(saved["iteration"]),
            tokens=int(saved["tokens"]),
            positions={str(name): int(position) for name, position in saved["positions"].items()},
            stage_rewards=[None if reward is None else float(reward) for reward in saved["stage_rewards"]],
            stages=[dict(row) for row in saved["stages"]],
            alarms=[dict(each) for each in saved["alarms"]],
            kl_coefficient=None if coefficient is None else float(coefficient),
        )


def mean_min_max(values: Iterable[float | None]) -> dict[str, float | None]:
    """Mean, smallest and largest of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return {"min": min(known, default=None), "mean": sum(known) / len(known) if known else None, "max": max(known, default=None)}
