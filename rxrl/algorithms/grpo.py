"""GRPO: PPO's clipped loss; advantages within groups of samples of the same conversation from the same stm0. No critic."""

from __future__ import annotations

from rxrl.algorithms.algorithm import Algorithm
from rxrl.algorithms.ppo import ppo_loss

GRPO = Algorithm("grpo", ppo_loss, advantage="group", whiten=False, group_size=4)
"""Source: Shao et al. 2024; without division by the spread (`group_std: false`) Liu et al. 2025."""
