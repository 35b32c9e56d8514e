"""Encoder and decoder of the Reactive Transformer: pre-norm layers that read memory through cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from rxrl.models.config import DecoderConfig, ModelConfig
from rxrl.models.experts import MixtureOfExperts, RouterStatistics
from rxrl.models.groups import in_group
from rxrl.models.layers import CrossAttention, RMSNorm, SelfAttention, SwiGLU, rope_angles
from rxrl.types import SPECIAL_TOKENS

MemoryKV = tuple[Tensor, Tensor]


class EncoderLayer(nn.Module):
    """Bidirectional self-attention, memory cross-attention where the configuration has it, feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, head_dim, part = config.dim, config.head_dim, config.encoder
        self.norm1 = RMSNorm(dim)
        self.attention = SelfAttention(dim, head_dim, part.self_attention)
        self.memory_cross_attention: CrossAttention | None = None
        if part.cross_attention is not None:
            self.norm2, self.stm_norm = RMSNorm(dim), RMSNorm(dim)
            self.memory_cross_attention = CrossAttention(dim, head_dim, part.cross_attention)
        self.norm3 = RMSNorm(dim)
        self.ff = SwiGLU(dim, part.ff_dim)

    def forward(self, x: Tensor, angles: Tensor, mask: Tensor, stm: Tensor | None) -> Tensor:
        """`x` `[batch, time, dim]`, `mask` bool `[batch, 1, 1 or time, time]`, `stm` `[batch, slots, dim]` or None."""
        x = x + self.attention(self.norm1(x), angles, mask)
        if self.memory_cross_attention is not None and stm is not None:
            memory = self.memory_cross_attention.project_memory(self.stm_norm(stm))
            x = x + self.memory_cross_attention(self.norm2(x), angles, memory)
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class Encoder(nn.Module):
    """Returns the hidden states of every layer; the token embedding is handed in, because it is shared."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.layers = cast(Sequence[EncoderLayer], nn.ModuleList(EncoderLayer(config) for _ in range(config.layers)))

    @property
    def reads_memory(self) -> bool:
        """Whether the layers have memory cross-attention."""
        return self.layers[0].memory_cross_attention is not None

    def forward(self, embedded: Tensor, mask: Tensor, stm: Tensor | None = None) -> Tensor:
        """Encodes `embedded` `[batch, time, dim]` with `mask` bool `[batch, time]`, or `[batch, time, time]` where it says who reads whom.

        Returns:
            `[layers, batch, time, dim]`.
        """
        angles = rope_angles(torch.arange(embedded.shape[1], device=embedded.device), self.head_dim, embedded.dtype)
        memories = [None] * len(self.layers) if stm is None else stm.unbind()
        states, x = [], embedded
        for layer, memory in zip(self.layers, memories, strict=True):
            x = layer(x, angles, for_heads(mask), memory)
            states.append(x)
        return torch.stack(states)


class DecoderLayer(nn.Module):
    """Causal self-attention, memory cross-attention, dense or Mixture-of-Experts feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, head_dim, part = config.dim, config.head_dim, config.decoder
        self.norm1, self.norm2, self.norm3, self.stm_norm = RMSNorm(dim), RMSNorm(dim), RMSNorm(dim), RMSNorm(dim)
        self.attention = SelfAttention(dim, head_dim, part.self_attention)
        self.memory_cross_attention = CrossAttention(dim, head_dim, part.cross_attention)
        for reading in (self.norm2, self.stm_norm, self.memory_cross_attention):
            in_group("decoder_memory", reading)
        self.ff = _decoder_feed_forward(dim, part)

    def project_memory(self, stm: Tensor) -> MemoryKV:
        """Keys and values of this layer's memory `[batch, slots, dim]`."""
        return self.memory_cross_attention.project_memory(self.stm_norm(stm))

    def forward(
        self,
        x: Tensor,
        angles: Tensor,
        memory: MemoryKV,
        stm_mask: Tensor | None,
        statistics: RouterStatistics | None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The layer for whole rows.

        Args:
            x: `[batch, time, dim]`.
            angles: Rotations of positions.
            memory: Keys and values.
            stm_mask: bool `[batch, 1, 1 or time, slots]`; None: all is read.
            statistics: Collects router counts.
            mask: bool `[batch, 1, time, time]`, which tokens each token reads; None: itself and those before it.
        """
        x = x + self.attention(self.norm1(x), angles, mask, causal=mask is None)
        return self._after_attention(x, angles, memory, stm_mask, statistics)

    def step(self, x: Tensor, angles: Tensor, memory: MemoryKV, cache: LayerCache, mask: Tensor | None) -> Tensor:
        """The same for new tokens `[batch, new, dim]` after a cached prefix.

        `mask` bool `[batch, 1, new, cached + new]`, or None: one new token reads all, several are the first ones and causal.
        """
        q, k, v = self.attention.project(self.norm1(x), angles)
        keys, values = cache.append(k, v)
        x = x + self.attention.attended(q, keys, values, mask, causal=mask is None and x.shape[1] > 1)
        return self._after_attention(x, angles, memory, None, None)

    def _after_attention(
        self, x: Tensor, angles: Tensor, memory: MemoryKV, stm_mask: Tensor | None, statistics: RouterStatistics | None
    ) -> Tensor:
        x = x + self.memory_cross_attention(self.norm2(x), angles, memory, stm_mask)
        normed = self.norm3(x)
        out: Tensor = x + (self.ff(normed, statistics) if isinstance(self.ff, MixtureOfExperts) else self.ff(normed))
        return out


@dataclass(slots=True)
class LayerCache:
    """Keys and values of one decoder layer in preallocated tensors `[batch, kv_groups, capacity, head_dim]`.

    Attributes:
        keys: The keys.
        values: The values.
        used: Columns that are filled.
        present: Where it is given, the column that one new key and value go to, int64 `[1]`; all columns are read then.
    """

    keys: Tensor
    values: Tensor
    used: int = 0
    present: Tensor | None = None

    def append(self, k: Tensor, v: Tensor) -> MemoryKV:
        """Writes new keys and values behind the used ones and returns all used ones."""
        if self.present is not None:
            return self.keys.index_copy_(2, self.present, k), self.values.index_copy_(2, self.present, v)
        end = self.used + k.shape[2]
        self.keys[:, :, self.used : end] = k
        self.values[:, :, self.used : end] = v
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def select(self, rows: Tensor) -> LayerCache:
        """The cache of some rows only."""
        return LayerCache(self.keys[rows], self.values[rows], self.used, self.present)


class OutputHead(nn.Linear):
    """Hidden states to logits of the vocabulary.

    Attributes:
        special_tokens: How many ids the vocabulary begins with that never stand for text.
    """

    special_tokens: int = len(SPECIAL_TOKENS)


class Decoder(nn.Module):
    """Reads memory, never writes it; the token embedding is handed in, because it is shared."""

    layer_kind: ClassVar[type[nn.Module]] = DecoderLayer

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = cast(Sequence[DecoderLayer], nn.ModuleList(self.layer_kind(config) for _ in range(config.layers)))
        self.head_norm = _head_norm(config)
        self.head = OutputHead(config.dim, config.vocab_size)
        self.head.special_tokens = config.special_tokens

    def angles(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """Rotations of `positions` `[time]` or `[batch, time]`."""
        return rope_angles(positions, self.config.head_dim, dtype)

    def project_memory(self, stm: Tensor) -> list[MemoryKV]:
        """Keys and values of every layer's memory, projected once a turn; `stm` `[layers, batch, slots, dim]`."""
        return [layer.project_memory(memory) for layer, memory in zip(self.layers, stm.unbind(), strict=True)]

    def hidden(
        self,
        embedded: Tensor,
        memory: Sequence[MemoryKV],
        stm_mask: Tensor | None = None,
        statistics: RouterStatistics | None = None,
        reads: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states `[batch, time, dim]` of right-padded `embedded`; causality keeps padding out of real tokens.

        `reads` bool `[batch, time, time]` keeps more apart than that; `positions` int64 `[batch, time]`, else from 0.
        """
        places = torch.arange(embedded.shape[1], device=embedded.device)
        angles = self.angles(places if positions is None else positions, embedded.dtype)
        mask = None if stm_mask is None else for_heads(stm_mask)
        causal = None if reads is None else for_heads(reads & (places.unsqueeze(1) >= places))
        x = embedded
        for layer, kv in zip(self.layers, memory, strict=True):
            x = layer(x, angles, kv, mask, statistics, causal)
        return self.normed(x)

    def normed(self, x: Tensor) -> Tensor:
        """Last hidden states as the output head takes them."""
        out: Tensor = x if self.head_norm is None else self.head_norm(x)
        return out

    def new_cache(self, batch: int, capacity: int, like: Tensor) -> list[LayerCache]:
        """Empty caches for every layer, of the type in which keys and values of tensors `like` this one are computed."""
        device, dtype = like.device.type, like.dtype
        if torch.is_autocast_enabled(device) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device)
        shape = (batch, self.config.decoder.self_attention.kv_groups, capacity, self.config.head_dim)
        return [LayerCache(like.new_empty(shape, dtype=dtype), like.new_empty(shape, dtype=dtype)) for _ in self.layers]

    def step(
        self, embedded: Tensor, positions: Tensor, memory: Sequence[MemoryKV], caches: Sequence[LayerCache], mask: Tensor | None
    ) -> Tensor:
        """Last hidden states of new tokens `[batch, new, dim]` at `positions` `[batch, new]`, prefix from `caches`.

        `mask` as in `DecoderLayer.step`.
        """
        angles = self.angles(positions, embedded.dtype)
        x = embedded
        for layer, kv, cache in zip(self.layers, memory, caches, strict=True):
            x = layer.step(x, angles, kv, cache, mask)
        return self.normed(x)


def for_heads(mask: Tensor) -> Tensor:
    """A mask of keys `[batch, keys]`, or of keys for each query `[batch, time, keys]`, as attention takes it."""
    return mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]


def _decoder_feed_forward(dim: int, config: DecoderConfig) -> SwiGLU | MixtureOfExperts:
    if config.experts == 1:
        return SwiGLU(dim, config.ff_dim)
    global_bias = config.expert_biases == "global"
    return MixtureOfExperts(dim, config.ff_dim, config.experts, config.active_experts, config.shared_experts, global_bias)


def _head_norm(config: ModelConfig) -> RMSNorm | nn.LayerNorm | None:
    if config.decoder.head_norm == "none":
        return None
    return RMSNorm(config.dim) if config.decoder.head_norm == "rms" else nn.LayerNorm(config.dim)
