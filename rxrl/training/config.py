"""Configuration of a Memory Reinforcement Learning run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from rxrl.algorithms import AlgorithmConfig
from rxrl.config import BaseConfig
from rxrl.errors import ConfigError
from rxrl.models.config import AttentionBackend
from rxrl.runs.optim import OptimizerConfig
from rxrl.runs.trackers import TrackingConfig
from rxrl.training.alarms import AlarmConfig
from rxrl.training.signals import SignalConfig, checked_signals, with_coefficients
from rxrl.types import ANSWER_TOKENS


def _signals_of(algorithm: AlgorithmConfig | None) -> dict[str, SignalConfig]:
    given = {"reward": 1.0} if algorithm is None else algorithm.algorithm.signals
    return {name: SignalConfig(coefficient=coefficient) for name, coefficient in given.items()}


class SmallTalkConfig(BaseConfig):
    """Small talk in what is trained on, drawn anew in each iteration: memory must last where nothing is told."""

    share: float = Field(0.0, ge=0, le=1, description="Share of the conversations that get some; 0: none.")
    turns: int = Field(8, ge=1, description="Turns of small talk at most; a conversation gets from 1 up to so many.")
    place: Literal["spread", "first", "mixed"] = Field(
        "mixed", description="spread: among all turns; first: before the first one; mixed: half of the conversations each."
    )
    taught: bool = Field(
        False,
        description="Whether the signal `reference` teaches the answers to it too. A model that has never seen them would learn little "
        "else at first.",
    )


class EvaluationConfig(BaseConfig):
    """Held-out evaluation while training; never uses random resets or teacher forcing."""

    every: int = Field(10, ge=1, description="Iterations between two evaluations, which the curriculum's rules look at.")
    conversations: int = Field(64, ge=1, description="Held-out conversations of each.")


class StepBackConfig(BaseConfig):
    """Going back to the last good weights when held-out retention (reward, where users react or nothing asks for facts) has fallen."""

    fall: float = Field(
        0.05, ge=0, lt=1, description="Smallest fall that counts, as a share of the scale; its 95 % interval must exclude 0 as well."
    )
    most: int = Field(3, ge=0, description="Times that a run goes back at most.")
    rate: float = Field(0.5, gt=0, le=1, description="Factor on the learning rate of the policy each time.")


class MRLConfig(BaseConfig):
    """A run of Memory Reinforcement Learning."""

    seed: int = Field(0, description="Key of every draw.")
    episodes: int = Field(48, ge=1, description="Conversations an iteration, over all processes.")
    reward: str | dict[str, Any] = Field("retention", description="Reward: a name, `pkg.mod:fn`, `path/file.py:fn`, or a mapping.")
    env: str = Field("conversation", description="Environment: a name that a package registers, `pkg.mod:Class` or `path/file.py:Class`.")
    max_answer_tokens: int = Field(ANSWER_TOKENS, ge=1, description="Longest answer in tokens, without [EOS].")
    max_think_tokens: int = Field(
        0,
        ge=0,
        description="Most tokens that are thought before an answer; 0: answers come at once. Needs a tokenizer with the markers of the "
        "interaction template. What is thought is trained as the answer is, and written into memory; rewards see the answer alone.",
    )
    algorithm: AlgorithmConfig = AlgorithmConfig()
    signals: dict[str, SignalConfig] = Field(
        default_factory=lambda given: _signals_of(given.get("algorithm")),
        description="What the update learns from: a coefficient for each signal (`rxrl list signals`), or a mapping with `coefficient`, "
        "`final` and `options`. Signals that are not named are off. Default: as the algorithm says, most often reward: 1.",
    )
    small_talk: SmallTalkConfig = SmallTalkConfig()
    compare_signals_every: int | None = Field(
        20, ge=1, description="Iterations between two measurements of the gradient of each signal; null: never. Only with several signals."
    )
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, schedule="linear", warmup=0.02, final=0.1)
    critic: Literal["text", "dialogue", "memory", "shared"] = Field(
        "text",
        description="What the critic reads beside the query: saved data; all that was said so far; memory; or saved data with the policy's "
        "own encoder.",
    )
    critic_layers: int = Field(1, ge=1, description="Encoder layers of the critic's own, started from the model's.")
    critic_optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, schedule="constant", warmup=0.02)
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
    alarms: AlarmConfig = AlarmConfig()
    step_back: StepBackConfig | None = Field(
        StepBackConfig(), description="Going back to the last good weights when held-out conversations get worse; null: never."
    )
    precision: Literal["no", "bf16"] | None = Field(
        None, description="bf16: mixed precision; no: float32; null: as accelerate is configured, float32 without a configuration."
    )
    attention_backend: AttentionBackend | None = Field(
        None,
        description="auto: the fastest that is there; sdpa: torch's own attention; flash: flash-attn on CUDA, with precision bf16; "
        "null: as the model comes, which is auto.",
    )
    micro_batch: int | None = Field(
        None, ge=1, description="Conversations of one forward and backward pass, for less memory at the same result; null: a minibatch."
    )
    checkpoint_every: int = Field(50, ge=1, description="Iterations between two checkpoints that a run can go on from.")
    keep_checkpoints: int = Field(2, ge=1, description="Checkpoints to go on from that are kept.")
    keep_best: bool = Field(
        True, description="Also keep the weights of the best held-out retention (reward, where users react), of the latest stage."
    )
    max_iterations: int | None = Field(None, ge=1, description="Stop after this many iterations in all; null: the curriculum decides.")

    @field_validator("signals", mode="before")
    @classmethod
    def _numbers_are_coefficients(cls, given: Any) -> Any:
        return with_coefficients(given)

    @field_validator("signals")
    @classmethod
    def _known_signals(cls, given: dict[str, SignalConfig]) -> dict[str, SignalConfig]:
        try:
            return checked_signals(given)
        except ConfigError as error:
            raise ValueError(str(error)) from error
