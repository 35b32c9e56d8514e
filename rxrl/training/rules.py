"""Whether a curriculum can be trained and its rules ever be looked at: checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rxrl.algorithms import AlgorithmConfig
from rxrl.config import parse_config
from rxrl.curricula import Curriculum, Rule, Stage
from rxrl.data.sources import EpisodeSource
from rxrl.data.stats import asked_under_references
from rxrl.errors import ConfigError, unknown_name
from rxrl.facts import attribute_values
from rxrl.training.config import MRLConfig
from rxrl.training.offline import with_accepted
from rxrl.training.signals import SIGNALS, SignalConfig, checked_signals
from rxrl.types import Conversation, Scenario

RULE_METRICS = ("retention", "held_out_reward")
"""What `advance` and `regress` can look at: means over asking turns; the reward over all turns where a scenario asks for no facts."""


def check_rules(curriculum: Curriculum, held_out: EpisodeSource, count: int) -> None:
    """Refuses rules on metrics that no evaluation gives: unknown ones, or any where the held-out conversations ask for nothing.

    Args:
        curriculum: The stages.
        held_out: Conversations to evaluate on.
        count: Conversations of one evaluation.

    Raises:
        ConfigError: A rule could not be applied; the message names the stage.
    """
    for stage in curriculum.stages:
        rules = [rule for rule in (stage.advance, stage.regress) if rule is not None]
        for rule in rules:
            if rule.metric not in RULE_METRICS:
                raise ConfigError(f"Stage {stage.name!r}: {unknown_name('metric', rule.metric, RULE_METRICS)}")
        if rules and not _measured(held_out, stage, rules, count):
            raise ConfigError(
                f"Stage {stage.name!r} advances or regresses by {rules[0].metric!r}, but none of its {count} held-out conversations asks "
                "for anything that was told: remove the rule, or evaluate on conversations with asking turns."
            )


def _measured(held_out: EpisodeSource, stage: Stage, rules: Sequence[Rule], count: int) -> bool:
    """Whether evaluations give what the rules look at; of scenarios that react only playing shows what they ask for."""
    strategy = max(stage.strategies, key=lambda name: stage.strategies[name])
    scenarios = held_out.take(steps=stage.steps, strategy=strategy, start=0, count=count)
    conversations = [each for each in scenarios if isinstance(each, Conversation)]
    if len(conversations) < len(scenarios) and all(rule.metric == "held_out_reward" for rule in rules):
        return True
    known = attribute_values(conversations)
    return any(asked.asking for each in conversations for asked in asked_under_references(each, known))


def stage_algorithm(stage: Stage, config: MRLConfig) -> AlgorithmConfig:
    """The options of the algorithm in a stage: those of the run, and over them the stage's own."""
    given: dict[str, Any] = config.algorithm.model_dump()
    own = dict(stage.algorithm)
    if isinstance(block := own.get("experimental"), Mapping):
        own["experimental"] = {**given["experimental"], **block}
    return parse_config(given | own, AlgorithmConfig, source=f"algorithm options of stage {stage.name!r}")


def stage_signals(stage: Stage, config: MRLConfig) -> dict[str, SignalConfig]:
    """The settings of the signals in a stage: those of the run, and in their place the stage's own."""
    given: dict[str, Any] = {name: each.model_dump() for name, each in config.signals.items()}
    if not stage.signals:
        return config.signals
    return parse_config({"signals": {**given, **stage.signals}}, MRLConfig, source=f"signals of stage {stage.name!r}").signals


def check_signals(curriculum: Curriculum, config: MRLConfig, source: EpisodeSource, count: int = 16) -> None:
    """Refuses signals that the data has nothing for.

    Args:
        curriculum: The stages.
        config: The run.
        source: Scenarios to train on.
        count: How many of them are looked at.

    Raises:
        ConfigError: None of the scenarios of a stage has what a signal learns from (the message names both), or an algorithm that plays no
            rollouts finds no answers.
    """
    for stage in curriculum.stages:
        played = _played(stage, source, count)
        if not stage_algorithm(stage, config).algorithm.plays:
            with_accepted(played)
        for name, settings in stage_signals(stage, config).items():
            lacking = _lacking(name, settings, played)
            if lacking and not settings.optional:
                raise ConfigError(f"The signal {name!r} needs {lacking}, and scenario {played[0].id!r} has none: leave this signal out.")


def without_idle_signals(
    curriculum: Curriculum, config: MRLConfig, source: EpisodeSource, count: int = 16
) -> tuple[MRLConfig, dict[str, str]]:
    """The run without the optional signals that no stage has anything for, and what each lacks; arguments as in `check_signals`.

    Raises:
        ConfigError: Nothing is left to learn from.
    """
    played, idle = [_played(stage, source, count) for stage in curriculum.stages], {}
    for name, settings in config.signals.items():
        missing = [lacking for each in played if (lacking := _lacking(name, settings, each))]
        if settings.optional and len(missing) == len(played):
            idle[name] = missing[0]
    kept = {name: settings for name, settings in config.signals.items() if name not in idle}
    return config.model_copy(update={"signals": checked_signals(kept)}), idle


def _played(stage: Stage, source: EpisodeSource, count: int) -> Sequence[Scenario]:
    return source.take(steps=stage.steps, strategy=next(iter(stage.strategies)), start=0, count=count)


def _lacking(name: str, settings: SignalConfig, played: Sequence[Scenario]) -> str | None:
    """What all of the scenarios lack for a signal that is on; None where some have it."""
    lacking = [SIGNALS.find(name).lacks(each) for each in played]
    return lacking[0] if all(lacking) and (settings.coefficient or settings.final) else None


def check_stages(curriculum: Curriculum, config: MRLConfig, processes: int) -> None:
    """Refuses stages that could not be trained: groups that do not fit, nothing left by the burn-in, too little for the processes.

    Raises:
        ConfigError: Names the stage.
    """
    for stage in curriculum.stages:
        algorithm = stage_algorithm(stage, config)
        stage_signals(stage, config)
        count = number_of_groups(stage.episodes or config.episodes, algorithm.samples)
        if (burn_in := algorithm.experimental.burn_in) >= stage.steps:
            raise ConfigError(
                f"Stage {stage.name!r} has {stage.steps} steps, and algorithm.experimental.burn_in leaves the first {burn_in} "
                "untrained: nothing would be learned. Lower it."
            )
        for number, what in ((count, "conversations an iteration"), (config.evaluation.conversations, "conversations of an evaluation")):
            if number < processes:
                raise ConfigError(f"Stage {stage.name!r}: {number} {what} cannot be shared by {processes} processes: use more of them.")


def number_of_groups(episodes: int, samples: int) -> int:
    """Conversations of an iteration, each played `samples` times.

    Raises:
        ConfigError: `samples` does not divide `episodes`.
    """
    if episodes % samples:
        raise ConfigError(f"{episodes} episodes cannot be played as groups of {samples}: give a multiple of algorithm.group_size.")
    return episodes // samples
