"""Alarms: metrics that show that training is going wrong, with their likely cause and a remedy. They only warn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from rxrl.config import BaseConfig

TERM = "reward/"


class AlarmConfig(BaseConfig):
    """Thresholds; null turns an alarm off."""

    stop: bool = Field(False, description="End the run at the first alarm, after a checkpoint.")
    sampler_gap: float | None = Field(
        0.01, gt=0, description="Largest difference between log-probabilities of sampler and first update: the ratio is not 1 there."
    )
    kl: float | None = Field(1.0, gt=0, description="KL to the reference, in nats a token.")
    approx_kl: float | None = Field(0.2, gt=0, description="KL between the policies before and after an update, in nats a token.")
    entropy: float | None = Field(0.02, gt=0, description="Entropy below this, in nats a token, while the reward is below entropy_reward.")
    entropy_reward: float = Field(5.0, ge=0, le=10, description="From this reward on a low entropy, or no advantage, is mastery.")
    unscored: int | None = Field(1, ge=1, description="Iterations in a row in which the reward scores no turn.")
    explained_variance: float | None = Field(-0.1, lt=1, description="Mean explained variance of the last `patience` iterations.")
    patience: int = Field(20, ge=1, description="Iterations without alarm about the critic, which has to learn first.")
    drift_growth: float | None = Field(20.0, gt=1, description="Memory drift as a multiple of that of the first iteration.")
    drift_floor: float | None = Field(1e-7, gt=0, description="Memory drift below which nothing is written.")
    without_advantage: int | None = Field(
        10, ge=1, description="Iterations in a row without any advantage, while the reward is below entropy_reward."
    )
    grad_norm: float | None = Field(1000.0, gt=0, description="Norm of the policy's gradient, before clipping.")
    gate: float | None = Field(0.01, gt=0, lt=0.5, description="Mean gate openness nearer than this to 0 or 1.")
    parting: float | None = Field(
        0.05, gt=0, description="Fall of held-out retention between the halves of the last `evaluations`, while a reward term rises."
    )
    parting_rise: float = Field(0.5, gt=0, le=10, description="Rise of the reward term, of 10, that goes with it.")
    evaluations: int = Field(6, ge=2, description="Held-out evaluations that parting looks at.")


@dataclass(frozen=True, slots=True)
class Alarm:
    """A metric that has crossed its threshold.

    Attributes:
        name: The setting of `AlarmConfig` that raised it.
        message: What was observed, what it may mean, and what to do.
    """

    name: str
    message: str


class Alarms:
    """Watches the metrics of each iteration; an alarm is raised when its condition begins to hold, and not again while it holds."""

    def __init__(self, config: AlarmConfig) -> None:
        self.config = config
        self.active: set[str] = set()
        self._variances: list[float] = []
        self._first_drift: float | None = None
        self._idle = 0
        self._unscored = 0
        self._stage: str | None = None
        self._evaluations: list[dict[str, float]] = []
        self._terms: dict[str, list[float]] = {}

    def observe(self, metrics: Mapping[str, Any]) -> list[Alarm]:
        """Takes the metrics of an iteration; returns the alarms that begin."""
        self._remember(metrics)
        found = {alarm.name: alarm for alarm in self._conditions(metrics)}
        begun = [alarm for name, alarm in found.items() if name not in self.active]
        # What only evaluations can show holds until the next of them.
        self.active = set(found) | (set() if "retention" in metrics else {name for name in self.active if name.startswith("parting")})
        return begun

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue, as plain JSON values."""
        return {
            "active": sorted(self.active),
            "variances": self._variances,
            "first_drift": self._first_drift,
            "idle": self._idle,
            "unscored": self._unscored,
            "stage": self._stage,
            "evaluations": self._evaluations,
            "terms": self._terms,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a saved state."""
        self.active = set(state["active"])
        self._variances, self._first_drift = list(state["variances"]), state["first_drift"]
        self._idle, self._unscored, self._stage = int(state["idle"]), int(state["unscored"]), state["stage"]
        self._evaluations = [dict(each) for each in state["evaluations"]]
        self._terms = {name: list(values) for name, values in state["terms"].items()}

    def _remember(self, metrics: Mapping[str, Any]) -> None:
        if metrics.get("stage") != self._stage:
            # Longer conversations are harder, and may have another reward: what earlier stages gave says nothing about this one.
            self._stage, self._variances, self._evaluations, self._terms = metrics.get("stage"), [], [], {}
            self._idle = self._unscored = 0
        if metrics.get("explained_variance") is not None:
            self._variances = [*self._variances, float(metrics["explained_variance"])][-self.config.patience :]
        if self._first_drift is None and "memory_drift" in metrics:
            self._first_drift = float(metrics["memory_drift"])
        reward = metrics["reward"]
        self._unscored = self._unscored + 1 if reward is None else 0
        idle = metrics.get("without_advantage") == 1 and _below(reward, self.config.entropy_reward)
        self._idle = self._idle + 1 if idle else 0
        for name in ("reward", *(key for key in metrics if key.startswith(TERM))):
            if metrics.get(name) is not None:
                self._terms.setdefault(name, []).append(float(metrics[name]))
        if "retention" in metrics:
            means = {name: sum(values) / len(values) for name, values in self._terms.items() if values}
            self._evaluations = [*self._evaluations, {**means, "retention": float(metrics["retention"])}][-self.config.evaluations :]
            self._terms = {}

    def _conditions(self, metrics: Mapping[str, Any]) -> Iterator[Alarm]:
        yield from self._policy(metrics)
        yield from self._critic()
        yield from self._memory(metrics)
        if "retention" in metrics:
            yield from self._parting()

    def _policy(self, metrics: Mapping[str, Any]) -> Iterator[Alarm]:
        config = self.config
        if _above(gap := metrics.get("sampler_gap"), config.sampler_gap):
            yield Alarm(
                "sampler_gap",
                f"The ratio is not 1 at the first update: log-probabilities differ by {gap:.2g} between sampler and replay. "
                "In bf16 raise alarms.sampler_gap; otherwise replay differs from collection, which is a defect: report it.",
            )
        if _above(kl := metrics.get("kl"), config.kl):
            yield Alarm("kl", f"KL to the reference is {kl:.2g} nats a token: raise algorithm.kl or lower optimizer.learning_rate.")
        if _above(moved := metrics.get("approx_kl"), config.approx_kl):
            yield Alarm(
                "approx_kl",
                f"One update moved the policy by {moved:.2g} nats a token: lower optimizer.learning_rate, or set algorithm.target_kl.",
            )
        if _below(entropy := metrics.get("entropy"), config.entropy) and _below(metrics.get("reward"), config.entropy_reward):
            yield Alarm(
                "entropy",
                f"Entropy has collapsed to {entropy:.2g} nats a token at a reward of {metrics['reward']:.2g}: nothing is explored. "
                "Raise algorithm.entropy, lower optimizer.learning_rate, or go back to an earlier checkpoint.",
            )
        if config.unscored is not None and self._unscored >= config.unscored:
            yield Alarm(
                "unscored",
                f"No turn was scored in {self._unscored} iteration{'s in a row' if self._unscored > 1 else ''}: the reward gave None for "
                "each answer, so nothing was learned. Check what the reward needs (a judge that answers, columns of the data, turns that "
                "ask for something), and try it with `rxrl rewards check NAME`.",
            )
        if config.without_advantage is not None and self._idle >= config.without_advantage:
            yield Alarm(
                "without_advantage",
                f"For {self._idle} iterations all answers that are compared have earned the same (reward {metrics['reward']:.2g}), so "
                "nothing was learned. Raise algorithm.temperature or algorithm.group_size, add a reward term that tells answers apart, "
                "or train on with supervision first.",
            )

    def _critic(self) -> Iterator[Alarm]:
        if len(self._variances) < self.config.patience:
            return
        mean = sum(self._variances) / len(self._variances)
        if _below(mean, self.config.explained_variance):
            yield Alarm(
                "explained_variance",
                f"The critic explains {mean:.2g} of the returns' variance over the last {len(self._variances)} iterations, less than a "
                "constant would: lower critic_optimizer.learning_rate, set algorithm.value_clip, or take advantage: reward-value.",
            )

    def _memory(self, metrics: Mapping[str, Any]) -> Iterator[Alarm]:
        config, drift, gate = self.config, metrics.get("memory_drift"), metrics.get("gate_openness")
        if drift is not None and config.drift_growth and self._first_drift and drift > config.drift_growth * self._first_drift:
            yield Alarm(
                "drift_growth",
                f"A write changes memory by {drift:.2g} (mean square), {drift / self._first_drift:.2g} times as much as at the start: "
                "memory is running away. Lower the rate of memory_attention, or take impo with memory_difference.",
            )
        if _above(norm := metrics.get("grad_norm"), config.grad_norm):
            yield Alarm(
                "grad_norm",
                f"The norm of the gradient is {norm:.2g}: it grows from write to write, and its direction says little. Set "
                "algorithm.gradient_growth to 1, or algorithm.bptt_turns to a few turns; otherwise lower optimizer.learning_rate.",
            )
        if _below(drift, config.drift_floor):
            yield Alarm("drift_floor", f"A write changes memory by {drift:.2g} (mean square): nothing is written. Train memory_attention.")
        if config.gate is not None and gate is not None and not config.gate <= gate <= 1 - config.gate:
            yield Alarm(
                "gate",
                f"The gates of memory attention are saturated (openness {gate:.2g} on average), so they hardly learn: lower the rate of "
                "memory_attention, or start from an earlier checkpoint.",
            )

    def _parting(self) -> Iterator[Alarm]:
        config, seen = self.config, self._evaluations
        if config.parting is None or len(seen) < config.evaluations:
            return
        half = len(seen) // 2
        fall = -_rise(seen, "retention", half)
        for name in sorted(seen[-1].keys() - {"retention"}):
            if fall > config.parting and all(name in each for each in seen) and _rise(seen, name, half) > config.parting_rise:
                yield Alarm(
                    f"parting {name}",
                    f"{name} rises by {_rise(seen, name, half):.2g} of 10 while held-out retention falls by {fall:.2g}: the reward is "
                    "being gamed. Lower the weight of that term, and read transcripts.",
                )


def _rise(seen: list[dict[str, float]], name: str, half: int) -> float:
    """Mean of the last `half` values less that of the first."""
    values = [each[name] for each in seen]
    return sum(values[-half:]) / half - sum(values[:half]) / half


def _above(value: Any, threshold: float | None) -> bool:
    return value is not None and threshold is not None and value > threshold


def _below(value: Any, threshold: float | None) -> bool:
    return value is not None and threshold is not None and value < threshold
