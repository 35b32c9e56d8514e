"""Batched generation with a KV cache: the prefix is computed once, memory is projected once, rows that end stop costing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rxrl.errors import ModelError
from rxrl.types import ANSWER, BOS, EOS, MASK, PAD, QUERY, UNK, TokenBatch

if TYPE_CHECKING:
    from rxrl.models.model import ReactiveTransformer
    from rxrl.models.transformer import LayerCache, MemoryKV

FORBIDDEN = (PAD, BOS, UNK, MASK, QUERY, ANSWER)
"""Special tokens that cannot stand in an answer: all but `[EOS]`."""


@dataclass(frozen=True, slots=True)
class Generation:
    """Generated answers; an `rxrl.types.Action` with more to it.

    Attributes:
        ids: int64 `[batch, time]`, each row ended by `[EOS]` unless it reached the token limit.
        mask: bool `[batch, time]`, true for generated tokens, `[EOS]` included.
        log_probs: `[batch, time]`, of the tokens under the distribution they were drawn from; 0 where masked.
        raw_log_probs: `[batch, time]`, under temperature 1 without truncation.
        computed_tokens: Decoder tokens computed one by one, the padding of finished rows included.
    """

    ids: Tensor
    mask: Tensor
    log_probs: Tensor
    raw_log_probs: Tensor
    computed_tokens: int = field(default=0, compare=False)


def answer_logits(logits: Tensor) -> Tensor:
    """Logits with special tokens other than `[EOS]` made impossible; the policy's distribution everywhere.

    Args:
        logits: `[..., vocab]`.
    """
    banned = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    banned[list(FORBIDDEN)] = True
    return logits.masked_fill(banned, float("-inf"))


def truncate_distribution(log_probs: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Keeps the `top_k` likeliest tokens and of these the smallest set that reaches `top_p`, the crossing token included."""
    if top_k is not None and top_k < log_probs.shape[-1]:
        kth = log_probs.topk(top_k, dim=-1).values[..., -1:]
        log_probs = log_probs.masked_fill(log_probs < kth, float("-inf")).log_softmax(-1)
    if top_p is not None and top_p < 1:
        ordered, order = log_probs.sort(dim=-1, descending=True)
        probs = ordered.exp()
        drop = (probs.cumsum(-1) - probs >= top_p).scatter(-1, order, probs.cumsum(-1) - probs >= top_p)
        log_probs = log_probs.masked_fill(drop, float("-inf")).log_softmax(-1)
    return log_probs


def _draw(log_probs: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-transform sampling: far cheaper than `torch.multinomial` on large vocabularies."""
    cumulative = log_probs.double().exp().cumsum(-1)
    return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).squeeze(1).clamp(max=log_probs.shape[-1] - 1)


@torch.no_grad()
def generate(
    model: ReactiveTransformer,
    prompts: TokenBatch,
    stm: Tensor,
    *,
    max_new_tokens: int,
    generators: Sequence[torch.Generator] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Generation:
    """Continues prompts until `[EOS]` or the token limit.

    Args:
        model: The Reactive Transformer.
        prompts: `[BOS] [Q] query [A]` of each row, right-padded, of any lengths.
        stm: Memory that is read, `[layers, batch, slots, dim]`.
        max_new_tokens: Limit of generated tokens, `[EOS]` included; cut to what the model's length leaves.
        generators: One CPU generator a row; each row's draws depend on its own alone. None: greedy.
        temperature: Above 0; divides the logits.
        top_k: Keep this many of the likeliest tokens.
        top_p: Keep the smallest set of tokens with at least this probability.

    Returns:
        Generated tokens with log-probabilities.

    Raises:
        ModelError: A prompt fills the model's length limit, or an option is out of range.
    """
    longest = int(prompts.lengths.max())
    limit = min(max_new_tokens, model.config.max_length - longest)
    if limit < 1:
        raise ModelError(f"A prompt of {longest} tokens leaves no room for an answer: the model's limit is {model.config.max_length} tokens.")
    if temperature <= 0:
        raise ModelError(f"temperature must be above 0, got {temperature}; for the likeliest tokens give no generators.")
    prompts = prompts.to(model.device)
    batch = len(prompts.ids)
    uniform = None
    if generators is not None:
        draws = [torch.rand(limit, generator=generator, dtype=torch.float64) for generator in generators]
        uniform = torch.stack(draws).to(model.device)
    state = _Prefix.compute(model, prompts, stm, limit)
    ids = prompts.ids.new_full((batch, limit), PAD)
    log_probs, raw = stm.new_zeros(batch, limit), stm.new_zeros(batch, limit)
    computed = 0
    for step in range(limit):
        raw_step = answer_logits(model.decoder.head(state.last).float() if stm.dtype != torch.float64 else model.decoder.head(state.last)).log_softmax(-1)
        drawn_from = raw_step if temperature == 1 else (raw_step / temperature).log_softmax(-1)
        drawn_from = truncate_distribution(drawn_from, top_k, top_p)
        token = raw_step.argmax(-1) if uniform is None else _draw(drawn_from, uniform[state.rows, step : step + 1])
        at = token.unsqueeze(1)
        ids[state.rows, step] = token
        log_probs[state.rows, step] = drawn_from.gather(1, at).squeeze(1).to(stm.dtype)
        raw[state.rows, step] = raw_step.gather(1, at).squeeze(1).to(stm.dtype)
        state.finished |= token == EOS
        if step + 1 == limit or bool(state.finished.all()):
            break
        token = state.compact(token)
        computed += len(token)
        state.advance(model, token, step)
    ids, log_probs, raw = ids[:, : step + 1], log_probs[:, : step + 1], raw[:, : step + 1]
    after_end = (ids == EOS).cumsum(1) - (ids == EOS).long() > 0
    ids = ids.masked_fill(after_end, PAD)
    return Generation(ids, ~after_end, log_probs.masked_fill(after_end, 0), raw.masked_fill(after_end, 0), computed)


@dataclass(slots=True)
class _Prefix:
    """What generation carries from token to token for the rows that still run."""

    rows: Tensor
    finished: Tensor
    last: Tensor
    lengths: Tensor
    key_mask: Tensor
    memory: list[MemoryKV]
    caches: list[LayerCache]

    @classmethod
    def compute(cls, model: ReactiveTransformer, prompts: TokenBatch, stm: Tensor, limit: int) -> _Prefix:
        batch, width = prompts.ids.shape
        embedded = model.embedding(prompts.ids)
        memory = model.decoder.project_memory(stm)
        caches = model.decoder.new_cache(batch, width + limit, embedded)
        causal = torch.ones(width, width, dtype=torch.bool, device=model.device).tril()[None, None]
        positions = torch.arange(width, device=model.device).expand(batch, width)
        hidden = model.decoder.step(embedded, positions, memory, caches, causal)
        rows = torch.arange(batch, device=model.device)
        key_mask = torch.cat([prompts.mask, prompts.mask.new_ones(batch, limit)], dim=1)
        last = hidden[rows, prompts.lengths - 1]
        return cls(rows, torch.zeros_like(rows, dtype=torch.bool), last, prompts.lengths, key_mask, memory, caches)

    def compact(self, token: Tensor) -> Tensor:
        """Drops finished rows once they are more than a sixth, so that at most 1.2 tokens are computed per useful one."""
        running = ~self.finished
        if int(running.sum()) * 6 > len(running) * 5:
            return token
        keep = running.nonzero().squeeze(1)
        self.rows, self.lengths, self.key_mask = self.rows[keep], self.lengths[keep], self.key_mask[keep]
        self.finished = self.finished[keep]
        self.memory = [(k[keep], v[keep]) for k, v in self.memory]
        self.caches = [cache.select(keep) for cache in self.caches]
        return token[keep]

    def advance(self, model: ReactiveTransformer, token: Tensor, step: int) -> None:
        width = self.caches[0].used + 1
        positions = (self.lengths + step).unsqueeze(1)
        mask = self.key_mask[:, None, None, :width]
        self.last = model.decoder.step(model.embedding(token.unsqueeze(1)), positions, self.memory, self.caches, mask)[:, 0]
