"""Algorithms: advantages and losses as pure tensor functions, composed to PPO and IMPO."""

from collections.abc import Callable

from rxrl.algorithms.config import AlgorithmConfig
from rxrl.algorithms.impo import impo_loss
from rxrl.algorithms.losses import LossResult, PolicyInputs
from rxrl.algorithms.ppo import ppo_loss

POLICY_LOSSES: dict[str, Callable[[PolicyInputs, AlgorithmConfig], LossResult]] = {"ppo": ppo_loss, "impo": impo_loss}
"""Policy loss by the name of its algorithm."""

__all__ = ["POLICY_LOSSES", "AlgorithmConfig", "LossResult", "PolicyInputs", "impo_loss", "ppo_loss"]
