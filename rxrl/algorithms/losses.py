"""Losses of policy and value as pure tensor functions; all over real answer tokens or real turns, flattened."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NORM_EPS = 1.1920929e-07


@dataclass(frozen=True, slots=True)
class LossResult:
    """A scalar loss and detached metrics."""

    loss: Tensor
    metrics: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class PolicyInputs:
    """What the policy losses see of one minibatch.

    Attributes:
        log_probs: Of the sampled tokens under current weights, `[tokens]`.
        old_log_probs: The same under the weights before the update, `[tokens]`.
        advantages: Of the turn of each token, `[tokens]`; 0 and weight 0 where the turn was not scored.
        weights: 1 for tokens of scored turns, 0 for others, `[tokens]`.
        distribution: Current log-probabilities over the vocabulary, `[tokens, vocab]`.
        reference: Those of the frozen reference, `[tokens, vocab]`, or None.
        previous: Detached log-probabilities of the policy that reads the memory of the turn before, `[tokens, vocab]`, or None.
        has_previous: 1 for tokens that `previous` is defined for (from the second turn on), `[tokens]`.
        memory: Memory that each turn reads, `[layers, turns, batch, slots, dim]`.
        real: bool `[turns, batch]`.
    """

    log_probs: Tensor
    old_log_probs: Tensor
    advantages: Tensor
    weights: Tensor
    distribution: Tensor
    reference: Tensor | None
    previous: Tensor | None
    has_previous: Tensor
    memory: Tensor
    real: Tensor


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of `values` over entries of weight 1; 0 where there is none."""
    return (values * weights).sum() / weights.sum().clamp(min=1)


def clipped_policy_loss(inputs: PolicyInputs, clip: float) -> LossResult:
    """PPO's clipped surrogate, ratio per token, mean over tokens of scored turns (Schulman et al. 2017, equation 7)."""
    log_ratio = inputs.log_probs - inputs.old_log_probs
    ratio = log_ratio.exp()
    surrogate = torch.minimum(ratio * inputs.advantages, ratio.clamp(1 - clip, 1 + clip) * inputs.advantages)
    outside = ((ratio - 1).abs() > clip).to(ratio.dtype)
    k3 = (ratio - 1) - log_ratio
    metrics = {
        "ratio": weighted_mean(ratio, inputs.weights).detach(),
        "ratio_deviation": ((ratio - 1).abs() * inputs.weights).max().detach(),
        "clip_fraction": weighted_mean(outside, inputs.weights).detach(),
        "approx_kl": weighted_mean(k3, inputs.weights).detach(),
    }
    return LossResult(-weighted_mean(surrogate, inputs.weights), metrics)


def entropy(distribution: Tensor) -> Tensor:
    """Entropy of each row of log-probabilities `[tokens, vocab]`; impossible tokens count 0."""
    return -(distribution.exp() * distribution.masked_fill(distribution == float("-inf"), 0)).sum(-1)


def exact_kl(policy: Tensor, reference: Tensor) -> Tensor:
    """KL(policy || reference) of each row of log-probabilities `[tokens, vocab]`; tokens impossible in both count 0."""
    possible = policy != float("-inf")
    return (policy.exp() * (policy - reference).masked_fill(~possible, 0)).sum(-1)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, valid: Tensor, clip: float | None) -> Tensor:
    """Half the squared error over valid turns, the larger of clipped and unclipped where `clip` is given. Shapes `[turns, batch]`."""
    error = (values - returns).pow(2)
    if clip is not None:
        clipped = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (clipped - returns).pow(2))
    return 0.5 * weighted_mean(error, valid.to(values.dtype))


def memory_change(memory: Tensor, real: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """How much each write changes memory, later turns weighing more.

    Args:
        memory: Memory that each turn reads, `[layers, turns, batch, slots, dim]`.
        real: bool `[turns, batch]`.
        form: `normalised` (memory as it is read: root-mean-square norm over dim) or `raw` (published).

    Returns:
        Mean of sqrt(turn + 1) * mean((STM_t - STM_t-1)^2) and mean of 1 - cosine, over real turns from the second on.
    """
    if memory.shape[1] < 2:
        return memory.new_zeros(()), memory.new_zeros(())
    weights = real[1:].to(memory.dtype)
    turn = torch.arange(2, memory.shape[1] + 1, device=memory.device, dtype=memory.dtype)
    before, after = memory[:, :-1], memory[:, 1:]
    norms = memory.norm(dim=-1).clamp(min=NORM_EPS)
    distance = 1 - ((before * after).sum(-1) / (norms[:, :-1] * norms[:, 1:])).mean(dim=(0, 3))
    # Vectors of unit root mean square differ by 2 (1 - cosine), so memory as it is read needs no second pass.
    squared = 2 * distance if form == "normalised" else (after - before).pow(2).mean(dim=(0, 3, 4))
    return weighted_mean((turn + 1).sqrt()[:, None] * squared, weights), weighted_mean(distance, weights)
