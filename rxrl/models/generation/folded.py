"""A decoder's step for one token a row with weights of its own, in which norms and scales are folded: half as many kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rxrl.models.experts import MixtureOfExperts
from rxrl.models.generation.columns import Columns
from rxrl.models.layers import NORM_EPS, rope_angles, swiglu
from rxrl.models.transformer import Decoder, DecoderLayer, LayerCache, MemoryKV

_FEW = 2
"""Tokens for each expert up to which all experts for all tokens cost less than to sort tokens by expert (measured on two CPU cores)."""


class FoldedDecoding:
    """`PlainDecoding` with half as many kernels; see `_FoldedLayer` for what is folded."""

    def __init__(
        self, decoder: Decoder, memory: list[MemoryKV], caches: list[LayerCache], readable: Tensor | None, columns: Columns
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

    def write(self, columns: Columns, keys: Tensor, values: Tensor) -> None:
        """One key and one value of every row and group, `[batch, kv_groups, head_dim]`."""
        columns.write(self.keys.view(*keys.shape, -1), 3, keys)
        columns.write(self.values.view(*keys.shape[:2], -1, keys.shape[2]), 2, values)

    def read(self, queries: Tensor, columns: Columns | None, hidden_keys: Tensor | None) -> Tensor:
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

    heads: Sequence[Tensor]
    heads_out: Sequence[Tensor]
    cross_queries: Sequence[Tensor]
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
            heads=_map(heads),
            heads_out=_map(own.out_proj.weight, own.out_proj.bias),
            cross_queries=_map(cross.q_proj.weight * (layer.norm2.weight * (root * cross.head_dim**-0.5))),
            cross_out=_map(cross.out_proj.weight, cross.out_proj.bias),
            feed_forward_norm=layer.norm3.weight * root,
            feed_forward=_FewTokens.of(layer.ff) if isinstance(layer.ff, MixtureOfExperts) else layer.ff,
            query_groups=own.query_groups,
            head_dim=own.head_dim,
            own=_KeysValues.of(cache.keys, cache.values),
            memory=_KeysValues.of(*memory),
        )

    def step(
        self, x: Tensor, angles: Tensor, angles_and_still: Tensor, columns: Columns, hidden_keys: Tensor | None, floor: Tensor
    ) -> Tensor:
        """One token a row: `x` `[batch, dim]`; the result replaces it."""
        heads = self._turned(x, self.heads, angles_and_still, floor)
        queries, keys, values = heads.split_with_sizes([self.query_groups, self.own.groups, self.own.groups], dim=1)
        self.own.write(columns, keys, values)
        x = _mapped(self.own.read(queries, columns, hidden_keys), self.heads_out).add_(x)
        queries = self._turned(x, self.cross_queries, angles, floor)
        x = _mapped(self.memory.read(queries, None, None), self.cross_out).add_(x)
        return self.feed_forward((x / _length(x, floor)).mul_(self.feed_forward_norm)).add_(x)

    def _turned(self, x: Tensor, projection: Sequence[Tensor], angles: Tensor, floor: Tensor) -> Tensor:
        """Normalised, projected and rotated: `[batch, groups, head_dim]`. Rotation knows adjacent pairs as complex numbers."""
        projected = _mapped(x, projection).div_(_length(x, floor))
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


def _map(weight: Tensor, bias: Tensor | None = None) -> Sequence[Tensor]:
    """What `_mapped` takes of a linear map, `weight` `[out, in]`: as products read it best, and on GPUs always with a bias.

    Torch asks cuBLASLt where there is one, and cuBLAS itself where there is none, which takes 54 microseconds in place of 4 for 16 rows and
    a weight of 128 x 192; on one that is transposed cuBLASLt takes 14 in place of 4 for 17 to 128 rows (measured on an H100).
    """
    if weight.device.type == "cpu":
        return (weight.t().contiguous(),) if bias is None else (bias, weight.t())
    return weight.new_zeros(len(weight)) if bias is None else bias, weight.t().contiguous()


def _mapped(x: Tensor, to: Sequence[Tensor]) -> Tensor:
    """`[batch, in]` to `[batch, out]`."""
    return torch.mm(x, *to) if len(to) == 1 else torch.addmm(to[0], x, to[1])


def _length(x: Tensor, floor: Tensor) -> Tensor:
    """`sqrt(|x|^2 + floor^2)` over the last axis, kept."""
    return torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor)
