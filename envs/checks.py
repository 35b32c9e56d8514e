"""Checks of what users hand to the environments: each refusal is one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, TypeGuard

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor

from rxrl.errors import ConfigError, EpisodeError, unknown_name
from rxrl.facts import attribute_values
from rxrl.types import STRATEGIES, Conversation, MemoryBackend, RewardFunction, Scenario
from rxrl.validation import is_whole

_BACKEND = ("init", "write", "reset_rows", "select_rows")


def is_scenario(value: object) -> TypeGuard[Scenario]:
    """Whether it can be played: it has an id, a number of steps, and begins dialogues."""
    return callable(getattr(value, "begin", None)) and isinstance(getattr(value, "id", None), str) and hasattr(value, "steps")


def playable(conversations: Sequence[Scenario]) -> Sequence[Scenario]:
    """Conversations or other scenarios of which there is at least one, each with something to play."""
    if not len(conversations):
        raise ConfigError("The environment needs at least one conversation, got none.")
    for index, each in enumerate(conversations):
        if not is_scenario(each):
            raise ConfigError(f"Conversation {index} must be an rxrl.types.Conversation or another Scenario, got {type(each).__name__}.")
        if not is_whole(each.steps):
            raise ConfigError(f"The steps of scenario {each.id!r} must be a whole number, got {each.steps!r}.")
        if each.steps < 1:
            raise ConfigError(f"Conversation {each.id!r} has no follow-up interaction, so there is nothing to play.")
    return conversations


def has_references(scenario: Scenario) -> bool:
    """Whether every interaction of a scenario carries a reference answer."""
    return bool(getattr(scenario, "references", False))


def check_references(scenarios: Sequence[Scenario], *, forcing: float, reward: RewardFunction) -> None:
    """Refuses options that need reference answers where there are none."""
    without = next((each for each in scenarios if not has_references(each)), None)
    if without is None:
        return
    if forcing:
        raise ConfigError(f"teacher_forcing writes reference answers, and scenario {without.id!r} has none: leave it out.")
    if getattr(reward, "needs_reference", False):
        name = getattr(reward, "name", type(reward).__name__)
        raise ConfigError(f"The reward {name!r} compares with reference answers, and scenario {without.id!r} has none: use 'outcome'.")


def names_facts(scenario: Scenario) -> bool:
    """Whether a scenario says which facts it tells or asks for, as far as it opens."""
    # A user played by an endpoint is not asked for this.
    rehearsed = getattr(scenario, "rehearsed", lambda: scenario)
    dialogue = rehearsed().begin(0)
    opening = dialogue.say(())
    return bool(dialogue.first.facts) or (opening is not None and opening.asks is not None)


def check_scores(scenarios: Sequence[Scenario], reward: RewardFunction) -> None:
    """Refuses to train for a reward that would score no turn, because a scenario gives neither reference answers nor facts."""
    if not getattr(reward, "needs_facts", False):
        return
    without = next((each for each in scenarios if not has_references(each) and not names_facts(each)), None)
    if without is not None:
        name = getattr(reward, "name", type(reward).__name__)
        raise ConfigError(
            f"The reward {name!r} needs facts or reference answers, and scenario {without.id!r} has neither, so that no turn would be "
            "scored: use 'outcome'."
        )


def memory_backend(given: Any) -> MemoryBackend:
    """What holds conversations: an object with the four functions of a `MemoryBackend`."""
    if missing := [name for name in _BACKEND if not callable(getattr(given, name, None))]:
        raise ConfigError(f"A memory backend has {', '.join(_BACKEND)}; a {type(given).__name__} is none, it lacks {', '.join(missing)}.")
    backend: MemoryBackend = given
    return backend


def known_strategy(strategy: str) -> str:
    """A strategy that exists."""
    if strategy not in STRATEGIES:
        raise ConfigError(unknown_name("strategy", strategy, STRATEGIES))
    return strategy


def strategy_weights(strategy: str | Mapping[str, float]) -> dict[str, float]:
    """One strategy, or a mix of strategies, as shares that sum to 1."""
    if not isinstance(strategy, str | Mapping):
        raise ConfigError(f"strategy is the name of one, or a mapping from names to weights, got {strategy!r}.")
    weights = {strategy: 1.0} if isinstance(strategy, str) else dict(strategy)
    for name, weight in weights.items():
        known_strategy(name)
        if not _is_number(weight) or not 0 <= weight < math.inf:
            raise ConfigError(f"The weight of strategy {name!r} must be a number of at least 0, got {weight!r}.")
    total = sum(weights.values())
    if not total:
        raise ConfigError(f"A mix of strategies needs a weight above 0, got {weights}.")
    return {name: weight / total for name, weight in weights.items()}


def known_render_mode(mode: str | None, known: Sequence[str | None]) -> str | None:
    """A render mode that exists."""
    if mode not in known:
        raise ConfigError(unknown_name("render mode", str(mode), [each for each in known if each]))
    return mode


def known_autoreset(mode: AutoresetMode | str) -> AutoresetMode:
    """An autoreset mode that can be played: NEXT_STEP would have to ignore a sampled answer."""
    known = {each.value: each for each in (AutoresetMode.DISABLED, AutoresetMode.SAME_STEP)}
    value = mode.value if isinstance(mode, AutoresetMode) else mode
    if value not in known:
        raise ConfigError(unknown_name("autoreset mode", str(value), known))
    return known[value]


def at_least_one(name: str, value: int) -> int:
    """A whole number of at least 1."""
    if not is_whole(value) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}.")
    return int(value)


def limit(name: str, value: int | None, least: int = 1) -> int | None:
    """A whole number of at least `least`, or None for no limit."""
    if value is None:
        return None
    if not is_whole(value) or value < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, or None for no limit, got {value!r}.")
    return int(value)


def probability(name: str, value: bool | float) -> float:
    """A number from 0 to 1."""
    if not _is_number(value) or not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name} is a probability from 0 to 1, got {value!r}.")
    return float(value)


def flag(name: str, value: bool) -> bool:
    """True or False, and no word that would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(f"{name} must be True or False, got {value!r}.")
    return bool(value)


def known_values(given: Mapping[str, Sequence[str]] | None, scenarios: Sequence[Scenario]) -> dict[str, tuple[str, ...]]:
    """Known values by attribute; those of the scenarios where none are given."""
    if given is None:
        return scenario_values(scenarios)
    if not isinstance(given, Mapping):
        raise ConfigError(f"values must be a mapping from an attribute to its values, or None for those of the data, got {given!r}.")
    for name, each in given.items():
        if isinstance(each, str) or not isinstance(each, Sequence) or not all(isinstance(value, str) for value in each):
            raise ConfigError(f"values must have a list of texts for each attribute, got {each!r} for {name!r}.")
    return {name: tuple(each) for name, each in given.items()}


def scenario_values(scenarios: Sequence[Scenario]) -> dict[str, tuple[str, ...]]:
    """Known values by attribute: those that conversations tell, and those that other scenarios declare."""
    found = {name: set(values) for name, values in attribute_values([e for e in scenarios if isinstance(e, Conversation)]).items()}
    for declared in {id(each): each for each in (getattr(e, "values", None) for e in scenarios) if each}.values():
        for name, values in declared.items():
            found.setdefault(name, set()).update(values)
    return {name: tuple(sorted(values)) for name, values in sorted(found.items())}


def _is_number(value: object) -> bool:
    """Whether it is a number, of Python or numpy; True and False count as 1 and 0."""
    return isinstance(value, Real | np.bool_)


def per_conversation(name: str, wanted: Any, chosen: Sequence[Scenario]) -> list[Any] | None:
    """An option with one entry for each conversation that begins, as a list; None where it is not given."""
    if wanted is None:
        return None
    given = list(wanted.tolist() if hasattr(wanted, "tolist") else wanted)
    if len(given) != len(chosen):
        raise EpisodeError(f"`{name}` needs one entry for each of the {len(chosen)} conversations that begin, got {len(given)}.")
    return given


def row_mask(name: str, wanted: Any, rows: int, *, default: bool) -> NDArray[np.bool_]:
    """An option that picks rows, as bool `[rows]`; `default` everywhere where it is not given."""
    if wanted is None:
        return np.full(rows, default, dtype=np.bool_)
    mask = np.asarray(wanted.cpu() if isinstance(wanted, Tensor) else wanted)
    if mask.shape != (rows,) or mask.dtype != np.bool_:
        raise EpisodeError(f"`{name}` must be bool of shape ({rows},), got {mask.dtype} of shape {mask.shape}.")
    return mask.copy()
