"""PPO over turns: clipped ratios per token, with entropy bonus and KL to a frozen reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rxrl.algorithms.algorithm import Algorithm
from rxrl.algorithms.losses import LossResult, PolicyInputs, clipped_policy_loss
from rxrl.algorithms.terms import with_shared_terms

if TYPE_CHECKING:
    from rxrl.algorithms.config import AlgorithmConfig


def ppo_loss(inputs: PolicyInputs, config: AlgorithmConfig) -> LossResult:
    """Policy loss of PPO; the value loss stands apart, because the critic has its own optimizer.

    Args:
        inputs: One minibatch, or a part of one.
        config: Coefficients.

    Source: Schulman et al. 2017; lower bound for negative advantages (dual clip) of Ye et al. 2020.
    """
    return with_shared_terms(clipped_policy_loss(inputs, *config.clip_range, config.dual_clip), inputs, config)


PPO = Algorithm("ppo", ppo_loss, advantage="gae")
