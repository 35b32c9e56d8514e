"""One token a row at a time, after a prefix that is computed once: the inner loop of generation.

A step touches every weight for a handful of rows, so its time is memory traffic and the cost of starting kernels. `FoldedDecoding` has
weights of its own, in which the norms are folded, and starts half as many kernels; `PlainDecoding` runs the decoder's layers as they are,
for types and backends that cannot be folded. Both give what `Decoder.hidden` gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rxrl.models.experts import MixtureOfExperts
from rxrl.models.layers import NORM_EPS, rope_angles, swiglu
from rxrl.models.transformer import Decoder, DecoderLayer, LayerCache, MemoryKV

_FEW = 2
"""Tokens for each expert up to which all experts for all tokens cost less than to sort tokens by expert (measured on two CPU cores)."""


class Decoding(Protocol):
    """The decoder after a prefix, for some rows."""

    def step(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """Last hidden states `[batch, dim]` of one token more, `embedded` `[batch, dim]` at `positions` `[batch]`."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows only, int64 `[rows]`."""
        ...


def begin(decoder: Decoder, embedded: Tensor, mask: Tensor, stm: Tensor, new_tokens: int) -> tuple[Tensor, Decoding]:
    """Computes the prefix.

    Args:
        decoder: The decoder.
        embedded: Right-padded prompts, `[batch, time, dim]`.
        mask: bool `[batch, time]`, true for real tokens.
        stm: Memory, `[layers, batch, slots, dim]`.
        new_tokens: Steps that may follow.

    Returns:
        Last hidden states of every row's last token, `[batch, dim]`, and what goes on from there.
    """
    batch, width = mask.shape
    memory = decoder.project_memory(stm)
    caches = decoder.new_cache(batch, width + new_tokens, embedded)
    hidden = decoder.step(embedded, torch.arange(width, device=mask.device), memory, caches, None)
    lengths = mask.sum(1)
    readable = None if bool(mask.all()) else torch.cat([mask, mask.new_ones(batch, new_tokens)], dim=1)
    decoding = FoldedDecoding if _can_fold(decoder, embedded) else PlainDecoding
    return hidden[torch.arange(batch, device=mask.device), lengths - 1], decoding(decoder, memory, caches, readable)


def _can_fold(decoder: Decoder, embedded: Tensor) -> bool:
    """Narrow types normalise in float32, autocast and flash-attn want narrow types, and a single token gains nothing on them."""
    dtype = decoder.head.weight.dtype
    return (
        dtype in (torch.float32, torch.float64)
        and embedded.dtype == dtype
        and decoder.layers[0].attention.backend == "sdpa"
        and not torch.is_autocast_enabled(embedded.device.type)
    )


class PlainDecoding:
    """The decoder's own step."""

    def __init__(self, decoder: Decoder, memory: list[MemoryKV], caches: list[LayerCache], readable: Tensor | None) -> None:
        self._decoder, self._memory, self._caches, self._readable = decoder, memory, caches, readable

    def step(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """As in `Decoding`."""
        width = self._caches[0].used + 1
        mask = None if self._readable is None else self._readable[:, None, None, :width]
        return self._decoder.step(embedded.unsqueeze(1), positions.unsqueeze(1), self._memory, self._caches, mask)[:, 0]

    def keep(self, rows: Tensor) -> None:
        """As in `Decoding`."""
        self._readable = None if self._readable is None else self._readable[rows]
        self._memory = [(keys[rows], values[rows]) for keys, values in self._memory]
        self._caches = [cache.select(rows) for cache in self._caches]


class FoldedDecoding:
    """The same with half as many kernels; see `_FoldedLayer` for what is folded."""

    def __init__(self, decoder: Decoder, memory: list[MemoryKV], caches: list[LayerCache], readable: Tensor | None) -> None:
        self._decoder, self._used = decoder, caches[0].used
        self._layers = [_FoldedLayer.of(*each) for each in zip(decoder.layers, memory, caches, strict=True)]
        like, heads = caches[0].keys, decoder.layers[0].attention
        self._floor = like.new_tensor((NORM_EPS * decoder.config.dim) ** 0.5)
        self._angles = rope_angles(torch.arange(like.shape[2], device=like.device), decoder.config.head_dim, like.dtype)
        turned = self._angles.expand(-1, heads.query_groups + heads.kv_groups, -1)
        still = torch.ones_like(self._angles).expand(-1, heads.kv_groups, -1)
        self._angles_and_still = torch.cat((turned, still), dim=1)
        self._hidden_keys: Tensor | None = None
        if readable is not None:
            hidden = torch.zeros_like(readable, dtype=like.dtype).masked_fill_(~readable, float("-inf"))
            self._hidden_keys = hidden.repeat_interleave(heads.kv_groups, dim=0).unsqueeze(1)

    def step(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """As in `Decoding`."""
        self._used += 1
        angles, angles_and_still = self._angles.index_select(0, positions), self._angles_and_still.index_select(0, positions)
        hidden_keys = None if self._hidden_keys is None else self._hidden_keys.narrow(2, 0, self._used)
        x = embedded
        for layer in self._layers:
            x = layer.step(x, angles, angles_and_still, self._used, hidden_keys, self._floor)
        return self._decoder.normed(x)

    def keep(self, rows: Tensor) -> None:
        """As in `Decoding`."""
        if self._hidden_keys is not None:
            self._hidden_keys = self._hidden_keys.view(-1, self._layers[0].own.groups, self._hidden_keys.shape[2])[rows].view(
                -1, 1, self._hidden_keys.shape[2]
            )
        for layer in self._layers:
            layer.own, layer.memory = layer.own.select(rows), layer.memory.select(rows)


@dataclass(frozen=True, slots=True)
class _KeysValues:
    """Keys `[batch * kv_groups, head_dim, time]` and values `[batch * kv_groups, time, head_dim]`: as products read them best."""

    keys: Tensor
    values: Tensor
    groups: int

    @classmethod
    def of(cls, keys: Tensor, values: Tensor) -> _KeysValues:
        """From `[batch, kv_groups, time, head_dim]`."""
        return cls(keys.transpose(2, 3).flatten(0, 1).contiguous(), values.flatten(0, 1).contiguous(), keys.shape[1])

    def write(self, at: int, keys: Tensor, values: Tensor) -> None:
        """One key and one value of every row and group, `[batch, kv_groups, head_dim]`."""
        self.keys.select(2, at).view(keys.shape).copy_(keys)
        self.values.select(1, at).view(values.shape).copy_(values)

    def read(self, queries: Tensor, used: int, hidden_keys: Tensor | None) -> Tensor:
        """Attention of scaled queries `[batch, query_groups, head_dim]` over the first `used` keys, `[batch, query_groups * head_dim]`."""
        heads = queries.reshape(len(self.keys), -1, queries.shape[-1])
        keys = self.keys.narrow(2, 0, used)
        scores = torch.bmm(heads, keys) if hidden_keys is None else torch.baddbmm(hidden_keys, heads, keys)
        return torch.bmm(scores.softmax(-1), self.values.narrow(1, 0, used)).view(len(queries), -1)

    def select(self, rows: Tensor) -> _KeysValues:
        """Those of some rows."""
        keys, values = (each.view(-1, self.groups, *each.shape[1:])[rows].flatten(0, 1) for each in (self.keys, self.values))
        return _KeysValues(keys, values, self.groups)


@dataclass(slots=True)
class _FoldedLayer:
    """Weights of a decoder layer as a single token needs them.

    `rms(x) W = x (sqrt(dim) w W) / sqrt(|x|^2 + dim eps)`: the norms' weights and the scale of scores are folded into the projections,
    and what is left of a norm is one division of their (smaller) results.
    """

    heads: Tensor
    heads_out: Sequence[Tensor]
    cross_queries: Tensor
    cross_out: Sequence[Tensor]
    feed_forward_norm: Tensor
    feed_forward: Callable[[Tensor], Tensor]
    query_groups: int
    head_dim: int
    own: _KeysValues
    memory: _KeysValues

    @classmethod
    def of(cls, layer: DecoderLayer, memory: MemoryKV, cache: LayerCache) -> _FoldedLayer:
        own, cross = layer.attention, layer.memory_cross_attention
        root = own.qkv_proj.weight.shape[1] ** 0.5
        heads = own.qkv_proj.weight * (layer.norm1.weight * root)
        heads[: own.query_groups * own.head_dim] *= own.head_dim**-0.5
        return cls(
            heads=heads.t().contiguous(),
            heads_out=(own.out_proj.bias, own.out_proj.weight.t()),
            cross_queries=(cross.q_proj.weight * (layer.norm2.weight * (root * cross.head_dim**-0.5))).t().contiguous(),
            cross_out=(cross.out_proj.bias, cross.out_proj.weight.t()),
            feed_forward_norm=layer.norm3.weight * root,
            feed_forward=_FewTokens.of(layer.ff) if isinstance(layer.ff, MixtureOfExperts) else layer.ff,
            query_groups=own.query_groups,
            head_dim=own.head_dim,
            own=_KeysValues.of(cache.keys, cache.values),
            memory=_KeysValues.of(*memory),
        )

    def step(self, x: Tensor, angles: Tensor, angles_and_still: Tensor, used: int, hidden_keys: Tensor | None, floor: Tensor) -> Tensor:
        """One token a row: `x` `[batch, dim]`; the result replaces it."""
        heads = self._turned(x, self.heads, angles_and_still, floor)
        queries, keys, values = heads.split_with_sizes([self.query_groups, self.own.groups, self.own.groups], dim=1)
        self.own.write(used - 1, keys, values)
        bias, weight = self.heads_out
        x = torch.addmm(bias, self.own.read(queries, used, hidden_keys), weight).add_(x)
        queries = self._turned(x, self.cross_queries, angles, floor)
        bias, weight = self.cross_out
        x = torch.addmm(bias, self.memory.read(queries, self.memory.keys.shape[2], None), weight).add_(x)
        return self.feed_forward((x / _length(x, floor)).mul_(self.feed_forward_norm)).add_(x)

    def _turned(self, x: Tensor, weight: Tensor, angles: Tensor, floor: Tensor) -> Tensor:
        """Normalised, projected and rotated: `[batch, groups, head_dim]`. Rotation knows adjacent pairs as complex numbers."""
        projected = torch.mm(x, weight).div_(_length(x, floor))
        pairs = torch.view_as_complex(projected.view(len(x), -1, self.head_dim // 2, 2))
        return torch.view_as_real(pairs.mul_(angles)).view(len(x), -1, self.head_dim)


@dataclass(frozen=True, slots=True)
class _FewTokens:
    """A Mixture of Experts for so few tokens that the number of kernels decides: one token visits its experts, some visit all."""

    moe: MixtureOfExperts
    router: Tensor
    weights: tuple[Tensor, Tensor]
    biases: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, moe: MixtureOfExperts) -> Callable[[Tensor], Tensor]:
        if moe.b1 is None or moe.b2 is None or moe.shared is not None:
            return moe
        return cls(moe, moe.router.weight.t().contiguous(), (moe.w1, moe.w2), (moe.b1, moe.b2))

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) > _FEW * self.moe.experts or x.device.type != "cpu":
            out: Tensor = self.moe(x)
            return out
        best, chosen = torch.mm(x, self.router).topk(self.moe.active, dim=-1)
        shares = best.softmax(-1)
        return self._one(x, shares, chosen) if len(x) == 1 else self._all(x, shares, chosen)

    def _one(self, x: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        (w1, w2), (b1, b2) = self.weights, self.biases
        experts = chosen[0].tolist()
        outputs = [torch.addmm(b2[each], swiglu(torch.addmm(b1[each], x, w1[each])), w2[each]) for each in experts]
        return torch.mm(shares, torch.cat(outputs))

    def _all(self, x: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        (w1, w2), (b1, b2) = self.weights, self.biases
        of_all = x.new_zeros(len(x), self.moe.experts).scatter_(1, chosen, shares)
        hidden = swiglu(torch.baddbmm(b1.unsqueeze(1), x.expand(self.moe.experts, -1, -1), w1))
        outputs = torch.baddbmm(b2.unsqueeze(1), hidden, w2)
        return torch.bmm(of_all.unsqueeze(1), outputs.transpose(0, 1)).squeeze(1)


def _length(x: Tensor, floor: Tensor) -> Tensor:
    """`sqrt(|x|^2 + floor^2)` over the last axis, kept."""
    return torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor)
