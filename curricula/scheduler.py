"""The scheduler moves through a curriculum: it observes held-out metrics, decides, and can be saved and resumed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rxrl.curricula.curriculum import Curriculum, Rule, Stage
from rxrl.errors import ConfigError, unknown_name

Action = Literal["hold", "advance", "regress", "finish"]


@dataclass(frozen=True, slots=True)
class Decision:
    """The scheduler's decision after an observation.

    Attributes:
        action: `hold` stays in the stage, `advance` and `regress` have moved on or back, `finish` has ended the curriculum.
        reason: The reason, as a sentence.
    """

    action: Action
    reason: str


@dataclass(frozen=True, slots=True)
class FinishedStage:
    """A stage that has ended; a stage that was trained twice appears twice.

    Attributes:
        name: Name of the stage.
        steps: Turns of its episodes.
        strategy: Its strategy, or its mix as normalised weights.
        iterations: Iterations it took.
        ended: Why it ended, as a sentence.
    """

    name: str
    steps: int
    strategy: str | dict[str, float]
    iterations: int
    ended: str


class StepScheduler:
    """Decides by held-out metrics whether to hold, advance, regress or finish.

    Args:
        curriculum: The stages to train.
    """

    def __init__(self, curriculum: Curriculum) -> None:
        self.curriculum = curriculum
        self.history: list[FinishedStage] = []
        self.finished = False
        self.stage_index = 0
        self.iteration = 0
        self._good = 0
        self._bad = 0
        self._regressions: dict[str, int] = {}

    @property
    def stage(self) -> Stage:
        """The current stage; after the end, the last one."""
        return self.curriculum.stages[self.stage_index]

    @property
    def remaining(self) -> int:
        """Iterations that the current stage may still take."""
        return max(0, self.stage.iterations - self.iteration)

    def observe(self, metrics: Mapping[str, float], iterations: int = 1) -> Decision:
        """Records held-out metrics and moves through the curriculum.

        Args:
            metrics: Held-out metrics, including those that the rules of the stage name.
            iterations: Iterations done since the last observation, at least 1.

        Returns:
            The decision; `stage` is the stage to train next.

        Raises:
            ConfigError: A metric that a rule needs is missing or not a number, or the curriculum has ended already.
        """
        if self.finished:
            raise ConfigError(f"Curriculum {self.curriculum.name!r} has finished; start a new scheduler to train on.")
        if iterations < 1:
            raise ConfigError(f"Expected at least 1 iteration between two observations, got {iterations}.")
        stage = self.stage
        good = stage.advance is not None and self._value(stage.advance, metrics) >= stage.advance.threshold
        bad = stage.regress is not None and self._value(stage.regress, metrics) < stage.regress.threshold
        self.iteration += iterations
        if self.iteration < stage.min_iterations:
            return Decision("hold", f"{self.iteration} of at least {stage.min_iterations} iterations")
        self._good = self._good + 1 if good else 0
        self._bad = self._bad + 1 if bad else 0
        return self._decide(stage, metrics)

    def metrics(self) -> dict[str, float]:
        """The position in the curriculum, as numbers to log."""
        return {
            "curriculum/stage": self.stage_index,
            "curriculum/steps": self.stage.steps,
            "curriculum/iteration": self.iteration,
            "curriculum/good_observations": self._good,
            "curriculum/bad_observations": self._bad,
            "curriculum/regressions": sum(self._regressions.values()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue, as plain JSON values."""
        return {
            "stages": [stage.name for stage in self.curriculum.stages],
            "stage_index": self.stage_index,
            "iteration": self.iteration,
            "good": self._good,
            "bad": self._bad,
            "finished": self.finished,
            "regressions": dict(self._regressions),
            "history": [asdict(entry) for entry in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a saved state.

        Raises:
            ConfigError: The state belongs to a curriculum with other stages, or is incomplete.
        """
        names = [stage.name for stage in self.curriculum.stages]
        if list(state.get("stages", ())) != names:
            raise ConfigError(
                f"The saved curriculum state has the stages {list(state.get('stages', ()))}, "
                f"curriculum {self.curriculum.name!r} has {names}; resume with the curriculum of the run."
            )
        if missing := self.state_dict().keys() - state.keys():
            raise ConfigError(f"The saved curriculum state lacks {', '.join(sorted(missing))}; take an undamaged checkpoint.")
        self.stage_index, self.iteration = int(state["stage_index"]), int(state["iteration"])
        self._good, self._bad, self.finished = int(state["good"]), int(state["bad"]), bool(state["finished"])
        self._regressions = dict(state["regressions"])
        self.history = [FinishedStage(**entry) for entry in state["history"]]

    def _decide(self, stage: Stage, metrics: Mapping[str, float]) -> Decision:
        if stage.advance is not None and self._good >= stage.advance.patience:
            return self._leave(self.stage_index + 1, _seen(stage.advance, metrics, "reached"))
        if stage.regress is not None and self._bad >= stage.regress.patience and self._may_regress(stage):
            self._regressions[stage.name] = self._regressions.get(stage.name, 0) + 1
            return self._leave(self.stage_index - 1, _seen(stage.regress, metrics, "fell below"))
        if self.iteration >= stage.iterations:
            short = f", {_seen(stage.advance, metrics, 'against')}" if stage.advance else ""
            return self._leave(self.stage_index + 1, f"all {stage.iterations} iterations done{short}")
        return Decision("hold", _seen(stage.advance, metrics, "against") if stage.advance else f"{self.remaining} iterations left")

    def _may_regress(self, stage: Stage) -> bool:
        return self.stage_index > 0 and stage.regress is not None and self._regressions.get(stage.name, 0) < stage.regress.limit

    def _leave(self, index: int, reason: str) -> Decision:
        stage = self.stage
        strategy = stage.strategy if isinstance(stage.strategy, str) else {str(name): share for name, share in stage.strategies.items()}
        self.history.append(FinishedStage(stage.name, stage.steps, strategy, self.iteration, reason))
        if index == len(self.curriculum.stages):
            self.finished = True
            return Decision("finish", reason)
        action: Action = "advance" if index > self.stage_index else "regress"
        self.stage_index, self.iteration, self._good, self._bad = index, 0, 0, 0
        return Decision(action, reason)

    def _value(self, rule: Rule, metrics: Mapping[str, float]) -> float:
        if rule.metric not in metrics:
            raise ConfigError(f"Stage {self.stage.name!r}: {unknown_name('metric', rule.metric, metrics)}")
        if not math.isfinite(value := float(metrics[rule.metric])):
            raise ConfigError(f"Stage {self.stage.name!r}: metric {rule.metric!r} is {value}; expected a finite number.")
        return value


def _seen(rule: Rule, metrics: Mapping[str, float], relation: str) -> str:
    return f"{rule.metric} {metrics[rule.metric]:.3f} {relation} {rule.threshold:g}"
