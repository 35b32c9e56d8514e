"""IMPO (Implicit Memory Policy Optimization): PPO, and two terms that keep memory and policy steady from turn to turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rxrl.algorithms.algorithm import Algorithm
from rxrl.algorithms.losses import LossResult, PolicyInputs, memory_change
from rxrl.algorithms.ppo import ppo_loss

if TYPE_CHECKING:
    from rxrl.algorithms.config import AlgorithmConfig


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
        change, cosine = memory_change(inputs.memory, inputs.real, config.memory_form, inputs.first_turn, total)
        metrics["memory_change"], metrics["memory_cosine"] = change.detach(), cosine.detach()
        loss = loss + config.memory_difference * change + config.memory_cosine * cosine
    if config.looks_back:
        consistency = inputs.mean_with_previous(torch.zeros_like(inputs.weights) if inputs.previous_kl is None else inputs.previous_kl)
        loss = loss + config.consistency * consistency
        metrics["consistency"] = consistency.detach()
    return LossResult(loss, metrics)


IMPO = Algorithm("impo", impo_loss, advantage="reward-value", remembers=True)
