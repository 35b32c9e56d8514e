"""Policies that answer with text: they read the query, and what was said before where memory is a transcript."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rxrl.errors import ConfigError
from rxrl.template import THINK, has_template, split_written
from rxrl.types import ANSWER, EOS, PROMPT_MARKERS, Action, TextCodec, TokenBatch

QUERY_START = PROMPT_MARKERS - 1
"""Markers before a query: `[BOS] [Q]`; `[A]` follows it."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A query to answer, with what the policy may read.

    Attributes:
        query: The query that waits.
        history: Earlier queries with their answers as they were written into memory, oldest first; empty without a transcript.
    """

    query: str
    history: tuple[tuple[str, str], ...] = ()

    def messages(self, system: str | None = None, last: int | None = None) -> list[dict[str, str]]:
        """The dialogue as chat messages (`role`, `content`).

        Args:
            system: A system prompt that goes first.
            last: Number of latest interactions of the history to keep; None keeps all.
        """
        said = self.history if last is None else self.history[len(self.history) - min(last, len(self.history)) :]
        # Only a system prompt is written first without an answer.
        if said and said is self.history and not said[0][1]:
            system, said = "\n".join(part for part in (system, said[0][0]) if part), said[1:]
        turns = [{"role": role, "content": text} for pair in said for role, text in zip(("user", "assistant"), pair, strict=True)]
        first = [] if system is None else [{"role": "system", "content": _clean(system)}]
        return [*first, *turns, {"role": "user", "content": self.query}]


class TextPolicy(ABC):
    """Base of policies that answer with text; a policy of your own needs `answer` alone.

    Args:
        codec: That of the environment.
    """

    def __init__(self, codec: TextCodec) -> None:
        self.codec = codec

    @abstractmethod
    def answer(self, dialogues: Sequence[Dialogue], generators: Sequence[torch.Generator] | None) -> Sequence[str]:
        """One answer for each dialogue; `generators` (one each) for sampled answers, None for the likeliest ones."""

    def act(self, observation: TokenBatch, memory: Any, generators: Sequence[torch.Generator] | None) -> Action:
        """Answers the prompts; rows without one get no answer.

        Raises:
            ConfigError: `memory` is neither None nor a transcript.
        """
        prompts, histories = observation.rows(), self._histories(memory, len(observation.ids))
        rows = [row for row, prompt in enumerate(prompts) if prompt]
        dialogues = [Dialogue(self.codec.decode(prompts[row][QUERY_START:-1]), histories[row]) for row in rows]
        answers = self.answer(dialogues, None if generators is None else [generators[row] for row in rows])
        ids: list[list[int]] = [[] for _ in prompts]
        for row, text in zip(rows, answers, strict=True):
            ids[row] = [*answer_start(prompts[row]), *self.codec.encode(_clean(text)), EOS]
        batch = TokenBatch.pad(ids)
        return Action(batch.ids, batch.mask)

    def _histories(self, memory: Any, batch: int) -> list[tuple[tuple[str, str], ...]]:
        if memory is None:
            return [()] * batch
        if not isinstance(getattr(memory, "rows", None), Sequence):
            raise ConfigError(
                f"{type(self).__name__} reads what was said, but memory is a {type(memory).__name__}: "
                "give the environment memory='transcript', or 'none'."
            )
        return [tuple(self._said(ids) for ids in row) for row in memory.rows]

    def _said(self, ids: Sequence[int]) -> tuple[str, str]:
        if has_template(self.codec):
            heard, said = split_written(ids)
            return self.codec.decode(heard), self.codec.decode(said["answer"])
        answer = list(ids).index(ANSWER)
        return self.codec.decode(ids[QUERY_START:answer]), self.codec.decode(ids[answer + 1 :])


def answer_start(prompt: Sequence[int]) -> list[int]:
    """What stands before an answer that comes without a thought: `[A]` where the prompt asks for thoughts, nothing elsewhere."""
    return [ANSWER] if prompt and prompt[-1] == THINK else []


def check_options(temperature: float, longest: int) -> None:
    """Refuses what no model can answer with.

    Raises:
        ConfigError: The temperature is no number above 0, or answers would have no token.
    """
    if not 0 < temperature < math.inf:
        raise ConfigError(f"temperature must be a number above 0, got {temperature}; for the likeliest answers give no generators.")
    if longest < 1:
        raise ConfigError(f"Answers need at least 1 token, got a limit of {longest}.")


def _clean(text: str) -> str:
    """The text without halves of characters, which JSON and terminals sometimes deliver."""
    return text.encode("utf-8", errors="replace").decode()
