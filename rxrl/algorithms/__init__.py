"""Algorithms: advantages and losses as pure tensor functions, composed to PPO, IMPO, A2C, GRPO, RLOO and REINFORCE."""

from rxrl.algorithms.algorithm import Algorithm
from rxrl.algorithms.config import AlgorithmConfig
from rxrl.algorithms.losses import LossResult, PolicyInputs, Totals, sum_results
from rxrl.algorithms.registry import ALGORITHMS, BUILT_IN

__all__ = [
    "ALGORITHMS",
    "BUILT_IN",
    "Algorithm",
    "AlgorithmConfig",
    "LossResult",
    "PolicyInputs",
    "Totals",
    "sum_results",
]
