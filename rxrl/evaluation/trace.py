"""What a memory does while a conversation is written into it: how much each slot changes, what it reads, and who reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rxrl.errors import ConfigError, DataError
from rxrl.models import ReactiveTransformer
from rxrl.models.memory_tokens import TokenMemory
from rxrl.policies.reactive import StmBackend
from rxrl.seeding import derive_seed
from rxrl.types import SPECIAL_TOKENS, Conversation, TextCodec, TokenBatch, interaction_ids


@dataclass(frozen=True, slots=True)
class Trace:
    """A memory while conversations are written into it, all float32 on the CPU.

    Attributes:
        conversations: Ids of the rows.
        memories: `[writes + 1, layers, batch, slots, dim]`: stm0, then the memory after each write.
        drift: `[writes, layers, batch, slots]`: mean squared change of each slot, over dim.
        gates: `[writes, layers, batch, slots]`: openness of the gate of the write, from 0 (keeps what is old) to 1.
        write_attention: For each write `[layers, batch, slots, time]`: what each slot reads of the interaction, mean over heads.
        read_attention: `[turns, layers, batch, slots]`: how much the answer of each turn reads of each slot, mean over heads and over the
            positions that predict a token of the answer.
        tokens: For each write the tokens of each row, as text.
    """

    conversations: tuple[str, ...]
    memories: Tensor
    drift: Tensor
    gates: Tensor
    write_attention: tuple[Tensor, ...]
    read_attention: Tensor
    tokens: tuple[tuple[tuple[str, ...], ...], ...]

    def __repr__(self) -> str:
        writes, layers, batch, slots = self.drift.shape
        return f"Trace: {batch} conversations, {writes} writes, {layers} layers of {slots} slots"


@torch.no_grad()
def trace(model: ReactiveTransformer, codec: TextCodec, conversations: Sequence[Conversation], *, seed: int = 0) -> Trace:
    """Writes conversations into memory, with the answers of the data, and records what happens.

    Args:
        model: The Reactive Transformer; it is left as it was.
        codec: Its tokenizer.
        conversations: At least one; all of the same number of turns.
        seed: Keys stm0 of each conversation, as in an evaluation.

    Raises:
        ConfigError: There are no conversations, or their lengths differ, or the model has memory tokens.
        DataError: A conversation has no reference answers.
        ModelError: An interaction is longer than the model reads.
    """
    steps = {conversation.steps for conversation in conversations}
    if len(steps) != 1:
        raise ConfigError(f"A trace needs conversations of one length, got lengths {sorted(steps) or 'of nothing'}: trace them apart.")
    if not all(isinstance(each, Conversation) for each in conversations):
        raise DataError("A trace follows conversations with reference answers, and a scenario has none: give conversations.")
    writer = model.memory_attention
    if isinstance(writer, TokenMemory):
        raise ConfigError("A trace follows memory attention and cross-attention, and a model with memory tokens has neither: evaluate it.")
    memory = StmBackend(model).init([derive_seed(seed, "stm0", each.id) for each in conversations])
    memories, gates, writes, reads, tokens = [memory], [], [], [], []
    for number in range(steps.pop() + 1):
        said = [each.interactions[number] for each in conversations]
        ids = [(codec.encode(each.query), codec.encode(each.answer)) for each in said]
        batch = TokenBatch.pad([interaction_ids(*pair) for pair in ids], model.device)
        if number:
            reads.append(_read(model, batch, memory, [len(query) for query, _ in ids]))
        with _watched(writer.attention) as attention, _watched(writer.gate) as gate:
            memory = model.write_memory(memory, batch.ids, batch.mask)
        writes.append(attention[0].float().cpu())
        gates.append(gate[0].float().cpu())
        memories.append(memory)
        tokens.append(tuple(tuple(_text(codec, token) for token in row) for row in batch.rows()))
    kept = torch.stack(memories).float().cpu()
    drift = (kept[1:] - kept[:-1]).square().mean(-1)
    read = torch.stack(reads) if reads else torch.zeros(0, *drift.shape[1:])
    return Trace(tuple(each.id for each in conversations), kept, drift, torch.stack(gates), tuple(writes), read, tuple(tokens))


def _read(model: ReactiveTransformer, batch: TokenBatch, memory: Tensor, queries: Sequence[int]) -> Tensor:
    """`[layers, batch, slots]`: what the positions that predict the answer read of each slot."""
    starts = torch.tensor(queries, device=batch.ids.device)[:, None] + 2  # [BOS] [Q] query: the next one is [A]
    place = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    predicts = (place >= starts) & (place < batch.lengths[:, None] - 1)
    found = []
    with _watched(*(layer.memory_cross_attention for layer in model.decoder.layers)) as weights:
        model.decode(batch.ids, batch.mask, memory)
        for each in weights:
            share = each.float() * predicts[..., None]
            found.append(share.sum(1) / predicts.sum(1, keepdim=True))
    return torch.stack(found).cpu()


def _text(codec: TextCodec, token: int) -> str:
    return SPECIAL_TOKENS[token] if token < len(SPECIAL_TOKENS) else codec.decode([token]).strip()


@contextmanager
def _watched(*modules: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what `observed` of each module says of its calls inside."""
    seen: list[Tensor] = []

    def note(module: Any, arguments: tuple[Any, ...], options: dict[str, Any], result: Tensor) -> None:
        observe: Callable[..., Tensor] = module.observed
        seen.append(observe(*arguments, **options))

    hooks = [module.register_forward_hook(note, with_kwargs=True) for module in modules]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
