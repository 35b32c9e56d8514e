"""Memory attention: writes encoded data into the Short-Term Memory through attention and learned gates.

The networks of all layers are independent of one another, given the memory from before the interaction. Their weights are
stored stacked along a leading layers axis and run as batched products, so that the write costs one set of kernels, not one per layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rxrl.models.attention import attend, attention_weights
from rxrl.models.config import AttentionConfig, GateConfig, ModelConfig
from rxrl.models.layers import Attention, normed_product, rms_norm, rope_angles, rotate

SHARPNESS = 3.0
"""Queries and keys of memory attention start this many times larger than linear layers do.

At the usual scale every slot begins with almost the mean of an interaction's tokens, which holds names and values but not whose value is
whose. Slots that begin by reading single tokens learn to keep them apart (measured in docs/notes/experiments.md).
"""


class Told(NamedTuple):
    """What interactions hold for memory, as far as it does not depend on memory: computed for all writes of a conversation at once.

    Attributes:
        tensors: Each `[layers, batch, ...]`.
        mask: bool `[batch, time]`, true for real tokens, or None.
    """

    tensors: tuple[Tensor, ...]
    mask: Tensor | None

    def split(self, counts: Sequence[int]) -> Iterator[Told]:
        """The same in parts of so many rows."""
        # Split once, because each slice would have a zeroed copy of the whole as its gradient.
        parts = zip(*(torch.split_with_sizes(each, list(counts), dim=1) for each in self.tensors), strict=True)
        masks = repeat(None, len(counts)) if self.mask is None else torch.split_with_sizes(self.mask, list(counts))
        return (Told(tensors, mask) for tensors, mask in zip(parts, masks, strict=True))

    def rows(self, rows: Tensor) -> Told:
        """The same for some rows, by index."""
        return Told(tuple(each[:, rows] for each in self.tensors), None if self.mask is None else self.mask[rows])


class StackedRMSNorm(nn.Module):
    """One RMS norm a layer over `[layers, batch, time, dim]`."""

    def __init__(self, layers: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(layers, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises `x`, in float32 or wider."""
        return rms_norm(x, self.weight[:, None, None, :])


class StackedAttention(Attention):
    """One Sparse Query Attention a layer, rotary embedding on keys where asked."""

    def __init__(self, layers: int, dim: int, head_dim: int, config: AttentionConfig) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q_proj = nn.Parameter(torch.empty(layers, dim, config.query_groups * head_dim))
        self.kv_proj = nn.Parameter(torch.empty(layers, dim, 2 * config.kv_groups * head_dim))
        self.out_proj = nn.Parameter(torch.empty(layers, config.query_groups * head_dim, dim))
        self.out_bias = nn.Parameter(torch.zeros(layers, dim))
        for weight in (self.q_proj, self.kv_proj, self.out_proj):
            nn.init.uniform_(weight, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)
        with torch.no_grad():
            self.q_proj.mul_(SHARPNESS)
            self.kv_proj[..., : config.kv_groups * head_dim].mul_(SHARPNESS)

    def keys(self, data: Tensor, mask: Tensor | None, rotate_keys: bool, norm: StackedRMSNorm | None = None) -> Told:
        """What there is to read of some data, whoever reads it.

        Args:
            data: `[layers or 1, batch, time, dim]`; one layer of data is read by all.
            mask: bool `[batch, time]`, true for real tokens, or None.
            rotate_keys: Rotary embedding on the keys.
            norm: Of the data; None: they come normalised.

        Returns:
            Keys and values, both `[layers, batch, time, groups, head_dim]`.
        """
        k, v = self._heads(data, self.kv_proj, norm).chunk(2, dim=2)
        if rotate_keys:
            k = rotate(k, rope_angles(torch.arange(k.shape[1], device=k.device), self.head_dim, k.dtype))
        shape = (len(self.kv_proj), -1, *k.shape[1:])
        return Told((k.view(shape), v.view(shape)), mask)

    def forward(self, queries: Tensor, told: Told, query_norm: StackedRMSNorm | None = None) -> Tensor:
        """Reads data for `queries`.

        Args:
            queries: `[layers, batch, slots, dim]`.
            told: What `keys` made of the data.
            query_norm: Norm of the queries; None: they come normalised.

        Returns:
            `[layers, batch, slots, dim]`.
        """
        layers, batch, slots, _ = queries.shape
        q, k, v, mask = self._projected(queries, told, query_norm)
        out = attend(q, k, v, mask, backend=self.backend).view(layers, batch * slots, -1)
        # In place: with its bias a batched product would first spread that over the whole result.
        return torch.bmm(out, self.out_proj).add_(self.out_bias.unsqueeze(1)).view(layers, batch, slots, -1)

    def observed(self, queries: Tensor, told: Told, query_norm: StackedRMSNorm | None = None) -> Tensor:
        """What `forward` reads of each token, `[layers, batch, slots, time]`, mean over heads."""
        q, k, _, mask = self._projected(queries, told, query_norm)
        return attention_weights(q, k, mask).view(*queries.shape[:3], -1)

    def _projected(self, queries: Tensor, told: Told, norm: StackedRMSNorm | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries, keys and values `[layers * batch, groups, time, head_dim]`, and the mask of the keys."""
        q = self._heads(queries, self.q_proj, norm)
        k, v = (each.flatten(0, 1) for each in told.tensors)
        mask = None if told.mask is None else told.mask.repeat(len(queries), 1)[:, None, None, :]
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask

    def _heads(self, x: Tensor, projection: Tensor, norm: StackedRMSNorm | None) -> Tensor:
        """`[layers or 1, batch, rows, dim]` to `[layers * batch, rows, groups, head_dim]`."""
        rows = x.flatten(1, 2)
        if norm is None:
            # Not matmul, which for one layer of data takes another way with gradients than without, and rounds otherwise there.
            heads = torch.bmm(rows.expand(len(projection), -1, -1), projection)
        else:
            heads = normed_product(rows, norm.weight, projection)
        return heads.view(-1, x.shape[2], projection.shape[-1] // self.head_dim, self.head_dim)


class ResidualGate(nn.Module):
    """Gates of all layers, of one of four types.

    The status of a slot is the mean over dim of (old + new), or a learned linear map of it. Gate values are `static` parameters,
    the status times a weight (`elementwise`), or a slots x slots map of all slots' statuses (`linear`); `none` has no values.

    Args:
        layers: Layers.
        slots: Slots of a layer's memory.
        dim: Size of a slot.
        config: Form of the gate.
        start: What gate values start from before their activation, `[slots]`.
    """

    def __init__(self, layers: int, slots: int, dim: int, config: GateConfig, start: Tensor) -> None:
        super().__init__()
        self.config = config
        rows = slots if config.per_slot else 1
        start = start if config.per_slot else start.mean(0, keepdim=True)
        if config.type == "linear":
            self.weight = nn.Parameter(torch.empty(layers, rows, slots))
            self.bias = nn.Parameter(start.expand(layers, rows).clone())
            nn.init.uniform_(self.weight, -(slots**-0.5), slots**-0.5)
        elif config.type == "static":
            self.weight = nn.Parameter(start.expand(layers, rows).clone())
        elif config.type == "elementwise":
            self.weight = nn.Parameter(torch.zeros(layers, rows))
        if config.slot_status == "linear":
            self.status_weight = nn.Parameter(torch.empty(layers, dim))
            self.status_bias = nn.Parameter(torch.zeros(layers))
            nn.init.uniform_(self.status_weight, -(dim**-0.5), dim**-0.5)

    def status(self, old: Tensor, new: Tensor) -> Tensor:
        """Status of every slot, `[layers, batch, slots]`."""
        if self.config.slot_status == "mean":
            return old.mean(-1) + new.mean(-1)
        return ((old + new) @ self.status_weight[:, None, :, None]).squeeze(-1) + self.status_bias[:, None, None]

    def _before_activation(self, old: Tensor, new: Tensor) -> Tensor:
        """`[layers, batch or 1, slots or 1]`."""
        if self.config.type == "static":
            return self.weight.unsqueeze(1)
        status = self.status(old, new)
        if self.config.type == "elementwise":
            return self.weight.unsqueeze(1) * status
        return torch.baddbmm(self.bias.unsqueeze(1), status, self.weight.transpose(1, 2))

    def openness(self, old: Tensor, new: Tensor) -> Tensor:
        """Share of `new` in what is mixed, in [0, 1], `[layers, batch, slots]`; a half where nothing is gated."""
        if self.config.type == "none":
            return old.new_full(old.shape[:-1], 0.5)
        values = self._before_activation(old, new)
        share = values.sigmoid() if self.config.activation == "sigmoid" else (1 + values.tanh()) / 2
        return share.expand(old.shape[:-1])

    def observed(self, old: Tensor, new: Tensor) -> Tensor:
        """As `openness`, for whoever watches the gate."""
        return self.openness(old, new)

    def forward(self, old: Tensor, new: Tensor) -> Tensor:
        """What is old and what is new, mixed: `[layers, batch, slots, dim]` both and in return."""
        # Memory keeps its type under autocast, where attention comes back in a narrower one.
        new = new.to(old.dtype)
        if self.config.type == "none":
            return old + new
        values = self._before_activation(old, new).to(old.dtype).unsqueeze(-1)
        if self.config.activation == "sigmoid":
            return torch.lerp(old, new, values.sigmoid())
        return old + new + values.tanh() * (new - old)


class MemoryAttention(nn.Module):
    """Writes an interaction into memory, in one of five variants.

    First each layer's memory reads, through a gate, nothing (`simple`), its own slots (`self`), the mean of all layers' memory
    (`interlayer`), or a gated mix of its own memory and that mean, or the mean of its group of layers (`self-interlayer`,
    `grouped-self-interlayer`). Then it reads the encoded data of its layer, through a second gate. Means are always those of the memory
    from before the interaction. Rotary embedding on the keys of the encoded data only.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        layers, dim, part = config.layers, config.dim, config.memory_attention
        self.groups = part.layer_groups or 1
        self.mixes = part.variant in ("self-interlayer", "grouped-self-interlayer")
        self.mean_attention = self.self_attention = None
        if part.mean_attention is not None:
            self.mean_stm_norm = nn.Parameter(torch.ones(dim))
            self.mean_memory_norm = StackedRMSNorm(layers, dim)
            self.mean_attention = StackedAttention(layers, dim, config.head_dim, part.mean_attention)
        if part.self_attention is not None:
            self.self_memory_norm = StackedRMSNorm(layers, dim)
            self.self_attention = StackedAttention(layers, dim, config.head_dim, part.self_attention)
        self.memory_norm = StackedRMSNorm(layers, dim)
        self.input_norm = StackedRMSNorm(layers, dim)
        self.attention = StackedAttention(layers, dim, config.head_dim, part.attention)

        def gate(first: float, last: float) -> ResidualGate:
            # The tanh form keeps all of both at 0: its neutral point, whatever the gate.
            openings = torch.linspace(first, last, config.slots) if part.gate.activation == "sigmoid" else torch.zeros(config.slots)
            return ResidualGate(layers, config.slots, dim, part.gate, openings)

        # Slots start with openings spread from slow to fast, so that some keep what is old; the mean is let in little at first.
        if self.mean_attention is not None:
            self.mean_gate = gate(-3.0, -3.0)
        if self.self_attention is not None:
            self.self_gate = gate(-3.0, -3.0)
        self.gate = gate(-3.0, 0.0)
        if self.mixes:
            self.interlayer_gate = gate(0.0, 0.0)

    def told(self, encoded: Tensor, mask: Tensor | None) -> Told:
        """What interactions hold for memory.

        Args:
            encoded: Hidden states of every encoder layer, `[layers, batch, time, dim]`.
            mask: bool `[batch, time]`, true for real tokens.
        """
        return self.attention.keys(encoded, mask, rotate_keys=True, norm=self.input_norm)

    def forward(self, stm: Tensor, told: Told) -> Tensor:
        """Memory after one interaction: `stm` `[layers, batch, slots, dim]` in and out."""
        mixed = self._first(stm)
        update = self.attention(mixed, told, query_norm=self.memory_norm)
        written: Tensor = self.gate(mixed, update)
        return written

    def _first(self, stm: Tensor) -> Tensor:
        """Memory after the attention that comes before the one over encoded data."""
        if self.self_attention is not None:
            norm = self.self_memory_norm
            own_slots = self.self_attention.keys(stm, None, rotate_keys=False, norm=norm)
            attended: Tensor = self.self_gate(stm, self.self_attention(stm, own_slots, query_norm=norm))
            return attended
        if self.mean_attention is None:
            return stm
        norm, source = self.mean_memory_norm, self._mean(stm)
        if self.mixes:
            own = norm(stm)
            source = self.interlayer_gate(own, source.expand_as(own))
        read = self.mean_attention(stm, self.mean_attention.keys(source, None, rotate_keys=False), query_norm=norm)
        attended = self.mean_gate(stm, read)
        return attended

    def _mean(self, stm: Tensor) -> Tensor:
        """Normalised mean over all layers, `[1, batch, slots, dim]`, or over the group of each layer, `[layers, batch, slots, dim]`."""
        if self.groups == 1:
            return rms_norm(stm.mean(0, keepdim=True), self.mean_stm_norm)
        size = stm.shape[0] // self.groups
        means = rms_norm(stm.view(self.groups, size, *stm.shape[1:]).mean(1), self.mean_stm_norm)
        return means.repeat_interleave(size, dim=0)
