"""A decoder's step for one token a row in one call: see `rxrl.models.generation.decoding`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from math import log

import torch
from torch import Tensor
from torch.nn import functional as F

from rxrl.models.experts import MixtureOfExperts
from rxrl.models.kernels.attention import HEAD_DIM
from rxrl.models.kernels.library import fits, instruction_set, run
from rxrl.models.layers import NORM_EPS, rope_angles
from rxrl.models.transformer import Decoder, DecoderLayer, LayerCache, MemoryKV

_TILE = 32
"""`KEY_TILE` of kernels.h."""
_SCALE = HEAD_DIM**-0.5 / log(2)
"""Of queries: the kernel computes powers of 2."""
_WORTH_SHARING = 2**20
"""Multiplications of a step from which on threads share it: below, they would wait for one another longer than they compute."""


class _Layer(ctypes.Structure):
    """`struct layer` of kernels.h."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in (
            *("heads", "heads_out", "heads_out_bias", "cross_queries", "cross_out", "cross_out_bias", "feed_forward_norm", "router"),
            *("w1", "b1", "w2", "b2", "keys", "values", "memory_keys", "memory_values"),
        )
    )


class _Arguments(ctypes.Structure):
    """`struct decoding` of kernels.h."""

    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        *(
            (name, ctypes.c_void_p)
            for name in ("positions", "places", "angles", "x", "queries", "attended", "normed", "shares", "visits", "chosen")
        ),
        *(
            (name, ctypes.c_long)
            for name in ("depth", "rows", "dim", "heads", "kv_heads", "cross_heads", "cross_kv_heads", "capacity", "slots")
        ),
        *((name, ctypes.c_long) for name in ("experts", "active", "hidden")),
        ("floor", ctypes.c_float),
    )


def can_decode(decoder: Decoder, embedded: Tensor, memory: Sequence[MemoryKV]) -> bool:
    """Whether the kernel is there and made for this decoder, with tokens like `embedded` and with `memory` as keys and values."""
    config = decoder.config
    mixed = config.decoder.experts > 1
    return (
        instruction_set() is not None
        and not config.has_memory_tokens
        and decoder.layers[0].attention.backend == "auto"
        and config.head_dim == HEAD_DIM
        and config.dim % _TILE == 0
        and config.decoder.ff_dim % HEAD_DIM == 0
        and not (mixed and (config.decoder.shared_experts or config.decoder.expert_biases == "global"))
        and not torch.is_autocast_enabled("cpu")
        and fits(embedded, decoder.head.weight, *(each for pair in memory for each in pair))
    )


class KernelDecoding:
    """The decoder after a prefix, as in `Decoding`, for float32 on a CPU."""

    def __init__(self, decoder: Decoder, memory: Sequence[MemoryKV], caches: Sequence[LayerCache]) -> None:
        config, own, cross = decoder.config, decoder.config.decoder.self_attention, decoder.config.decoder.cross_attention
        like = caches[0].keys
        rows, capacity = like.shape[0], -(-like.shape[2] // _TILE) * _TILE
        self._decoder = decoder
        self._layers = [
            _weights(layer) | _state(kv, cache, capacity) for layer, kv, cache in zip(decoder.layers, memory, caches, strict=True)
        ]
        self._structs = (_Layer * len(self._layers))(*(_Layer(**{k: v.data_ptr() for k, v in each.items()}) for each in self._layers))
        self._angles = torch.view_as_real(rope_angles(torch.arange(capacity), HEAD_DIM, like.dtype)).contiguous()
        experts = config.decoder.experts
        self._active = config.decoder.active_experts if experts > 1 else 1
        self._places = torch.arange(rows)
        heads = max(own.query_groups, cross.query_groups)
        self._buffers = {
            "queries": like.new_empty(rows, heads, HEAD_DIM),
            "attended": like.new_empty(rows, heads, HEAD_DIM),
            "normed": like.new_empty(rows, config.dim),
            "shares": like.new_empty(rows, self._active),
            "visits": like.new_empty(rows, self._active, config.dim),
            "chosen": torch.empty(rows, self._active, dtype=torch.int32),
        }
        self._arguments = _Arguments(
            layers=self._structs,
            angles=self._angles.data_ptr(),
            depth=len(self._layers),
            dim=config.dim,
            heads=own.query_groups,
            kv_heads=own.kv_groups,
            cross_heads=cross.query_groups,
            cross_kv_heads=cross.kv_groups,
            capacity=capacity,
            slots=memory[0][0].shape[2],
            experts=experts,
            active=self._active,
            hidden=config.decoder.ff_dim,
            floor=(NORM_EPS * config.dim) ** 0.5,
            **{name: each.data_ptr() for name, each in self._buffers.items()},
        )
        self._work = len(self._layers) * config.dim * (4 * config.dim + 3 * self._active * config.decoder.ff_dim)

    def step(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """As in `Decoding`."""
        x, positions = embedded.clone(memory_format=torch.contiguous_format), positions.contiguous()
        arguments = self._arguments
        arguments.rows, arguments.x, arguments.positions, arguments.places = (
            len(x),
            x.data_ptr(),
            positions.data_ptr(),
            self._places.data_ptr(),
        )
        run("rxrl_decode", arguments, None if len(x) * self._work > _WORTH_SHARING else 1)
        return self._decoder.normed(x)

    def keep(self, rows: Tensor) -> None:
        """As in `Decoding`: keys and values stay where they are."""
        self._places = self._places[rows]

    def is_free(self, rows: int) -> bool:
        """As in `Decoding`."""
        return False


def _weights(layer: DecoderLayer) -> dict[str, Tensor]:
    """Weights of a layer as a single token needs them.

    `rms(x) W = x (sqrt(dim) w W) / sqrt(|x|^2 + dim eps)`: the weights of norms and the scale of scores are folded into the projections,
    and what is left of a norm is one division of their (smaller) results.
    """
    own, cross, feed_forward = layer.attention, layer.memory_cross_attention, layer.ff
    root = own.qkv_proj.weight.shape[1] ** 0.5
    heads = own.qkv_proj.weight * (layer.norm1.weight * root)
    heads[: own.query_groups * HEAD_DIM] *= _SCALE
    weights = {
        "heads": _filled(heads.t()),
        "heads_out": own.out_proj.weight.t(),
        "heads_out_bias": own.out_proj.bias,
        "cross_queries": _filled((cross.q_proj.weight * (layer.norm2.weight * (root * _SCALE))).t()),
        "cross_out": cross.out_proj.weight.t(),
        "cross_out_bias": cross.out_proj.bias,
        "feed_forward_norm": layer.norm3.weight * root,
    }
    if isinstance(feed_forward, MixtureOfExperts):
        experts = {name: getattr(feed_forward, name) for name in ("w1", "b1", "w2", "b2")}
        weights |= {"router": _filled(feed_forward.router.weight.t()), **experts}
    else:
        fc1, fc2 = feed_forward.fc1, feed_forward.fc2
        weights |= {"router": fc1.bias, "w1": fc1.weight.t(), "b1": fc1.bias, "w2": fc2.weight.t(), "b2": fc2.bias}
    # A norm may be of another type than what it is folded into.
    return {name: each.detach().float().contiguous() for name, each in weights.items()}


def _state(memory: MemoryKV, cache: LayerCache, capacity: int) -> dict[str, Tensor]:
    """Keys in tiles, and values, of a row's tokens and of its memory."""
    missing = capacity - cache.keys.shape[2]
    return {
        "keys": _tiles(cache.keys),
        "values": F.pad(cache.values, (0, 0, 0, missing)).contiguous(),
        "memory_keys": _tiles(memory[0]),
        "memory_values": memory[1].contiguous(),
    }


def _filled(weight: Tensor) -> Tensor:
    """`[in, out]` with columns of zeros up to whole tiles."""
    return F.pad(weight, (0, -weight.shape[1] % _TILE))


def _tiles(keys: Tensor) -> Tensor:
    """`[batch, kv_groups, time, 16]` to `[batch, kv_groups, tiles, 16, 32]`."""
    whole = F.pad(keys, (0, 0, 0, -keys.shape[2] % _TILE))
    return whole.view(*keys.shape[:2], -1, _TILE, HEAD_DIM).transpose(3, 4).contiguous()
