"""Scenarios by name: the suite, and those of installed packages or files."""

from __future__ import annotations

from typing import Any

from rxrl.envs.scenarios.choices import Choices
from rxrl.envs.scenarios.corrections import Corrections
from rxrl.envs.scenarios.game import Game
from rxrl.envs.scenarios.guess import Guess
from rxrl.envs.scenarios.instructions import Instructions
from rxrl.envs.scenarios.pairs import Pairs
from rxrl.envs.scenarios.preferences import Preferences
from rxrl.envs.scenarios.questions import Questions
from rxrl.envs.scenarios.source import ScenarioSource
from rxrl.errors import ConfigError
from rxrl.registry import Registry


def _game(name: str, found: Any) -> type[Game[Any]]:
    if not isinstance(found, type) or not issubclass(found, Game):
        raise ConfigError(f"The scenario {name!r} must be a subclass of rxrl.envs.scenarios.Game, but is {found!r:.60}.")
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        raise ConfigError(f"The scenario {name!r} lacks {', '.join(missing)}: define what a Game needs.")
    return found


SCENARIOS = Registry(
    "scenario",
    "scenarios",
    {game.name: game for game in (Preferences, Guess, Pairs, Corrections, Instructions, Choices, Questions)},
    check=_game,
)
"""Scenarios by name: subclasses of `Game`."""


def load(name: str, *, level: int = 1, split: str = "train", seed: int = 0) -> ScenarioSource:
    """The scenarios that a name stands for.

    Args:
        name: One of the suite, one that an installed package registers in `rxrl.scenarios`, `package.module:Name` or `path/file.py:Name`.
        level: 1, 2 or 3.
        split: `train`, `validation` or `test`.
        seed: Seed of the supply.

    Raises:
        ConfigError: Nothing has that name, or a level or split does not exist.
    """
    return ScenarioSource(SCENARIOS.find(name), level=level, split=split, seed=seed)
