"""The update: replays a rollout from stm0 with current weights, gradients through memory, one optimizer step a minibatch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rxrl.algorithms import POLICY_LOSSES, AlgorithmConfig, PolicyInputs
from rxrl.algorithms.advantages import explained_variance, gae, masked_moments, reward_minus_value, whiten
from rxrl.algorithms.losses import LossResult, value_loss
from rxrl.models import Critic, ReactiveTransformer, answer_logits
from rxrl.models.layers import RouterStatistics, load_balance_loss
from rxrl.models.replay import answer_hidden, memory_trajectory
from rxrl.seeding import generator
from rxrl.training.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Targets:
    """What is fixed before the first step of an update, all of it `[turns, batch]` or `[turns, batch, time, ...]`.

    Attributes:
        advantages: Whitened, 0 where not scored.
        returns: Targets of the critic.
        values: Of the critic before the update.
        old_log_probs: Of the sampled tokens under the weights before the update, `[turns, batch, time]`.
        reference_hidden: Last hidden states of the frozen reference at the answer tokens, `[turns, batch, time, dim]`, or None.
    """

    advantages: Tensor
    returns: Tensor
    values: Tensor
    old_log_probs: Tensor
    reference_hidden: Tensor | None


def distribution(model: ReactiveTransformer, hidden: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of the policy over the vocabulary, `[tokens, dim]` to `[tokens, vocab]`."""
    return (answer_logits(model.decoder.head(hidden)) / temperature).log_softmax(-1)


def sampled(distribution: Tensor, rollout: Rollout) -> Tensor:
    """Log-probabilities of the sampled tokens, `[tokens]`."""
    return distribution.gather(1, rollout.turns.ids[rollout.answer].unsqueeze(1)).squeeze(1)


def trajectory(model: ReactiveTransformer, rollout: Rollout, bptt_turns: int | None, stm0: Tensor | None = None) -> Tensor:
    """Memory that each turn reads, `[layers, turns, batch, slots, dim]`, from the rollout's stm0 or from another one."""
    start = rollout.stm0 if stm0 is None else stm0
    written = memory_trajectory(model, start, rollout.writes.ids, rollout.writes.mask, bptt_turns)
    return written[:, -len(rollout.real) :]


def policy_log_probs(model: ReactiveTransformer, rollout: Rollout, config: AlgorithmConfig) -> Tensor:
    """Log-probabilities of the sampled tokens as the update computes them, `[turns, batch, time]`, 0 elsewhere."""
    stms = trajectory(model, rollout, config.bptt_turns)
    hidden = answer_hidden(model, stms, rollout.turns.ids, rollout.turns.mask, rollout.answer)
    return _scatter(sampled(distribution(model, hidden, config.temperature), rollout), rollout)


@torch.no_grad()
def reference_pass(reference: ReactiveTransformer, rollout: Rollout, left: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The reference on the same tokens; it runs its own memory.

    Args:
        reference: The frozen reference.
        rollout: What was collected.
        left: Memory that the reference ended the last rollout with; where an episode carries memory over, the reference carries its own.

    Returns:
        Hidden states `[turns, batch, time, dim]`, and the memory that it ends with, `[layers, batch, slots, dim]`.
    """
    stm0 = rollout.stm0
    if left is not None:
        carried = (rollout.carried >= 0)[None, :, None, None]
        stm0 = torch.where(carried, left[:, rollout.carried.clamp(min=0)], stm0)
    stms = trajectory(reference, rollout, None, stm0)
    hidden = answer_hidden(reference, stms, rollout.turns.ids, rollout.turns.mask, rollout.answer)
    last = rollout.real.sum(0) - 1
    return _scatter(hidden, rollout), stms[:, last, torch.arange(rollout.batch, device=last.device)]


def critic_values(critic: Critic, rollout: Rollout) -> Tensor:
    """Values `[turns, batch]`."""
    flat = critic(rollout.critic.ids.flatten(0, 1), rollout.critic.mask.flatten(0, 1), rollout.turn.flatten(), rollout.steps.flatten())
    return torch.as_tensor(flat).view_as(rollout.rewards)


@torch.no_grad()
def bootstrap_values(critic: Critic, rollout: Rollout) -> Tensor:
    """Value of what would have followed each episode, `[batch]`: 0 where its script ended, that of the next query where it was cut."""
    if not rollout.after.mask.any():
        return rollout.rewards.new_zeros(rollout.batch)
    values = torch.as_tensor(critic(rollout.after.ids, rollout.after.mask, rollout.real.sum(0) + 1, rollout.steps[0]))
    return values.masked_fill(~rollout.after.mask.any(1), 0)


def advantages_of(rollout: Rollout, values: Tensor, config: AlgorithmConfig, bootstrap: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Advantages, whitened where asked, and returns, both `[turns, batch]`.

    Args:
        rollout: Turns that are not scored count neither as a reward nor as a step.
        values: `[turns, batch]`.
        config: Which advantage, discount, decay and whitening.
        bootstrap: What `bootstrap_values` gives, `[batch]`; None: every script has ended.
    """
    if config.advantage_form == "gae":
        following = torch.zeros_like(values[0]) if bootstrap is None else bootstrap
        advantages, returns = gae(rollout.rewards, values, rollout.scored, following, gamma=config.gamma, gae_lambda=config.gae_lambda)
    else:
        advantages, returns = reward_minus_value(rollout.rewards, values, rollout.real)
    advantages = advantages.masked_fill(~rollout.scored, 0)
    return (whiten(advantages, rollout.scored) if config.whiten else advantages), returns


def actor_loss(
    model: ReactiveTransformer,
    rollout: Rollout,
    targets: Targets,
    config: AlgorithmConfig,
    reference_head: torch.nn.Linear,
    first: bool = False,
) -> tuple[LossResult, Tensor]:
    """The policy loss of one minibatch, with the load-balancing loss of the experts.

    Args:
        model: Current weights.
        rollout: The minibatch.
        targets: What is fixed, for the same rows.
        config: Coefficients.
        reference_head: Output head of the reference.
        first: No step was taken since collection, so this pass itself supplies the old log-probabilities.

    Returns:
        Loss with metrics, and the detached log-probabilities of this pass, `[turns, batch, time]`.
    """
    statistics = RouterStatistics(rollout.turns.mask)
    stms = trajectory(model, rollout, config.bptt_turns)
    hidden = answer_hidden(model, stms, rollout.turns.ids, rollout.turns.mask, rollout.answer, statistics)
    current = distribution(model, hidden, config.temperature)
    reference = None
    if targets.reference_hidden is not None:
        with torch.no_grad():
            logits = reference_head(targets.reference_hidden[rollout.answer])
            reference = (answer_logits(logits) / config.temperature).log_softmax(-1)
    log_probs = sampled(current, rollout)
    inputs = PolicyInputs(
        log_probs=log_probs,
        old_log_probs=log_probs.detach() if first else targets.old_log_probs[rollout.answer],
        advantages=_per_token(targets.advantages, rollout),
        weights=_per_token(rollout.scored.to(current.dtype), rollout),
        distribution=current,
        reference=reference,
        previous=_previous(model, stms, rollout, config),
        has_previous=_per_token((rollout.turn > 1).to(current.dtype), rollout),
        memory=stms,
        real=rollout.real,
    )
    result = POLICY_LOSSES[config.name](inputs, config)
    if statistics.loads:
        balance = load_balance_loss(*statistics.sums())
        result = LossResult(result.loss + config.balance * balance, {**result.metrics, "balance": balance.detach()})
    return result, _scatter(log_probs.detach(), rollout)


@torch.no_grad()
def _previous(model: ReactiveTransformer, stms: Tensor, rollout: Rollout, config: AlgorithmConfig) -> Tensor | None:
    """The policy on the same tokens, reading the memory of the turn before (IMPO's consistency)."""
    if config.name != "impo" or not config.consistency or stms.shape[1] < 2:
        return None
    before = torch.cat([stms[:, :1], stms[:, :-1]], dim=1)
    hidden = answer_hidden(model, before, rollout.turns.ids, rollout.turns.mask, rollout.answer)
    return distribution(model, hidden, config.temperature)


def critic_loss(critic: Critic, rollout: Rollout, targets: Targets, config: AlgorithmConfig) -> LossResult:
    """Value loss of one minibatch over scored turns."""
    values = critic_values(critic, rollout)
    loss = value_loss(values, targets.values, targets.returns, rollout.scored, config.value_clip)
    return LossResult(loss, {"value_loss": loss.detach()})


def minibatches(batch: int, count: int, *key: int | str) -> Iterator[Tensor]:
    """Row indices of `count` minibatches (fewer where there are fewer rows), about equal; which, depends on `key`."""
    order = torch.randperm(batch, generator=generator(*key))
    yield from (part.sort().values for part in order.tensor_split(min(count, batch)))


def targets_of_rows(targets: Targets, rows: Tensor) -> Targets:
    """The targets of some conversations."""
    hidden = targets.reference_hidden
    return Targets(
        targets.advantages[:, rows],
        targets.returns[:, rows],
        targets.values[:, rows],
        targets.old_log_probs[:, rows],
        None if hidden is None else hidden[:, rows],
    )


def rollout_metrics(rollout: Rollout, values: Tensor, returns: Tensor) -> dict[str, Tensor]:
    """Reward and value statistics of a rollout; rewards over the turns that ask, the mean of the others apart."""
    asking = rollout.scored & rollout.asking
    mean, variance = masked_moments(rollout.rewards, asking if asking.any() else rollout.scored)
    metrics = {
        "reward": mean,
        "reward_std": variance.sqrt(),
        "value": masked_moments(values, rollout.scored)[0],
        "explained_variance": explained_variance(values, returns, rollout.scored),
        "answer_tokens": rollout.answer.sum() / rollout.real.sum().clamp(min=1),
    }
    if (others := rollout.scored & ~rollout.asking).any():
        metrics["reward_not_asking"] = masked_moments(rollout.rewards, others)[0]
    for name, term in rollout.terms.items():
        known = ~term.isnan()
        metrics[f"reward/{name}"] = masked_moments(term.nan_to_num(), known)[0]
    return metrics


def _per_token(per_turn: Tensor, rollout: Rollout) -> Tensor:
    """Values of `[turns, batch]` spread over the answer tokens of each turn, `[tokens]`."""
    return per_turn.unsqueeze(-1).expand(rollout.answer.shape)[rollout.answer]


def _scatter(values: Tensor, rollout: Rollout) -> Tensor:
    """`[tokens, ...]` back to `[turns, batch, time, ...]`, 0 where there is no answer token."""
    out = values.new_zeros(*rollout.answer.shape, *values.shape[1:])
    out[rollout.answer] = values
    return out
