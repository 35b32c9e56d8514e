"""How published tensors and ours correspond: each published tensor is a piece of one of ours.

Ours are fused (queries, keys and values in one matrix) and stacked (layers, experts); the published ones are single matrices.
A piece says where in ours a published tensor lies, so that one table serves to read and to write.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from torch import Tensor, nn

from rxrl.errors import CheckpointError, ConfigError, unknown_name
from rxrl.models.experts import MixtureOfExperts
from rxrl.models.heads import MLMHead
from rxrl.models.layers import CrossAttention, SelfAttention, SwiGLU
from rxrl.models.memory_attention import MemoryAttention, ResidualGate, StackedAttention, StackedRMSNorm
from rxrl.models.transformer import Decoder, Encoder

RopeOrder = Literal["concatenated", "interleaved"]
"""How rotated vectors are written back: even parts before odd parts (early files), or each pair where it was (ours and later files)."""


def rope_order_named(name: str) -> RopeOrder:
    """The order of that name.

    Raises:
        ConfigError: There is none.
    """
    if name not in get_args(RopeOrder):
        raise ConfigError(unknown_name("rope order", name, get_args(RopeOrder)))
    return cast(RopeOrder, name)


Index = tuple[int | slice | None, ...]
_ALL = slice(None)


@dataclass(frozen=True, slots=True)
class Piece:
    """One published tensor as a part of one of ours.

    Attributes:
        key: Published key, without the prefix of its part.
        name: Name of our parameter, within its module.
        index: Where in ours it lies.
        transposed: Whether it lies there transposed.
        facing: Head size of a projection whose products meet rotated vectors without being rotated themselves: its rows
            depend on the rotary order. 0 for all others.
    """

    key: str
    name: str
    index: Index = ()
    transposed: bool = False
    facing: int = 0

    def place(self, ours: Tensor) -> Tensor:
        """The view of `ours` that corresponds to the published tensor."""
        view = ours[self.index]
        return view.mT if self.transposed else view

    def take(self, ours: Tensor, order: RopeOrder) -> Tensor:
        """The published tensor, a copy."""
        found = self.place(ours)
        if self.facing and order == "concatenated":
            found = _swapped(found, (self.facing // 2, 2))
        return found.clone()

    def put(self, ours: Tensor, published: Tensor, order: RopeOrder) -> None:
        """Writes the published tensor into `ours`."""
        if self.facing and order == "concatenated":
            published = _swapped(published, (2, self.facing // 2))
        self.place(ours).copy_(published)

    def below(self, key: str, name: str) -> Piece:
        """The same piece of a module that lies at `key` there and at `name` here."""
        return replace(self, key=f"{key}.{self.key}", name=f"{name}.{self.name}")


def _swapped(rows: Tensor, shape: tuple[int, int]) -> Tensor:
    """`rows` `[heads * head_dim, ...]` with the rows of each head, seen as a matrix of `shape`, transposed."""
    return rows.reshape(-1, *shape, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def pieces_of(module: nn.Module) -> list[Piece]:
    """The correspondence of a part: an `Encoder`, a `Decoder`, a `MemoryAttention` or an `MLMHead`."""
    match module:
        case Encoder() | Decoder():
            return list(_transformer(module))
        case MemoryAttention():
            return list(_memory_attention(module))
        case MLMHead():
            return [Piece(name, name) for name, _ in module.named_parameters()]
        case _:
            raise TypeError(f"{type(module).__name__} is no part of a Reactive Transformer")


def _transformer(module: Encoder | Decoder) -> Iterator[Piece]:
    for number, layer in enumerate(module.layers):
        for name, child in layer.named_children():
            yield from (piece.below(f"layers.{number}.{name}", f"layers.{number}.{name}") for piece in _layer_part(child))
    for name, _ in module.named_parameters():
        if not name.startswith("layers."):
            yield Piece(name, name)


def _layer_part(module: nn.Module) -> Iterator[Piece]:
    match module:
        case SelfAttention():
            q, kv = module.query_groups * module.head_dim, module.kv_groups * module.head_dim
            yield from _split("qkv_proj.weight", {"q_proj": q, "k_proj": kv, "v_proj": kv})
            yield from _same(module.out_proj, "out_proj")
        case CrossAttention():
            kv = module.kv_proj.out_features // 2
            yield from _same(module.q_proj, "q_proj")
            yield from _split("kv_proj.weight", {"k_proj": kv, "v_proj": kv}, facing={"k_proj": module.head_dim})
            yield from _same(module.out_proj, "out_proj")
        case SwiGLU():
            yield from _same(module.fc1, "fc1", "fc1.linear")
            yield from _same(module.fc2, "fc2")
        case MixtureOfExperts():
            yield from _experts(module)
        case _:
            yield from (Piece(name, name) for name, _ in module.named_parameters())


def _same(module: nn.Module, name: str, key: str | None = None) -> Iterator[Piece]:
    return (Piece(f"{key or name}.{own}", f"{name}.{own}") for own, _ in module.named_parameters())


def _split(name: str, rows: dict[str, int], facing: dict[str, int] | None = None) -> Iterator[Piece]:
    """Projections that lie one below the other in one of our matrices."""
    start = 0
    for key, count in rows.items():
        yield Piece(f"{key}.weight", name, (slice(start, start + count),), facing=(facing or {}).get(key, 0))
        start += count


def _experts(module: MixtureOfExperts) -> Iterator[Piece]:
    if module.shared is not None:
        raise CheckpointError("The published layout has no place for shared experts: this model cannot be written in it.")
    yield Piece("router.gate.weight", "router.weight")
    if module.global_bias is not None:
        yield from (Piece(name, name) for name in ("w1", "w2", "global_bias"))
        return
    for expert in range(module.experts):
        for key, weight, bias in (("fc1.linear", "w1", "b1"), ("fc2", "w2", "b2")):
            yield Piece(f"experts.{expert}.{key}.weight", weight, (expert,), transposed=True)
            yield Piece(f"experts.{expert}.{key}.bias", bias, (expert,))


_MEMORY_KEYS = {
    "attention": "attention_layers",
    "memory_norm": "memory_norm_layers",
    "input_norm": "memory_input_norm_layers",
    "gate": "residual_gate_layers",
    "mean_attention": "mean_attention_layers",
    "mean_memory_norm": "mean_memory_norm_layers",
    "mean_gate": "mean_residual_gate_layers",
    "interlayer_gate": "interlayer_gate_layers",
    "self_attention": "self_attention_layers",
    "self_memory_norm": "self_memory_norm_layers",
    "self_gate": "self_residual_gate_layers",
}


def _memory_attention(module: MemoryAttention) -> Iterator[Piece]:
    if module.mean_attention is not None:
        yield Piece("mean_stm_norm.weight", "mean_stm_norm")
    for name, child in module.named_children():
        facing = module.attention.head_dim if name == "attention" else 0
        for piece in _stacked(child, facing):
            for layer in range(len(module.input_norm.weight)):
                yield replace(piece, index=(layer, *piece.index)).below(f"{_MEMORY_KEYS[name]}.{layer}", name)


def _stacked(module: nn.Module, facing: int) -> Iterator[Piece]:
    """Pieces of one layer of a stacked module."""
    match module:
        case StackedAttention():
            kv = module.kv_proj.shape[2] // 2
            yield Piece("q_proj.weight", "q_proj", transposed=True, facing=facing)
            yield Piece("k_proj.weight", "kv_proj", (_ALL, slice(0, kv)), transposed=True)
            yield Piece("v_proj.weight", "kv_proj", (_ALL, slice(kv, 2 * kv)), transposed=True)
            yield Piece("out_proj.weight", "out_proj", transposed=True)
            yield Piece("out_proj.bias", "out_bias")
        case StackedRMSNorm():
            yield Piece("weight", "weight")
        case ResidualGate():
            yield from _gate(module)
        case _:
            raise TypeError(f"{type(module).__name__} has no published form")


def _gate(module: ResidualGate) -> Iterator[Piece]:
    """A linear gate is a module there, static and elementwise ones are a parameter, [slots, 1] or [1]."""
    if module.config.type == "linear":
        yield from (Piece("gate.weight", "weight"), Piece("gate.bias", "bias"))
    elif module.config.type != "none":
        yield Piece("gate", "weight", (_ALL, None) if module.config.per_slot else ())
    if module.config.slot_status == "linear":
        yield Piece("slot_status.weight", "status_weight", (None,))
        yield Piece("slot_status.bias", "status_bias", (None,))
