"""Reward functions for TRL's trainers, which read what a rollout has earned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rxrl.errors import ConfigError
from rxrl.integrations.dialogues import Rewards, mean_reward


def dialogue_mean(turn_rewards: Sequence[Rewards], **columns: Any) -> Rewards:
    """A reward function for TRL: the mean over the turns of a conversation, from 0 to 10."""
    return [mean_reward(rewards) for rewards in turn_rewards]


def dialogue_sum(turn_rewards: Sequence[Rewards], **columns: Any) -> Rewards:
    """A reward function for TRL: the sum over the turns of a conversation, from 0 to 10 times their number."""
    scored = [[each for each in rewards if each is not None] for rewards in turn_rewards]
    return [sum(each) if each else None for each in scored]


def dialogue_turn(index: int) -> Callable[..., Rewards]:
    """A reward function for TRL: that of a single turn, from 0 to 10; several are logged, weighted and normalised one by one.

    Args:
        index: Number of the turn, from 1.
    """
    if index < 1:
        raise ConfigError(f"Turns are counted from 1, got {index}.")

    def reward(turn_rewards: Sequence[Rewards], **columns: Any) -> Rewards:
        return [rewards[index - 1] if index <= len(rewards) else None for rewards in turn_rewards]

    reward.__name__ = f"dialogue_turn_{index}"
    return reward
