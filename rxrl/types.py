"""The nouns of rxrl and the protocols through which its parts meet.

Axes are always named layers, batch, slots, dim, turns, time, vocab and appear in docstrings in that form.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PAD, BOS, UNK, EOS, MASK, QUERY, ANSWER = range(7)
"""Ids of the special tokens; they are the same in every tokenizer of rxrl."""
SPECIAL_TOKENS = ("[PAD]", "[BOS]", "[UNK]", "[EOS]", "[MASK]", "[Q]", "[A]")
INTERACTION_MARKERS, PROMPT_MARKERS = 4, 3
"""Special tokens of `interaction_ids` and of `prompt_ids`."""
Strategy = Literal["single-step", "multi-step", "long-range"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
ParameterGroup = Literal["embedding", "encoder", "memory_attention", "decoder_memory", "decoder"]
PARAMETER_GROUPS: tuple[ParameterGroup, ...] = get_args(ParameterGroup)
"""Groups of a model's parameters, each with its own learning rate and freezing; `decoder_memory` is the decoder's memory cross-attention
with its norms."""


@dataclass(frozen=True, slots=True)
class Interaction:
    """One query with its answer.

    Attributes:
        answer: The reference answer; empty where nobody has written one (an interaction that a scenario says).
        facts: What this interaction tells, as (key, value) pairs; a later value of the same key overwrites.
            A key is `entity.attribute`; the part after the last dot is the attribute.
        asks: Keys that the query asks for; `()` asks for nothing, `None` means unknown (published data).
        aliases: Other right answers by key; the key `"*"` holds aliases that were given for the answer as a whole.
        unknown: What is asked was never told; the right answer says so.
        kind: Free label for reports.
        extra: All other keys of the row, passed through to rewards and reports.
    """

    query: str
    answer: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    asks: tuple[str, ...] | None = None
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: bool = False
    kind: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class Dialogue(Protocol):
    """A scenario while it is played.

    Both methods are functions of what they are given, so that a copy, a resumed run and a second scoring find the same.
    """

    @property
    def first(self) -> Interaction:
        """The interaction that is written into memory before turn 1."""
        ...

    def say(self, heard: Sequence[Turn]) -> Interaction | None:
        """What the user says after the turns heard so far (none before turn 1); None ends the conversation."""
        ...

    def judge(self, turn: Turn) -> Score | None:
        """Outcome of the answer just given, from 0 to 10; None where there is nothing to judge. Earlier answers are in `turn.history`."""
        ...


class Scenario(Protocol):
    """One conversation as it can be played: who the user is, what is hidden, how many turns at most.

    An immutable value that can be pickled. A class may also set `references` (True where every interaction carries a reference
    answer, default False) and `values` (known values by attribute, from which the rivals of a fact are taken).
    """

    @property
    def id(self) -> str:
        """Name of this scenario, unique within its source."""
        ...

    @property
    def steps(self) -> int:
        """Most turns of an episode."""
        ...

    @property
    def extra(self) -> Mapping[str, Any]:
        """Columns that are passed through to rewards and reports."""
        ...

    def begin(self, seed: int) -> Dialogue:
        """The dialogue of this scenario and seed: the same for the same two, whatever runs beside it."""
        ...


@dataclass(frozen=True, slots=True)
class Conversation:
    """The scenario whose user never reacts: a first interaction (what is told) and its follow-ups (one a turn)."""

    references: ClassVar[bool] = True

    id: str
    first: Interaction
    follow_ups: tuple[Interaction, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def begin(self, seed: int) -> ScriptedDialogue:
        """The conversation as a dialogue; what is said depends neither on the seed nor on the answers."""
        return ScriptedDialogue(self)

    @property
    def steps(self) -> int:
        """Number of turns of the episode."""
        return len(self.follow_ups)

    @property
    def interactions(self) -> tuple[Interaction, ...]:
        """All interactions, the first one included."""
        return (self.first, *self.follow_ups)


@dataclass(frozen=True, slots=True)
class ScriptedDialogue:
    """Says the follow-ups of a conversation one after the other, whatever it hears."""

    conversation: Conversation

    @property
    def first(self) -> Interaction:
        """The first interaction of the conversation."""
        return self.conversation.first

    def say(self, heard: Sequence[Turn]) -> Interaction | None:
        """The next follow-up; None after the last."""
        follow_ups = self.conversation.follow_ups
        return follow_ups[len(heard)] if len(heard) < len(follow_ups) else None

    def judge(self, turn: Turn) -> None:
        """Nothing: a conversation has references in place of outcomes."""


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Right-padded token ids.

    Attributes:
        ids: int64 `[batch, time]`, `PAD` where padded.
        mask: bool `[batch, time]`, true for real tokens.
    """

    ids: Tensor
    mask: Tensor

    @classmethod
    def pad(cls, rows: Sequence[Sequence[int]], device: torch.device | str | None = None) -> TokenBatch:
        """Pads rows of ids on the right to the longest of them (at least one column)."""
        import torch  # noqa: PLC0415 - curricula and `--help` do without it

        lengths = [len(row) for row in rows]
        width = max(1, max(lengths, default=1))
        padded = [[*row, *[PAD] * (width - length)] for row, length in zip(rows, lengths, strict=True)]
        ids = torch.tensor(padded, dtype=torch.int64).view(len(rows), width)
        mask = torch.arange(width) < torch.tensor(lengths, dtype=torch.int64).unsqueeze(1)
        return cls(ids.to(device), mask.to(device))

    @property
    def lengths(self) -> Tensor:
        """int64 `[batch]`: real tokens of each row."""
        return self.mask.sum(dim=1)

    def rows(self) -> list[list[int]]:
        """The real tokens of each row as lists."""
        return [row[: int(n)] for row, n in zip(self.ids.tolist(), self.lengths.tolist(), strict=True)]

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on `device`."""
        return TokenBatch(self.ids.to(device), self.mask.to(device))


@dataclass(frozen=True, slots=True)
class Turn:
    """One scored turn: everything a reward may look at. Text is without special tokens, ids are without markers.

    Attributes:
        conversation_id: Id of the conversation.
        index: Turn number, 1 for the first follow-up.
        steps: Number of turns of the episode.
        strategy: One of `STRATEGIES`.
        query, answer, reference: Text of the query, of the answer that is scored, and of the data set's answer (empty where there is none).
        query_ids, answer_ids, reference_ids: Token ids of the same (without `[BOS] [Q] [A] [EOS]`).
        saved: Earlier interactions that hold what is asked for (the previous one where that is not known),
            as they were written into memory; oldest first.
        history: All earlier interactions as they were written into memory, the first one included; oldest first.
        asking: The turn asks for something that memory must supply.
        expected: For each asked key the value that is right now; empty where `asks` is unknown or nothing is asked.
        aliases: Other right answers by key; `"*"` for the answer as a whole.
        rivals: For each asked key all other known values of the same attribute: naming one is a false positive.
        told_rivals: For each asked key those that were told of others so far; keys without any are left out.
        unknown: What is asked was never told: right iff the answer says so and names no value.
        distance: Turns since the last exposure of the asked fact (largest of several); None where not defined.
        asks_known: False where the row has no `asks`: rewards fall back on content words.
        kind: Free label of the interaction.
        extra: Extra columns of the conversation, overlaid by those of the interaction.
        outcome: What the scenario itself says about the answer; None where it says nothing.
        framed: Ids of the whole prompt where it is not `[BOS] [Q] query [A]`: in the interaction template. Empty elsewhere.
        thought: Text of what was thought before the answer.
        thought_ids, reference_thought_ids: Ids of it, and of what the data set thinks before its own answer.
    """

    conversation_id: str
    index: int
    steps: int
    strategy: str
    query: str
    answer: str
    reference: str
    query_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    reference_ids: tuple[int, ...]
    saved: tuple[SavedInteraction, ...]
    asking: bool
    expected: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rivals: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    told_rivals: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: bool = False
    distance: int | None = None
    asks_known: bool = True
    kind: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[SavedInteraction, ...] = ()
    outcome: Score | None = None
    framed: tuple[int, ...] = ()
    thought: str = ""
    thought_ids: tuple[int, ...] = ()
    reference_thought_ids: tuple[int, ...] = ()

    @property
    def prompt(self) -> list[int]:
        """Ids of the whole prompt, markers included."""
        return list(self.framed) or prompt_ids(self.query_ids)

    def reply(self, answer_ids: Sequence[int], thought_ids: Sequence[int] = ()) -> list[int]:
        """Ids that follow the prompt where this is the answer; where it asks for thoughts, these and `[A]` come first."""
        return [*answer_ids] if self.prompt[-1] == ANSWER else [*thought_ids, ANSWER, *answer_ids]


@dataclass(frozen=True, slots=True)
class SavedInteraction:
    """An interaction as it was written into memory (its answer may be a generated one).

    Attributes:
        query, answer: Text of both.
        query_ids, answer_ids: Ids of the same, without markers.
        framed: All ids that were written where they are not `[BOS] [Q] query [A] answer [EOS]`: in the interaction template.
    """

    query: str
    answer: str
    query_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    framed: tuple[int, ...] = ()

    @property
    def ids(self) -> list[int]:
        """All ids that were written, markers included."""
        return list(self.framed) or interaction_ids(self.query_ids, self.answer_ids)


@dataclass(frozen=True, slots=True)
class Score:
    """Score of one turn.

    Attributes:
        value: In [0, 10], or None where the reward does not apply to the turn.
        terms: Named parts, each in [0, 10] or None.
    """

    value: float | None
    terms: Mapping[str, float | None] = field(default_factory=dict)


@runtime_checkable
class RewardFunction(Protocol):
    """Maps a batch of turns to scores; may be asynchronous.

    Keeps no state between calls: what a conversation has said so far stands in `history` of each turn, so rows never share
    anything, and the order and size of batches change nothing. Can be pickled where it is to be sent to other processes.
    """

    def __call__(self, turns: Sequence[Turn]) -> Sequence[Score | float | None] | Awaitable[Sequence[Score | float | None]]:
        """Returns one score (a `Score`, a number in [0, 10] or None) for each turn."""
        ...


class TextCodec(Protocol):
    """Text to ids and back. Ids are without markers; decoding skips special tokens."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without special tokens."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out."""
        ...


class MemoryBackend(Protocol):
    """Holds the conversation between turns. A memory value is opaque to the environment: it goes in and comes out.

    `Memory` of the Reactive Transformer is its STM `[layers, batch, slots, dim]`.
    """

    def init(self, seeds: Sequence[int]) -> Any:
        """Fresh memory of `len(seeds)` rows; row i depends on `seeds[i]` alone."""
        ...

    def write(self, memory: Any, interactions: TokenBatch, rows: Tensor) -> Any:
        """Memory after writing `[BOS] [Q] query [A] answer [EOS]` of each row where `rows` (bool `[batch]`) is true."""
        ...

    def reset_rows(self, memory: Any, rows: Tensor, fresh: Any) -> Any:
        """Memory with the rows where `rows` (bool `[batch]`) is true taken from `fresh`."""
        ...

    def select_rows(self, memory: Any, indices: Sequence[int]) -> Any:
        """Memory of `len(indices)` rows, whose row i is row `indices[i]` of `memory`."""
        ...


@dataclass(frozen=True, slots=True)
class Action:
    """Sampled answers.

    Attributes:
        ids: int64 `[batch, time]`, each row ended by `[EOS]` unless it reached its token limit; `PAD` after it.
        mask: bool `[batch, time]`, true for sampled tokens, `[EOS]` included.
        log_probs: float `[batch, time]` of the sampled tokens under the sampling distribution, 0 where masked; or None.
    """

    ids: Tensor
    mask: Tensor
    log_probs: Tensor | None = None


class Policy(Protocol):
    """Answers in an environment."""

    def act(self, observation: TokenBatch, memory: Any, generators: Sequence[torch.Generator] | None) -> Action:
        """Answers the queries of `observation` (prompts `[BOS] [Q] query [A]`), reading `memory`; None = greedy."""
        ...


def interaction_ids(query_ids: Sequence[int], answer_ids: Sequence[int]) -> list[int]:
    """`[BOS] [Q] query [A] answer [EOS]`: the form in which an interaction is encoded and written into memory."""
    return [BOS, QUERY, *query_ids, ANSWER, *answer_ids, EOS]


ANSWER_TOKENS = 16
"""Longest answer in tokens, `[EOS]` aside, where no setting says otherwise: in training, evaluation and play alike."""


def longest_query(max_length: int) -> int:
    """Tokens of the longest query that leaves room for an answer of one token: `[BOS] [Q] query [A] answer [EOS]` in `max_length`."""
    return max_length - INTERACTION_MARKERS - 1


def prompt_ids(query_ids: Sequence[int]) -> list[int]:
    """`[BOS] [Q] query [A]`: what the decoder continues with an answer."""
    return [BOS, QUERY, *query_ids, ANSWER]
