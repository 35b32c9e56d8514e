"""One conversation as it is played: tokens once, facts tracked, one `Turn` at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rxrl.facts import Asked, FactTracker
from rxrl.seeding import derive_seed
from rxrl.types import ANSWER, BOS, EOS, MASK, PAD, QUERY, Conversation, SavedInteraction, Score, TextCodec, Turn

_MARKERS = frozenset((PAD, BOS, EOS, MASK, QUERY, ANSWER))
_FRAME = 4
"""Marker tokens of an interaction: `[BOS] [Q] ... [A] ... [EOS]`."""
SHORTEST_INTERACTION = _FRAME + 2
"""Tokens of an interaction with one of a query and one of an answer."""

SEED_RANGE = 2**63

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """Token limits of an episode.

    Attributes:
        query: Most tokens of a query, without markers.
        answer: Most tokens of an answer, without `[EOS]`.
        interaction: Most tokens of a whole interaction as it is written, markers included; None = no limit.
        episode: Tokens written after which an episode is truncated; None = no limit.
        turns: Turns after which an episode is truncated; None = no limit.
    """

    query: int
    answer: int
    interaction: int | None = None
    episode: int | None = None
    turns: int | None = None

    def fit(self, query: Sequence[int], answer: Sequence[int]) -> tuple[list[int], list[int]]:
        """Query and answer ids cut so that the interaction fits its limit; the answer is cut first."""
        if self.interaction is None:
            return list(query), list(answer)
        room = self.interaction - _FRAME
        kept = list(query[:room])
        return kept, list(answer[: room - len(kept)])


@dataclass(frozen=True, slots=True)
class Script:
    """A conversation with its tokens, made once and used for every episode of it.

    Attributes:
        conversation: The conversation.
        query_ids: Ids of each query, first interaction included, cut to the limits.
        reference_ids: Ids of each reference answer, uncut.
        extras: Extra columns of each interaction, over those of the conversation.
    """

    conversation: Conversation
    query_ids: tuple[tuple[int, ...], ...]
    reference_ids: tuple[tuple[int, ...], ...]
    extras: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, conversation: Conversation, codec: TextCodec, limits: Limits) -> Script:
        """Tokenises `conversation`; says so once where an interaction has to be cut."""
        queries, references = [], []
        for index, interaction in enumerate(conversation.interactions):
            query, answer = codec.encode(interaction.query), codec.encode(interaction.answer)
            kept, written = limits.fit(query if index == 0 else query[: limits.query], answer)
            if len(kept) < len(query) or len(written) < len(answer):
                _logger.warning(
                    "Interaction %d of conversation %r has %d + %d tokens and is cut to %d + %d: split it, or raise the token limits.",
                    index, conversation.id, len(query), len(answer), len(kept), len(written),
                )  # fmt: skip
            if index and len(answer) > limits.answer:
                _say_short(limits.answer, conversation.id, index, len(answer))
            queries.append(tuple(kept))
            references.append(tuple(answer))
        extras = tuple({**conversation.extra, **interaction.extra} for interaction in conversation.interactions)
        return cls(conversation, tuple(queries), tuple(references), extras)


_SAID_SHORT: set[int] = set()


def _say_short(limit: int, conversation_id: str, turn: int, tokens: int) -> None:
    """Says once for each limit that answers end before the references do: nobody can then answer in full, not even the oracle."""
    if limit not in _SAID_SHORT:
        _SAID_SHORT.add(limit)
        _logger.warning(
            "Answers end after %d tokens, but some references are longer (turn %d of conversation %r has %d): raise max_answer_tokens.",
            limit, turn, conversation_id, tokens,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Forcing:
    """When the reference is written in place of the answer.

    Attributes:
        probability: Of each turn, from 0 (never) to 1 (always).
        turns: Turns up to which it holds; None = all.
    """

    probability: float
    turns: int | None = None

    def holds(self, episode: Episode) -> bool:
        """Whether the turn that `episode` stands at is forced."""
        return self.holds_at(episode.seed, episode.turn)

    def holds_at(self, seed: int, turn: int) -> bool:
        """Whether a turn (from 0) of an episode with this seed is forced; depends on the two alone."""
        if self.turns is not None and turn >= self.turns:
            return False
        return keyed_share(seed, "teacher forcing", turn) < self.probability


class Episode:
    """One row of the environment: where a conversation stands.

    Args:
        script: The tokenised conversation.
        strategy: One of `rxrl.types.STRATEGIES`; single-step plays the first turn only.
        values: Known values by attribute, for rivals.
        seed: Seed of the row's initial memory; also keys the row's own draws.
        limits: Token limits.
    """

    def __init__(self, script: Script, strategy: str, values: Mapping[str, tuple[str, ...]], seed: int, limits: Limits) -> None:
        self.script = script
        self.strategy = strategy
        self.seed = seed
        self.limits = limits
        self.steps = 1 if strategy == "single-step" else script.conversation.steps
        self.turn = 0
        self.tokens = 0
        self.terminated = False
        self.truncated = False
        self.saved: list[SavedInteraction] = []
        self.played: list[tuple[Turn, Score]] = []
        self.asked: Asked | None = None
        self._tracker = FactTracker(script.conversation, values)

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated

    @property
    def reference(self) -> str:
        """The data set's answer to the query that waits; empty when the episode is over."""
        return "" if self.done else self.script.conversation.interactions[self.turn + 1].answer

    @property
    def next_query_ids(self) -> tuple[int, ...]:
        """Ids of the query that is to be answered next; empty when the episode is over."""
        return () if self.done else self.script.query_ids[self.turn + 1]

    @property
    def next_query(self) -> str:
        """Text of the query that is to be answered next; empty when the episode is over."""
        return "" if self.done else self.script.conversation.interactions[self.turn + 1].query

    def begin(self, decode: Callable[[Sequence[int]], str]) -> list[int]:
        """Notes the first interaction as written and returns its ids."""
        answer = self.script.reference_ids[0]
        return self.note_written(0, answer, self.script.conversation.first.answer, decode)

    def note_written(self, index: int, answer_ids: Sequence[int], text: str, decode: Callable[[Sequence[int]], str]) -> list[int]:
        """Notes interaction `index` as written with this answer; returns its ids `[BOS] [Q] query [A] answer [EOS]`.

        Where the answer has to be cut, what is left of it is what was written: `decode` says what that is.
        """
        interaction = self.script.conversation.interactions[index]
        query, answer = self.limits.fit(self.script.query_ids[index], answer_ids)
        text = text if len(answer) == len(answer_ids) else decode(answer)
        self.saved.append(SavedInteraction(interaction.query, text, tuple(query), tuple(answer)))
        self.tokens += len(query) + len(answer) + _FRAME
        self._tracker.write(text)
        if index < self.script.conversation.steps:
            self.asked = self._tracker.ask()
        return [BOS, QUERY, *query, ANSWER, *answer, EOS]

    def scored_turn(self, answer_ids: Sequence[int], text: str) -> Turn:
        """The turn that `answer_ids` answer, for the reward."""
        if self.asked is None:
            raise AssertionError("an episode asks only after its first interaction was written")
        index = self.turn + 1
        asked, script = self.asked, self.script
        interaction = script.conversation.interactions[index]
        return Turn(
            conversation_id=script.conversation.id,
            index=index,
            steps=self.steps,
            strategy=self.strategy,
            query=interaction.query,
            answer=text,
            reference=interaction.answer,
            query_ids=script.query_ids[index],
            answer_ids=tuple(token for token in answer_ids if token not in _MARKERS),
            reference_ids=script.reference_ids[index],
            saved=tuple(self.saved[at] for at in self._saved_indices(asked, index)),
            asking=asked.asking,
            expected=asked.expected,
            aliases=asked.aliases,
            rivals=asked.rivals,
            unknown=asked.unknown,
            distance=asked.distance,
            asks_known=asked.asks_known,
            kind=interaction.kind,
            extra=script.extras[index],
            history=tuple(self.saved),
        )

    def _saved_indices(self, asked: Asked, index: int) -> tuple[int, ...]:
        if self.strategy == "long-range" and index == self.steps and not asked.asks_known and not asked.asking:
            return (0,)
        return asked.saved

    def end(self, answer_tokens: int) -> None:
        """Notes whether the turn just scored ends the episode: terminated by its script, or truncated by a limit."""
        turn = self.turn + 1
        self.terminated = turn >= self.steps
        tokens = self.tokens + len(self.script.query_ids[turn]) + answer_tokens + _FRAME
        over = self.limits.episode is not None and tokens >= self.limits.episode
        late = self.limits.turns is not None and turn >= self.limits.turns
        self.truncated = not self.terminated and (over or late)


def keyed_share(*key: int | str) -> float:
    """A draw in [0, 1) that depends on `key` alone."""
    return derive_seed(*key) / SEED_RANGE
