"""What is fixed before the first step of an update: advantages, returns, old log-probabilities, what the reference says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rxrl.algorithms import AlgorithmConfig
from rxrl.algorithms.advantages import (
    Reduce,
    best_of_group,
    explained_variance,
    gae,
    group_advantages,
    leave_one_out,
    masked_moments,
    returns_to_go,
    reward_minus_value,
    token_advantages,
    whiten,
)
from rxrl.models import ReactiveTransformer
from rxrl.training.critics import AnyCritic, turns_ahead
from rxrl.training.replay import policy_log_probs, policy_passes, scatter
from rxrl.training.rollout import Rollout
from rxrl.training.token_statistics import LazyLogits, token_statistics

_BINS = 10
"""Bins of the histograms of reward terms, each one point wide."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What is fixed before the first step of an update.

    Attributes:
        advantages: 0 where not trained on, `[turns, batch]`, or one for each token, `[turns, batch, time]`.
        returns: Targets of the critic, `[turns, batch]`.
        values: Of the critic before the update, `[turns, batch]`; 0 without one.
        old_log_probs: Of the sampled tokens under the weights before the update, `[turns, batch, time]`; those of the first pass of the
            update are 0 until that pass has computed them.
        reference_hidden: Last hidden states of the frozen reference at the answer tokens, `[turns, batch, time, dim]`, or None.
    """

    advantages: Tensor
    returns: Tensor
    values: Tensor
    old_log_probs: Tensor
    reference_hidden: Tensor | None

    def rows(self, rows: Tensor) -> Targets:
        """The targets of some conversations."""
        hidden = self.reference_hidden
        return Targets(
            self.advantages[:, rows],
            self.returns[:, rows],
            self.values[:, rows],
            self.old_log_probs[:, rows],
            None if hidden is None else hidden[:, rows],
        )

    def with_old_log_probs(self, rows: Tensor, log_probs: Tensor) -> Targets:
        """The targets with the old log-probabilities of some conversations, `[turns, rows, time]`."""
        old = self.old_log_probs.clone()
        old[:, rows] = log_probs
        return replace(self, old_log_probs=old)

    def at(self, turn: int) -> Targets:
        """The targets of one turn, index from 0."""
        here, hidden = slice(turn, turn + 1), self.reference_hidden
        return replace(
            self,
            advantages=self.advantages[here],
            old_log_probs=self.old_log_probs[here],
            reference_hidden=None if hidden is None else hidden[here],
        )


def trained_turns(rollout: Rollout, config: AlgorithmConfig) -> Tensor:
    """Turns that are trained on: scored, and not of the burn-in; bool `[turns, batch]`."""
    burn_in = config.experimental.burn_in
    return rollout.scored & (rollout.turn > burn_in) if burn_in else rollout.scored


def advantages_of(
    rollout: Rollout,
    values: Tensor,
    config: AlgorithmConfig,
    bootstrap: Tensor | None = None,
    penalties: Tensor | None = None,
    reduce: Reduce | None = None,
) -> tuple[Tensor, Tensor]:
    """Advantages, whitened where asked, and returns.

    Args:
        rollout: Turns that are not scored count neither as a reward nor as a step.
        values: `[turns, batch]`; not looked at by advantages that need no critic.
        config: Which advantage, discount, decay and whitening.
        bootstrap: What `bootstrap_values` gives, `[batch]`; None: every script has ended. Only gae looks past a cut.
        penalties: Taken off the reward, `[turns, batch, time]`; see `kl_penalties`.
        reduce: Mean over processes; None: there is one.

    Returns:
        Advantages, `[turns, batch]` or, for each token, `[turns, batch, time]`, and returns `[turns, batch]`.
    """
    spent = None if penalties is None else penalties.sum(-1).masked_fill(~rollout.scored, 0)
    rewards = rollout.rewards if spent is None else rollout.rewards - spent
    advantages, scale, returns = _turn_advantages(rollout, rewards, values, config, bootstrap)
    trained = trained_turns(rollout, config)
    if config.experimental.advantage_per == "token":
        costs = torch.zeros_like(rollout.sampled_log_probs) if penalties is None else -penalties
        before = advantages if spent is None else advantages + spent
        advantages = token_advantages(before, costs, rollout.answer, config.experimental.token_lambda)
        scale, trained = scale if scale is None else scale.unsqueeze(-1), rollout.answer & trained.unsqueeze(-1)
    if scale is not None:
        advantages = advantages * scale
    advantages = advantages.masked_fill(~trained, 0)
    return (whiten(advantages, trained, reduce, config.whiten_floor) if config.whitens else advantages), returns


def _turn_advantages(
    rollout: Rollout, rewards: Tensor, values: Tensor, config: AlgorithmConfig, bootstrap: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Advantages, what they are to be multiplied with, and returns, all `[turns, batch]`."""
    form = config.advantage_form
    if form == "gae":
        following = torch.zeros_like(values[0]) if bootstrap is None else bootstrap
        advantages, returns = gae(rewards, values, rollout.scored, following, gamma=config.gamma, gae_lambda=config.gae_lambda)
        return advantages, None, returns
    if form == "reward-value":
        advantages, returns = reward_minus_value(rewards, values, rollout.real)
        return advantages, None, returns
    if form == "best":
        return best_of_group(rewards, rollout.scored, rollout.group, config.best_above), None, rewards
    returns = returns_to_go(rewards, rollout.scored, config.gamma)
    if form == "return":
        return returns, None, returns
    if form == "leave-one-out":
        return leave_one_out(returns, rollout.scored, rollout.group), None, returns
    advantages, scale = group_advantages(returns, rollout.scored, rollout.group)
    return advantages, scale if config.group_std else None, returns


@torch.no_grad()
def old_policy(
    model: ReactiveTransformer,
    rollout: Rollout,
    config: AlgorithmConfig,
    parts: Sequence[Tensor],
    reference_hidden: Tensor | None = None,
    reference_head: torch.nn.Linear | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The policy before the update, computed by the code and in the shapes of the update.

    Args:
        model: Unchanged weights.
        rollout: What was collected.
        config: Says whether the KL to the reference is taken off the reward.
        parts: Rows of each pass of the first epoch, in its order. The first pass supplies its own log-probabilities, so it is left out
            unless there are penalties.
        reference_hidden: What `reference_pass` gives.
        reference_head: Output head of the reference.

    Returns:
        Log-probabilities of the sampled tokens, and what is taken off the reward at each of them or None, both `[turns, batch, time]`.
    """
    old = torch.zeros_like(rollout.sampled_log_probs)
    if not config.kl or config.kl_in != "reward" or reference_hidden is None or reference_head is None:
        for rows in parts[1:]:
            old[:, rows] = policy_log_probs(model, rollout.rows(rows), config)
        return old, None
    penalties = torch.zeros_like(old)
    for rows in parts:
        part = rollout.rows(rows)
        passes = policy_passes(model, part, config)
        reference = LazyLogits.of(reference_head, reference_hidden[:, rows][part.answer]).split([len(each.hidden) for _, each in passes])
        estimator = config.experimental.kl_estimator
        found = [
            token_statistics(
                policy,
                (ids := turns.turns.ids)[turns.answer],
                config.temperature,
                other,
                estimator=estimator,
                thoughts=policy.thoughts(ids, turns.answer),
            )
            for (turns, policy), other in zip(passes, reference, strict=True)
        ]
        kl = torch.cat([each.reference_kl for each in found if each.reference_kl is not None])
        old[:, rows], penalties[:, rows] = scatter(torch.cat([each.log_probs for each in found]), part), scatter(config.kl * kl, part)
    return old, penalties


@torch.no_grad()
def start_critic(critic: AnyCritic, rollout: Rollout, config: AlgorithmConfig, reduce: Reduce | None = None) -> None:
    """Sets the shift of a fresh critic, so that its first values are of the size of the returns that it will learn.

    Args:
        critic: Changed in place.
        rollout: The first one.
        config: GAE learns sums of rewards, reward - value single ones.
        reduce: Mean over processes; None: there is one.
    """
    rewards = rollout.rewards
    goals = returns_to_go(rewards, rollout.scored, config.gamma) if config.advantage_form == "gae" else rewards
    goals = goals / turns_ahead(rollout.turn, rollout.steps, config)
    sums = torch.stack([goals[rollout.scored].sum(), rollout.scored.sum().to(rewards.dtype)])
    goal, count = (sums if reduce is None else reduce(sums)).tolist()
    critic.shift.fill_(goal / count if count else 0.0)


def rollout_metrics(
    rollout: Rollout, values: Tensor, returns: Tensor, config: AlgorithmConfig | None = None, reduce: Reduce | None = None
) -> dict[str, Tensor]:
    """Reward and value statistics of a rollout; NaN where there is nothing.

    As in evaluations, the reward is a mean over the turns that ask and those that a scenario judged; over all where there are neither.

    Args:
        rollout: What was collected, with its text.
        values: `[turns, batch]`.
        returns: `[turns, batch]`.
        config: Says whether there is a critic; None: there is.
        reduce: Mean over processes; None: there is one.
    """

    def total(flags: Tensor) -> Tensor:
        count = flags.sum().to(rollout.rewards.dtype)
        return count if reduce is None else reduce(count)

    def moments(numbers: Tensor, flags: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = masked_moments(numbers, flags, reduce)
        nothing = total(flags) == 0
        return mean.masked_fill(nothing, torch.nan), variance.masked_fill(nothing, torch.nan)

    counted, others = rollout.scored & (rollout.asking | rollout.judged), rollout.scored & ~rollout.asking
    mean, variance = moments(rollout.rewards, counted if total(counted) > 0 else rollout.scored)
    metrics = {
        "reward": mean,
        "reward_std": variance.sqrt(),
        "answer_tokens": total(rollout.answer) / total(rollout.real).clamp(min=1e-9),
    }
    if config is None or config.needs_critic:
        metrics["value"] = moments(values, rollout.scored)[0]
        explained = explained_variance(values, returns, rollout.scored, reduce)
        metrics["explained_variance"] = explained.masked_fill(total(rollout.scored) == 0, torch.nan)
    if total(others) > 0:
        metrics["reward_not_asking"] = moments(rollout.rewards, others)[0]
    for name, term in rollout.terms.items():
        known = (~term.isnan()).to(mean.device)
        average, spread = moments(term.nan_to_num().to(mean), known)
        counts = torch.histc(term[~term.isnan()].cpu().float(), bins=_BINS, min=0.0, max=10.0).to(mean)
        counts = counts if reduce is None else reduce(counts)
        metrics |= {f"reward/{name}": average, f"reward_std/{name}": spread.sqrt()}
        metrics[f"reward_histogram/{name}"] = counts / counts.sum().clamp(min=1e-9)
    return metrics
