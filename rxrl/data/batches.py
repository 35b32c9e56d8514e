"""Conversations to token batches, with clear errors where an interaction does not fit the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rxrl.data.sources import ConversationSource
from rxrl.errors import DataError
from rxrl.template import interaction_tokens
from rxrl.types import BOS, Conversation, TextCodec, TokenBatch


@dataclass(frozen=True, slots=True)
class EpisodeBatch:
    """Conversations as the real cycle sees them: what is written before each turn, and what is decoded in it.

    Attributes:
        writes: Interactions written into memory, ids and mask `[turns, batch, time]`; entry t stands before turn t + 1.
        turns: `[BOS] [Q] query [A] answer [EOS]` of each turn, ids and mask `[turns, batch, time]`.
        answer: bool `[turns, batch, time]`, true for tokens of the answer in `turns`, `[EOS]` included.
        real: bool `[turns, batch]`, false past the end of shorter conversations.
        asking: bool `[turns, batch]`, where a turn's query asks for something; where that is not known, everywhere it is real.
    """

    writes: TokenBatch
    turns: TokenBatch
    answer: Tensor
    real: Tensor
    asking: Tensor

    def to(self, device: torch.device | str) -> EpisodeBatch:
        """The same batch on `device`."""
        marks = (each.to(device) for each in (self.answer, self.real, self.asking))
        return EpisodeBatch(self.writes.to(device), self.turns.to(device), *marks)

    def rows(self, rows: slice) -> EpisodeBatch:
        """Some conversations of the batch."""

        def cut(given: TokenBatch) -> TokenBatch:
            return TokenBatch(given.ids[:, rows], given.mask[:, rows])

        return EpisodeBatch(cut(self.writes), cut(self.turns), self.answer[:, rows], self.real[:, rows], self.asking[:, rows])

    @property
    def tokens(self) -> int:
        """Real tokens of all turns and of the first write: what was told and said once."""
        return int(self.turns.mask.sum() + self.writes.mask[0].sum())


@runtime_checkable
class TokenizedSource(Protocol):
    """A supply of conversations that are token ids already: `rxrl.data.stores.StoredConversations`."""

    def available(self, steps: int, strategy: str) -> int:
        """Number of conversations that are long enough for `steps` turns."""
        ...

    def episodes(self, *, steps: int, strategy: str, start: int, count: int, max_length: int) -> EpisodeBatch:
        """What `episode_batch` makes of the conversations that `take` gives for the same arguments."""
        ...


def episodes_of(
    source: ConversationSource, codec: TextCodec, max_length: int, *, steps: int, strategy: str, start: int, count: int
) -> EpisodeBatch:
    """Teacher-forced episodes from a source: read where they are token ids already, else made by the tokenizer.

    Args:
        source: Conversations.
        codec: Tokenizer.
        max_length: Longest interaction in tokens, special tokens included.
        steps: Turns of each conversation.
        strategy: Which conversations, see `ConversationSource`.
        start: First position.
        count: How many.

    Raises:
        DataError: An interaction is longer than `max_length`; the message names conversation and turn.
    """
    if isinstance(source, TokenizedSource):
        return source.episodes(steps=steps, strategy=strategy, start=start, count=count, max_length=max_length)
    return episode_batch(source.take(steps=steps, strategy=strategy, start=start, count=count), codec, max_length)


def next_tokens(batch: TokenBatch) -> Tensor:
    """Where, bool `[batch, time - 1]`, the token behind each position is to be predicted: where it is real and begins no other text."""
    return batch.mask[:, 1:] & (batch.ids[:, 1:] != BOS)


def texts_apart(batch: TokenBatch, reset_positions: bool = True) -> tuple[Tensor, Tensor | None]:
    """What a model is told so that texts of one row, each of which begins with `[BOS]`, do not see each other.

    Args:
        batch: Right-padded rows `[batch, time]`.
        reset_positions: Whether the positions of each text begin at 0.

    Returns:
        Mask, `[batch, time]` where no row holds several texts, else `[batch, time, time]`: who reads whom; and positions int64
        `[batch, time]`, None where they are those of the row.
    """
    begins = batch.ids == BOS
    if not begins[:, 1:].any():
        return batch.mask, None
    texts, places = begins.cumsum(1), torch.arange(batch.ids.shape[1], device=batch.ids.device)
    reads = (texts.unsqueeze(2) == texts.unsqueeze(1)) & batch.mask.unsqueeze(1) & batch.mask.unsqueeze(2)
    starts = (places * begins).cummax(1).values
    return reads, places - starts if reset_positions else None


def turns_first(rows: Sequence[Sequence[Sequence[int]]]) -> TokenBatch:
    """Pads ids of `rows[turn][batch]` to one `TokenBatch` `[turns, batch, time]`."""
    flat = TokenBatch.pad([ids for turn in rows for ids in turn])
    shape = (len(rows), len(rows[0]))
    return TokenBatch(flat.ids.view(*shape, -1), flat.mask.view(*shape, -1))


def answer_positions(prompt_lengths: Tensor, mask: Tensor) -> Tensor:
    """Real tokens, bool `[..., time]`, behind a prompt of `prompt_lengths` `[...]`."""
    return mask & (torch.arange(mask.shape[-1], device=mask.device) >= prompt_lengths.unsqueeze(-1))


def checked_ids(conversation: Conversation, turn: int, codec: TextCodec, max_length: int) -> tuple[list[int], int]:
    """One interaction as `[BOS] [Q] query [A] answer [EOS]` or as the template has it, and how many of these ids no loss is taken on.

    Args:
        conversation: What it belongs to.
        turn: Which interaction; 0 is the first.
        codec: Tokenizer.
        max_length: Longest interaction in tokens, special tokens included.

    Raises:
        DataError: It is longer; the message names conversation and turn.
    """
    interaction = conversation.interactions[turn]
    try:
        tokens = interaction_tokens(interaction, codec)
    except DataError as error:
        raise DataError(f"Conversation {conversation.id!r}, turn {turn}: {error}") from None
    if len(tokens.ids) > max_length:
        raise long_interaction(conversation.id, turn, len(tokens.ids), max_length)
    return tokens.ids, tokens.prompt


def long_interaction(name: str, turn: int, length: int, limit: int) -> DataError:
    """The error for an interaction that is longer than the model takes."""
    return DataError(
        f"Conversation {name!r}, turn {turn}: the interaction has {length} tokens, but {limit} is the "
        "model's limit: cut it into several turns, or use a model with a larger max_length."
    )


def episode_batch(conversations: Sequence[Conversation], codec: TextCodec, max_length: int) -> EpisodeBatch:
    """Teacher-forced episodes of some conversations.

    Args:
        conversations: At least one; they may differ in length.
        codec: Tokenizer.
        max_length: Longest interaction in tokens, special tokens included.

    Raises:
        DataError: An interaction is longer than `max_length`; the message names conversation and turn.
    """
    turns = max(conversation.steps for conversation in conversations)
    written: list[list[list[int]]] = [[[] for _ in conversations] for _ in range(turns + 1)]
    prompts = torch.zeros(turns, len(conversations), dtype=torch.int64)
    for row, conversation in enumerate(conversations):
        for turn in range(conversation.steps + 1):
            written[turn][row], prompt = checked_ids(conversation, turn, codec, max_length)
            if turn:
                prompts[turn - 1, row] = prompt
    decoded = turns_first(written[1:])
    real = torch.tensor([[turn < conversation.steps for conversation in conversations] for turn in range(turns)])
    asking = torch.tensor([[turn < c.steps and c.follow_ups[turn].asks != () for c in conversations] for turn in range(turns)])
    return EpisodeBatch(turns_first(written[:-1]), decoded, answer_positions(prompts, decoded.mask), real, asking)
