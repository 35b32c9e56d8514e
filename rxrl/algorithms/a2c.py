"""A2C: the policy gradient with a critic, one pass over each rollout; the plain baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rxrl.algorithms.algorithm import Algorithm
from rxrl.algorithms.losses import LossResult, PolicyInputs, policy_gradient_loss
from rxrl.algorithms.terms import with_shared_terms

if TYPE_CHECKING:
    from rxrl.algorithms.config import AlgorithmConfig


def policy_loss(inputs: PolicyInputs, config: AlgorithmConfig) -> LossResult:
    """The policy gradient with the shared terms; what differs between A2C, RLOO and REINFORCE is the advantage.

    Args:
        inputs: One minibatch, or a part of one.
        config: Coefficients.

    Source: Mnih et al. 2016 (A3C, synchronous).
    """
    return with_shared_terms(policy_gradient_loss(inputs), inputs, config)


A2C = Algorithm("a2c", policy_loss, advantage="gae", reuses_rollouts=False)
