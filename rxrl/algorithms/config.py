"""Options of the policy-gradient algorithms; every coefficient is a switch (0 turns its term off)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rxrl.config import BaseConfig


class AlgorithmConfig(BaseConfig):
    """One update of the policy."""

    name: Literal["ppo", "impo"] = Field("ppo", description="ppo, or impo: PPO with memory terms.")
    advantage: Literal["gae", "reward-value"] | None = Field(
        None, description="GAE over turns, or the reward of the turn minus its value; null: ppo gae, impo reward-value."
    )
    gamma: float = Field(0.99, ge=0, le=1, description="Discount from turn to turn.")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="Decay of GAE.")
    whiten: bool = Field(True, description="Whiten advantages over all scored turns of the global batch.")
    temperature: float = Field(1.0, gt=0, description="Sampling temperature; ratios use the tempered softmax on both sides.")
    epochs: int = Field(1, ge=1, description="Passes over a rollout.")
    minibatches: int = Field(1, ge=1, description="Minibatches (of conversations) an epoch; one optimizer step each.")
    clip: float = Field(0.2, gt=0, description="Ratios are clipped to 1 +- clip.")
    value_clip: float | None = Field(None, gt=0, description="Clip of the value's change, in units of the reward; null: none.")
    entropy: float = Field(0.01, ge=0, description="Coefficient of the entropy bonus, mean over answer tokens.")
    kl: float = Field(0.05, ge=0, description="Coefficient of the exact KL(policy || reference) over the vocabulary.")
    target_kl: float | None = Field(None, gt=0, description="Stop further epochs once KL(old || new) exceeds this; null: never.")
    balance: float = Field(0.01, ge=0, description="Coefficient of the load-balancing loss.")
    memory_difference: float = Field(1e-4, ge=0, description="IMPO: coefficient of sqrt(turn + 1) * mean((STM_t - STM_t-1)^2).")
    memory_form: Literal["normalised", "raw"] = Field(
        "normalised", description="IMPO: memory as it is read, or as it is stored (published)."
    )
    memory_cosine: float = Field(0.0, ge=0, description="IMPO: coefficient of 1 - cosine of consecutive memories (published: 0.01).")
    consistency: float = Field(
        0.01, ge=0, description="IMPO: coefficient of the KL to the policy that reads the memory of the turn before."
    )
    bptt_turns: int | None = Field(None, ge=1, description="Memory writes a loss differentiates through; null: the whole episode.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")

    @property
    def advantage_form(self) -> Literal["gae", "reward-value"]:
        """The advantage that is used: the one that is given, or that of the algorithm."""
        return self.advantage or ("reward-value" if self.name == "impo" else "gae")
