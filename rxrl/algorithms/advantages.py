"""Advantages over turns, as pure tensor functions on `[turns, batch]`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_SAME = 1e-4
"""Spread, in points of reward, below which all of a group got the same."""
Reduce = Callable[[Tensor], Tensor]
"""Mean of a tensor over all processes, the same on each of them."""


def gae(rewards: Tensor, values: Tensor, real: Tensor, bootstrap: Tensor, *, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
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


def returns_to_go(rewards: Tensor, counted: Tensor, gamma: float) -> Tensor:
    """Discounted sum of the rewards of a turn and of the later ones that count, `[turns, batch]`, 0 where a turn does not count."""
    nothing = torch.zeros_like(rewards)
    return gae(rewards, nothing, counted, nothing[0], gamma=gamma, gae_lambda=1.0)[0]


def group_advantages(returns: Tensor, valid: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Return of each sample against the mean of its group at the same turn (Shao et al. 2024).

    Args:
        returns: `[turns, batch]`.
        valid: bool `[turns, batch]`.
        group: Number of the group of each row, int64 `[batch]`.

    Returns:
        Differences, 0 for a sample that stands alone, and 1 / spread of the group, both `[turns, batch]`. Where all of a group got the
        same (within `_SAME`), both are 0, so that nothing that is scaled with them, such as costs of single tokens, is blown up.
    """
    # In double precision, because what rounding leaves of equal returns would be blown up by their spread.
    exact = returns.double().masked_fill(~valid, 0)
    member = torch.nn.functional.one_hot(group).to(exact.dtype)
    count = ((valid.to(exact.dtype) @ member).clamp(min=1)) @ member.T
    mean = (exact @ member) @ member.T / count
    difference = (exact - mean).masked_fill(~valid, 0)
    spread = ((difference.pow(2) @ member) @ member.T / count).sqrt()
    scale = torch.where(spread > _SAME, 1 / (spread + 1e-4), 0.0)
    return difference.to(returns.dtype), scale.to(returns.dtype)


def leave_one_out(returns: Tensor, valid: Tensor, group: Tensor) -> Tensor:
    """Return of each sample minus the mean of the others of its group at the same turn (Kool et al. 2019); shapes as in `group_advantages`.

    A sample that stands alone has nothing to be compared with and comes out as 0.
    """
    difference, _ = group_advantages(returns, valid, group)
    count = (valid.unsqueeze(2) & (group[:, None] == group)).sum(1).to(difference.dtype)
    return difference * count / (count - 1).clamp(min=1)


def best_of_group(rewards: Tensor, valid: Tensor, group: Tensor, least: float) -> Tensor:
    """1 where no other sample of the group earned more at the turn, and it earned at least `least`; 0 elsewhere. Shapes as above."""
    shown = rewards.masked_fill(~valid, -torch.inf)
    strangers = group[:, None] != group
    best = shown.unsqueeze(1).masked_fill(strangers, -torch.inf).amax(-1)
    return (valid & (shown == best) & (shown >= least)).to(rewards.dtype)


def token_advantages(turn: Tensor, rewards: Tensor, answer: Tensor, decay: float) -> Tensor:
    """GAE from token to token within each answer, without discount; the value of every token of an answer is that of its turn.

    Args:
        turn: Advantage of each turn without `rewards`, which arrives with the last token, `[turns, batch]`.
        rewards: Of single tokens, `[turns, batch, time]`; 0 where there is no answer token.
        answer: bool `[turns, batch, time]`.
        decay: GAE's lambda; 1 gives every token the rewards from itself on and the whole advantage of the turn.

    Returns:
        `[turns, batch, time]`, 0 where there is no answer token.
    """
    out = torch.zeros_like(rewards)
    running, reached = turn, torch.zeros_like(turn, dtype=torch.bool)
    for at in range(answer.shape[-1] - 1, -1, -1):
        here = answer[..., at]
        later = torch.where(reached, decay * running, running)
        running = torch.where(here, rewards[..., at] + later, running)
        reached = reached | here
        out[..., at] = running.masked_fill(~here, 0)
    return out


def whiten(values: Tensor, valid: Tensor, reduce: Reduce | None = None, floor: float = 0.0) -> Tensor:
    """Zero mean and unit variance over valid entries of all processes, 0 elsewhere.

    Args:
        values: Of any shape.
        valid: bool, of the same shape.
        reduce: Mean over processes; None: there is one.
        floor: Least spread that is divided by. Where all turns earned about the same, what is left are errors of the critic, which a
            division by their own spread would make as large as any signal. A constant comes out as 0 in any case.
    """
    mean, variance = masked_moments(values, valid, reduce)
    return ((values - mean) * (variance + 1e-8).clamp(min=floor**2).rsqrt()).masked_fill(~valid, 0)


def masked_moments(values: Tensor, valid: Tensor, reduce: Reduce | None = None) -> tuple[Tensor, Tensor]:
    """Mean and (population) variance over valid entries of all processes; 0 and 0 where there is none."""
    mean = _mean(values, valid, reduce)
    return mean, _mean((values - mean).pow(2), valid, reduce)


def explained_variance(values: Tensor, returns: Tensor, valid: Tensor, reduce: Reduce | None = None) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over valid entries; 0 where the returns are constant."""
    variance = masked_moments(returns, valid, reduce)[1]
    unexplained = masked_moments(returns - values, valid, reduce)[1]
    return torch.where(variance > 1e-8, 1 - unexplained / variance.clamp(min=1e-8), torch.zeros_like(variance))


def _mean(values: Tensor, valid: Tensor, reduce: Reduce | None) -> Tensor:
    parts = torch.stack([values.masked_fill(~valid, 0).sum(), valid.sum().to(values.dtype)])
    total, count = (parts if reduce is None else reduce(parts)).unbind()
    return total / count.masked_fill(count == 0, 1)
