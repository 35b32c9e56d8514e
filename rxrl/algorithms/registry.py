"""Algorithms by name: the built-in ones, and those of installed packages."""

from __future__ import annotations

from typing import Any

from rxrl.algorithms.a2c import A2C
from rxrl.algorithms.algorithm import Algorithm
from rxrl.algorithms.grpo import GRPO
from rxrl.algorithms.impo import IMPO
from rxrl.algorithms.ppo import PPO
from rxrl.algorithms.reinforce import REINFORCE
from rxrl.algorithms.rloo import RLOO
from rxrl.errors import ConfigError
from rxrl.registry import Registry, first_paragraph


def _algorithm(name: str, found: Any) -> Algorithm:
    if not isinstance(found, Algorithm):
        raise ConfigError(f"The algorithm {name!r} must be an rxrl.algorithms.Algorithm, but is a {type(found).__name__}.")
    return found


BUILT_IN = {each.name: each for each in (PPO, IMPO, A2C, GRPO, RLOO, REINFORCE)}
ALGORITHMS = Registry(
    "algorithm",
    "algorithms",
    BUILT_IN,
    check=_algorithm,
    describe=lambda algorithm: first_paragraph(algorithm.loss),
)
"""Algorithms by name."""
