"""REINFORCE: the policy gradient with returns, whitened over the batch. No critic, no groups: the floor."""

from __future__ import annotations

from rxrl.algorithms.a2c import policy_loss
from rxrl.algorithms.algorithm import Algorithm

REINFORCE = Algorithm("reinforce", policy_loss, advantage="return", reuses_rollouts=False)
"""Source: Williams 1992."""
