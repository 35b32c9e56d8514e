"""What is said, with its tokens: each text is tokenised once, and cut to the limits where rows of data are too long."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rxrl.template import HEARD_MARKERS, THINK, Tokens, heard, interaction_tokens, segments
from rxrl.types import ANSWER, BOS, QUERY, Interaction, Scenario, TextCodec

FRAME = 4
"""Marker tokens of an interaction: `[BOS] [Q] ... [A] ... [EOS]`."""
SHORTEST_INTERACTION = FRAME + 2
"""Tokens of an interaction with one of a query and one of an answer."""
_KEPT = 2**16

_logger = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Limits:
    """Token limits of an episode.

    Attributes:
        query: Most tokens of a query, without markers.
        answer: Most tokens of an answer, without `[EOS]`.
        think: Most tokens that are thought before an answer; 0: answers come at once.
        interaction: Most tokens of a whole interaction as it is written, markers included; None = no limit.
        episode: Tokens written after which an episode is truncated; None = no limit.
        turns: Turns after which an episode is truncated; None = no limit.
    """

    query: int
    answer: int
    interaction: int | None = None
    episode: int | None = None
    turns: int | None = None
    think: int = 0

    @property
    def said(self) -> int:
        """Most tokens of an action, `[EOS]` and, behind thoughts, `[A]` included."""
        return self.answer + 1 + (self.think + 1 if self.think else 0)

    def fit(self, query: Sequence[int], answer: Sequence[int]) -> tuple[list[int], list[int]]:
        """Query and answer ids cut so that the interaction fits its limit; the answer is cut first."""
        if self.interaction is None:
            return list(query), list(answer)
        room = self.interaction - FRAME
        kept = list(query[:room])
        return kept, list(answer[: room - len(kept)])


@dataclass(frozen=True, slots=True)
class Spoken:
    """An interaction with its tokens.

    Attributes:
        interaction: What was said.
        query_ids: Ids of the query, cut to the limits.
        reference_ids: Ids of the reference answer, uncut; empty where there is none.
        extra: Extra columns of the interaction, over those of its scenario.
        query: What is heard, as text.
        prompt: Ids of the whole prompt, markers included; the last one asks for an answer, or for thoughts before it.
        framed: The interaction in the template, cut to the limits; None where it is `[BOS] [Q] query [A] answer [EOS]`.
    """

    interaction: Interaction
    query_ids: tuple[int, ...]
    reference_ids: tuple[int, ...]
    extra: Mapping[str, Any]
    query: str
    prompt: tuple[int, ...]
    framed: Tokens | None = None

    @property
    def thought_ids(self) -> tuple[int, ...]:
        """Ids of what the reference thinks before its answer."""
        said = () if self.framed is None else tuple(self.framed.said)
        return said[1 : said.index(ANSWER) if ANSWER in said else None] if said[:1] == (THINK,) else ()


class Speech:
    """Makes tokens of what is said.

    Args:
        codec: Text to ids.
        limits: Token limits.
    """

    def __init__(self, codec: TextCodec, limits: Limits) -> None:
        self.limits = limits
        self.decode = codec.decode
        self._codec = codec
        self._ids: dict[str, tuple[int, ...]] = {}
        self._spoken: dict[tuple[str, int], Spoken] = {}
        self._said_short = False

    def scripted(self, scenario: Scenario, turn: int, interaction: Interaction) -> Spoken:
        """As `of`, for what is said again whenever the scenario is played."""
        known = self._spoken.get((scenario.id, turn))
        if known is not None and known.interaction is interaction:
            return known
        spoken = self.of(scenario, turn, interaction)
        _keep(self._spoken, (scenario.id, turn), spoken)
        return spoken

    def too_long(self, turn: int, interaction: Interaction) -> int:
        """Tokens of a query that is longer than the limit; 0 for one that fits."""
        tokens = len(self._encode(heard(interaction)))
        room = None if self.limits.interaction is None else self.limits.interaction - FRAME
        over = (turn > 0 and tokens > self.limits.query) or (room is not None and tokens > room)
        return tokens if over else 0

    def of(self, scenario: Scenario, turn: int, interaction: Interaction) -> Spoken:
        """The interaction of a turn (0: the first) with its tokens; says so in the log where it has to be cut.

        Raises:
            DataError: It has segments of the template, and the codec has no markers for them.
        """
        framed = interaction_tokens(interaction, self._codec) if segments(interaction) else None
        if framed is not None and not framed.plain:
            return self._framed(scenario, turn, interaction, framed)
        # Without markers a system prompt takes the place of a query.
        text = heard(interaction)
        query, answer = self._encode(text), self._encode(interaction.answer)
        kept, written = self.limits.fit(query[: self.limits.query] if turn else query, answer)
        if len(kept) < len(query) or len(written) < len(answer):
            _logger.warning(
                "Interaction %d of conversation %r has %d + %d tokens and is cut to %d + %d: split it, or raise the token limits.",
                turn, scenario.id, len(query), len(answer), len(kept), len(written),
            )  # fmt: skip
        if turn and len(answer) > self.limits.answer:
            self._say_short(scenario.id, turn, len(answer))
        return Spoken(interaction, tuple(kept), answer, _extra(scenario, interaction), text, (BOS, QUERY, *kept, self._ends_prompt))

    @property
    def _ends_prompt(self) -> int:
        return THINK if self.limits.think else ANSWER

    def _framed(self, scenario: Scenario, turn: int, interaction: Interaction, tokens: Tokens) -> Spoken:
        """The same in the template."""
        room = len(tokens.heard) if self.limits.interaction is None else self.limits.interaction - 2
        heard_ids = tokens.heard[: min(room, self.limits.query + 2) if turn else room]
        said = tokens.said if self.limits.interaction is None else tokens.said[: self.limits.interaction - 1 - len(heard_ids)]
        if len(heard_ids) < len(tokens.heard) or len(said) < len(tokens.said):
            _logger.warning(
                "Interaction %d of conversation %r has %d tokens and is cut to %d: split it, or raise the token limits.",
                turn, scenario.id, len(tokens.ids), len(heard_ids) + len(said) + 1,
            )  # fmt: skip
        query = tuple(token for token in heard_ids if token not in HEARD_MARKERS)
        answer = self._encode(interaction.answer)
        prompt = (*heard_ids, self._ends_prompt)
        kept = Tokens(heard_ids, said, False)
        return Spoken(interaction, query, answer, _extra(scenario, interaction), heard(interaction), prompt, kept)

    def _encode(self, text: str) -> tuple[int, ...]:
        ids = self._ids.get(text)
        if ids is None:
            ids = tuple(self._codec.encode(text)) if text else ()
            _keep(self._ids, text, ids)
        return ids

    def _say_short(self, conversation_id: str, turn: int, tokens: int) -> None:
        """Says once that answers end before the references do: nobody can then answer in full, not even the oracle."""
        if not self._said_short:
            self._said_short = True
            _logger.warning(
                "Answers end after %d tokens, but some references are longer (turn %d of conversation %r has %d): raise max_answer_tokens.",
                self.limits.answer, turn, conversation_id, tokens,
            )  # fmt: skip


def _extra(scenario: Scenario, interaction: Interaction) -> Mapping[str, Any]:
    return {**scenario.extra, **interaction.extra} if interaction.extra else scenario.extra


def _keep(store: dict[K, V], key: K, value: V) -> None:
    """Keeps a value; the oldest give way, since scenarios may come from an endless source."""
    store[key] = value
    if len(store) > _KEPT:
        del store[next(iter(store))]
