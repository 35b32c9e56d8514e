"""The algorithms by name: what each one's loss and advantage are, and the options of all of them.

They differ in their loss, their advantage or both, and in whether they play rollouts; what they are made of stands in `losses` and
`advantages`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator

from rxrl.algorithms.losses import (
    LossResult,
    PolicyInputs,
    clipped_policy_loss,
    memory_change,
    policy_gradient_loss,
    ratio_metrics,
    weighted_mean,
)
from rxrl.config import BaseConfig, WrongValueError
from rxrl.errors import ConfigError
from rxrl.registry import Registry, absolute, first_paragraph

NEED_CRITIC = frozenset({"gae", "reward-value"})
"""Advantages that compare with the values of a critic."""
NEED_GROUPS = frozenset({"group", "leave-one-out", "best"})
"""Advantages that compare with other samples of the same conversation."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A policy-gradient algorithm; a package registers its own as an entry point of the group `rxrl.algorithms`.

    Attributes:
        name: Its name.
        loss: Policy loss of one part of a minibatch; a sum over its tokens divided by `PolicyInputs` totals, so that parts add up.
        advantage: Form that is used unless the configuration names one: gae, reward-value, return, group, leave-one-out or best.
        whiten: Whether advantages are whitened unless the configuration says.
        group_size: Samples of each conversation unless the configuration says.
        reuses_rollouts: The loss corrects for the policy having moved, so that a rollout may serve several epochs.
        remembers: The loss reads `PolicyInputs.previous_kl`, which compares with the policy that reads the memory of the turn before.
        plays: Whether the policy answers; where it does not, episodes are the data's own answers.
        signals: Coefficients of the signals that are learned from unless the configuration says.
        summary: One line for `rxrl list algorithms`.
    """

    name: str
    loss: Callable[[PolicyInputs, AlgorithmConfig], LossResult]
    advantage: str = "gae"
    whiten: bool = True
    group_size: int = 1
    reuses_rollouts: bool = True
    remembers: bool = False
    plays: bool = True
    signals: Mapping[str, float] = field(default_factory=lambda: {"reward": 1.0})
    summary: str = ""


def with_shared_terms(policy: LossResult, inputs: PolicyInputs, config: AlgorithmConfig) -> LossResult:
    """A policy loss with the shared terms added; coefficient 0 turns a term off.

    Args:
        policy: What the algorithm itself minimises.
        inputs: Its inputs.
        config: Coefficients.

    Source: KL penalty of Ziegler et al. 2019, in the loss by default; self-imitation after Oh et al. 2018, without their value baseline.
    """
    spread = inputs.mean(inputs.entropy)
    loss = policy.loss - config.entropy * spread
    metrics = {"policy_loss": policy.loss.detach(), "entropy": spread.detach(), **policy.metrics}
    if inputs.reference_kl is not None:
        kl = inputs.mean(inputs.reference_kl)
        metrics["kl"] = kl.detach()
        if config.kl_in == "loss":
            loss = loss + config.kl * kl
    if inputs.imitate is not None:
        surprise = weighted_mean(-inputs.log_probs, inputs.imitate, None if inputs.totals is None else inputs.totals.imitate)
        metrics["self_imitation"] = surprise.detach()
        loss = loss + config.experimental.self_imitation * surprise
    return LossResult(loss, metrics)


def ppo_loss(inputs: PolicyInputs, config: AlgorithmConfig) -> LossResult:
    """Policy loss of PPO and GRPO; the value loss stands apart, because the critic has its own optimizer.

    Args:
        inputs: One minibatch, or a part of one.
        config: Coefficients.

    Source: Schulman et al. 2017; lower bound for negative advantages (dual clip) of Ye et al. 2020.
    """
    return with_shared_terms(clipped_policy_loss(inputs, *config.clip_range, config.experimental.dual_clip), inputs, config)


def impo_loss(inputs: PolicyInputs, config: AlgorithmConfig) -> LossResult:
    """PPO's loss plus the memory terms; each has its switch and its own metric.

    Args:
        inputs: One minibatch, or a part of one.
        config: Coefficients.

    Source: the Reactive Transformer's published trainer, with memory compared as it is read and consistency on the same tokens.
    """
    result = ppo_loss(inputs, config)
    loss, metrics = result.loss, dict(result.metrics)
    if config.memory_difference or config.memory_cosine:
        total = None if inputs.totals is None else inputs.totals.memory
        change, cosine = memory_change(inputs.memory, inputs.real, config.experimental.memory_form, inputs.first_turn, total)
        metrics["memory_change"], metrics["memory_cosine"] = change.detach(), cosine.detach()
        loss = loss + config.memory_difference * change + config.memory_cosine * cosine
    if config.looks_back:
        consistency = inputs.mean_with_previous(torch.zeros_like(inputs.weights) if inputs.previous_kl is None else inputs.previous_kl)
        loss = loss + config.consistency * consistency
        metrics["consistency"] = consistency.detach()
    return LossResult(loss, metrics)


def plain_loss(inputs: PolicyInputs, config: AlgorithmConfig) -> LossResult:
    """The policy gradient with the shared terms; what differs between A2C, RLOO and REINFORCE is the advantage.

    Args:
        inputs: One minibatch, or a part of one.
        config: Coefficients.

    Source: Mnih et al. 2016 (A3C, synchronous).
    """
    return with_shared_terms(policy_gradient_loss(inputs), inputs, config)


def shared_terms_alone(inputs: PolicyInputs, config: AlgorithmConfig) -> LossResult:
    """The shared terms on answers that nobody sampled: what else is learned comes from other signals.

    Args:
        inputs: One minibatch, or a part of one.
        config: Coefficients.
    """
    moved = ratio_metrics(inputs.log_probs - inputs.old_log_probs, inputs, *config.clip_range)
    return with_shared_terms(LossResult(0 * inputs.mean(inputs.log_probs), moved), inputs, config)


BUILT_IN = {
    each.name: each
    for each in (
        Algorithm("ppo", ppo_loss, advantage="gae", summary="Clipped ratios per token, GAE over turns."),
        Algorithm("impo", impo_loss, advantage="reward-value", remembers=True, summary="PPO with reward minus value, and memory terms."),
        Algorithm("a2c", plain_loss, advantage="gae", reuses_rollouts=False, summary="The policy gradient with a critic."),
        # Shao et al. 2024; without division by the spread (`group_std: false`) Liu et al. 2025.
        Algorithm("grpo", ppo_loss, advantage="group", whiten=False, group_size=4, summary="PPO's loss, groups instead of a critic."),
        # Kool et al. 2019; Ahmadian et al. 2024.
        Algorithm(
            "rloo",
            plain_loss,
            advantage="leave-one-out",
            whiten=False,
            group_size=4,
            reuses_rollouts=False,
            summary="The policy gradient; the baseline of a sample is the mean of the others of its group.",
        ),
        # Anthony et al. 2017; reward-ranked fine-tuning, Dong et al. 2023.
        Algorithm(
            "expert",
            plain_loss,
            advantage="best",
            whiten=False,
            group_size=4,
            summary="Expert iteration: imitates the best sample of each group at each turn.",
        ),
        Algorithm(
            "dmpo",
            shared_terms_alone,
            advantage="return",
            plays=False,
            signals={"preference": 1.0},
            summary="Preferences between answers of the data; plays no rollouts.",
        ),
        # Williams 1992.
        Algorithm("reinforce", plain_loss, advantage="return", reuses_rollouts=False, summary="The policy gradient with whitened returns."),
    )
}


def _checked(name: str, found: Any) -> Algorithm:
    if not isinstance(found, Algorithm):
        raise ConfigError(f"The algorithm {name!r} must be an rxrl.algorithms.Algorithm, but is a {type(found).__name__}.")
    return found


ALGORITHMS = Registry(
    "algorithm", "algorithms", BUILT_IN, check=_checked, describe=lambda algorithm: algorithm.summary or first_paragraph(algorithm.loss)
)
"""Algorithms by name."""


class ExperimentalConfig(BaseConfig):
    """Rarely used options: published forms, and others for which no comparison here has shown a use."""

    advantage_per: Literal["turn", "token"] = Field(
        "turn", description="One advantage for all tokens of an answer, or one for each token (see token_lambda)."
    )
    token_lambda: float = Field(1.0, ge=0, le=1, description="advantage_per token: decay of GAE from token to token within an answer.")
    dual_clip: float | None = Field(None, gt=1, description="Bound of the ratio for negative advantages (published: 3); null: none.")
    kl_estimator: Literal["exact", "k1", "k2", "k3"] = Field(
        "exact", description="Exact over the vocabulary, or estimated on the sampled tokens; k1 only in the reward."
    )
    adaptive_kl: float | None = Field(
        None, gt=0, description="KL to the reference that the coefficient is steered to after each update; null: fixed."
    )
    adaptive_rate: float = Field(0.1, gt=0, le=1, description="Speed of that: 1 + rate * clipped relative error is the factor.")
    memory_form: Literal["normalised", "raw"] = Field(
        "normalised", description="IMPO: memory as it is read, or as it is stored (published)."
    )
    consistency_form: Literal["same-tokens", "positions"] = Field(
        "same-tokens",
        description="IMPO: on the tokens of the turn itself, or position by position with the answer of the turn before (published).",
    )
    self_imitation: float = Field(
        0.0, ge=0, description="Coefficient of self-imitation: likelihood of the best episodes' answers. Selected on outcome, so biased."
    )
    self_imitation_above: float = Field(9.0, ge=0, le=10, description="Mean reward over scored turns from which an episode is a best one.")
    detach_every: int | None = Field(
        None, ge=1, description="Cut gradients through memory before every n-th turn; cheaper than bptt_turns; null: never."
    )
    burn_in: int = Field(0, ge=0, description="First turns of an episode that are played and written, but not trained on.")


class AlgorithmConfig(BaseConfig):
    """One update of the policy."""

    name: str = Field(
        "impo", description="impo, ppo, a2c, grpo, rloo, expert, dmpo, reinforce, a name that a package registers, or `pkg.mod:NAME`."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of an algorithm that is not built in.")

    advantage: Literal["gae", "reward-value", "return", "group", "leave-one-out", "best"] | None = Field(
        None,
        description="gae: over turns; reward-value: reward of the turn minus its value; return: reward to go; group, leave-one-out: "
        "reward to go against other samples of the conversation; best: 1 for the best of them at the turn; "
        "null: that of the algorithm.",
    )
    gamma: float = Field(0.99, ge=0, le=1, description="Discount from turn to turn.")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="Decay of GAE.")
    whiten: bool | None = Field(
        None, description="Whiten advantages over all trained turns of the global batch; null: unless the algorithm compares within groups."
    )
    whiten_floor: float = Field(
        1.0, ge=0, description="Least spread that whitening divides by, in points of reward: smaller advantages are not blown up."
    )
    group_size: int | None = Field(
        None, ge=1, description="Samples of each conversation, from the same stm0; divides episodes. null: grpo, rloo, expert 4, others 1."
    )
    best_above: float = Field(5.0, ge=0, le=10, description="advantage best: least reward of an answer that is imitated.")
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
    value_clip: float | None = Field(None, gt=0, description="Clip of the value's change, in units of the reward; null: none.")
    value: float = Field(
        0.5, ge=0, description="Coefficient of the value loss in the joint loss, where the critic shares the policy's encoder."
    )
    entropy: float = Field(0.01, ge=0, description="Coefficient of the entropy bonus, mean over answer tokens.")

    kl: float = Field(0.05, ge=0, description="Coefficient of the KL(policy || reference).")
    kl_in: Literal["loss", "reward"] = Field("loss", description="A term of the loss, or taken off the reward before advantages.")
    target_kl: float | None = Field(None, gt=0, description="Stop further epochs once KL(old || new) exceeds this; null: never.")
    balance: float = Field(0.01, ge=0, description="Coefficient of the load-balancing loss.")

    memory_difference: float = Field(1e-4, ge=0, description="IMPO: coefficient of sqrt(turn + 1) * mean((STM_t - STM_t-1)^2).")
    memory_cosine: float = Field(0.0, ge=0, description="IMPO: coefficient of 1 - cosine of consecutive memories (published: 0.01).")
    consistency: float = Field(
        0.0, ge=0, description="IMPO: coefficient of the KL to the policy that reads the memory of the turn before (published: 0.01)."
    )

    bptt_turns: int | None = Field(None, ge=1, description="Memory writes a loss differentiates through; null: the whole episode.")
    gradient_growth: float | None = Field(
        1.0,
        gt=0,
        description="Most by which a memory write enlarges the gradient that it hands on to the write before, for each conversation; "
        "null: as it comes. Without effect beside bptt_turns. With 1, gradients through dozens of writes cannot explode.",
    )
    checkpoint_turns: bool = Field(
        False,
        description="Recompute each turn in the backward pass: memory use no longer grows with the turns, for one more forward pass.",
    )

    experimental: ExperimentalConfig = ExperimentalConfig()

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
            ALGORITHMS.find(name)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return absolute(name)

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
        if self.experimental.kl_estimator == "k1" and self.kl_in == "loss" and self.kl:
            reason = "k1 in the loss has no gradient on average: use exact, k2 or k3, or kl_in: reward"
            raise WrongValueError(reason, "experimental", "kl_estimator")
        if self.experimental.adaptive_kl is not None and not self.kl:
            raise WrongValueError("adaptive_kl needs a coefficient to start from: kl must be above 0", "kl")
        if self.bptt_turns is not None and self.experimental.detach_every is not None:
            reason = "bptt_turns and detach_every are two ways to cut gradients: give one of them"
            raise WrongValueError(reason, "experimental", "detach_every")
        return self
