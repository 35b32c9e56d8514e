"""Where scenarios come from: an endless, seeded supply of games, and of the conversations that supervised stages begin with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rxrl.envs.scenarios.game import Game, GameDialogue, check_arguments
from rxrl.errors import ConfigError
from rxrl.seeding import Draws, derive_seed
from rxrl.template import texts_of as said_in
from rxrl.types import STRATEGIES, Conversation, Interaction, Scenario

RECALL = 0.5
"""Probability that a turn of the supervised start is a recall question."""


class ScenarioSource:
    """An endless, index-addressable supply of games of one class.

    Args:
        game: The class.
        level: 1, 2 or 3.
        split: `train`, `validation` or `test`; what is hidden differs between them wherever there is enough of it.
        seed: Seed of the supply.
        options: Options of the class, where it has some.

    Raises:
        ConfigError: A level or split does not exist, or an option is unknown, wrong or missing.
    """

    def __init__(
        self, game: type[Game[Any]], *, level: int = 1, split: str = "train", seed: int = 0, options: Mapping[str, Any] | None = None
    ) -> None:
        check_arguments(level, split, 1)
        self.game, self.level, self.split, self.seed = game, level, split, seed
        self._configured = dict(game.configured(options or {}))

    def take(self, *, steps: int, strategy: str = "multi-step", start: int = 0, count: int = 1) -> list[Game[Any]]:
        """The scenarios `start` to `start + count - 1`, each of at most `steps` turns.

        Raises:
            ConfigError: There are no such scenarios.
        """
        if strategy not in STRATEGIES or strategy == "long-range":
            raise ConfigError(f"A scenario decides itself what its user comes back to: use multi-step or single-step, not {strategy!r}.")
        return [self._made(index, steps) for index in range(start, start + count)]

    def supervised(self, *, steps: int, start: int = 0, count: int = 1) -> list[Conversation]:
        """Conversations to start from: random play, with questions about what was said and their right answers mixed in.

        Nothing in them shows a strategy: they teach the form of answers, and to remember.
        """
        seeds = {index: derive_seed(self.seed, "supervised", index) for index in range(start, start + count)}
        return [random_play(self._made(index, steps), steps, seed) for index, seed in seeds.items()]

    def _made(self, index: int, steps: int) -> Game[Any]:
        return self.game.make(level=self.level, split=self.split, seed=self.seed, index=index, steps=steps, **self._configured)


class SupervisedSource:
    """The supervised start of a scenario as a source of conversations, for the supervised stages.

    Args:
        scenarios: Whose play and questions they are.
    """

    def __init__(self, scenarios: ScenarioSource) -> None:
        self.scenarios = scenarios

    def take(self, *, steps: int, strategy: str = "multi-step", start: int = 0, count: int = 1) -> list[Conversation]:
        """The conversations `start` to `start + count - 1`, each of exactly `steps` turns."""
        return self.scenarios.supervised(steps=steps, start=start, count=count)


def random_play(game: Game[Any], steps: int, seed: int) -> Conversation:
    """A game as a player without strategy plays it, with recall questions in between: a conversation of exactly `steps` turns."""
    dialogue, draws = GameDialogue(game, seed), Draws(seed, game.id, "random play")
    answers: list[str] = []
    follow_ups: list[Interaction] = []
    while len(follow_ups) < steps:
        state = dialogue.state(answers)
        recalled = game.recall(state, draws) if draws.chance(RECALL) else None
        if recalled is not None:
            follow_ups.append(recalled)
            continue
        asked = game.ask(state, Draws(seed, game.id, "say", len(answers)))
        if asked is None:
            raise AssertionError(f"{game.id} of {game.steps} turns ends after {len(answers)}")
        answer = game.random_answer(state, draws)
        follow_ups.append(replace(asked, answer=answer))
        answers.append(answer)
    return Conversation(f"{game.id}-supervised", dialogue.first, tuple(follow_ups), {**game.extra, "strategy": "multi-step"})


def texts_of(scenario: Scenario) -> list[str]:
    """Texts that show how a scenario speaks: all of a conversation, random play of a game, the beginning of any other scenario."""
    if isinstance(scenario, Game):
        scenario = random_play(scenario, scenario.steps, 0)
    if isinstance(scenario, Conversation):
        interactions = list(scenario.interactions)
    else:
        dialogue = scenario.begin(0)
        interactions = [each for each in (dialogue.first, dialogue.say(())) if each is not None]
    return [text for each in interactions for text in said_in(each) if text]
