"""One token a row at a time, after a prefix that is computed once: the inner loop of generation.

A step touches every weight for a handful of rows, so its time is memory traffic and the cost of starting kernels. `FoldedDecoding` has
weights of its own, in which the norms are folded, and starts half as many kernels; `PlainDecoding` runs the decoder's layers as they are,
for types and backends that cannot be folded. On a GPU, where a step is almost nothing but starts, `RecordedDecoding` records one of
either and replays it. All give what `Decoder.hidden` gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rxrl.models.experts import FEW_ON_GPU, MixtureOfExperts
from rxrl.models.layers import NORM_EPS, rope_angles, swiglu
from rxrl.models.recording import Recording
from rxrl.models.transformer import Decoder, DecoderLayer, LayerCache, MemoryKV

_FEW = 2
"""Tokens for each expert up to which all experts for all tokens cost less than to sort tokens by expert (measured on two CPU cores)."""
_WORTH_RECORDING = 16
"""Steps from which on a recording, which takes as long as a few steps, is worth it."""
_FREE_ON_GPU = 256
"""Rows up to which the number of rows makes no difference to a recorded step."""


class Decoding(Protocol):
    """The decoder after a prefix, for some rows."""

    def step(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """Last hidden states `[batch, dim]` of one token more, `embedded` `[batch, dim]` at `positions` `[batch]`."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows only, int64 `[rows]`."""
        ...

    def is_free(self, rows: int) -> bool:
        """Whether it costs nothing to compute so many rows, those included that nobody needs any more."""
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
    last = hidden[torch.arange(batch, device=mask.device), lengths - 1]
    kind = FoldedDecoding if _can_fold(decoder, embedded) else PlainDecoding
    if _can_record(decoder, embedded, new_tokens):
        written = torch.cat([mask, mask.new_zeros(batch, new_tokens)], dim=1)
        return last, RecordedDecoding(kind(decoder, memory, caches, written, _FixedColumns.of(caches)))
    readable = None if bool(mask.all()) else torch.cat([mask, mask.new_ones(batch, new_tokens)], dim=1)
    return last, kind(decoder, memory, caches, readable, _FirstColumns(width))


def _can_fold(decoder: Decoder, embedded: Tensor) -> bool:
    """Narrow types normalise in float32, autocast and flash-attn want narrow types, and a single token gains nothing on them."""
    dtype = decoder.head.weight.dtype
    return (
        dtype in (torch.float32, torch.float64)
        and embedded.dtype == dtype
        and decoder.layers[0].attention.backend == "sdpa"
        and not torch.is_autocast_enabled(embedded.device.type)
    )


def _can_record(decoder: Decoder, embedded: Tensor, new_tokens: int) -> bool:
    """On GPUs, where nothing has to wait for the device: flash-attn packs rows by their lengths, more tokens sort themselves to experts."""
    return (
        embedded.device.type == "cuda"
        and new_tokens >= _WORTH_RECORDING
        and len(embedded) <= FEW_ON_GPU
        and decoder.layers[0].attention.backend == "sdpa"
    )


class _Columns(Protocol):
    """Which columns of a cache the present step writes and reads."""

    def advance(self) -> None:
        """Goes on to the next column."""
        ...

    def open(self, mask: Tensor, value: float) -> None:
        """Lets the present column of a mask `[..., columns]` be read."""
        ...

    def write(self, cache: Tensor, dim: int, new: Tensor) -> None:
        """Puts `new`, which lacks the axis `dim`, into the present column."""
        ...

    def read(self, cache: Tensor, dim: int) -> Tensor:
        """What has been written, the present column included, and perhaps more that a mask hides."""
        ...


class _FirstColumns:
    """Those that are written, and no more: what is read grows with each step."""

    def __init__(self, used: int) -> None:
        self._used = used

    def advance(self) -> None:
        """As in `_Columns`."""
        self._used += 1

    def open(self, mask: Tensor, value: float) -> None:
        """As in `_Columns`; a mask hides nothing of what is to come."""

    def write(self, cache: Tensor, dim: int, new: Tensor) -> None:
        """As in `_Columns`."""
        cache.select(dim, self._used - 1).copy_(new)

    def read(self, cache: Tensor, dim: int) -> Tensor:
        """As in `_Columns`."""
        return cache.narrow(dim, 0, self._used)


class _FixedColumns:
    """All of them at each step, the present one by a number that the device counts: every step is the same work."""

    def __init__(self, present: Tensor) -> None:
        self._present = present

    @classmethod
    def of(cls, caches: Sequence[LayerCache]) -> _FixedColumns:
        """Behind what caches hold; what follows there is cleared, because what a mask hides must still be a number."""
        for cache in caches:
            cache.keys[:, :, cache.used :] = 0
            cache.values[:, :, cache.used :] = 0
        present = torch.tensor([caches[0].used - 1], device=caches[0].keys.device)
        for cache in caches:
            cache.present = present
        return cls(present)

    def advance(self) -> None:
        """As in `_Columns`."""
        self._present.add_(1)

    def open(self, mask: Tensor, value: float) -> None:
        """As in `_Columns`."""
        mask.index_fill_(-1, self._present, value)

    def write(self, cache: Tensor, dim: int, new: Tensor) -> None:
        """As in `_Columns`."""
        cache.index_copy_(dim, self._present, new.unsqueeze(dim))

    def read(self, cache: Tensor, dim: int) -> Tensor:
        """As in `_Columns`."""
        return cache


class RecordedDecoding:
    """A step of another decoding on a GPU, recorded at the second step and replayed at all others."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding, self._begun = decoding, False
        self._replay: Recording | None = None

    def step(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """As in `Decoding`."""
        if not self._begun:
            # What libraries set up at their first use cannot be recorded.
            self._begun = True
            return self._decoding.step(embedded, positions)
        if self._replay is None:
            self._replay = Recording(self._decoding.step, embedded, positions)
        return self._replay(embedded, positions)

    def keep(self, rows: Tensor) -> None:
        """As in `Decoding`."""
        self._decoding.keep(rows)
        self._begun, self._replay = False, None

    def is_free(self, rows: int) -> bool:
        """As in `Decoding`."""
        return rows <= _FREE_ON_GPU


class PlainDecoding:
    """The decoder's own step."""

    def __init__(
        self, decoder: Decoder, memory: list[MemoryKV], caches: list[LayerCache], readable: Tensor | None, columns: _Columns
    ) -> None:
        self._decoder, self._memory, self._caches, self._readable, self._columns = decoder, memory, caches, readable, columns

    def step(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """As in `Decoding`."""
        self._columns.advance()
        mask = None
        if self._readable is not None:
            self._columns.open(self._readable, True)
            mask = self._columns.read(self._readable, 1)[:, None, None]
        return self._decoder.step(embedded.unsqueeze(1), positions.unsqueeze(1), self._memory, self._caches, mask)[:, 0]

    def keep(self, rows: Tensor) -> None:
        """As in `Decoding`."""
        self._readable = None if self._readable is None else self._readable[rows]
        self._memory = [(keys[rows], values[rows]) for keys, values in self._memory]
        self._caches = [cache.select(rows) for cache in self._caches]

    def is_free(self, rows: int) -> bool:
        """As in `Decoding`."""
        return False


class FoldedDecoding:
    """The same with half as many kernels; see `_FoldedLayer` for what is folded."""

    def __init__(
        self, decoder: Decoder, memory: list[MemoryKV], caches: list[LayerCache], readable: Tensor | None, columns: _Columns
    ) -> None:
        self._decoder, self._columns = decoder, columns
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
        self._columns.advance()
        angles, angles_and_still = self._angles.index_select(0, positions), self._angles_and_still.index_select(0, positions)
        hidden_keys = None
        if self._hidden_keys is not None:
            self._columns.open(self._hidden_keys, 0)
            hidden_keys = self._columns.read(self._hidden_keys, 2)
        x = embedded
        for layer in self._layers:
            x = layer.step(x, angles, angles_and_still, self._columns, hidden_keys, self._floor)
        return self._decoder.normed(x)

    def keep(self, rows: Tensor) -> None:
        """As in `Decoding`."""
        if self._hidden_keys is not None:
            self._hidden_keys = self._hidden_keys.view(-1, self._layers[0].own.groups, self._hidden_keys.shape[2])[rows].view(
                -1, 1, self._hidden_keys.shape[2]
            )
        for layer in self._layers:
            layer.own, layer.memory = layer.own.select(rows), layer.memory.select(rows)

    def is_free(self, rows: int) -> bool:
        """As in `Decoding`."""
        return False


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

    def write(self, columns: _Columns, keys: Tensor, values: Tensor) -> None:
        """One key and one value of every row and group, `[batch, kv_groups, head_dim]`."""
        columns.write(self.keys.view(*keys.shape, -1), 3, keys)
        columns.write(self.values.view(*keys.shape[:2], -1, keys.shape[2]), 2, values)

    def read(self, queries: Tensor, columns: _Columns | None, hidden_keys: Tensor | None) -> Tensor:
        """Attention of scaled queries `[batch, query_groups, head_dim]` over some or all keys, `[batch, query_groups * head_dim]`."""
        heads = queries.reshape(len(self.keys), -1, queries.shape[-1])
        keys, values = self.keys, self.values
        if columns is not None:
            keys, values = columns.read(keys, 2), columns.read(values, 1)
        scores = torch.bmm(heads, keys) if hidden_keys is None else torch.baddbmm(hidden_keys, heads, keys)
        return torch.bmm(scores.softmax(-1), values).view(len(queries), -1)

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

    def step(
        self, x: Tensor, angles: Tensor, angles_and_still: Tensor, columns: _Columns, hidden_keys: Tensor | None, floor: Tensor
    ) -> Tensor:
        """One token a row: `x` `[batch, dim]`; the result replaces it."""
        heads = self._turned(x, self.heads, angles_and_still, floor)
        queries, keys, values = heads.split_with_sizes([self.query_groups, self.own.groups, self.own.groups], dim=1)
        self.own.write(columns, keys, values)
        bias, weight = self.heads_out
        x = torch.addmm(bias, self.own.read(queries, columns, hidden_keys), weight).add_(x)
        queries = self._turned(x, self.cross_queries, angles, floor)
        bias, weight = self.cross_out
        x = torch.addmm(bias, self.memory.read(queries, None, None), weight).add_(x)
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
