"""Building blocks: RMS norm, rotary embedding, Sparse Query Attention, SwiGLU and Mixture-of-Experts feed-forward."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rxrl.models.config import AttentionConfig

NORM_EPS = 1.1920929e-07
ROPE_BASE = 10_000.0


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type in which norms, rotations and probabilities are computed: float32, or float64 where that is given."""
    return torch.promote_types(dtype, torch.float32)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32 or wider."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises `x` `[..., dim]`."""
        dtype = wide(x.dtype)
        return F.rms_norm(x.to(dtype), self.weight.shape, self.weight.to(dtype), NORM_EPS).to(x.dtype)


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


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Scaled dot-product attention, heads merged.

    Args:
        q: `[batch, query_groups, time, head_dim]`.
        k: `[batch, kv_groups, keys, head_dim]`; kv_groups divides query_groups.
        v: As `k`.
        mask: bool, broadcastable to `[batch, 1, time, keys]`, true where a key may be read; a row that reads nothing gives 0.
        causal: Position i reads keys up to i; only without `mask`.

    Returns:
        `[batch, time, query_groups * head_dim]`.
    """
    grouped = q.shape[-3] != k.shape[-3]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)
    return out.transpose(-2, -3).flatten(-2)


class SelfAttention(nn.Module):
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
        q, k, v = self.project(x, angles)
        out: Tensor = self.out_proj(attend(q, k, v, mask, causal))
        return out


class CrossAttention(nn.Module):
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
        q = rotate(split_heads(self.q_proj(x), self.head_dim), angles).transpose(1, 2)
        out: Tensor = self.out_proj(attend(q, *memory_kv, mask))
        return out


class SwiGLU(nn.Module):
    """Gated feed-forward with biases: value and gate halves in that order, `value * silu(gate)` (Shazeer 2020)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., dim]` to `[..., dim]`."""
        value, gate = self.fc1(x).chunk(2, dim=-1)
        out: Tensor = self.fc2(value * F.silu(gate))
        return out


class RouterStatistics:
    """Collects what the load-balancing loss needs, over all layers of one forward pass, padding excluded."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask.reshape(-1)
        self.loads: list[Tensor] = []
        self.probabilities: list[Tensor] = []

    def add(self, probabilities: Tensor, chosen: Tensor) -> None:
        """Adds one layer: router probabilities `[tokens, experts]` and chosen experts `[tokens, k]`."""
        real = self.mask.to(probabilities.dtype)
        weights = real.unsqueeze(1).expand_as(chosen).reshape(-1)
        self.loads.append(torch.zeros_like(probabilities[0]).scatter_add(0, chosen.reshape(-1), weights))
        self.probabilities.append((probabilities * real.unsqueeze(1)).sum(0))

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens routed `[layers, experts]`, summed probabilities `[layers, experts]` and the number of real tokens."""
        return torch.stack(self.loads), torch.stack(self.probabilities), self.mask.sum()


def load_balance_loss(loads: Tensor, probabilities: Tensor, tokens: Tensor) -> Tensor:
    """Experts * sum over experts of (share of routed tokens) * (mean router probability), mean over layers; 1 when balanced.

    Args:
        loads: Tokens routed to each expert, `[layers, experts]` (no gradient).
        probabilities: Summed router probabilities, `[layers, experts]`.
        tokens: Number of real tokens.

    Source: Switch Transformer (Fedus et al. 2021), equation 4, for top-k routing.
    """
    share = loads / loads.sum(1, keepdim=True).clamp(min=1)
    return (share.detach() * probabilities / tokens.clamp(min=1)).sum(1).mean() * loads.shape[1]


class MixtureOfExperts(nn.Module):
    """Top-k routed SwiGLU experts; the weights of the chosen k are renormalised.

    Tokens are gathered by expert, padded to the fullest expert, and go through batched products: only chosen experts cost, and
    nothing loops over experts or tokens. Gathers in both directions, because their gradients are cheaper than those of scatters.
    """

    def __init__(self, dim: int, hidden: int, experts: int, active: int) -> None:
        super().__init__()
        self.experts, self.active = experts, active
        self.router = nn.Linear(dim, experts, bias=False)
        self.w1 = nn.Parameter(torch.empty(experts, dim, 2 * hidden))
        self.b1 = nn.Parameter(torch.empty(experts, 2 * hidden))
        self.w2 = nn.Parameter(torch.empty(experts, hidden, dim))
        self.b2 = nn.Parameter(torch.empty(experts, dim))
        for weight, bias, fan_in in ((self.w1, self.b1, dim), (self.w2, self.b2, hidden)):
            nn.init.uniform_(weight, -(fan_in**-0.5), fan_in**-0.5)
            nn.init.uniform_(bias, -(fan_in**-0.5), fan_in**-0.5)

    def forward(self, x: Tensor, statistics: RouterStatistics | None = None) -> Tensor:
        """`[batch, time, dim]` to the same; `statistics` collects router counts."""
        tokens = x.reshape(-1, x.shape[-1])
        probabilities = self.router(tokens).softmax(-1, dtype=wide(x.dtype)).to(x.dtype)
        weights, chosen = probabilities.topk(self.active, dim=-1)
        if statistics is not None:
            statistics.add(probabilities, chosen)
        return self._sorted(tokens, weights / weights.sum(-1, keepdim=True), chosen).view_as(x)

    def _sorted(self, tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Weighted outputs `[tokens, dim]` of the `chosen` experts `[tokens, k]`."""
        expert = chosen.flatten()
        queues = F.one_hot(expert, self.experts).cumsum(0)
        longest = int(queues[-1].max())
        # Where each choice stands in its expert's queue; places that stay empty read token 0 and are read by nobody.
        place = expert * longest + queues.gather(1, expert.unsqueeze(1)).squeeze(1) - 1
        source = torch.arange(len(expert), device=expert.device) // self.active
        queued = place.new_zeros(self.experts * longest).index_copy(0, place, source)
        inputs = tokens.index_select(0, queued).view(self.experts, longest, -1)
        value, gate = torch.baddbmm(self.b1.unsqueeze(1), inputs, self.w1).chunk(2, dim=-1)
        outputs = torch.baddbmm(self.b2.unsqueeze(1), value * F.silu(gate), self.w2).flatten(0, 1)
        return (outputs.index_select(0, place).view(*chosen.shape, -1) * weights.unsqueeze(-1)).sum(1)


def feed_forward(dim: int, hidden: int, experts: int, active: int) -> nn.Module:
    """Dense SwiGLU for one expert, Mixture-of-Experts otherwise."""
    return SwiGLU(dim, hidden) if experts == 1 else MixtureOfExperts(dim, hidden, experts, active)
