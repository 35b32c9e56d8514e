"""PPO over turns: clipped ratios per token, entropy bonus, exact KL to a frozen reference."""

from __future__ import annotations

from rxrl.algorithms.config import AlgorithmConfig
from rxrl.algorithms.losses import LossResult, PolicyInputs, clipped_policy_loss, entropy, exact_kl, weighted_mean


def ppo_loss(inputs: PolicyInputs, config: AlgorithmConfig) -> LossResult:
    """Policy loss of PPO; the value loss stands apart, because the critic has its own optimizer.

    Args:
        inputs: One minibatch.
        config: Coefficients.

    Source: Schulman et al. 2017, with the KL penalty of Ziegler et al. 2019 in the loss.
    """
    policy = clipped_policy_loss(inputs, config.clip)
    spread = weighted_mean(entropy(inputs.distribution), inputs.weights)
    loss = policy.loss - config.entropy * spread
    metrics = {"policy_loss": policy.loss.detach(), "entropy": spread.detach(), **policy.metrics}
    if inputs.reference is not None:
        kl = weighted_mean(exact_kl(inputs.distribution, inputs.reference), inputs.weights)
        loss = loss + config.kl * kl
        metrics["kl"] = kl.detach()
    return LossResult(loss, metrics)
