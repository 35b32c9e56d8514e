"""Players that need no model: the oracle, the parrot, and a person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from rxrl.errors import EpisodeError
from rxrl.policies.text import QUERY_START, Dialogue, TextPolicy, answer_start
from rxrl.terminal import visible
from rxrl.types import EOS, Action, TextCodec, TokenBatch


class Referee(Protocol):
    """What the oracle looks at: the batched environment."""

    @property
    def references(self) -> Sequence[str]:
        """For each row the reference of the query that waits."""
        ...

    @property
    def active(self) -> NDArray[np.bool_]:
        """Rows that wait for an answer."""
        ...

    @property
    def codec(self) -> TextCodec:
        """Text to ids and back."""
        ...


class Oracle:
    """Answers with the references: what an environment, its data and its reward can give at best.

    Args:
        envs: The environment that it plays; it answers for all rows, or for those that wait.
    """

    def __init__(self, envs: Referee) -> None:
        self.envs = envs

    def act(self, observation: TokenBatch, memory: Any, generators: Sequence[torch.Generator] | None) -> Action:
        """The references of the rows that wait; no answer for the others.

        Raises:
            EpisodeError: The prompts are those of some of the waiting rows.
        """
        references, active = self.envs.references, self.envs.active
        rows = range(len(active)) if len(observation.ids) == len(active) else np.flatnonzero(active).tolist()
        if len(rows) != len(observation.ids):
            raise EpisodeError(
                f"The oracle answers all {len(active)} rows or the {int(active.sum())} that wait, got {len(observation.ids)} prompts."
            )
        starts = dict(zip(rows, map(answer_start, observation.rows()), strict=True))
        batch = TokenBatch.pad([[*starts[row], *self.envs.codec.encode(references[row]), EOS] if active[row] else [] for row in rows])
        return Action(batch.ids, batch.mask)


class Parrot:
    """Repeats the query: what a reward gives for copying."""

    def act(self, observation: TokenBatch, memory: Any, generators: Sequence[torch.Generator] | None) -> Action:
        """The queries as answers."""
        batch = TokenBatch.pad([[*answer_start(prompt), *prompt[QUERY_START:-1], EOS] if prompt else [] for prompt in observation.rows()])
        return Action(batch.ids, batch.mask)


def ask_at_terminal(query: str) -> str:
    """What a person answers to a query."""
    return input(f"{visible(query)}\n> ")


class Person(TextPolicy):
    """A person at the terminal.

    Args:
        codec: That of the environment.
        ask: Shows a query and returns the answer.
    """

    def __init__(self, codec: TextCodec, ask: Callable[[str], str] = ask_at_terminal) -> None:
        super().__init__(codec)
        self.ask = ask

    def answer(self, dialogues: Sequence[Dialogue], generators: Sequence[torch.Generator] | None) -> list[str]:
        """Asks for one answer after the other."""
        return [self.ask(dialogue.query) for dialogue in dialogues]
