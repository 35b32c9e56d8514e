"""Advantages over turns, as pure tensor functions on `[turns, batch]`."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(
    rewards: Tensor, values: Tensor, real: Tensor, bootstrap: Tensor, *, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over turns (Schulman et al. 2016).

    Args:
        rewards: `[turns, batch]`.
        values: `[turns, batch]`.
        real: bool `[turns, batch]`, false past the end of an episode; a turn that does not count (not scored) is stepped over.
        bootstrap: `[batch]`, value after the last real turn: 0 where the episode terminated, the next value where it was truncated.
        gamma: Discount.
        gae_lambda: Decay.

    Returns:
        Advantages and returns (advantage + value), both `[turns, batch]` and 0 where not real.
    """
    advantages = torch.zeros_like(rewards)
    running, following = torch.zeros_like(bootstrap), bootstrap
    for turn in range(rewards.shape[0] - 1, -1, -1):
        delta = rewards[turn] + gamma * following - values[turn]
        running = torch.where(real[turn], delta + gamma * gae_lambda * running, running)
        following = torch.where(real[turn], values[turn], following)
        advantages[turn] = running
    advantages = advantages.masked_fill(~real, 0)
    return advantages, (advantages + values).masked_fill(~real, 0)


def reward_minus_value(rewards: Tensor, values: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """IMPO's advantage: the reward of the turn itself against its value; returns are the rewards. Shapes as in `gae`."""
    return (rewards - values).masked_fill(~real, 0), rewards.masked_fill(~real, 0)


def whiten(values: Tensor, valid: Tensor, mean: Tensor | None = None, variance: Tensor | None = None) -> Tensor:
    """Zero mean and unit variance over valid entries, 0 elsewhere; `mean` and `variance` of the global batch may be given.

    A constant comes out as 0: the variance is floored at 1e-8.
    """
    if mean is None or variance is None:
        mean, variance = masked_moments(values, valid)
    return ((values - mean) * (variance + 1e-8).rsqrt()).masked_fill(~valid, 0)


def masked_moments(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (population) variance over valid entries; 0 and 0 where there is none."""
    count = valid.sum().clamp(min=1)
    mean = values.masked_fill(~valid, 0).sum() / count
    return mean, (values - mean).pow(2).masked_fill(~valid, 0).sum() / count


def explained_variance(values: Tensor, returns: Tensor, valid: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over valid entries; 0 where the returns are constant."""
    variance = masked_moments(returns, valid)[1]
    unexplained = masked_moments(returns - values, valid)[1]
    return torch.where(variance > 1e-8, 1 - unexplained / variance.clamp(min=1e-8), torch.zeros_like(variance))
