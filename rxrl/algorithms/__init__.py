"""Algorithms: advantages and losses as pure tensor functions, composed to PPO, IMPO, A2C, GRPO, RLOO and REINFORCE."""

from rxrl.algorithms.algorithm import ALGORITHMS, BUILT_IN, Algorithm, AlgorithmConfig, ExperimentalConfig, with_shared_terms
from rxrl.algorithms.losses import LossResult, PolicyInputs, Totals, sum_results

__all__ = [
    "ALGORITHMS",
    "BUILT_IN",
    "Algorithm",
    "AlgorithmConfig",
    "ExperimentalConfig",
    "LossResult",
    "PolicyInputs",
    "Totals",
    "sum_results",
    "with_shared_terms",
]
