"""Algorithms by name: the built-in ones, and those of installed packages through the entry-point group `rxrl.algorithms`."""

from __future__ import annotations

from importlib.metadata import entry_points

from rxrl.algorithms.a2c import A2C
from rxrl.algorithms.algorithm import Algorithm
from rxrl.algorithms.grpo import GRPO
from rxrl.algorithms.impo import IMPO
from rxrl.algorithms.ppo import PPO
from rxrl.algorithms.reinforce import REINFORCE
from rxrl.algorithms.rloo import RLOO
from rxrl.errors import ConfigError, unknown_name

ENTRY_POINT_GROUP = "rxrl.algorithms"
BUILT_IN = {each.name: each for each in (PPO, IMPO, A2C, GRPO, RLOO, REINFORCE)}


def algorithm_names() -> list[str]:
    """Names that `find_algorithm` knows, those of installed packages included."""
    return [*BUILT_IN, *sorted(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP) if entry.name not in BUILT_IN)]


def find_algorithm(name: str) -> Algorithm:
    """The algorithm of a name.

    Raises:
        ConfigError: Nobody knows the name, or the entry point cannot be loaded or is no `Algorithm`.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == name:
            try:
                found = entry.load()
            except Exception as error:
                raise ConfigError(f"algorithm {name!r} ({entry.value}) cannot be loaded: {type(error).__name__}: {error}.") from error
            if not isinstance(found, Algorithm):
                raise ConfigError(
                    f"algorithm {name!r} ({entry.value}) is a {type(found).__name__}: it must be an rxrl.algorithms.Algorithm."
                )
            return found
    raise ConfigError(unknown_name("algorithm", name, algorithm_names()))
