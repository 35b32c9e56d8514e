"""What a name such as `ppo` stands for: a loss, an advantage, and what they need of a rollout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rxrl.algorithms.config import AlgorithmConfig
    from rxrl.algorithms.losses import LossResult, PolicyInputs

NEED_CRITIC = frozenset({"gae", "reward-value"})
"""Advantages that compare with the values of a critic."""
NEED_GROUPS = frozenset({"group", "leave-one-out"})
"""Advantages that compare with other samples of the same conversation."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A policy-gradient algorithm; one of one's own is an entry point of the group `rxrl.algorithms` that loads an object of this class.

    Attributes:
        name: Its name.
        loss: Policy loss of one part of a minibatch; a sum over its tokens divided by `PolicyInputs` totals, so that parts add up.
        advantage: Form that is used unless the configuration names one: gae, reward-value, return, group or leave-one-out.
        whiten: Whether advantages are whitened unless the configuration says.
        group_size: Samples of each conversation unless the configuration says.
        reuses_rollouts: The loss corrects for the policy having moved, so that a rollout may serve several epochs.
        remembers: The loss reads `PolicyInputs.previous_kl`, which compares with the policy that reads the memory of the turn before.
    """

    name: str
    loss: Callable[[PolicyInputs, AlgorithmConfig], LossResult]
    advantage: str = "gae"
    whiten: bool = True
    group_size: int = 1
    reuses_rollouts: bool = True
    remembers: bool = False
