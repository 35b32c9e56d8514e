"""Critics: what each kind reads, and its values of a rollout's turns.

`text` reads the saved interactions and the query with an encoder of its own; it may know more than memory holds. `dialogue` reads all
that was said so far, which shows what a user who reacts has given away. `memory` reads the Short-Term Memory and the query, so it knows
what the policy can know. `shared` reads what `text` reads with the policy's own encoder, which learns from the value loss too.

A critic gives the mean reward of the turns that are ahead. What returns add up is that, times the discounted number of these turns: so no
critic has to learn how long an episode is.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rxrl.algorithms import AlgorithmConfig
from rxrl.models import Critic, ReactiveTransformer, SharedCritic
from rxrl.training.replay import trajectory
from rxrl.training.rollout import Rollout
from rxrl.types import TokenBatch

CriticKind = Literal["text", "dialogue", "memory", "shared"]
AnyCritic = Critic | SharedCritic


def make_critic(kind: CriticKind, model: ReactiveTransformer, layers: int) -> AnyCritic:
    """A fresh critic, random as torch's global generator says; an encoder of its own starts from the model's.

    Args:
        kind: What it reads.
        model: The policy.
        layers: Encoder layers of its own.
    """
    if kind == "shared":
        return SharedCritic(model.config)
    critic = Critic(model.config, layers, memory=kind == "memory")
    critic.load_encoder(model.embedding, None if "encoder" in model.config.absent else model.encoder)
    return critic


def turns_ahead(turn: Tensor, steps: Tensor, config: AlgorithmConfig) -> Tensor:
    """How many turns the value of a turn sums up: itself and those after it, discounted; 1 where it is of the turn alone.

    Args:
        turn: Turn numbers from 1, any shape.
        steps: Turns of the episodes, the same shape.
        config: Which advantage, and its discount.

    Returns:
        float, the same shape, at least 1.
    """
    if config.advantage_form != "gae":
        return torch.ones(turn.shape, device=turn.device)
    # In double precision: the difference of two numbers close to 1 is divided by one close to 0.
    count = (steps - turn + 1).clamp(min=1).double()
    return (count if config.gamma == 1 else (1 - config.gamma**count) / (1 - config.gamma)).float()


def critic_values(critic: AnyCritic, rollout: Rollout, model: ReactiveTransformer) -> Tensor:
    """Values of the turns of a rollout, as means of the rewards ahead; times `turns_ahead` they are those of returns.

    Args:
        critic: Of any kind.
        rollout: What was played.
        model: The policy, whose memory or encoder a critic may read; only a shared encoder gets gradients.

    Returns:
        `[turns, batch]`, 0 behind the end of an episode.
    """
    tokens, stm, looked_at = rollout.critic_tokens, None, rollout.real.clone()
    # One of them where there is none, so that there is a pass, and gradients of 0, for whoever adds them up over processes.
    looked_at[0, 0] |= ~looked_at.any()
    if reads_memory(critic):
        tokens = TokenBatch(rollout.turns.ids, rollout.turns.mask & ~rollout.answer)
        with torch.no_grad():
            stm = trajectory(model, rollout)[:, looked_at]
    values = _values(
        critic, model, TokenBatch(tokens.ids[looked_at], tokens.mask[looked_at]), rollout.turn[looked_at], rollout.steps[looked_at], stm
    )
    return values.new_zeros(looked_at.shape).masked_scatter(looked_at, values) * rollout.real


@torch.no_grad()
def bootstrap_values(critic: AnyCritic, rollout: Rollout, model: ReactiveTransformer) -> Tensor:
    """Value of what would have followed each episode, as a mean of the rewards ahead.

    Returns:
        `[batch]`: 0 where its script ended, that of the next query where it was cut.
    """
    cut = rollout.after.mask.any(1)
    if not cut.any():
        return rollout.rewards.new_zeros(rollout.batch)
    tokens, stm = rollout.after, None
    if reads_memory(critic):
        tokens, last = rollout.after_query, rollout.real.sum(0) - 1
        read = trajectory(model, rollout)[:, last, torch.arange(rollout.batch, device=last.device)]
        stm = torch.where(cut[None, :, None, None], model.write_memory(read, rollout.unwritten.ids, rollout.unwritten.mask), read)
    values = _values(critic, model, tokens, rollout.real.sum(0) + 1, rollout.steps[0], stm)
    return values.masked_fill(~cut, 0)


def reads_memory(critic: AnyCritic) -> bool:
    """Whether values depend on the Short-Term Memory."""
    return isinstance(critic, Critic) and critic.reads_memory


def _values(critic: AnyCritic, model: ReactiveTransformer, tokens: TokenBatch, turn: Tensor, steps: Tensor, stm: Tensor | None) -> Tensor:
    if isinstance(critic, SharedCritic):
        # Not `model.encode`: several saved interactions may be longer than the one that a model takes.
        return critic(model.encoder(model.embedding(tokens.ids), tokens.mask)[-1], tokens.mask, turn, steps)  # type: ignore[no-any-return]
    return critic(tokens.ids, tokens.mask, turn, steps, stm)  # type: ignore[no-any-return]
