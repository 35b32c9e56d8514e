"""Steps back: where held-out conversations get worse, training goes back to the last good weights, at a smaller rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from rxrl.evaluation import Evaluation
from rxrl.evaluation.metrics import bootstrap, rewarded
from rxrl.evaluation.records import TurnRecord
from rxrl.training.alarms import Alarm
from rxrl.training.config import StepBackConfig
from rxrl.training.learner import Learner

ALARM = "step_back"
SCALES = {"retention": 1.0, "held_out_reward": 10.0}
"""Largest value of what is watched."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How some weights did on the held-out conversations of a stage.

    Attributes:
        iteration: When they were played.
        name: What was looked at, a key of `SCALES`.
        mean: Over turns.
        means: Of each conversation.
    """

    iteration: int
    name: str
    mean: float
    means: Mapping[str, float]

    @classmethod
    def of(cls, evaluation: Evaluation, iteration: int) -> Standing | None:
        """That of an evaluation; None where it measured nothing."""
        seen = held_out_metrics(evaluation)
        if not seen:
            return None
        # In a mix, retention is that of the conversations alone.
        reacts = any(record.turn.outcome is not None for record in evaluation.records)
        name = "held_out_reward" if reacts or "retention" not in seen else "retention"
        values: dict[str, list[float]] = {}
        for record in evaluation.records if name == "retention" else _rewarded(evaluation):
            value = record.retention if name == "retention" else record.reward
            if value is not None:
                values.setdefault(record.turn.conversation_id, []).append(float(value))
        return cls(iteration, name, seen[name], {each: sum(found) / len(found) for each, found in values.items()})

    @classmethod
    def saved(cls, state: Mapping[str, Any] | None) -> Standing | None:
        """That of a checkpoint."""
        return None if state is None else cls(int(state["iteration"]), str(state["name"]), float(state["mean"]), dict(state["means"]))

    def fell_from(self, other: Standing, least: float, seed: int) -> str | None:
        """How far it is below another on the same conversations, in words; None where that is little, or may be chance.

        Args:
            other: The better one.
            least: Smallest fall that counts, as a share of the scale.
            seed: Of the bootstrap.
        """
        shared = sorted(self.means.keys() & other.means.keys())
        if self.name != other.name or not shared:
            return None
        mean, low, high = bootstrap([self.means[each] - other.means[each] for each in shared], shared, seed=seed)
        if high >= 0 or -mean <= least * SCALES[self.name]:
            return None
        return f"{self.name} fell from {other.mean:.3g} to {self.mean:.3g} (difference {mean:.2g}, interval {low:.2g} to {high:.2g})"


@dataclass(frozen=True, slots=True)
class Fall:
    """Held-out conversations got worse.

    Attributes:
        alarm: Says so, and what was done.
        back_to: Iteration whose weights were taken; None where training goes on with those that it has.
    """

    alarm: Alarm
    back_to: int | None


class Guard:
    """Remembers the best weights of a stage, those that it began with included, and goes back to them.

    Args:
        config: When and how often; None: never.
        seed: Of the run.
        learner: Whose weights these are.

    Attributes:
        stage: Index of the stage that `good` belongs to; None before the first.
        good: The best standing in it.
        weights: Those that had it.
        start: That of the weights that the run began with, where `stage` is the first; None in later ones.
        steps: Steps back so far.
    """

    def __init__(self, config: StepBackConfig | None, seed: int, learner: Learner) -> None:
        self.config, self.seed, self.learner = config, seed, learner
        self.stage: int | None = None
        self.good: Standing | None = None
        self.weights: dict[str, Tensor] = {}
        self.start: Standing | None = None
        self.steps = 0

    @property
    def rate(self) -> float:
        """Factor on the learning rate of the policy."""
        return 1.0 if self.config is None else self.config.rate**self.steps

    def begins(self, stage: int) -> bool:
        """Whether a stage begins, so that what it begins with is to be played."""
        return self.config is not None and self.stage != stage

    def begin(self, stage: int, standing: Standing | None) -> None:
        """A stage begins with weights that do as well as this."""
        self.stage, self.good, self.weights = stage, None, {}
        self.start = standing if standing is not None and standing.iteration == 0 else None
        self._remember(standing)

    def look(self, standing: Standing | None) -> Fall | None:
        """Looks at how the present weights do, and goes back to the good ones where that is much worse, as long as steps are left."""
        if self.config is None or standing is None:
            return None
        fell = None if self.good is None else standing.fell_from(self.good, self.config.fall, self.seed)
        if fell is None or self.good is None:
            self._remember(standing)
            return None
        if self.steps >= self.config.most:
            return Fall(Alarm(ALARM, f"{fell}; no step back is left: lower optimizer.learning_rate, or raise algorithm.kl."), None)
        self.steps += 1
        self.learner.go_back(self.weights)
        at = self.good.iteration
        return Fall(Alarm(ALARM, f"{fell}: went back to the weights of iteration {at}, at {self.rate:g} times the learning rate."), at)

    def settle(self, standing: Standing | None, play_start: Callable[[], Standing | None]) -> Fall | None:
        """At the end of a run: where its weights are worse than those of the start, takes the best of the last stage and the start.

        Args:
            standing: Of the present weights.
            play_start: Plays the held-out conversations; called with the weights of the start.
        """
        if self.config is None or standing is None or self.good is None:
            return None
        if self.start is None:
            with self.learner.as_at_the_start():
                self.start = play_start()
        if self.start is None or standing.mean >= self.start.mean:
            return None
        if self.start.mean > self.good.mean:
            self.good, self.weights = self.start, dict(self.learner.reference.state_dict())
        self.learner.go_back(self.weights)
        what, at = f"{standing.name} ended at {standing.mean:.3g}, below the {self.start.mean:.3g} of the start", self.good.iteration
        return Fall(Alarm(ALARM, f"{what}: took the weights of iteration {at}, with {self.good.mean:.3g}."), at)

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as plain JSON values; `weights` are apart."""
        standings = {name: None if each is None else asdict(each) for name, each in (("good", self.good), ("start", self.start))}
        return {"stage": self.stage, **standings, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Continues from a saved state."""
        self.stage = None if state["stage"] is None else int(state["stage"])
        self.good, self.start = Standing.saved(state["good"]), Standing.saved(state["start"])
        self.steps, self.weights = int(state["steps"]), dict(weights)

    def _remember(self, standing: Standing | None) -> None:
        if standing is not None and (self.good is None or standing.mean > self.good.mean):
            self.good, self.weights = standing, self.learner.weights()


def held_out_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Held-out retention and reward as flat numbers; the scheduler's rules name them."""
    held = [record.retention for record in evaluation.records if record.retention is not None]
    rewards = [record.reward for record in _rewarded(evaluation) if record.reward is not None]
    found = {"retention": sum(held) / len(held)} if held else {}
    return found | ({"held_out_reward": sum(rewards) / len(rewards)} if rewards else {})


def _rewarded(evaluation: Evaluation) -> list[TurnRecord]:
    return list(rewarded(evaluation.records) or evaluation.records)
