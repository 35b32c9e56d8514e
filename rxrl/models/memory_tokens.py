"""Memory tokens: a Recurrent Memory Transformer in place of encoder, memory attention and cross-attention, to compare with.

Memory stands before the tokens of an interaction in one causal transformer, and once more behind them, where it reads the interaction. What
the last layer says there is the next memory (Bulatov, Kuratov and Burtsev 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rxrl.models.config import ModelConfig
from rxrl.models.experts import RouterStatistics
from rxrl.models.layers import RMSNorm, SelfAttention, SwiGLU
from rxrl.models.memory_attention import Told
from rxrl.models.transformer import Decoder, LayerCache, MemoryKV, for_heads


class MemoryTokenLayer(nn.Module):
    """Self-attention and dense feed-forward; what stands before the tokens is handed in as keys and values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(config.dim), RMSNorm(config.dim)
        self.attention = SelfAttention(config.dim, config.head_dim, config.decoder.self_attention)
        self.ff = SwiGLU(config.dim, config.decoder.ff_dim)

    def forward(
        self, x: Tensor, angles: Tensor, before: MemoryKV | None, mask: Tensor | None, cache: LayerCache | None = None
    ) -> tuple[Tensor, MemoryKV]:
        """The layer for tokens after others.

        Args:
            x: `[batch, time, dim]`.
            angles: Rotations of positions.
            before: Keys and values of memory; None: there is none, as where memory itself is read.
            mask: bool `[batch or 1, 1, time, keys]`, memory's keys first; None: everything, or what is causal without memory.
            cache: Keys and values between memory and `x`, to which those of `x` are added.

        Returns:
            `[batch, time, dim]`, and the keys and values of `x`.
        """
        q, *own = self.attention.project(self.norm1(x), angles)
        k, v = own if cache is None else cache.append(own[0], own[1])
        if before is not None:
            k, v = (torch.cat(pair, dim=2) for pair in zip(before, (k, v), strict=True))
        x = x + self.attention.attended(q, k, v, mask, causal=before is None)
        return x + self.ff(self.norm2(x)), (own[0], own[1])


class MemoryTokenDecoder(Decoder):
    """A decoder that reads memory as tokens, and writes it; memory is `[1, batch, slots, dim]`."""

    layer_kind = MemoryTokenLayer

    @property
    def _layers(self) -> Sequence[MemoryTokenLayer]:
        return cast(Sequence[MemoryTokenLayer], self.layers)

    def project_memory(self, stm: Tensor) -> list[MemoryKV]:
        """Keys and values of memory in every layer, at positions up to -1; `stm` `[1, batch, slots, dim]`."""
        angles = self.angles(torch.arange(-stm.shape[2], 0, device=stm.device), stm.dtype)
        x, found = stm[0], []
        for layer in self._layers:
            x, kv = layer(x, angles, None, None)
            found.append(kv)
        return found

    def hidden(
        self,
        embedded: Tensor,
        memory: Sequence[MemoryKV],
        stm_mask: Tensor | None = None,
        statistics: RouterStatistics | None = None,
        reads: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """As in `Decoder`; all of memory is read."""
        assert stm_mask is None, "encoded data takes the place of memory only where there is an encoder"
        places = torch.arange(embedded.shape[1], device=embedded.device)
        causal = places.unsqueeze(1) >= places
        causal = causal.unsqueeze(0) if reads is None else reads & causal
        return self.normed(self._through(embedded, places if positions is None else positions, memory, causal))

    def step(
        self, embedded: Tensor, positions: Tensor, memory: Sequence[MemoryKV], caches: Sequence[LayerCache], mask: Tensor | None
    ) -> Tensor:
        """As in `Decoder`."""
        new = embedded.shape[1]
        if mask is None and new > 1:
            mask = torch.ones(1, 1, new, new, dtype=torch.bool, device=embedded.device).tril()
        return self.normed(self._through(embedded, positions, memory, mask, caches))

    def write(self, embedded: Tensor, mask: Tensor, stm: Tensor) -> Tensor:
        """Memory after an interaction.

        Args:
            embedded: Its tokens, right-padded, `[batch, time, dim]`.
            mask: bool `[batch, time]`, true for real tokens.
            stm: Memory before it, `[1, batch, slots, dim]`.

        Returns:
            `[1, batch, slots, dim]`.
        """
        (_, batch, slots, _), time = stm.shape, mask.shape[1]
        places, behind = torch.arange(time + slots, device=mask.device), torch.arange(slots, device=mask.device)
        positions = torch.cat([places[:time].expand(batch, -1), mask.sum(1, keepdim=True) + behind], dim=1)
        readable = torch.cat([mask, mask.new_ones(batch, slots)], dim=1)
        reads = readable.unsqueeze(1) & (places.unsqueeze(1) >= places)
        x = self._through(torch.cat([embedded, stm[0]], dim=1), positions, self.project_memory(stm), reads)
        return self.normed(x[:, time:]).unsqueeze(0)

    def _through(
        self,
        x: Tensor,
        positions: Tensor,
        memory: Sequence[MemoryKV],
        reads: Tensor | None,
        caches: Sequence[LayerCache] | None = None,
    ) -> Tensor:
        """All layers; `reads` bool `[batch or 1, time, keys]` or `[batch or 1, 1, time, keys]`, without memory, which everything reads."""
        angles, mask = self.angles(positions, x.dtype), None
        if reads is not None:
            mask = F.pad(for_heads(reads) if reads.ndim == 3 else reads, (memory[0][0].shape[2], 0), value=True)
        for number, (layer, kv) in enumerate(zip(self._layers, memory, strict=True)):
            x, _ = layer(x, angles, kv, mask, caches[number] if caches else None)
        return x


class TokenMemory(nn.Module):
    """What stands where others have memory attention: memory is replaced by what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Replacement()

    def told(self, written: Tensor, mask: Tensor | None) -> Told:
        """`written` `[layers, batch, slots, dim]`, as it is."""
        return Told((written,), mask)

    def forward(self, stm: Tensor, told: Told) -> Tensor:
        """Memory after one interaction: what was written, of the shape of `stm`."""
        replaced: Tensor = self.gate(stm, *told.tensors)
        return replaced


class Replacement(nn.Module):
    """A gate without weights that is always open."""

    def forward(self, old: Tensor, new: Tensor) -> Tensor:
        """What is new, in the type of what is old."""
        return new.to(old.dtype)

    def openness(self, old: Tensor, new: Tensor) -> Tensor:
        """1 everywhere, `[layers, batch, slots]`."""
        return torch.ones_like(old[..., 0])
