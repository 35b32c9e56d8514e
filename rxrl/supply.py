"""What the names of data stand for: files, the generated world, scenarios, and mixes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from rxrl.data.corpora import Say
from rxrl.data.mixing import MixedSource, Named, mix_of, mixed_lists
from rxrl.data.origins import Origin
from rxrl.data.rows import read_conversations
from rxrl.data.sources import EpisodeSource, RowsSource
from rxrl.data.splits import (
    DEFAULT_STEPS,
    SCENARIO,
    WORLD,
    DataConfig,
    Sources,
    generated,
    interaction_texts,
    mixed_sources,
    open_data,
    open_sources,
    paired,
)
from rxrl.data.world import SPLITS, GeneratedSource, level_or_default
from rxrl.envs import scenarios
from rxrl.envs.scenarios import Game
from rxrl.errors import ConfigError
from rxrl.types import Scenario

SCENARIO_STEPS, SCENARIO_COUNT = 12, 1000
"""Turns of scenarios, and how many an environment draws from, where nothing else is said."""
KNOWN_SAMPLE = 500
"""Training conversations of the generated world that show which values there are."""
STORY_STEPS = 4
"""Turns of the supervised start whose texts serve for pre-training."""


def load_mix(
    mix: Mapping[str, float],
    *,
    level: int | None = None,
    steps: int | None = None,
    split: Literal["train", "validation", "test"] = "train",
    seed: int = 0,
    count: int = SCENARIO_COUNT,
) -> list[Scenario]:
    """Scenarios and conversations of several kinds, by their weights.

    Args:
        mix: Weights of files, of "world" (the generated world) and of scenarios ("scenario:NAME").
        level: Of scenarios, from 1, and of the generated world, from 0, up to 3; None: the lowest.
        steps: Turns; None: 12.
        split: `train`, `validation` or `test`, of what is generated; of a file as well, where it has such a split.
        seed: Seed of the supply.
        count: How many.

    Raises:
        RxrlError: Something is missing or wrong.
    """

    def opened(name: str) -> EpisodeSource:
        if name.startswith(SCENARIO):
            return scenarios.load(name.removeprefix(SCENARIO), level=1 if level is None else level, split=split, seed=seed)
        if name == WORLD:
            return GeneratedSource(level=level_or_default(level), seed=seed, split=split)
        return RowsSource(read_conversations(name, purpose=split), seed)

    source = MixedSource([(opened(name), weight) for name, weight in mix.items()])
    return source.take(steps=steps or SCENARIO_STEPS, count=count)


def load_scenarios(
    name: str, *, level: int | None = None, steps: int | None = None, split: str = "train", seed: int = 0, count: int = SCENARIO_COUNT
) -> list[Game[Any]]:
    """Scenarios by name.

    Args:
        name: "scenario:" and what `rxrl.envs.scenarios.load` takes.
        level: 1, 2 or 3; None: 1.
        steps: Turns; None: 12.
        split: `train`, `validation` or `test`.
        seed: Seed of the supply.
        count: How many.

    Raises:
        ConfigError: Nothing has that name, or an argument makes no sense.
    """
    source = scenarios.load(name.removeprefix(SCENARIO), level=1 if level is None else level, split=split, seed=seed)
    return source.take(steps=steps or SCENARIO_STEPS, count=count)


def default_reward(reacting: Iterable[bool]) -> str | dict[str, float]:
    """The reward where none is named: that of conversations, of scenarios, or both, of which each turn takes what applies to it.

    Args:
        reacting: Of each part of what is played, whether its user reacts.
    """
    kinds = set(reacting)
    return {"retention": 1.0, "outcome": 1.0} if len(kinds) == 2 else "outcome" if True in kinds else "retention"


def named_reward(data: Named | None) -> str | dict[str, float]:
    """The same for data by name."""
    return default_reward(name.startswith(SCENARIO) for name in mix_of(WORLD if data is None else data))


def open_named(
    data: Named | None,
    held_out: str | Sequence[str] = (),
    level: int | None = None,
    seed: int = 0,
    *,
    say: Say | None = None,
    opened: Callable[[str, str | None], Sources | None] = lambda file, held_out: None,
) -> Sources:
    """What a stage or a training learns from: as `rxrl.data.splits.open_data`, scenarios by name ("scenario:NAME"), or a mix of these.

    Args:
        data: By name; None: the generated world.
        held_out: What validates the files among them, one each in their order; empty: what they hold out themselves.
        level: Difficulty of what is generated.
        seed: Key of the draws.
        say: Is told which splits were taken, where there were several.
        opened: Takes a file and what validates it; returns None where the file is to be opened here.

    Raises:
        RxrlError: Something is missing or wrong, or the options contradict each other.
    """
    mix = mix_of(WORLD if data is None else data)
    validated = paired(mix, held_out)
    parts = []
    for name, weight in mix.items():
        # A file has no level; where all are files, `open_data` says so.
        own = None if name in validated and len(validated) < len(mix) else level
        if name.startswith(SCENARIO):
            parts.append((scenario_sources(name, level=own, seed=seed), weight))
        elif name == WORLD:
            parts.append((open_data(None, None, own, seed), weight))
        else:
            found = opened(name, validated[name])
            parts.append((found or open_data(name, validated[name], own, seed, say=say), weight))
    return parts[0][0] if len(parts) == 1 else mixed_sources(parts, test=1)


def open_configured(data: DataConfig, seed: int, say: Say | None = None) -> Sources:
    """What the settings of a whole job name: as `rxrl.data.splits.open_sources`, scenarios by name, or a mix of these.

    Raises:
        RxrlError: Something is missing or wrong.
    """
    parts, tested = [], paired(data.mix, data.held_out or ())
    for name, weight in data.mix.items():
        if name.startswith(SCENARIO):
            opened = scenario_sources(name, level=data.level, seed=seed, steps=data.steps, test=data.test_conversations)
        else:
            others = {} if name == WORLD else {"level": None, "steps": None}
            opened = open_sources(data.model_copy(update={"train": name, "held_out": tested.get(name), **others}), seed, say)
        parts.append((opened, weight))
    return parts[0][0] if len(parts) == 1 else mixed_sources(parts, data.test_conversations)


def scenario_sources(name: str, *, level: int | None = None, seed: int = 0, steps: int | None = None, test: int = 1) -> Sources:
    """Scenarios to play, and their supervised start to begin with.

    Args:
        name: "scenario:" and what `rxrl.envs.scenarios.load` takes.
        level: 1, 2 or 3; None: 1.
        seed: Seed of the supply.
        steps: Turns of the test scenarios; None: 12.
        test: Test scenarios.

    Raises:
        ConfigError: Nothing has that name, or an argument makes no sense.
    """
    kind = name.removeprefix(SCENARIO)
    given = 1 if level is None else level
    train, validation = (scenarios.load(kind, level=given, split=split, seed=seed) for split in ("train", "validation"))
    lessons = {"train": scenarios.SupervisedSource(train), "validation": scenarios.SupervisedSource(validation)}

    def stories(split: str) -> Callable[[int, int], Sequence[str]]:
        return lambda start, count: interaction_texts(lessons[split].take(steps=STORY_STEPS, start=start, count=count))[:count]

    chosen = load_scenarios(name, level=level, steps=steps, split="test", seed=seed, count=test)
    origins = tuple(Origin.of_generated(name, level=given, split=split, seed=seed) for split in SPLITS)
    return Sources(lessons["train"], lessons["validation"], chosen, stories, scenarios=(train, validation), origins=origins)


def held_out_mix(
    mix: Mapping[str, float], level: int | None, steps: int | None, strategy: str, count: int, seed: int, say: Say
) -> tuple[Sequence[Scenario], Sequence[Scenario]]:
    """Conversations and scenarios to play, by their weights, and others that show which values there are."""
    if level is not None and not any(map(generated, mix)):
        raise ConfigError("--level is for the generated world and scenarios: give either --level or --data FILE.")
    found = [_held_out(name, level, steps, strategy, count, seed, say) for name in mix]
    chosen = mixed_lists([(own, weight) for (own, _), weight in zip(found, mix.values(), strict=True)], count)
    return chosen, [each for _, known in found for each in known]


def _held_out(
    name: str, level: int | None, steps: int | None, strategy: str, count: int, seed: int, say: Say
) -> tuple[Sequence[Scenario], Sequence[Scenario]]:
    """The same of one name."""
    if strategy == "single-step" and steps is not None and steps > 1:
        raise ConfigError(f"single-step conversations have one turn, but {steps} are asked for: leave out one of the two options.")
    if name == WORLD:
        test, train = (GeneratedSource(level=level_or_default(level), seed=seed, split=split) for split in ("test", "train"))
        turns = 1 if strategy == "single-step" else steps or DEFAULT_STEPS
        known = train.take(steps=1, strategy="multi-step", start=0, count=KNOWN_SAMPLE)
        return test.take(steps=turns, strategy=strategy, start=0, count=count), known
    if name.startswith(SCENARIO):
        return load_scenarios(name, level=level, steps=steps, split="test", seed=seed, count=count), ()
    rows = read_conversations(name, purpose="test", say=say)
    if steps is None:
        return rows[:count], rows
    source = RowsSource(rows, seed)
    count = min(count, source.available(steps, strategy)) or count
    return source.take(steps=steps, strategy=strategy, start=0, count=count), rows
