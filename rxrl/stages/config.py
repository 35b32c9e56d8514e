"""Configuration of the supervised stages."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rxrl.config import BaseConfig, WrongValueError
from rxrl.runs.optim import OptimizerConfig, Share
from rxrl.runs.trackers import TrackingConfig
from rxrl.types import PARAMETER_GROUPS, ParameterGroup, Strategy


class StageConfig(BaseConfig):
    """What every stage has."""

    seed: int = Field(0, description="Key of every draw.")
    max_tokens: int | None = Field(None, ge=1, description="End after this many tokens; null: iterations alone decide.")
    batch_tokens: int = Field(2_000, ge=1, description="Real tokens of a batch, about: it sets how many rows a batch has.")
    accumulation: int = Field(
        1, ge=1, description="Forward and backward passes of a step, each on a part of the batch: less memory, same result."
    )
    precision: Literal["no", "bf16"] | None = Field(
        None, description="bf16: mixed precision; no: float32; null: as accelerate is configured, float32 without a configuration."
    )
    compile: bool = Field(False, description="Compile the layers with torch.compile, for batches of one shape such as packed rows.")
    shard: bool = Field(
        False, description="Divide weights, gradients and optimizer state among the processes (FSDP2): less memory, same result."
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    validate_every: int = Field(100, ge=1, description="Iterations between two validations.")
    validation_rows: int = Field(64, ge=1, description="Held-out texts or conversations of a validation.")
    log_every: int = Field(10, ge=1, description="Iterations between two lines of metrics.")
    balance: float = Field(0.01, ge=0, description="Coefficient of the experts' load-balancing loss.")
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay of an exponential moving average of the weights, such as 0.999, which then validates and is what it ends with; "
        "null: none.",
    )
    finish_with: Literal["last", "best"] = Field("last", description="Weights that it ends with: the last, or the best by validation.")
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _sharded_weights_are_not_compiled(self) -> Self:
        if self.shard and self.compile:
            raise WrongValueError("shard=true and compile=true do not go together; leave one out", "shard")
        return self

    @property
    def most_iterations(self) -> int:
        """Optimizer steps at most."""
        raise NotImplementedError


class PlainStageConfig(StageConfig):
    """A stage that is the same from its first step to its last."""

    iterations: int = Field(200, ge=1, description="Optimizer steps at most.")

    @property
    def most_iterations(self) -> int:
        """Optimizer steps at most."""
        return self.iterations


class LanguageConfig(PlainStageConfig):
    """Language modelling, on texts (pre-training) or single interactions (fine-tuning)."""

    mode: Literal["joint", "separate"] = Field(
        "joint",
        description="joint: each batch is masked in the encoder and plain in the decoder, which reads the encoded data as memory; "
        "separate: first the encoder with the MLM head, then the decoder with the encoder's embedding, both without memory.",
    )
    mask_share: float = Field(0.15, gt=0, lt=1, description="Share of the tokens that the encoder predicts.")
    mlm_weight: float = Field(1.0, ge=0, description="Weight of the masked loss, in mode joint.")
    ar_weight: float = Field(1.0, ge=0, description="Weight of the autoregressive loss, in mode joint.")
    noise: float = Field(0.1, ge=0, description="Standard deviation of the noise on encoded data as memory, in mode joint.")
    slot_dropout: float = Field(0.5, ge=0, lt=1, description="Probability that a slot of the encoded data is hidden, in mode joint.")
    reset_positions: bool = Field(True, description="Positions begin anew at each text of a row, where texts of a token store are packed.")
    encoder_share: float = Field(
        0.5, ge=0, le=1, description="Share of the stage that trains the encoder, in mode separate; 1: encoder alone; 0: decoder alone."
    )
    freeze_embedding: bool = Field(
        True, description="Keep the embedding that the encoder has learned as it is while the decoder trains, in mode separate."
    )


class ReadingConfig(PlainStageConfig):
    """The decoder answers from the encoded interaction before, as from a memory that keeps all of it."""

    steps: ClassVar[int] = 1
    accuracy: float | None = Field(None, gt=0, le=1, description="End once validation answers this share of the asking turns right.")


class MemoryAttentionStageConfig(PlainStageConfig):
    """Self-supervised memory attention: towards a mix of the old memory and the new interaction."""

    steps: int = Field(4, ge=1, le=32, description="Turns of the conversations.")
    noise: float = Field(0.02, ge=0, description="Standard deviation of the noise on inputs and targets.")


Unfreezing = Annotated[dict[ParameterGroup, Share], Field(description="Share of the run from which a parameter group is trained.")]


GradientGrowth = Annotated[
    float | None,
    Field(
        gt=0,
        description="Most by which a memory write enlarges the gradient that it hands on to the write before, for each conversation; "
        "null: as it comes. Without effect beside bptt_turns. With 1, gradients through dozens of writes cannot explode.",
    ),
]


class SmatPhase(BaseConfig):
    """A part of memory-aware training with conversations of one length."""

    steps: int = Field(ge=1, le=32, description="Turns of the conversations.")
    iterations: int = Field(ge=1, description="Optimizer steps at most; the last phase also takes what earlier ones left.")
    accuracy: float | None = Field(None, gt=0, le=1, description="Go on once validation answers this share of the asking turns right.")
    validations: int = Field(1, ge=1, description="Validations in a row that have to reach `accuracy`.")

    @model_validator(mode="after")
    def _validations_have_something_to_reach(self) -> SmatPhase:
        if self.validations > 1 and self.accuracy is None:
            raise WrongValueError("give `accuracy` too: it is what validations have to reach", "validations")
        return self


class SmatConfig(StageConfig):
    """Supervised memory-aware training: the real cycle, teacher-forced."""

    phases: tuple[SmatPhase, ...] = Field(
        (SmatPhase(steps=1, iterations=300, accuracy=0.95), SmatPhase(steps=4, iterations=600)),
        min_length=1,
        description="Lengths of conversation, in order; the stage has as many iterations as they have together.",
    )
    strategy: Strategy = "multi-step"
    bptt_turns: int | None = Field(None, ge=1, description="Memory writes a loss differentiates through; null: the whole conversation.")
    gradient_growth: GradientGrowth = None
    unfreeze: Unfreezing = Field(
        default_factory=dict, description="Share of the run from which a parameter group is trained; groups left out: from the start."
    )

    @model_validator(mode="after")
    def _something_learns(self) -> SmatConfig:
        if not self.trained_groups(0.0):
            raise WrongValueError("no group is trained at the start; leave one out, or set it to 0", "unfreeze")
        return self

    @property
    def most_iterations(self) -> int:
        """Optimizer steps at most."""
        return sum(phase.iterations for phase in self.phases)

    def trained_groups(self, progress: float) -> frozenset[ParameterGroup]:
        """The parameter groups that learn at `progress` in [0, 1] of the run."""
        return frozenset(group for group in PARAMETER_GROUPS if progress >= self.unfreeze.get(group, 0.0))


class RereadingConfig(SmatConfig):
    """The baseline that re-reads the conversation: a causal decoder on the conversations of memory-aware training."""


STAGES: dict[str, type[StageConfig]] = {
    "pretrain": LanguageConfig,
    "sft": LanguageConfig,
    "reading": ReadingConfig,
    "memory-attention": MemoryAttentionStageConfig,
    "smat": SmatConfig,
}
"""Configuration of each stage by name, in the order in which they are run."""
BASELINE_STAGES: dict[str, type[StageConfig]] = {"rereading": RereadingConfig}
"""Stages of models without memory, which are trained to be compared with."""
