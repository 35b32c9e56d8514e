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
from rxrl.envs.scenarios.simulated import Simulated
from rxrl.envs.scenarios.source import ScenarioSource
from rxrl.errors import ConfigError
from rxrl.reading import parse_yaml, read_yaml
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
    {game.name: game for game in (Preferences, Guess, Pairs, Corrections, Instructions, Choices, Questions, Simulated)},
    check=_game,
)
"""Scenarios by name: subclasses of `Game`."""


def load(name: str, *, level: int = 1, split: str = "train", seed: int = 0, **options: Any) -> ScenarioSource:
    """The scenarios that a name stands for.

    Args:
        name: One of the suite, one that an installed package registers in `rxrl.scenarios`, `package.module:Name` or `path/file.py:Name`;
            with options a mapping such as `{use: simulated, endpoint: http://localhost:8000/v1, model: NAME}`, or a YAML file that
            holds one.
        level: 1, 2 or 3.
        split: `train`, `validation` or `test`.
        seed: Seed of the supply.
        options: Options of the scenario; they win over those in `name`.

    Raises:
        ConfigError: Nothing has that name, a level or split does not exist, or an option is unknown, wrong or missing.
    """
    name, named = read_spec(name)
    return ScenarioSource(SCENARIOS.find(name), level=level, split=split, seed=seed, options={**named, **options})


def read_spec(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a scenario: a name alone, a mapping such as `{use: NAME, option: value}`, or a YAML file that holds one.

    Raises:
        ConfigError: The file is missing, or it or the mapping names no scenario.
    """
    if not text.endswith((".yaml", ".yml")) and not text.lstrip().startswith("{"):
        return text, {}
    given = (parse_yaml(text, f"The scenario {text}") if text.lstrip().startswith("{") else read_yaml(text)).data
    if not isinstance(given, dict) or not isinstance(given.get("use"), str):
        raise ConfigError(f"{text} must name a scenario, as {{use: NAME, option: value}} does.")
    return given["use"], {key: value for key, value in given.items() if key != "use"}
