"""RLOO: the policy gradient; the baseline of a sample is the mean of the other samples of its conversation. No critic."""

from __future__ import annotations

from rxrl.algorithms.a2c import policy_loss
from rxrl.algorithms.algorithm import Algorithm

RLOO = Algorithm("rloo", policy_loss, advantage="leave-one-out", whiten=False, group_size=4, reuses_rollouts=False)
"""Source: Kool et al. 2019; Ahmadian et al. 2024."""
