"""Algorithms: advantages and losses as pure tensor functions, composed to PPO, IMPO, A2C, GRPO, RLOO and REINFORCE."""

from rxrl.algorithms.algorithm import Algorithm
from rxrl.algorithms.config import AlgorithmConfig
from rxrl.algorithms.losses import LossResult, PolicyInputs, Totals, sum_results
from rxrl.algorithms.registry import BUILT_IN, algorithm_names, find_algorithm

__all__ = [
    "BUILT_IN",
    "Algorithm",
    "AlgorithmConfig",
    "LossResult",
    "PolicyInputs",
    "Totals",
    "algorithm_names",
    "find_algorithm",
    "sum_results",
]
