"""What a training plays: which conversations an iteration takes, in which environment, for which reward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

from torch import Tensor

from rxrl.curricula import Curriculum, Stage
from rxrl.data.sources import EpisodeSource, fingerprint
from rxrl.data.tokenizer import Tokenizer
from rxrl.envs import ConversationVectorEnv, scenario_values
from rxrl.evaluation.stress import Place, with_small_talk
from rxrl.factory import build_env
from rxrl.models import ReactiveTransformer
from rxrl.rewards import load_reward, mean_embeddings
from rxrl.seeding import Draws, derive_seed
from rxrl.training.config import MRLConfig
from rxrl.training.rollout import Rollout
from rxrl.training.signals import Material, Signals
from rxrl.training.signals.questions import Phrasing, phrasings
from rxrl.types import Conversation, RewardFunction, Scenario

EnvFactory = Callable[..., ConversationVectorEnv]
VALUE_SAMPLE = 512
"""Conversations from which the known values of each attribute are taken."""


class Episodes:
    """Conversations, environments and rewards of a training.

    Args:
        model: Whose memory the environments hold.
        reference: Its frozen start, whose embeddings rewards may compare with.
        tokenizer: Belongs to the model.
        curriculum: Stages.
        source: Conversations to train on.
        held_out: Conversations to evaluate on.
        config: The run.
        env: Class or factory of the environment.
        reward: Used in place of `config.reward`.
    """

    def __init__(
        self,
        model: ReactiveTransformer,
        reference: ReactiveTransformer,
        tokenizer: Tokenizer,
        *,
        curriculum: Curriculum,
        source: EpisodeSource,
        held_out: EpisodeSource,
        config: MRLConfig,
        env: EnvFactory = ConversationVectorEnv,
        reward: RewardFunction | None = None,
    ) -> None:
        self.model, self.reference, self.tokenizer = model, reference, tokenizer
        self.curriculum, self.source, self.held_out, self.config = curriculum, source, held_out, config
        self.make_env = env
        self.rewards = stage_rewards(curriculum, config, partial(mean_embeddings, reference.embedding.weight), reward)
        self._values: dict[tuple[int, str], dict[str, tuple[str, ...]]] = {}
        self._phrasings: dict[tuple[int, str], dict[str, tuple[Phrasing, ...]]] = {}
        self._env: tuple[tuple[int, int], ConversationVectorEnv] | None = None

    def conversations(self, stage_index: int, count: int, iteration: int, positions: dict[str, int]) -> list[Scenario]:
        """The next conversations of an iteration: of this stage, and of earlier ones by their share.

        Args:
            stage_index: Position of the stage, from 0.
            count: How many.
            iteration: Of the training; keys the draws.
            positions: How far each kind of conversation is used up; moved on in place.
        """
        mixture = self.mixture(stage_index, count, iteration)
        taken = [conversation for stage, number in mixture for conversation in self.take(stage, number, iteration, positions)]
        return [self._talked_into(each, iteration) for each in taken] if self.config.small_talk.share else taken

    def _talked_into(self, scenario: Scenario, iteration: int) -> Scenario:
        """The same with small talk, where it is drawn; scenarios whose user reacts say what they say."""
        settings, draws = self.config.small_talk, Draws(self.config.seed, "small talk", iteration, scenario.id)
        if not isinstance(scenario, Conversation) or not draws.chance(settings.share):
            return scenario
        turns = 1 + draws.below(settings.turns)
        place: Place = draws.choice(("spread", "first")) if settings.place == "mixed" else settings.place
        return with_small_talk([scenario], turns, place, seed=draws.below(2**31), taught=settings.taught)[0]

    def mixture(self, stage_index: int, count: int, iteration: int) -> list[tuple[Stage, int]]:
        """Stages (this one, and earlier ones by their share) and how many conversations each gives."""
        stages, shares = zip(*self.curriculum.mixture(stage_index), strict=True)
        numbers = split_count(count, shares, self.config.seed, "mixture", iteration)
        return [(each, number) for each, number in zip(stages, numbers, strict=True) if number]

    def take(self, stage: Stage, count: int, iteration: int, positions: dict[str, int]) -> list[Scenario]:
        """The next conversations of one stage, its strategies mixed."""
        taken: list[Scenario] = []
        numbers = split_count(count, list(stage.strategies.values()), self.config.seed, "strategies", iteration, stage.name)
        for strategy, number in zip(stage.strategies, numbers, strict=True):
            key = f"{stage.steps}:{strategy}"
            start = positions.get(key, 0)
            found = self.source.take(steps=stage.steps, strategy=strategy, start=start, count=number)
            # A conversation that names no strategy plays the one that it was taken for.
            taken += [_playing(each, strategy) for each in found]
            positions[key] = start + number
        return taken

    def fingerprints(self) -> list[str]:
        """What tells the conversations of this run, to train on and held out, from others."""
        first = self.curriculum.stages[0]
        return [fingerprint(each, steps=first.steps, strategy=main_strategy(first)) for each in (self.source, self.held_out)]

    def to_evaluate(self, stage: Stage, count: int) -> list[Scenario]:
        """Held-out conversations of a stage, each id once."""
        found = self.held_out.take(steps=stage.steps, strategy=main_strategy(stage), start=0, count=count)
        return list({conversation.id: conversation for conversation in found}.values())

    def environment(self, stage_index: int, rows: int) -> ConversationVectorEnv:
        """The environment of a stage for training, made once."""
        if self._env is None or self._env[0] != (stage_index, rows):
            stage = self.curriculum.stages[stage_index]
            self._env = ((stage_index, rows), self._new_env(stage, rows, self._sample(stage)))
        return self._env[1]

    def evaluation_environment(self, stage: Stage, conversations: Sequence[Scenario]) -> ConversationVectorEnv:
        """A fresh environment for held-out conversations, without teacher forcing."""
        return self._new_env(stage.model_copy(update={"teacher_forcing": False}), len(conversations), conversations)

    def _values_of(self, stage: Stage) -> dict[str, tuple[str, ...]]:
        """Values of each attribute in the conversations that a stage trains on."""
        key = (stage.steps, next(iter(stage.strategies)))
        if key not in self._values:
            self._values[key] = scenario_values(self._sample(stage))
        return self._values[key]

    def phrasings(self, stage: Stage) -> dict[str, tuple[Phrasing, ...]]:
        """How the conversations that a stage trains on ask for single facts, by key."""
        key = (stage.steps, next(iter(stage.strategies)))
        if key not in self._phrasings:
            self._phrasings[key] = phrasings(self._sample(stage))
        return self._phrasings[key]

    def with_lessons(self, stage: Stage, rollout: Rollout, scenarios: Sequence[Scenario], signals: Signals) -> Rollout:
        """A rollout of a stage with what the signals teach of it, which nobody has observed.

        Args:
            stage: Of the curriculum.
            rollout: What was collected.
            scenarios: What each of its rows has played.
            signals: What is learned from.
        """
        turns, longest, seed = rollout.turn_grid(), self.model.config.max_length, self.config.seed
        material = Material(rollout, turns, scenarios, self.tokenizer, longest, seed, partial(self.phrasings, stage))
        return replace(rollout, lessons=signals.lessons(material))

    def _sample(self, stage: Stage) -> list[Scenario]:
        strategy = next(iter(stage.strategies))
        return list(self.source.take(steps=stage.steps, strategy=strategy, start=0, count=VALUE_SAMPLE))

    def _new_env(self, stage: Stage, rows: int, conversations: Sequence[Scenario]) -> ConversationVectorEnv:
        return build_env(
            conversations,
            memory=self.model,
            reward=self.rewards[stage.name],
            codec=self.tokenizer,
            kind=self.make_env,
            known_values=self._values_of(stage),
            num_envs=rows,
            strategy=main_strategy(stage),
            max_answer_tokens=self.config.max_answer_tokens,
            max_think_tokens=self.config.max_think_tokens,
            teacher_forcing=stage.teacher_forcing,
        )


def stage_rewards(
    curriculum: Curriculum, config: MRLConfig, embed: Callable[..., Tensor], own: RewardFunction | None = None
) -> dict[str, RewardFunction]:
    """The reward of each stage by its name: the stage's, `own`, or that of the configuration; stages that name the same one share it.

    Args:
        curriculum: Stages.
        config: The run.
        embed: Mean token embeddings, for rewards that compare with them.
        own: Used in place of that of the configuration.

    Raises:
        ConfigError: A reward is unknown or wrong.
        RewardError: What is named as a reward is none.
    """
    default: Any = config.reward if own is None else own
    made: list[tuple[Any, RewardFunction]] = []
    rewards: dict[str, RewardFunction] = {}
    for stage in curriculum.stages:
        spec = default if stage.reward is None else stage.reward
        found = next((reward for known, reward in made if known == spec), None)
        if found is None:
            found = load_reward(spec, embed=embed)
            made.append((spec, found))
        rewards[stage.name] = found
    return rewards


def _playing(scenario: Scenario, strategy: str) -> Scenario:
    return replace(scenario, extra={"strategy": strategy, **scenario.extra}) if isinstance(scenario, Conversation) else scenario


def main_strategy(stage: Stage) -> str:
    """The strategy that most episodes of a stage have."""
    return max(stage.strategies, key=lambda name: stage.strategies[name])


def split_count(count: int, shares: Sequence[float], *key: int | str) -> list[int]:
    """Parts of `count` in proportion to `shares` (which sum to 1), exact on average over the draws that `key` names."""
    offset = derive_seed(*key) / 2**63
    edges = [min(count, math.floor(count * share + offset)) for share in accumulate(shares)]
    return [after - before for before, after in pairwise([0, *edges[:-1], count])]
