"""IMPO (Implicit Memory Policy Optimization): PPO, and two terms that keep memory and policy steady from turn to turn."""

from __future__ import annotations

from rxrl.algorithms.config import AlgorithmConfig
from rxrl.algorithms.losses import LossResult, PolicyInputs, exact_kl, memory_change, weighted_mean
from rxrl.algorithms.ppo import ppo_loss


def impo_loss(inputs: PolicyInputs, config: AlgorithmConfig) -> LossResult:
    """PPO's loss plus the memory terms; each has its switch and its own metric.

    Args:
        inputs: One minibatch.
        config: Coefficients.

    Source: the Reactive Transformer's published trainer, with memory compared as it is read and consistency on the same tokens.
    """
    result = ppo_loss(inputs, config)
    loss, metrics = result.loss, dict(result.metrics)
    if config.memory_difference or config.memory_cosine:
        change, cosine = memory_change(inputs.memory, inputs.real, config.memory_form)
        metrics["memory_change"], metrics["memory_cosine"] = change.detach(), cosine.detach()
        loss = loss + config.memory_difference * change + config.memory_cosine * cosine
    if inputs.previous is not None:
        consistency = weighted_mean(exact_kl(inputs.distribution, inputs.previous), inputs.weights * inputs.has_previous)
        loss = loss + config.consistency * consistency
        metrics["consistency"] = consistency.detach()
    return LossResult(loss, metrics)
