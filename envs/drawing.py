"""How episodes begin: which conversation from which seed with which strategy, as the options of a reset say, or as drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from gymnasium.utils import seeding

from rxrl.envs.checks import is_scenario, known_strategy, per_conversation
from rxrl.envs.episode import SEED_RANGE, keyed_share
from rxrl.errors import EpisodeError, unknown_name
from rxrl.types import STRATEGIES, Scenario
from rxrl.validation import is_whole

_SHOWN = 20


class Drawing:
    """Draws for the rows of an environment; each row has its own generator, so that the other rows do not change its draws.

    Args:
        conversations: Where episodes are drawn from, at least one.
        rows: Rows of the environment.
        strategies: Shares of the strategies, which sum to 1.
        reset_ratio: Probability that an episode starts from fresh memory.
    """

    def __init__(self, conversations: Sequence[Scenario], rows: int, strategies: Mapping[str, float], reset_ratio: float) -> None:
        self.conversations = conversations
        self.rows = rows
        self.strategies = strategies
        self.reset_ratio = reset_ratio
        self.generators: list[np.random.Generator] | None = None
        self._index = {conversation.id: i for i, conversation in enumerate(conversations)}

    def seeded(self, seed: Any) -> list[int]:
        """The seed of each row: `seed + row`, or the given ones."""
        seeds = [int(seed) + row for row in range(self.rows)] if isinstance(seed, Integral) else [int(each) for each in seed]
        if len(seeds) != self.rows:
            raise EpisodeError(f"A list of seeds needs one for each of the {self.rows} rows, got {len(seeds)}.")
        return seeds

    def reseed(self, seeds: Sequence[int], rows: Sequence[int]) -> None:
        """Gives the generators of `rows` new seeds."""
        fresh = [seeding.np_random(seed)[0] for seed in seeds]
        if self.generators is None:
            self.generators = fresh
        for row in rows:
            self.generators[row] = fresh[row]

    def begin(self, source: np.random.Generator) -> list[np.random.Generator]:
        """The generators; made from `source` where nothing was seeded yet."""
        if self.generators is None:
            self.generators = [np.random.default_rng(seed) for seed in source.integers(SEED_RANGE, size=self.rows)]
        return self.generators

    def pick(self, rows: Sequence[int], wanted: Any, generators: Sequence[np.random.Generator]) -> list[Scenario]:
        """The conversations of `rows`, in order: those that are wanted, or one drawn for each row."""
        if wanted is None:
            return [self.conversations[int(generators[row].integers(len(self.conversations)))] for row in rows]
        chosen = [self._find(each) for each in wanted]
        if len(chosen) > len(rows):
            raise EpisodeError(f"`conversations` names {len(chosen)} conversations, but only {len(rows)} rows are reset.")
        return chosen

    def _find(self, wanted: Scenario | int | str) -> Scenario:
        if is_scenario(wanted):
            if not wanted.steps:
                raise EpisodeError(f"Conversation {wanted.id!r} has no follow-up interaction, so there is nothing to play.")
            return wanted
        if isinstance(wanted, str):
            if wanted not in self._index:
                raise EpisodeError(unknown_name("conversation", wanted, list(self._index)[:_SHOWN]))
            return self.conversations[self._index[wanted]]
        if not is_whole(wanted) or not 0 <= int(wanted) < len(self.conversations):
            raise EpisodeError(
                f"A conversation is an id, a Conversation or an index from 0 to {len(self.conversations) - 1}, got {wanted!r}."
            )
        return self.conversations[int(wanted)]

    def stm_seeds(self, rows: Sequence[int], chosen: Sequence[Scenario], wanted: Any, source: Sequence[np.random.Generator]) -> list[int]:
        """One seed for each row of the environment; rows that do not begin an episode get 0."""
        seeds = [0] * self.rows
        given = per_conversation("stm_seeds", wanted, chosen)
        if given is None:
            given = [int(source[row].integers(SEED_RANGE)) for row in rows[: len(chosen)]]
        for row, seed in zip(rows, given, strict=False):
            if not is_whole(seed) or not 0 <= int(seed) < SEED_RANGE:
                raise EpisodeError(f"stm_seeds are whole numbers from 0 to 2**63 - 1, got {seed!r}.")
            seeds[row] = int(seed)
        return seeds

    def strategy(self, conversation: Scenario, wanted: str | None, seed: int) -> str:
        """The wanted strategy, or the conversation's own, or one drawn from the mix by the seed of the episode."""
        if wanted:
            return known_strategy(wanted)
        own = conversation.extra.get("strategy")
        if own in STRATEGIES:
            return str(own)
        left = keyed_share(seed, "strategy") if len(self.strategies) > 1 else 0.0
        for name, share in self.strategies.items():
            if left < share:
                return name
            left -= share
        return next(reversed(list(self.strategies)))

    def keeps_memory(self, seed: int) -> bool:
        """Whether the episode of this seed starts from what another conversation left, as `reset_ratio` says."""
        return keyed_share(seed, "random reset") >= self.reset_ratio
