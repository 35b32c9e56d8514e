"""Options of the policy-gradient algorithms; every coefficient is a switch (0 turns its term off)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rxrl.algorithms.algorithm import NEED_CRITIC, NEED_GROUPS, Algorithm
from rxrl.algorithms.registry import ALGORITHMS, BUILT_IN
from rxrl.config import BaseConfig, WrongValueError
from rxrl.errors import ConfigError


class AlgorithmConfig(BaseConfig):
    """One update of the policy."""

    name: str = Field("impo", description="impo, ppo, a2c, grpo, rloo, reinforce, or that of an installed package.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of an algorithm from an installed package.")

    advantage: Literal["gae", "reward-value", "return", "group", "leave-one-out"] | None = Field(
        None,
        description="gae: over turns; reward-value: reward of the turn minus its value; return: reward to go; group, leave-one-out: "
        "reward to go against other samples of the conversation; null: that of the algorithm.",
    )
    advantage_per: Literal["turn", "token"] = Field(
        "turn", description="One advantage for all tokens of an answer, or one for each token (see token_lambda)."
    )
    token_lambda: float = Field(1.0, ge=0, le=1, description="advantage_per token: decay of GAE from token to token within an answer.")
    gamma: float = Field(0.99, ge=0, le=1, description="Discount from turn to turn.")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="Decay of GAE.")
    whiten: bool | None = Field(
        None, description="Whiten advantages over all trained turns of the global batch; null: unless the algorithm compares within groups."
    )
    whiten_floor: float = Field(
        1.0, ge=0, description="Least spread that whitening divides by, in points of reward: smaller advantages are not blown up."
    )
    group_size: int | None = Field(
        None, ge=1, description="Samples of each conversation, from the same stm0; divides episodes. null: grpo, rloo 4, others 1."
    )
    group_std: bool = Field(True, description="advantage group: divide by the spread of the group.")
    skip_without_advantage: bool = Field(
        True,
        description="Take no step of the policy on a minibatch in which no turn has an advantage: entropy, KL and balance alone would "
        "move it by a full step, because the steps of Muon and Adam do not depend on the size of a gradient.",
    )

    temperature: float = Field(1.0, gt=0, description="Sampling temperature; ratios use the tempered softmax on both sides.")
    epochs: int = Field(1, ge=1, description="Passes over a rollout; 1 for a2c, rloo and reinforce.")
    minibatches: int = Field(1, ge=1, description="Minibatches (of conversations) an epoch; one optimizer step each.")
    loss_per: Literal["token", "turn", "episode"] = Field(
        "token", description="What counts the same in the means of a loss: each token, each turn or each episode."
    )
    clip: float = Field(0.2, gt=0, description="Ratios are clipped to 1 +- clip.")
    clip_low: float | None = Field(None, gt=0, le=1, description="Lower clip, where it differs.")
    clip_high: float | None = Field(None, gt=0, description="Upper clip, where it differs.")
    dual_clip: float | None = Field(None, gt=1, description="Bound of the ratio for negative advantages (published: 3); null: none.")
    value_clip: float | None = Field(None, gt=0, description="Clip of the value's change, in units of the reward; null: none.")
    value: float = Field(
        0.5, ge=0, description="Coefficient of the value loss in the joint loss, where the critic shares the policy's encoder."
    )
    entropy: float = Field(0.01, ge=0, description="Coefficient of the entropy bonus, mean over answer tokens.")

    kl: float = Field(0.05, ge=0, description="Coefficient of the KL(policy || reference).")
    kl_estimator: Literal["exact", "k1", "k2", "k3"] = Field(
        "exact", description="Exact over the vocabulary, or estimated on the sampled tokens; k1 only in the reward."
    )
    kl_in: Literal["loss", "reward"] = Field("loss", description="A term of the loss, or taken off the reward before advantages.")
    adaptive_kl: float | None = Field(
        None, gt=0, description="KL to the reference that the coefficient is steered to after each update; null: fixed."
    )
    adaptive_rate: float = Field(0.1, gt=0, le=1, description="Speed of that: 1 + rate * clipped relative error is the factor.")
    target_kl: float | None = Field(None, gt=0, description="Stop further epochs once KL(old || new) exceeds this; null: never.")
    balance: float = Field(0.01, ge=0, description="Coefficient of the load-balancing loss.")

    memory_difference: float = Field(1e-4, ge=0, description="IMPO: coefficient of sqrt(turn + 1) * mean((STM_t - STM_t-1)^2).")
    memory_form: Literal["normalised", "raw"] = Field(
        "normalised", description="IMPO: memory as it is read, or as it is stored (published)."
    )
    memory_cosine: float = Field(0.0, ge=0, description="IMPO: coefficient of 1 - cosine of consecutive memories (published: 0.01).")
    consistency: float = Field(
        0.0, ge=0, description="IMPO: coefficient of the KL to the policy that reads the memory of the turn before (published: 0.01)."
    )
    consistency_form: Literal["same-tokens", "positions"] = Field(
        "same-tokens",
        description="IMPO: on the tokens of the turn itself, or position by position with the answer of the turn before (published).",
    )

    self_imitation: float = Field(
        0.0, ge=0, description="Coefficient of self-imitation: likelihood of the best episodes' answers. Selected on outcome, so biased."
    )
    self_imitation_above: float = Field(9.0, ge=0, le=10, description="Mean reward over scored turns from which an episode is a best one.")

    bptt_turns: int | None = Field(None, ge=1, description="Memory writes a loss differentiates through; null: the whole episode.")
    detach_every: int | None = Field(
        None, ge=1, description="Cut gradients through memory before every n-th turn; cheaper than bptt_turns; null: never."
    )
    burn_in: int = Field(0, ge=0, description="First turns of an episode that are played and written, but not trained on.")
    checkpoint_turns: bool = Field(
        False,
        description="Recompute each turn in the backward pass: memory use no longer grows with the turns, for one more forward pass.",
    )

    @property
    def algorithm(self) -> Algorithm:
        """What the name stands for."""
        found: Algorithm = ALGORITHMS.find(self.name)
        return found

    @property
    def advantage_form(self) -> str:
        """The advantage that is used: the one that is given, or that of the algorithm."""
        return self.advantage or self.algorithm.advantage

    @property
    def needs_critic(self) -> bool:
        """Whether advantages compare with the values of a critic."""
        return self.advantage_form in NEED_CRITIC

    @property
    def samples(self) -> int:
        """Samples of each conversation."""
        return self.group_size or self.algorithm.group_size

    @property
    def whitens(self) -> bool:
        """Whether advantages are whitened."""
        return self.algorithm.whiten if self.whiten is None else self.whiten

    @property
    def clip_range(self) -> tuple[float, float]:
        """How far a ratio may fall below 1, and rise above it."""
        return self.clip_low or self.clip, self.clip_high or self.clip

    @property
    def looks_back(self) -> bool:
        """Whether the loss compares with the policy of the turn before."""
        return self.algorithm.remembers and self.consistency > 0

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            found: Algorithm = ALGORITHMS.find(name)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return found.name

    @model_validator(mode="after")
    def _fits_together(self) -> AlgorithmConfig:
        form = self.advantage_form
        if self.options and self.name in BUILT_IN:
            raise WrongValueError(f"{self.name} has no options of its own; its settings stand beside this one", "options")
        if form in NEED_GROUPS and self.samples < 2:
            raise WrongValueError(f"advantage {form} compares samples of one conversation: group_size must be at least 2", "group_size")
        if self.epochs > 1 and not self.algorithm.reuses_rollouts:
            raise WrongValueError(f"{self.name} does not correct for a policy that has moved: epochs must be 1 (ppo takes more)", "epochs")
        if self.target_kl is not None and self.epochs == 1:
            raise WrongValueError("target_kl stops further epochs, but there is one only: set epochs above 1", "target_kl")
        if self.kl_estimator == "k1" and self.kl_in == "loss" and self.kl:
            reason = "k1 in the loss has no gradient on average: use exact, k2 or k3, or kl_in: reward"
            raise WrongValueError(reason, "kl_estimator")
        if self.adaptive_kl is not None and not self.kl:
            raise WrongValueError("adaptive_kl needs a coefficient to start from: kl must be above 0", "kl")
        if self.bptt_turns is not None and self.detach_every is not None:
            raise WrongValueError("bptt_turns and detach_every are two ways to cut gradients: give one of them", "detach_every")
        return self
