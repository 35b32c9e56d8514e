"""Building blocks: RMS norm, rotary embedding, Sparse Query Attention and SwiGLU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rxrl.models.attention import attend, attention_weights, flash_attn
from rxrl.models.config import AttentionBackend, AttentionConfig

NORM_EPS = 1.1920929e-07
ROPE_BASE = 10_000.0


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type in which norms, rotations and probabilities are computed: float32, or float64 where that is given."""
    return torch.promote_types(dtype, torch.float32)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """`x` `[..., dim]` divided by its root mean square and scaled by `weight`, computed in float32 or wider."""
    dtype = wide(x.dtype)
    normed: Tensor = _RMSNorm.apply(x.to(dtype), weight.to(dtype))  # type: ignore[no-untyped-call]
    return normed.to(x.dtype)


def normed_product(x: Tensor, weight: Tensor, projection: Tensor) -> Tensor:
    """`rms_norm(x, weight) @ projection`, normalised after the product, where what is scaled is smaller, and weighted before it.

    Args:
        x: `[..., rows, dim]`, with as many leading axes as `projection` has.
        weight: Of the norm, `[..., dim]`.
        projection: `[..., dim, out]`.

    Returns:
        `[..., rows, out]`.
    """
    if projection.dtype != wide(projection.dtype) or torch.is_autocast_enabled(x.device.type):
        return torch.matmul(rms_norm(x, weight.unsqueeze(-2)), projection)
    product: Tensor = _NormedProduct.apply(x, weight.unsqueeze(-1) * projection)  # type: ignore[no-untyped-call]
    return product


def _inverse_rms(x: Tensor) -> Tensor:
    """One over the root mean square of `x` `[..., dim]`, `[..., 1]`."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(NORM_EPS).rsqrt_()


def _scaled(x: Tensor, scale: Tensor) -> Tensor:
    """`x * scale` in the memory of `x`; not in a compiled graph, where torch 2.11 would lose the gradients of what a function returns."""
    return x * scale if torch.compiler.is_compiling() else x.mul_(scale)


class _RMSNorm(torch.autograd.Function):
    """In few passes over `x`: of torch's own, forward and backward together, this takes two thirds of the time (measured on a CPU)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """`[..., dim]` and a weight that broadcasts with it."""
        inverse = _inverse_rms(x)
        ctx.save_for_backward(x, weight, inverse)
        return _scaled(x * inverse, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Of both inputs."""
        x, weight, inverse = ctx.saved_tensors
        unit, to_unit = x * inverse, gradient * weight
        radial = (to_unit * unit).sum(-1, keepdim=True).div_(x.shape[-1])
        return to_unit.addcmul_(unit, radial, value=-1).mul_(inverse), (gradient * unit).sum_to_size(weight.shape)


class _NormedProduct(torch.autograd.Function):
    """`x / rms(x) @ projection` without the normalised `x`, forward or backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, projection: Tensor) -> Tensor:
        """`[..., rows, dim]` and `[..., dim, out]`."""
        inverse = _inverse_rms(x)
        product = _scaled(torch.matmul(x, projection), inverse)
        ctx.save_for_backward(x, projection, inverse, product)
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Of both inputs; a part of the gradient along `x` itself changes nothing, because `x` is normalised."""
        x, projection, inverse, product = ctx.saved_tensors
        scaled = gradient * inverse
        radial = (scaled * product).sum(-1, keepdim=True).mul_(inverse)
        to_x = torch.matmul(scaled, projection.mT).addcmul_(x, radial, value=-1 / x.shape[-1])
        return to_x, torch.matmul(x.mT, scaled)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32 or wider."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises `x` `[..., dim]`."""
        return rms_norm(x, self.weight)


def rope_angles(positions: Tensor, head_dim: int, dtype: torch.dtype) -> Tensor:
    """Complex rotations `[..., time, 1, head_dim / 2]` of `positions` `[..., time]`, the same for all heads (RoFormer, base 10,000)."""
    exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=wide(dtype)) / head_dim
    angle = positions.to(exponent.dtype)[..., None, None] * ROPE_BASE**-exponent
    return torch.polar(torch.ones_like(angle), angle)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotates the adjacent pairs (2i, 2i + 1) of `x` `[..., time, groups, head_dim]` and writes them back interleaved.

    Time stands before the groups, as projections leave it: a transposed input would have to be copied first.
    """
    pairs = torch.view_as_complex(x.to(wide(x.dtype)).reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * angles).flatten(-2).to(x.dtype)


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """`[..., time, groups * head_dim]` to `[..., time, groups, head_dim]`."""
    return x.view(*x.shape[:-1], -1, head_dim)


class Attention(nn.Module):
    """What all attentions share: which backend computes them, a choice of the run."""

    backend: AttentionBackend = "auto"


def use_attention_backend(module: nn.Module, backend: AttentionBackend) -> None:
    """Chooses what computes every attention inside `module`.

    Raises:
        ModelError: flash-attn is asked for and not installed.
    """
    if backend == "flash":
        flash_attn()
    for each in module.modules():
        if isinstance(each, Attention):
            each.backend = backend


class SelfAttention(Attention):
    """Sparse Query Attention over one sequence, with rotary embedding on queries and keys."""

    def __init__(self, dim: int, head_dim: int, config: AttentionConfig) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.query_groups, self.kv_groups = config.query_groups, config.kv_groups
        self.qkv_proj = nn.Linear(dim, (config.query_groups + 2 * config.kv_groups) * head_dim, bias=False)
        self.out_proj = nn.Linear(config.query_groups * head_dim, dim)

    def project(self, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, each `[batch, groups, time, head_dim]`."""
        heads = split_heads(self.qkv_proj(x), self.head_dim)
        # Splits, not slices: their gradient is one concatenation, that of a slice is a zeroed copy of the whole.
        to_rotate, values = torch.split_with_sizes(heads, [self.query_groups + self.kv_groups, self.kv_groups], dim=2)
        queries, keys = torch.split_with_sizes(rotate(to_rotate, angles), [self.query_groups, self.kv_groups], dim=2)
        return queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)

    def forward(self, x: Tensor, angles: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Attends over `x` `[batch, time, dim]`; `mask` bool broadcastable to `[batch, 1, time, time]`."""
        return self.attended(*self.project(x, angles), mask, causal)

    def attended(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Output `[batch, time, dim]` for projected queries, keys and values, of which a cache may hold some."""
        out: Tensor = self.out_proj(attend(q, k, v, mask, causal, self.backend))
        return out


class CrossAttention(Attention):
    """Sparse Query Attention over memory: rotary embedding on queries only, because memory is a set."""

    def __init__(self, dim: int, head_dim: int, config: AttentionConfig) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q_proj = nn.Linear(dim, config.query_groups * head_dim, bias=False)
        self.kv_proj = nn.Linear(dim, 2 * config.kv_groups * head_dim, bias=False)
        self.out_proj = nn.Linear(config.query_groups * head_dim, dim)

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values `[batch, kv_groups, slots, head_dim]` of normalised memory `[batch, slots, dim]`."""
        k, v = split_heads(self.kv_proj(memory), self.head_dim).transpose(1, 2).chunk(2, dim=1)
        return k, v

    def forward(self, x: Tensor, angles: Tensor, memory_kv: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        """Reads memory for `x` `[batch, time, dim]`; `mask` bool broadcastable to `[batch, 1, time, slots]`."""
        out: Tensor = self.out_proj(attend(self._queries(x, angles), *memory_kv, mask, backend=self.backend))
        return out

    def observed(self, x: Tensor, angles: Tensor, memory_kv: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        """What `forward` reads of each slot, `[batch, time, slots]`, mean over heads."""
        return attention_weights(self._queries(x, angles), memory_kv[0], mask)

    def _queries(self, x: Tensor, angles: Tensor) -> Tensor:
        return rotate(split_heads(self.q_proj(x), self.head_dim), angles).transpose(1, 2)


class SwiGLU(nn.Module):
    """Gated feed-forward with biases: value and gate halves in that order, `value * silu(gate)` (Shazeer 2020)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., dim]` to `[..., dim]`."""
        # Two products, not the halves of one: what lies in one piece is faster to go through, forward and backward.
        value, gate = (F.linear(x, *half) for half in zip(self.fc1.weight.chunk(2), self.fc1.bias.chunk(2), strict=True))
        out: Tensor = self.fc2(_gated(value, gate))
        return out


def swiglu(halves: Tensor) -> Tensor:
    """`value * silu(gate)` of `halves` `[..., 2 * hidden]`, value first: `[..., hidden]`; without gradients it uses their memory."""
    return _gated(*halves.chunk(2, dim=-1))


def _gated(value: Tensor, gate: Tensor) -> Tensor:
    """`value * silu(gate)`, in one piece."""
    if torch.is_grad_enabled() or gate.device.type != "cpu":
        return value * F.silu(gate)
    # In place where nobody needs the gate again: no new memory, which a CPU would have to fetch first.
    silu = F.silu(gate, inplace=True)
    return silu.mul_(value) if silu.is_contiguous() else silu * value
